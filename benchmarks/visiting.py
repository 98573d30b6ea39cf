"""Opens the page in Chromium and turns its view, for the benchmarks of the page."""

import argparse
import time
from typing import Any, Literal

from playwright.sync_api import Browser, Page, Playwright, ViewportSize

Kind = Literal["light", "full"]

FLAGS: dict[Kind, list[str]] = {
    "light": ["--disable-gpu"],
    "full": ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
}
"""Flags of Chromium: without WebGL, and with WebGL in software."""

PANEL = 320
"""Width of the controls beside the canvas in pixels, about; the window is then fitted exactly."""

SETTLED = 2000
"""Milliseconds after which a page has its controls and its final picture."""

DRAWN = "() => window.lumigraph?.screen.drawn > 0"
SIZE = "() => [window.lumigraph.screen.canvas.width, window.lumigraph.screen.canvas.height]"

# On viser's page a turn reaches the camera with viser's next frame, and our script asks for a
# picture then. The angle of a view tells which turn it belongs to.
TURN = """async ([kind, seconds]) => {
  const viewing = window.lumigraph, { eye } = viewing;
  const way = {
    light: {
      turn: () => eye.orbit.turn(0.01, 0),
      ask: () => viewing.move(),
      wanted: () => eye.orbit.yaw,
      seen: () => eye.orbit.yaw,
    },
    full: {
      turn: () => eye.inside.cameraControl.rotate(0.01, 0, false),
      ask: () => {},
      wanted: () => eye.inside.cameraControl.azimuthAngle,
      seen: () => {
        const e = eye.inside.camera.matrixWorld.elements;
        return Math.atan2(e[8], e[10]);
      },
    },
  }[kind];
  const turns = [], asked = new Map(), frames = [];
  const turnedAt = (angle) =>
    turns.slice(-300).findLast((turn) => Math.abs(Math.sin((turn.angle - angle) / 2)) < 0.002)?.at;
  const askView = viewing.stream.askView.bind(viewing.stream);
  viewing.stream.askView = (view) => {
    const before = viewing.stream.cameraId, number = askView(view);
    if (number !== before) asked.set(number, turnedAt(way.seen()));
    return number;
  };
  const take = viewing.screen.take.bind(viewing.screen);
  viewing.screen.take = (frame) => {
    take(frame);
    const { camera, scale, final } = frame;
    requestAnimationFrame(() => {
      const at = performance.now(), turned = asked.get(camera);
      frames.push({ at, ms: turned === undefined ? null : at - turned, camera, scale, final });
    });
  };
  const begin = performance.now();
  await new Promise((done) => {
    const step = () => {
      const at = performance.now();
      way.turn();
      turns.push({ at, angle: way.wanted() });
      way.ask();
      if (at - begin < 1000 * seconds) requestAnimationFrame(step);
      else done();
    };
    step();
  });
  const stopped = performance.now();
  const moving = frames.filter((f) => f.at < stopped && f.at > begin + 1000);
  const isLast = (f) => f.final && f.at > stopped && f.camera === viewing.stream.cameraId;
  while (!frames.some(isLast) && performance.now() < stopped + 5000)
    await new Promise((next) => setTimeout(next, 10));
  const last = frames.find(isLast);
  viewing.stream.askView = askView;
  viewing.screen.take = take;
  return { moving, seconds: seconds - 1, still: last ? last.at - stopped : null };
}"""


def browser_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option with the path of Chromium."""
    parser.add_argument(
        "--browser", default="/usr/bin/chromium", help="path of Chromium [%(default)s]"
    )


def launched(playwright: Playwright, path: str, kind: Kind = "light") -> Browser:
    """Starts Chromium with the flags for a kind of page; the caller closes it."""
    flags = ["--no-sandbox", *FLAGS[kind]]
    return playwright.chromium.launch(executable_path=path, args=flags)


def address(url: str, kind: Kind = "light") -> str:
    """The address of a kind of page, from the address with the token."""
    base, _, query = url.partition("?")
    return f"{base}{kind}?{query}"


def opened(browser: Browser, url: str, window: ViewportSize) -> tuple[Page, float]:
    """Opens a page; returns it with its first picture, and the seconds until that picture.

    Each page has a new browser context, so nothing of it is cached.
    """
    page = browser.new_page(viewport=window)
    started = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_function(DRAWN, timeout=120_000)
    return page, time.perf_counter() - started


def window_for(browser: Browser, url: str, size: tuple[int, int]) -> ViewportSize:
    """The window in which the canvas has that size, found by a visit that also warms the server."""
    width, height = size
    page, _ = opened(browser, url, {"width": width + PANEL, "height": height})
    page.wait_for_timeout(SETTLED)
    found, _ = page.evaluate(SIZE)
    page.close()
    return {"width": width + PANEL + width - found, "height": height}


def turned(page: Page, kind: Kind, size: tuple[int, int], seconds: float) -> dict[str, Any]:
    """Turns a page's view for some seconds, and returns the drawn frames after the first second.

    Returns:
        moving: The frames. Each has its time; `ms`, the milliseconds from the turn to its view, or
            None if no turn has that view; the view's number; the scale; and whether it is final.
        seconds: The time in which the frames came.
        still: Milliseconds from the last turn to the final frame of its view; None if that is
            more than five seconds.

    Raises:
        RuntimeError: The canvas has another size.
    """
    page.wait_for_timeout(SETTLED)
    width, height = page.evaluate(SIZE)
    if (width, height) != size:
        raise RuntimeError(f"The canvas should be {size[0]}x{size[1]}, but is {width}x{height}")
    return page.evaluate(TURN, [kind, seconds])
