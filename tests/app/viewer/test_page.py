"""The page in a real browser: what a person sees and does, with WebGL and without."""

import json
import math
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from lumigraph.app.commands.bench import generated_scene
from lumigraph.app.viewer import serve as pages
from lumigraph.app.viewer.controls import page_controls, server_controls
from lumigraph.app.viewer.pixel import UNKNOWN
from lumigraph.app.viewer.protocol import CameraMessage, parse
from lumigraph.app.viewer.scene import CaptureCamera, frusta_of
from lumigraph.app.viewer.state import ViewerState
from lumigraph.recon.files import load_ply, save_ply
from lumigraph.render import Camera

PROFILES = {
    "webgl": ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
    "no gpu": ["--disable-gpu"],
    "no webgl": ["--disable-gpu", "--disable-software-rasterizer"],
}
"""Software WebGL, as on a laptop without a graphics driver; what Chromium makes of no graphics card
by itself; and no WebGL, as where it is turned off."""

HARMLESS = ("THREE.Clock", "computeBoundingSphere", "favicon")
"""What viser's own page says on its console."""

SECONDS = 60_000
"""Milliseconds that anything may take: the machine may be busy with much else."""


def chromium() -> str:
    """The path of Chromium; skips the test where there is none, unless all is to be there."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        reason = "chromium is not on PATH: apt-get install chromium"
        if os.environ.get("LUMIGRAPH_FULL_INSTALL"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def launched(playwright: Playwright, profile: str) -> Browser:
    """A browser of a profile."""
    arguments = ["--no-sandbox", *PROFILES[profile]]
    return playwright.chromium.launch(executable_path=chromium(), args=arguments)


@contextmanager
def visiting(browser: Browser, url: str, *, path: str | None = None) -> Iterator[Page]:
    """A new visitor, let in by the address with its token; whose console must stay clean."""
    context = browser.new_context(viewport={"width": 960, "height": 540})
    context.set_default_timeout(SECONDS)
    try:
        page = context.new_page()
        troubles: list[str] = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda line: _listen(line.type, line.text, troubles))
        page.goto(url)
        if path is not None:
            page.goto(url.split("?")[0].rstrip("/") + path)
        yield page
        assert not troubles
    finally:
        context.close()


def _listen(kind: str, text: str, troubles: list[str]) -> None:
    if kind == "error" and not any(word in text for word in HARMLESS):
        troubles.append(text)


DRAWN = "() => window.lumigraph?.screen.drawn ?? 0"
FINAL = """() => {
  const { screen, stream } = window.lumigraph ?? {};
  return screen?.frame?.final && screen.frame.camera === stream.cameraId;
}"""
PIXELS = """() => {
  const { canvas } = window.lumigraph.screen;
  const small = document.createElement("canvas");
  [small.width, small.height] = [16, 9];
  const context = small.getContext("2d");
  context.drawImage(canvas, 0, 0, 16, 9);
  return [...context.getImageData(0, 0, 16, 9).data];
}"""


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    running = launched(playwright, "no webgl")
    yield running
    running.close()


@pytest.fixture(scope="module")
def drawer(playwright: Playwright) -> Iterator[Browser]:
    """A browser with WebGL."""
    running = launched(playwright, "webgl")
    yield running
    running.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a PLY file of splats."""
    folder = tmp_path_factory.mktemp("page")
    scene = generated_scene(2_000)
    save_ply(replace(scene, log_scales=scene.log_scales + 1), folder / "blobs.ply")
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[pages.Page]:
    page = pages.open_page(
        ViewerState([folder], folder / "runs"), folder / "runs" / "uploads", port=0
    )
    yield page
    page.close()


def opened(served: pages.Page, name: str = "blobs.ply") -> None:
    """Shows a source without the help of a page."""
    source = next(
        each["id"] for each in served.viewer.library.as_dicts() if each["name"].endswith(name)
    )
    served.actions.choose(source)
    served.viewer.show(source)
    version = served.viewer.as_dict()["version"]
    while (served.viewer.as_dict()["shown"] or {}).get("source") != source:
        version = served.viewer.wait(version, 60)


def settled(page: Page) -> list[int]:
    """What the canvas shows once it is the final picture of the view that was asked for last."""
    page.wait_for_timeout(100)  # for the page to ask for what the hand just did
    page.wait_for_function(FINAL)
    return page.evaluate(PIXELS)


def difference(a: list[int], b: list[int]) -> float:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)


