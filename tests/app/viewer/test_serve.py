"""The commands that open the page: what they say, what they leave behind, and how they end."""

import errno
import os
import shlex
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import unquote, urlparse

import pytest
import torch
import typer
import viser

from lumigraph.app.commands.train import report_run
from lumigraph.app.console import resume_command
from lumigraph.app.run.folder import open_run
from lumigraph.app.training.inputs import TrainOptions
from lumigraph.app.training.session import checkpoints
from lumigraph.app.training.start import start
from lumigraph.app.viewer import serve as pages
from lumigraph.app.viewer import serve as viewing
from lumigraph.app.viewer.serve import Page, ServeOptions, open_page, run_app, train_viewed, view
from lumigraph.app.viewer.state import ViewerState
from lumigraph.datasets.demo import make_demo
from lumigraph.recon.files import save_ply
from lumigraph.render import Splats

COMMAND = [sys.executable, "-Pc", "from lumigraph.app.cli import main; main()"]
ENDLESS = TrainOptions("quick", changes={"steps": 1_000_000, "splat_limit": 500, "refine_stop": 1})
PATIENCE = 60
"""Seconds after which something that ought to happen is taken not to; nothing waits that long."""

ANY = ServeOptions(port=0)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built-in scene."""
    return make_demo(tmp_path_factory.mktemp("captures") / "pavilion", "tiny")


@pytest.fixture
def ply(tmp_path: Path) -> Path:
    """A file of splats."""
    means, quaternions, log_scales, base = (torch.randn(9, width) for width in (3, 4, 3, 3))
    scene = Splats(
        means, quaternions, log_scales, torch.randn(9), base=base, rest=torch.zeros(9, 0, 3)
    )
    save_ply(scene, tmp_path / "splats.ply")
    return tmp_path / "splats.ply"


Visit = Callable[[Page, str], None]


@pytest.fixture
def visited(monkeypatch: pytest.MonkeyPatch) -> Callable[[Visit], None]:
    """Has a visitor come, in a thread, when a browser is opened; the page ends when it has gone."""

    def arrange(visit: Visit) -> None:
        opened: list[Page] = []

        def open_it(*arguments: Any, **options: Any) -> Page:
            opened.append(open_page(*arguments, **options))
            return opened[0]

        def browse(address: str) -> None:
            def come() -> None:
                try:
                    visit(opened[0], address)
                finally:
                    os.kill(os.getpid(), signal.SIGTERM)

            threading.Thread(target=come).start()

        monkeypatch.setattr(viewing, "open_page", open_it)
        monkeypatch.setattr(viewing.webbrowser, "open", browse)

    return arrange


def until(viewer: ViewerState, true: Callable[[], Any]) -> None:
    """Returns once something is true of the viewer."""
    version = viewer.as_dict()["version"]
    while not true():
        later = viewer.wait(version, PATIENCE)
        assert later > version, f"nothing happens any more: {viewer.as_dict()}"
        version = later


def current(viewer: ViewerState) -> str:
    """The state of the running job."""
    return (viewer.as_dict()["current"] or {}).get("state", "")


def test_looking_leaves_nothing_and_keeps_the_token_off_the_command_line(ply, tmp_path, visited):
    seen = []

    def visit(page: Page, address: str) -> None:
        path, url = Path(unquote(urlparse(address).path)), page.server.urls["control"]
        modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)]
        seen.append((path, modes, path.read_text(), url, address))

    visited(visit)
    view(ply, tmp_path / "runs", ANY)
    ((path, modes, content, url, address),) = seen
    assert modes == [0o600, 0o700]
    assert f'content="0; url={url}"' in content
    assert url.split("token=")[1] not in address
    assert not path.parent.exists()
    assert [each.name for each in tmp_path.iterdir()] == ["splats.ply"]


def test_a_page_without_a_place_for_its_file_is_served(ply, tmp_path, monkeypatch, visited):
    def full(*_: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(viewing, "TemporaryDirectory", full)
    view(ply, tmp_path / "runs", ANY)


CLOUD = "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n0\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "but empty"), ("hello\n", "first line is not 'ply'"), (CLOUD, "no property y")],
    ids=["empty", "text", "cloud"],
)
@pytest.mark.parametrize("command", ["app", "view"])
def test_a_file_without_splats_is_refused_before_anything_is_served(
    tmp_path, monkeypatch, command, content, words
):
    (tmp_path / "x.ply").write_text(content)
    monkeypatch.setattr(viewing, "open_page", lambda *_, **__: pytest.fail("it is served"))
    given: Any = [tmp_path, tmp_path / "x.ply"] if command == "app" else tmp_path / "x.ply"
    with pytest.raises(ValueError, match=words):
        {"app": run_app, "view": view}[command](given, tmp_path / "runs", ANY)


def test_a_given_file_of_splats_is_shown(ply, tmp_path, visited):
    shown = []
    visited(lambda page, address: shown.append(page.viewer.as_dict()["shown"]["name"]))
    run_app([ply], tmp_path / "runs", ANY)
    assert shown == ["splats.ply"]


def test_a_given_source_is_chosen(capture, ply, tmp_path, visited):
    runs, chosen = tmp_path / "runs", []
    make_demo(runs / "uploads" / "a", "tiny")
    make_demo(tmp_path / "a", "tiny")
    for folders in ([ply, runs, capture.parent], [ply], [runs], [], [capture, tmp_path / "a"]):
        visited(lambda page, address: chosen.append(page.actions.controls()[0]["value"]))
        run_app(folders, runs, ANY)
    kinds = [source.split(":")[0] for source in chosen]
    assert kinds == ["capture", "ply", "capture", "demo", "capture"]
    viewer = ViewerState([capture], runs)
    assert chosen[0] == chosen[4] == viewer.library.add(capture).id
    viewer.close()


def test_a_training_that_fails_is_reported_at_once_and_sets_the_exit_code(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "transforms.json").write_text('{"frames": [7]}')
    command = [*COMMAND, "train", "broken", "--view", "--no-open", "--port", "0"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as process:
        assert process.stderr
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("Error: "):
                process.send_signal(signal.SIGINT)
        assert process.wait() == 1
    (failure,) = (line for line in lines if line.startswith("Error: "))
    assert "transforms.json" in failure
    assert "--resume" not in "".join(lines)
    assert not (tmp_path / "runs").exists()


def test_the_report_is_about_the_training_that_was_asked_for(capture, tmp_path, visited, capfd):
    run = tmp_path / "runs" / "pavilion" / "001"

    def visit(page: Page, address: str) -> None:
        viewer = page.viewer
        until(viewer, lambda: current(viewer) == "training")
        viewer.jobs.checkpoint()
        until(viewer, lambda: run.exists() and checkpoints(open_run(run)))
        viewer.start(viewer.library.add(capture).id, TrainOptions("quick", changes={"steps": 2}))
        pid = viewer.jobs.pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        until(viewer, lambda: viewer.as_dict()["jobs"][1]["state"] == "finished")

    visited(visit)
    assert train_viewed(capture, ENDLESS, tmp_path / "runs", None, ANY) is None
    error = capfd.readouterr().err
    assert error.count("Error: The training process was ended by the signal SIGKILL") == 1
    assert error.splitlines()[-1] == resume_command(capture, run)

    def stop(page: Page, address: str) -> None:
        until(page.viewer, lambda: (page.viewer.as_dict()["current"] or {}).get("step"))

    visited(stop)
    words = shlex.split(resume_command(capture, run))
    gone_on = train_viewed(Path(words[-3]), TrainOptions(), tmp_path / "runs", Path(words[-1]), ANY)
    assert gone_on is not None
    assert (gone_on.run.folder, gone_on.run.state) == (run, "stopped")
    assert gone_on.code == 128 + signal.SIGTERM


def test_the_exit_code_says_whether_a_signal_ended_the_training(capture, tmp_path, visited):
    def stopped(page: Page, address: str) -> None:
        until(page.viewer, lambda: (page.viewer.as_dict()["current"] or {}).get("step"))
        page.viewer.jobs.stop()
        until(page.viewer, lambda: current(page.viewer) == "stopped")

    visited(stopped)
    ended = train_viewed(capture, ENDLESS, tmp_path / "runs", None, ANY)
    assert ended is not None
    assert (ended.run.state, ended.code) == ("stopped", 0)
    with pytest.raises(typer.Exit) as left:
        report_run(ended.run, capture, False, 130)
    assert left.value.exit_code == 130

    visited(lambda page, address: until(page.viewer, lambda: current(page.viewer)))
    with pytest.raises(typer.Exit) as left:
        train_viewed(capture, ENDLESS, tmp_path / "runs", None, ANY)
    assert left.value.exit_code == 128 + signal.SIGTERM


def test_a_second_signal_ends_a_training_that_does_not_answer(capture, tmp_path, visited):
    def visit(page: Page, address: str) -> None:
        viewer = page.viewer
        until(viewer, lambda: current(viewer) == "training")
        pid = viewer.jobs.pid
        assert pid
        os.kill(pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGINT)
        until(viewer, lambda: "Lumigraph is closing" in str(viewer.as_dict()["notes"]))

    visited(visit)
    assert train_viewed(capture, ENDLESS, tmp_path / "runs", None, ANY) is None


def test_signals_that_are_ignored_stay_so(ply, tmp_path, visited):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        visited(lambda page, address: os.kill(os.getpid(), signal.SIGHUP))
        view(ply, tmp_path / "runs", ANY)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_loading_can_be_ended_at_any_photo_or_step_and_leaves_nothing(capture, tmp_path):
    order, calls = TrainOptions("quick", minutes=0.1, changes={"splat_limit": 500}), 0

    def heed(last: int) -> None:
        nonlocal calls
        calls += 1
        if calls == last:
            raise InterruptedError

    start(capture, order, tmp_path / "whole", heed=lambda: heed(0)).lock.close()
    total, frames, trial = calls, 32, 30
    assert total > 2 * frames + trial
    for last in (1, 2, frames, total // 2, total - 1, total):
        calls = 0
        with pytest.raises(InterruptedError):
            start(capture, order, None, runs=tmp_path / "runs", heed=lambda n=last: heed(n))
        assert list(tmp_path.rglob("pavilion")) == []


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    """A page over nothing."""
    page = open_page(ViewerState([], tmp_path), tmp_path / "uploads", port=0)
    yield page
    page.close()


def test_pages_get_a_message_when_the_server_closes(opened, monkeypatch):
    told = []
    news = opened._streams.changed
    monkeypatch.setattr(
        opened._streams,
        "changed",
        lambda: (told.extend(n["text"] for n in opened.viewer.as_dict()["notes"]), news()),
    )
    opened.close()
    assert any("Lumigraph is closing" in text for text in told)


def test_a_client_that_has_left_leaves_no_panel(opened, monkeypatch):
    monkeypatch.setattr(pages, "Panel", lambda client, callbacks, role: SimpleNamespace())
    opened._enter(cast(viser.ClientHandle, SimpleNamespace(client_id=7)))
    assert opened._panels == {}
    refreshed = threading.Event()

    class Watched(dict):
        def pop(self, *key: Any) -> Any:
            refreshed.set()
            return super().pop(*key)

    opened._panels = Watched({8: SimpleNamespace(refresh=lambda: None)})
    opened.viewer.note("info", "something")
    assert refreshed.wait(PATIENCE)


def test_the_cores_shared_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(pages, "cores", lambda: 6)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    told = []
    viewer = cast(
        ViewerState, SimpleNamespace(jobs=SimpleNamespace(training=True, limit_threads=told.append))
    )
    assert pages._threads(viewer) == 3
    pages._share_cores(viewer, True)
    pages._share_cores(viewer, False)
    assert told == [3, None]
