"""The page in Chromium as benchmarks visit it: the browser, the window, the turning of a view."""

import argparse
import time
from typing import Any, Literal

from playwright.sync_api import Browser, Page, Playwright, ViewportSize

Kind = Literal["light", "full"]

FLAGS: dict[Kind, list[str]] = {
    "light": ["--disable-gpu"],
    "full": ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
}
"""Of Chromium: without WebGL, and with it in software."""

PANEL = 320
"""Pixels beside the canvas that the controls take, about: the window is fitted to the canvas."""

SETTLED = 2000
"""Milliseconds after which a page has its panel, and its final picture."""

DRAWN = "() => window.lumigraph?.screen.drawn > 0"
SIZE = "() => [window.lumigraph.screen.canvas.width, window.lumigraph.screen.canvas.height]"

# On viser's page a turn reaches the camera with viser's next frame, and ours asks for it then:
# which turn a view is of is told by its angle.
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
  const look = viewing.stream.look.bind(viewing.stream);
  viewing.stream.look = (view) => {
    const before = viewing.stream.cameraId, number = look(view);
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
  viewing.stream.look = look;
  viewing.screen.take = take;
  return { moving, seconds: seconds - 1, still: last ? last.at - stopped : null };
}"""


def browser_option(parser: argparse.ArgumentParser) -> None:
    """The option that says where Chromium is."""
    parser.add_argument("--browser", default="/usr/bin/chromium", help="path [%(default)s]")


def launched(playwright: Playwright, path: str, kind: Kind = "light") -> Browser:
    """Chromium as a page of that kind needs it; it is to be closed."""
    flags = ["--no-sandbox", *FLAGS[kind]]
    return playwright.chromium.launch(executable_path=path, args=flags)


def address(url: str, kind: Kind = "light") -> str:
    """Where a page is that lies behind the address with the token."""
    base, _, query = url.partition("?")
    return f"{base}{kind}?{query}"


def opened(browser: Browser, url: str, window: ViewportSize) -> tuple[Page, float]:
    """A page with its first picture, and the seconds from the address to that.

    The browser has nothing of the page yet: each visit is one of somebody new.
    """
    page = browser.new_page(viewport=window)
    started = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_function(DRAWN, timeout=120_000)
    return page, time.perf_counter() - started


def window_for(browser: Browser, url: str, size: tuple[int, int]) -> ViewportSize:
    """The window in which the canvas has that size, found by a visit that warms the server too."""
    width, height = size
    page, _ = opened(browser, url, {"width": width + PANEL, "height": height})
    page.wait_for_timeout(SETTLED)
    found, _ = page.evaluate(SIZE)
    page.close()
    return {"width": width + PANEL + width - found, "height": height}


def turned(page: Page, kind: Kind, size: tuple[int, int], seconds: float) -> dict[str, Any]:
    """What came of turning a page's view for some seconds, the first of which does not count.

    Returns:
        moving: Of each frame that was drawn meanwhile: when, milliseconds since its view was
            turned to, or None if nobody did, the view's number, scale, and whether it is final.
        seconds: In which these came.
        still: Milliseconds from the last turn to the final frame of its view; None if it took
            longer than five seconds.

    Raises RuntimeError if the canvas is not of that size.
    """
    page.wait_for_timeout(SETTLED)
    width, height = page.evaluate(SIZE)
    if (width, height) != size:
        raise RuntimeError(f"The canvas is {width}x{height} and should be {size[0]}x{size[1]}")
    return page.evaluate(TURN, [kind, seconds])