def test_the_landing_page_chooses_by_webgl(browser: Browser, drawer: Browser, served: pages.Page):
    with visiting(browser, served.server.urls["control"]) as page:
        page.wait_for_url("**/light")
        assert "token" not in page.url
    with visiting(drawer, served.server.urls["control"]) as page:
        page.wait_for_url("**/full")
        assert "token" not in page.url


@pytest.mark.parametrize("profile", PROFILES)
def test_every_browser_gets_a_page_that_draws(
    playwright: Playwright, served: pages.Page, profile: str
):
    opened(served)
    browser = launched(playwright, profile)
    try:
        with visiting(browser, served.server.urls["control"]) as page:
            page.wait_for_function(DRAWN)
            assert max(settled(page)) > 0
    finally:
        browser.close()


def enabled(served: pages.Page) -> list[dict[str, Any]]:
    """All controls, each of which can be used."""
    return [{**control, "enabled": True} for control in served.actions.controls()]


@contextmanager
def replaced(served: pages.Page, **functions: Callable[..., Any]) -> Iterator[None]:
    """Has the open pages call these functions in place of those of the actions."""
    owners: list[Any] = [served._streams, *served._panels.values()]
    before = [owner._callbacks for owner in owners]
    for owner, callbacks in zip(owners, before, strict=True):
        owner._callbacks = replace(callbacks, **functions)
    try:
        served.actions.changed()
        yield
    finally:
        for owner, callbacks in zip(owners, before, strict=True):
            owner._callbacks = callbacks
        served.actions.changed()


@contextmanager
def in_training(served: pages.Page) -> Iterator[list[tuple[str, object]]]:
    """All controls can be used, as if something were in training; what was done with them."""
    done: list[tuple[str, object]] = []
    with replaced(
        served,
        controls=lambda: enabled(served),
        do=lambda id, value: done.append((id, value)),
    ):
        yield done


def entered(page: Page, name: str, value: str) -> None:
    """Types a number and leaves its field."""
    page.locator(f'[data-id="{name}"]').fill(value)
    page.locator(f'[data-id="{name}"]').press("Tab")


def test_any_number_in_its_range_is_taken(browser: Browser, served: pages.Page):
    with (
        in_training(served) as done,
        visiting(browser, served.server.urls["control"], path="/light") as page,
    ):
        expect(page.locator('[data-id="splat_limit"]')).to_be_enabled()
        entered(page, "splat_limit", "20500")
        entered(page, "minutes", "1441")
        expect(page.locator(".note.error")).to_contain_text("expected a number from 0 to 1,440")
        page.locator('[data-id="mode"]').select_option("depth")
        page.locator('[data-id="auto_range"]').uncheck()
        entered(page, "high", "0.55")
        page.wait_for_function("() => window.lumigraph.settings.high === 0.55")
        entered(page, "minutes", "7")
        expect(page.locator(".note.error")).to_have_count(1)
        page.evaluate("() => window.lumigraph.stream.send({t: 'control', id: 'end', value: 1})")
        while ("end", 1) not in done:
            page.wait_for_timeout(20)
        assert done == [("splat_limit", 20500), ("minutes", 7), ("end", 1)]


def labels(page: Page, group: str) -> list[str]:
    """The controls of a group of the page, from top to bottom."""
    return page.locator(f'[data-group="{group}"] [data-id]').evaluate_all(
        "all => all.map(each => each.dataset.id)"
    )


def test_controls_stand_in_their_order_always(browser: Browser, served: pages.Page):
    actions = served.actions
    job = {"state": "training", "steps": 9, "step": 1}
    with visiting(browser, served.server.urls["control"], path="/light") as page:
        expect(page.locator('[data-id="pause"]')).to_be_attached()
        shown = [actions.controls()]
        with replaced(served, controls=lambda: shown[-1]):
            for state, waiting in (("training", 0), ("paused", 2), ("training", 1)):
                jobs = [{"state": "waiting", "id": f"{i}", "name": f"run {i}"} for i in "ab"]
                told = {"current": {**job, "state": state}, "jobs": jobs[:waiting]}
                if state == "paused":
                    page.locator('[data-id="pause"]').focus()
                shown.append([*server_controls(actions._form, told, ()), *page_controls()])
                actions.changed()
                expected = [c["id"] for c in shown[-1] if c["group"] == "Train"]
                turn = "resume" if state == "paused" else "pause"
                expect(page.locator(f'[data-id="{turn}"]')).to_be_enabled()
                assert labels(page, "Train") == expected
                assert expected.index(turn) == expected.index("checkpoint") - 1
                if state == "paused":  # what was pressed keeps the focus
                    assert page.evaluate("() => document.activeElement.dataset.id") == "resume"


