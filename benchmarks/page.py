"""How fluent the page is: frames a second and the time from a camera to its pixels, in Chromium.

    .venv/bin/python benchmarks/page.py
    .venv/bin/python benchmarks/page.py --train --json

The light page shows 100,000 generated splats and is turned without a pause, by a camera for each
refresh of the screen. A frame counts where it is drawn; its latency is from the moment its camera
was asked for to the next refresh after it was painted. Browser and server share the machine.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from playwright.sync_api import Page, sync_playwright

from lumigraph.app.bench import generated_scene
from lumigraph.app.training import Order
from lumigraph.app.viewer.desk import Desk
from lumigraph.app.viewer.page import open_page
from lumigraph.recon.files import save_ply

PANEL = 320
"""Pixels beside the canvas that the controls take."""

TURN = """async (seconds) => {
  const viewing = window.lumigraph;
  const asked = new Map(), frames = [];
  const look = viewing.stream.look.bind(viewing.stream);
  viewing.stream.look = (view) => {
    const before = viewing.stream.cameraId, number = look(view);
    if (number !== before) asked.set(number, performance.now());
    return number;
  };
  const take = viewing.screen.take.bind(viewing.screen);
  viewing.screen.take = (frame) => {
    take(frame);
    const { camera, scale, final } = frame;
    requestAnimationFrame(() => {
      const at = performance.now();
      frames.push({ at, ms: at - asked.get(camera), scale, final });
    });
  };
  const begin = performance.now();
  let turning = true;
  await new Promise((done) => {
    const step = () => {
      viewing.eye.orbit.turn(0.01, 0);
      viewing.move();
      if (performance.now() - begin < 1000 * seconds) requestAnimationFrame(step);
      else done();
    };
    step();
  });
  const stopped = performance.now();
  const moving = frames.filter((f) => f.at < stopped && f.at > begin + 1000);
  while (!frames.some((f) => f.final && f.at > stopped) && performance.now() < stopped + 5000)
    await new Promise((next) => setTimeout(next, 10));
  const last = frames.find((f) => f.final && f.at > stopped);
  viewing.stream.look = look;
  viewing.screen.take = take;
  return { moving, seconds: seconds - 1, still: last ? last.at - stopped : null };
}"""


def main() -> None:
    """Measures, and prints what came of it."""
    asked = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_ply(generated_scene(asked.splats), folder / "scene.ply")
        page = open_page(Desk([folder, *asked.capture], folder / "runs"), folder / "runs", port=0)
        try:
            result = _measured(asked, page)
        finally:
            page.close()
    print(json.dumps(result) if asked.json else _text(result))


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splats", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=8, help="of turning [8]")
    parser.add_argument("--train", action="store_true", help="watch a training instead")
    parser.add_argument("--capture", type=Path, nargs="*", default=[], help="for --train")
    parser.add_argument("--browser", default="/usr/bin/chromium", help="of Chromium")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def _measured(asked: argparse.Namespace, served: Any) -> dict[str, Any]:
    desk, url = served.desk, served.server.urls["control"]
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=asked.browser, args=flags)
        result: dict[str, Any] = {"splats": asked.splats, "training": asked.train}
        if asked.train:
            kinds = [s for s in desk.sources() if s["kind"] == "capture"]
            desk.start(kinds[-1]["id"] if asked.capture else "demo:full", Order(preset="standard"))
        else:
            source = next(s["id"] for s in desk.sources() if s["kind"] == "ply")
            desk.show(source)
        for width, height in ((640, 360), (1280, 720)):
            page = browser.new_page(viewport={"width": width + PANEL, "height": height})
            page.goto(url)
            page.goto(url.split("?")[0] + "light")
            page.wait_for_function("() => window.lumigraph?.screen.drawn > 0", timeout=120_000)
            page.wait_for_timeout(2000)
            result[f"{width}x{height}"] = _summary(_turned(page, asked.seconds))
            page.close()
        browser.close()
    return result


def _turned(page: Page, seconds: float) -> dict[str, Any]:
    return page.evaluate(TURN, seconds)


def _summary(found: dict[str, Any]) -> dict[str, Any]:
    frames = found["moving"]
    whole = [frame for frame in frames if frame["scale"] >= 0.999]
    times = sorted(frame["ms"] for frame in frames)
    return {
        "fps_at_scale_1": len(whole) / found["seconds"],
        "fps_smaller": (len(frames) - len(whole)) / found["seconds"],
        "latency_ms_p50": times[len(times) // 2] if times else None,
        "latency_ms_p95": times[int(0.95 * len(times))] if times else None,
        "still_to_final_ms": found["still"],
    }


def _text(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    names = ("fps_at_scale_1", "fps_smaller", "latency_ms_p50", "latency_ms_p95")
    names += ("still_to_final_ms",)
    lines = [f"| canvas | {' | '.join(name.replace('_', ' ') for name in names)} |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for size, row in result.items():
        if isinstance(row, dict):
            cells = ["-" if row[name] is None else f"{row[name]:.1f}" for name in names]
            lines.append(f"| {size} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