def test_controls_without_effect_are_greyed(browser: Browser, served: pages.Page):
    with visiting(browser, served.server.urls["view"], path="/light") as page:
        for mode, free, greyed in (
            (
                "color",
                ("own_background",),
                ("background", "map", "auto_range", "low", "high", "over", "threshold"),
            ),
            ("depth", ("map", "auto_range"), ("low", "high", "over", "threshold")),
            ("uncertainty", ("auto_range", "over", "threshold"), ("low", "high")),
        ):
            page.locator('[data-id="mode"]').select_option(mode)
            for name in free:
                expect(page.locator(f'[data-id="{name}"]')).to_be_enabled()
            for name in greyed:
                expect(page.locator(f'[data-id="{name}"]')).to_be_disabled()
        page.locator('[data-id="auto_range"]').uncheck()
        expect(page.locator('[data-id="low"]')).to_be_enabled()
        page.locator("#canvas").focus()
        page.keyboard.press("1")
        expect(page.locator('[data-id="low"]')).to_be_disabled()


def test_notes_can_be_closed_and_are_not_stacked(browser: Browser, served: pages.Page):
    with visiting(browser, served.server.urls["control"], path="/light") as page:
        page.locator('[data-id="source"]').select_option("demo:tiny")
        expect(page.locator('[data-id="minutes"]')).to_be_enabled()
        entered(page, "minutes", "-1")
        entered(page, "downscale", "-1")
        entered(page, "minutes", "-2")
        notes = page.locator(".note.error")
        expect(notes).to_have_count(2)
        expect(notes.first).to_contain_text("Minutes")
        notes.first.get_by_role("button", name="Close").click()
        expect(notes).to_have_count(1)
        expect(notes).to_contain_text("Downscale")


def box_of(page: Page, selector: str) -> tuple[float, float]:
    """The width and height of something on the page."""
    box = page.locator(selector).bounding_box()
    assert box
    return box["width"], box["height"]


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_the_controls_hide_and_come_back(
    browser: Browser, served: pages.Page, size: tuple[int, int]
):
    opened(served)
    with visiting(browser, served.server.urls["control"], path="/light") as page:
        page.set_viewport_size({"width": size[0], "height": size[1]})
        settled(page)
        before = box_of(page, "main"), box_of(page, "aside")
        page.get_by_role("button", name="Hide").click()
        assert box_of(page, "main") == size
        settled(page)
        page.get_by_role("button", name="Show").click()
        assert (box_of(page, "main"), box_of(page, "aside")) == before
        width, _ = box_of(page, '[data-id="source"]')
        assert width > 0.85 * before[1][0]


def test_a_run_from_the_page_to_its_end(browser: Browser, served: pages.Page):
    with visiting(browser, served.server.urls["control"], path="/light") as page:
        page.locator('[data-id="source"]').select_option("demo:tiny")
        page.locator('[data-id="preset"]').select_option("quick")
        page.locator('[data-id="start"]').click()
        expect(page.locator('[data-number="Step"]')).to_contain_text("of", timeout=SECONDS)
        page.locator('[data-id="pause"]').click()
        expect(page.locator('[data-id="resume"]')).to_be_enabled(timeout=SECONDS)
        page.locator('[data-id="resume"]').click()
        expect(page.locator('[data-id="pause"]')).to_be_enabled(timeout=SECONDS)
        page.locator('[data-id="stop"]').click()
        expect(page.locator('[data-id="stop"]')).to_be_disabled(timeout=SECONDS)
        page.wait_for_function(DRAWN, timeout=SECONDS)
        assert served.viewer.as_dict()["current"]["state"] == "stopped"
        # The run that was stopped can be gone on with, and comes to its end.
        version = served.viewer.as_dict()["version"]
        while not (runs := [s["id"] for s in served.viewer.library.as_dicts() if s["stopped"]]):
            version = served.viewer.wait(version, 60)
        (run,) = runs
        page.locator('[data-id="source"]').select_option(run)
        page.locator('[data-id="resume_run"]').click()
        expect(page.locator('[data-number="PSNR"]')).to_contain_text("dB", timeout=2 * SECONDS)
        version = served.viewer.as_dict()["version"]
        while served.viewer.as_dict()["current"]["state"] not in ("finished", "failed"):
            version = served.viewer.wait(version, 60)
        assert served.viewer.as_dict()["current"]["state"] == "finished"
        expect(page.locator('[data-number="Training time"]')).to_contain_text("s")
        expect(page.locator('[data-number="SSIM"]')).to_contain_text("0.")
        expect(page.locator('[data-plot="Loss"] polyline')).to_have_attribute(
            "points", re.compile(r"\d")
        )


def test_orbit_and_keys_change_the_picture(browser: Browser, served: pages.Page):
    opened(served)
    with visiting(browser, served.server.urls["control"], path="/light") as page:
        first = settled(page)
        page.mouse.move(300, 250)
        page.mouse.down()
        page.mouse.move(420, 290, steps=5)
        page.mouse.up()
        page.wait_for_timeout(300)
        turned = settled(page)
        assert difference(first, turned) > 1
        page.keyboard.press("r")
        page.wait_for_timeout(300)
        assert difference(first, settled(page)) < 1
        page.keyboard.down("w")
        page.wait_for_timeout(300)
        page.keyboard.up("w")
        page.wait_for_timeout(300)
        assert difference(first, settled(page)) > 1


def test_every_mode_shows_something_else(browser: Browser, served: pages.Page):
    opened(served)
    with visiting(browser, served.server.urls["control"], path="/light") as page:
        seen = [settled(page)]
        for key in "2345678":
            before = page.evaluate(DRAWN)
            page.keyboard.press(key)
            page.wait_for_function(f"() => window.lumigraph.screen.drawn > {before}")
            page.wait_for_timeout(300)
            now = settled(page)
            assert all(difference(now, other) > 0.5 for other in seen), key
            seen.append(now)
            assert page.locator("#legend").is_visible() == (key in "2378")


def words(page: Page) -> str:
    """What stands beside the cursor, once something does."""
    page.wait_for_function(
        "() => { const label = document.querySelector('.pixel'); return label && !label.hidden; }"
    )
    return page.locator(".pixel").inner_text()


def place_of(page: Page) -> dict[str, float]:
    """Where the canvas lies on the page."""
    return page.evaluate("() => window.lumigraph.screen.canvas.getBoundingClientRect().toJSON()")


def hover(page: Page, x: float, y: float) -> None:
    """Rests the mouse at a part of the canvas."""
    box = place_of(page)
    page.mouse.move(box["left"] + x * box["width"], box["top"] + y * box["height"])


def test_numbers_stand_beside_the_cursor(browser: Browser, served: pages.Page):
    opened(served)
    with visiting(browser, served.server.urls["view"], path="/light") as page:
        settled(page)
        hover(page, 0.5, 0.5)
        page.keyboard.press("7")
        first = words(page)
        assert re.fullmatch(
            r"Colour \d\.\d\d +\d\.\d\d +\d\.\d\d +± \d\.\d\d\d\n"
            r"Not calibrated: the range is not known",
            first,
        )
        expect(page.locator("#words")).to_have_text(
            "Standard deviation of the colours; drop rate 0.05, not calibrated"
        )
        # It stays inside the canvas, and goes with the cursor.
        hover(page, 0.99, 0.99)
        page.wait_for_function(
            "() => document.querySelector('.pixel').getBoundingClientRect().left > 100"
        )
        box = place_of(page)
        label = page.locator(".pixel").bounding_box()
        assert label
        assert box["left"] <= label["x"] <= label["x"] + label["width"] <= box["right"]
        assert box["top"] <= label["y"] <= label["y"] + label["height"] <= box["bottom"]
        hover(page, 0.5, 0.5)
        page.wait_for_function(
            "text => document.querySelector('.pixel').textContent === text", arg=first
        )
        page.keyboard.press("2")
        page.wait_for_function("() => /^Depth/.test(document.querySelector('.pixel').textContent)")
        assert re.fullmatch(r"Depth [\d.]+ ± [\d.]+", words(page))
        # In another mode there is none, nor where the cursor is not.
        page.keyboard.press("1")
        expect(page.locator(".pixel")).to_be_hidden()
        page.keyboard.press("7")
        words(page)
        page.mouse.move(place_of(page)["right"] + 40, 30)
        expect(page.locator(".pixel")).to_be_hidden()


def test_the_legend_states_a_range_in_words(browser: Browser, served: pages.Page):
    with visiting(browser, served.server.urls["control"], path="/light") as page:
        told = page.evaluate(
            """async () => {
              const { wordsOf } = await import("/static/pixel.js");
              const reading = {
                color: [0.52, 0.4, 0.31], std: [0.01, 0.02, 0.03], calibrated: true,
                low: [0.48, 0.3, 0], high: [0.56, 0.5, 1], level: 0.9, within: 0.95,
                depth: null, depth_std: null,
              };
              return [wordsOf(reading, "uncertainty"), wordsOf(reading, "depth")];
            }"""
        )
    assert told == [
        [
            "Colour 0.52  0.40  0.31  ± 0.020",
            "Photos would show 0.48\u20130.56  0.30\u20130.50  0.00\u20131.00",
            "in 90 % of views, for 95 % of their colour values",
        ],
        ["No splats here"],
    ]


def test_a_tap_reads_the_numbers(browser: Browser, served: pages.Page):
    opened(served)
    context = browser.new_context(viewport={"width": 390, "height": 780}, has_touch=True)
    try:
        page = context.new_page()
        page.goto(served.server.urls["control"])
        page.goto(served.server.urls["control"].split("?")[0].rstrip("/") + "/light")
        page.wait_for_function(DRAWN)
        page.keyboard.press("7")
        settled(page)
        box = place_of(page)
        page.touchscreen.tap(box["width"] / 2, box["height"] / 2)
        assert words(page).startswith("Colour")
    finally:
        context.close()


def test_numbers_stand_beside_the_cursor_on_visers_page(drawer: Browser, served: pages.Page):
    opened(served)
    with visiting(drawer, served.server.urls["control"], path="/full") as page:
        page.wait_for_function(DRAWN, timeout=SECONDS)
        settled(page)
        page.keyboard.press("7")
        page.wait_for_function("() => window.lumigraph.settings.mode === 'uncertainty'")
        hover(page, 0.4, 0.5)
        assert words(page).startswith("Colour")
        hover(page, 0.3, 0.4)
        page.wait_for_function("() => window.lumigraph.pixelLabel.place[0] < 0.35")
        assert words(page).startswith("Colour")


def test_confidence_where_it_is_known_and_where_not(
    browser: Browser, served: pages.Page, folder: Path
):
    scene = load_ply(folder / "blobs.ply")
    trusted = folder / "trusted.ply"
    save_ply(scene, trusted, extra={"confidence": torch.linspace(0, 1, len(scene))})
    served.viewer.library.refresh()
    opened(served)
    with visiting(browser, served.server.urls["control"], path="/light") as page:
        option = page.locator('[data-id="mode"] option[value="confidence"]')
        expect(option).to_be_disabled()
        expect(option).to_have_attribute("title", UNKNOWN)
        page.keyboard.press("8")
        expect(page.locator("#words")).to_have_text(UNKNOWN)
        expect(page.locator("#scale")).to_be_hidden()
        expect(page.locator(".note.info", has_text=UNKNOWN)).to_be_visible()
        opened(served, "trusted.ply")
        expect(option).to_be_enabled()
        expect(page.locator("#words")).to_have_text("Confidence of the splats")
        expect(page.locator("#scale")).to_be_visible()
        assert page.locator("#low").inner_text() == "0.00"
        assert page.locator("#high").inner_text() == "1.00"
        assert page.locator('[data-id="mode"]').input_value() == "confidence"
        page.wait_for_function(FINAL)
        assert difference(settled(page), [0, 0, 0, 255] * 144) > 5
    trusted.unlink()


def test_standing_at_a_camera_brings_its_photo(browser: Browser, served: pages.Page):
    run = next(each["name"] for each in served.viewer.library.as_dicts() if each["kind"] == "run")
    opened(served, run)
    with visiting(browser, served.server.urls["control"], path="/light") as page:
        settled(page)
        page.keyboard.press("n")
        page.wait_for_function("() => window.lumigraph.screen.photo !== null")
        page.wait_for_timeout(300)
        settled(page)
        at_first = page.evaluate(PIXELS)
        pictures = {}
        for name in ("slider", "blend", "error", "off"):
            page.locator('[data-id="compare"]').select_option(name)
            page.wait_for_timeout(200)
            pictures[name] = page.evaluate(PIXELS)
        assert difference(pictures["slider"], at_first) < 1  # as the control says from the start
        assert difference(pictures["slider"], pictures["off"]) > 0.1
        assert difference(pictures["off"], pictures["error"]) > 5
        # The photo and its reconstruction are alike: even four times their difference is darker.
        assert sum(pictures["error"]) < sum(pictures["off"])
        page.keyboard.press("Escape")
        page.wait_for_function("() => window.lumigraph.screen.standing === null")


def test_a_ply_is_uploaded_and_shown(browser: Browser, served: pages.Page, folder: Path):
    path = folder / "sent <b>.ply"
    shutil.copy(folder / "blobs.ply", path)
    with visiting(browser, served.server.urls["control"], path="/light") as page:
        files = [("nothing.ply", b""), (path.name, path.read_bytes())]
        page.locator('[data-id="upload"]').set_input_files(
            [{"name": n, "mimeType": "", "buffer": content} for n, content in files]
        )
        expect(page.locator(".note.error")).to_contain_text("nothing.ply is empty")
        name = "() => document.querySelector('[data-id=source]').selectedOptions[0]?.textContent"
        page.wait_for_function(f"() => ({name})()?.includes('sent _b_.ply')")
        settled(page)
        page.locator('[data-id="upload"]').set_input_files(
            {"name": "run.sh", "mimeType": "text/plain", "buffer": b"exit"}
        )
        expect(page.locator(".note.error", has_text="is not accepted")).to_be_visible()
    path.unlink()


def test_the_page_connects_again_after_a_reload_and_a_lost_connection(
    browser: Browser, served: pages.Page
):
    opened(served)
    with visiting(browser, served.server.urls["control"], path="/light") as page:
        settled(page)
        page.reload()
        settled(page)
        expect(page.locator("#live")).to_have_text(re.compile("^still, "))
        before = page.evaluate(DRAWN)
        served.server.loop.call_soon_threadsafe(served.server._door.hang_up)
        page.wait_for_function(f"() => window.lumigraph.screen.drawn > {before}", timeout=SECONDS)
        expect(page.locator("#hint")).to_have_text("")


def test_the_page_distinguishes_a_restarted_server_from_a_stopped_one(
    browser: Browser, tmp_path: Path
):
    def served_at(port: int) -> pages.Page:
        return pages.open_page(ViewerState([tmp_path], tmp_path), tmp_path / "uploads", port=port)

    first = served_at(0)
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(first.server.urls["control"])
        page.wait_for_url("**/light")
        page.wait_for_function("() => window.lumigraph?.stream.socket.readyState === 1")
        first.close()
        expect(page.locator("#hint")).to_contain_text("Connecting again", timeout=SECONDS)
        first = served_at(int(page.url.split(":")[2].split("/")[0]))
        told = "The server was started again: open the address that it printed"
        expect(page.locator("#hint")).to_have_text(told, timeout=SECONDS)
    finally:
        context.close()
        first.close()


def test_two_clients_and_two_roles(browser: Browser, served: pages.Page):
    opened(served)
    urls = served.server.urls
    with (
        visiting(browser, urls["control"], path="/light") as driver,
        visiting(browser, urls["view"], path="/light") as guest,
    ):
        settled(driver)
        settled(guest)
        driver.locator('[data-id="source"]').select_option("demo:tiny")
        chosen = "() => document.querySelector('[data-id=source]').value === 'demo:tiny'"
        guest.wait_for_function(chosen)
        expect(guest.locator('[data-id="start"]')).to_be_disabled()
        # Whoever only looks cannot steer by talking to the server directly either.
        wish = "{t: 'control', id: 'source', value: 'demo:full'}"
        guest.evaluate(f"() => window.lumigraph.stream.send({wish})")
        guest.keyboard.press("2")
        settled(guest)
        assert served.actions.controls()[0]["value"] == "demo:tiny"


def test_visers_page_shows_the_same_and_steers_the_same(drawer: Browser, served: pages.Page):
    opened(served)
    with visiting(drawer, served.server.urls["control"], path="/full") as page:
        page.wait_for_function(DRAWN, timeout=SECONDS)
        first = settled(page)
        page.mouse.move(300, 250)
        page.mouse.down()
        page.mouse.move(420, 290, steps=5)
        page.mouse.up()
        page.wait_for_timeout(1500)
        assert difference(first, settled(page)) > 1
        page.get_by_role("tab", name="View").click()
        before = page.evaluate(DRAWN)
        page.get_by_label("Show", exact=True).click()
        page.get_by_role("option", name="Depth").click()
        expect(page.get_by_label("Threshold", exact=True)).to_be_disabled()
        expect(page.get_by_label("To", exact=True)).to_be_disabled()
        seen = page.get_by_role("checkbox", name="Automatic range")
        expect(seen).to_be_enabled()
        seen.uncheck(force=True)
        expect(page.get_by_label("To", exact=True)).to_be_enabled()
        page.get_by_label("To", exact=True).fill("0.125")
        page.wait_for_function("() => window.lumigraph.settings.high === 0.125")
        page.wait_for_function(f"() => window.lumigraph.screen.drawn > {before}", timeout=SECONDS)
        assert page.evaluate("() => window.lumigraph.settings.mode") == "depth"
        expect(page.locator("canvas[width='256']")).to_be_visible()
        page.locator("#canvas").dispatch_event("pointerdown")
        page.evaluate("() => document.activeElement?.blur()")
        page.keyboard.press("1")
        page.wait_for_function("() => window.lumigraph.settings.mode === 'color'")
        expect(page.locator("canvas[width='256']")).to_be_hidden()
        expect(page.get_by_label("Show", exact=True)).to_have_value("Colour")
        page.get_by_role("tab", name="Keys").click()
        expect(page.get_by_role("cell", name="Save picture")).to_be_visible()
        expect(page.get_by_text("Radiance fields are not built yet.")).to_be_attached()


def test_flying_on_visers_page_turns_the_head(drawer: Browser, served: pages.Page):
    opened(served)
    with visiting(drawer, served.server.urls["control"], path="/full") as page:
        page.wait_for_function(DRAWN, timeout=SECONDS)
        settled(page)
        looking = "() => window.lumigraph.eye.placed()"
        before = page.evaluate(looking)
        page.keyboard.press("f")
        page.wait_for_function("() => window.lumigraph.settings.fly && lumigraph.eye.flying")
        page.mouse.move(300, 250)
        page.mouse.down()
        page.mouse.move(340, 250, steps=4)
        page.mouse.up()
        page.wait_for_timeout(500)
        after = page.evaluate(looking)
        far = math.dist(before["position"], before["target"])
        assert math.dist(after["position"], before["position"]) < 0.02 * far
        assert math.dist(after["target"], before["target"]) > 0.1 * far
        page.keyboard.press("f")
        page.wait_for_function("() => !window.lumigraph.eye.flying")
        again = page.evaluate(looking)
        assert math.dist(again["target"], after["target"]) < 0.01 * far


def test_another_up_on_visers_page_keeps_place_and_target(drawer: Browser, served: pages.Page):
    opened(served)
    with visiting(drawer, served.server.urls["control"], path="/full") as page:
        page.wait_for_function(DRAWN, timeout=SECONDS)
        settled(page)
        looking = "() => window.lumigraph.eye.placed()"
        before = page.evaluate(looking)
        page.get_by_role("tab", name="View").click()
        page.get_by_label("Up axis", exact=True).click()
        page.get_by_role("option", name="+x", exact=True).click()
        page.wait_for_function("() => window.lumigraph.settings.up === 'x'")
        page.wait_for_timeout(500)
        after = page.evaluate(looking)
        far = math.dist(before["position"], before["target"])
        assert math.dist(after["position"], before["position"]) < 0.01 * far
        assert math.dist(after["target"], before["target"]) < 0.01 * far
        # The second row is the image's way down.
        rows = page.evaluate("() => window.lumigraph.eye.view().matrix")
        assert rows[4] < -0.5


def test_visers_page_starts_and_stops_a_training(drawer: Browser, served: pages.Page):
    served.actions.choose("demo:tiny")
    with visiting(drawer, served.server.urls["control"], path="/full") as page:
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_role("button", name="Pause")).to_be_enabled(timeout=SECONDS)
        expect(page.get_by_text(re.compile("Step .* of .*"))).to_be_visible(timeout=SECONDS)
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("button", name="Stop")).to_be_disabled(timeout=SECONDS)
        # The run that was stopped is chosen by then.
        expect(page.get_by_role("button", name="Resume run")).to_be_enabled(timeout=SECONDS)
        # A capture is no run that could go on, which is said here too.
        served.actions.choose("demo:tiny")
        expect(page.get_by_role("button", name="Resume run")).to_be_disabled(timeout=SECONDS)
        with replaced(served, controls=lambda: enabled(served)):
            expect(page.get_by_role("button", name="Resume run")).to_be_enabled(timeout=SECONDS)
            page.get_by_role("button", name="Resume run").click()
            expect(page.get_by_text("is a capture, not a run")).to_be_visible(timeout=SECONDS)


def test_visers_page_is_dark_if_the_system_is_dark_or_the_page_was(
    drawer: Browser, served: pages.Page
):
    opened(served)
    scheme = "name => document.documentElement.dataset.mantineColorScheme === name"
    with visiting(drawer, served.server.urls["control"], path="/full") as page:
        page.wait_for_function(DRAWN, timeout=SECONDS)
        page.wait_for_function(scheme, arg="light")
        expect(page.get_by_text("Software WebGL rendering detected")).to_be_hidden()
        page.emulate_media(color_scheme="dark")
        page.reload()
        page.wait_for_function(scheme, arg="dark")
        dark = page.get_by_role("checkbox", name="Dark", exact=True)
        expect(dark).to_be_checked()
        dark.uncheck(force=True)
        page.wait_for_function(scheme, arg="light")
        assert page.evaluate("() => localStorage.getItem('theme')") == "light"


def test_frames_are_shown_in_their_order(browser: Browser, served: pages.Page):
    opened(served)
    with visiting(browser, served.server.urls["control"], path="/light") as page:
        settled(page)
        shown = page.evaluate("""async () => {
          const { screen } = window.lumigraph;
          const picture = () => createImageBitmap(new ImageData(4, 4));
          const first = screen.frame.number;
          screen.take({ ...screen.frame, number: first + 2, picture: await picture() });
          screen.take({ ...screen.frame, number: first + 1, picture: await picture() });
          return screen.frame.number - first;
        }""")
        assert shown == 2


def test_a_photo_and_its_picture_match_where_pixels_are_not_square(
    browser: Browser, served: pages.Page
):
    camera = Camera(
        torch.eye(4, dtype=torch.float64), (500.0, 550.0), (150.0, 90.0), width=320, height=200
    )
    shot = {**frusta_of([CaptureCamera("a.jpg", "train", camera)])[0]}
    with visiting(browser, served.server.urls["control"], path="/light") as page:
        there = page.evaluate(
            """async (shot) => {
              const { onImage, standingAt } = await import("/static/screen.js");
              const { view, box } = standingAt(shot, 800, 400);
              return { view, box, place: onImage(view, [0.2, 0.1, 1], 800, 400) };
            }""",
            shot,
        )
    scale = 2.0  # 400 of 200 pixels
    assert there["box"] == [80.0, 0.0, 640.0, 400.0]
    expected = [80 + scale * (150 + 500 * 0.2), scale * (90 + 550 * 0.1)]
    assert there["place"] == pytest.approx(expected)
    wish = parse(
        json.dumps({"t": "camera", "id": 1, "view": {"width": 800, "height": 400, **there["view"]}})
    )
    assert isinstance(wish, CameraMessage)
    seen = wish.view.camera(800, 400, 0.01)
    assert seen.focal == pytest.approx((scale * 500, scale * 550))
    assert seen.center == pytest.approx((80 + scale * 150, scale * 90))


def test_another_scene_during_a_training_and_back(browser: Browser, served: pages.Page):
    blobs = next(
        s["id"] for s in served.viewer.library.as_dicts() if s["name"].endswith("blobs.ply")
    )
    with visiting(browser, served.server.urls["control"], path="/light") as page:
        source = page.locator('[data-id="source"]')
        source.select_option("demo:tiny")
        page.locator('[data-id="preset"]').select_option("standard")
        page.locator('[data-id="start"]').click()
        training = """() => {
          const { name, splats } = window.lumigraph.shown ?? {};
          return name && !name.endsWith(".ply") && splats > 0;
        }"""
        expect(page.locator('[data-id="pause"]')).to_be_enabled(timeout=SECONDS)
        page.wait_for_function(training)
        follow = page.locator('[data-id="follow"]')
        expect(follow).to_be_disabled()
        source.select_option(blobs)
        page.locator('[data-id="open"]').click()
        page.wait_for_function("() => window.lumigraph.shown.name.endsWith('blobs.ply')")
        follow.click()
        page.wait_for_function(training)
        expect(follow).to_be_disabled()
        # Somebody ends the training from outside: the page says so, and all else goes on.
        pid = served.viewer.jobs.pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        told = page.locator(".note.error", has_text="was ended by the signal SIGKILL")
        expect(told).to_be_visible(timeout=SECONDS)
        expect(page.locator('[data-id="stop"]')).to_be_disabled()
        source.select_option(blobs)
        page.locator('[data-id="open"]').click()
        page.wait_for_function("() => window.lumigraph.shown.name.endsWith('blobs.ply')")
        settled(page)


def test_rescan_finds_new_files(browser: Browser, served: pages.Page, folder: Path):
    with visiting(browser, served.server.urls["control"], path="/light") as page:
        found = page.locator('[data-id="source"] option', has_text="late.ply")
        expect(page.locator('[data-id="source"] option').first).to_be_attached()
        expect(found).to_have_count(0)
        shutil.copy(folder / "blobs.ply", folder / "late.ply")
        page.locator('[data-id="rescan"]').click()
        expect(found).to_have_count(1)
    (folder / "late.ply").unlink()


def test_visers_page_can_be_loaded_again(drawer: Browser, served: pages.Page):
    opened(served)
    with visiting(drawer, served.server.urls["control"], path="/full") as page:
        page.wait_for_function(DRAWN, timeout=SECONDS)
        page.reload()
        page.wait_for_function(DRAWN, timeout=SECONDS)
        assert max(settled(page)) > 0
        assert page.url.split("?")[0].endswith("/full")


def test_a_guest_gets_the_light_page(drawer: Browser, served: pages.Page):
    opened(served)
    with visiting(drawer, served.server.urls["view"]) as page:
        page.wait_for_url("**/light")
        settled(page)
