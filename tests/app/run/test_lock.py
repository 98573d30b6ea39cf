"""Locks: one training at a time, programs that change a run at once, and those that only read."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from lumigraph.app.commands import evaluate as evaluating
from lumigraph.app.commands import export as exporting
from lumigraph.app.commands.evaluate import evaluate_run
from lumigraph.app.commands.export import export_run
from lumigraph.app.run.folder import Run, create_run, is_taken, open_run
from lumigraph.app.run.lock import LOCK, locked
from lumigraph.app.training import session as sessions
from lumigraph.app.training.inputs import TrainOptions
from lumigraph.app.training.session import run_session
from lumigraph.app.training.start import resume, start
from lumigraph.app.viewer.jobs.process import TrainingProcess
from lumigraph.datasets import load_capture
from lumigraph.datasets.demo import make_demo
from lumigraph.recon.files import load_ply

OPTIONS = TrainOptions("quick", device="cpu", changes={"steps": 4, "splat_limit": 300})
ENDLESS = {"steps": 1_000_000, "splat_limit": 300, "refine_stop": 1}
TRAINED = "is being trained by process {}: wait for its end or stop it"

HOLDER = """
import signal, subprocess, sys
from pathlib import Path
from lumigraph.app.run.lock import locked
with locked(Path(sys.argv[1])):
    subprocess.Popen(["cat"], close_fds=False)
    print("locked", flush=True)
    signal.pause()
"""
"""A process that locks a folder for ever, and starts a program that outlives it."""


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    """The folder of the built-in scene."""
    return make_demo(tmp_path_factory.mktemp("captures") / "pavilion", "tiny")


@pytest.fixture(scope="module")
def stopped_run(capture, tmp_path_factory) -> Path:
    """The folder of a run that was stopped after no step; to be copied."""
    session = start(capture, OPTIONS, tmp_path_factory.mktemp("runs") / "run")
    session.control.stop()
    return run_session(session).folder


@pytest.fixture
def stopped(stopped_run, tmp_path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(stopped_run, tmp_path / "run"))


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a folder: the time of its last change, and its content."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_second_program_gets_the_process_that_trains_and_changes_nothing(stopped, capture):
    first = resume(capture, TrainOptions(), stopped)
    (stopped / "checkpoints" / ".torn.part").write_bytes(b"of the one that trains")
    before, sentence = content(stopped), TRAINED.format(os.getpid())
    for second in (
        lambda: resume(capture, TrainOptions(), stopped),
        lambda: start(capture, OPTIONS, stopped),
        lambda: start(capture, OPTIONS, stopped, overwrite=True),
    ):
        with pytest.raises(BlockingIOError, match=sentence) as error:
            second()
        assert str(stopped) in str(error.value)
    command = "from lumigraph.app.cli import main; main()"
    words = ["train", str(capture), "--resume", str(stopped)]
    done = subprocess.run(
        [sys.executable, "-Pc", command, *words], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, sentence in done.stderr) == (1, True)
    assert done.stderr.count("\n") == 1
    assert content(stopped) == before
    assert run_session(first).state == "finished"


def test_readers_are_not_hindered(stopped, capture):
    session = resume(capture, TrainOptions(), stopped)
    assert evaluate_run(open_run(stopped), split="test", data=None)["images"] > 0
    assert export_run(stopped, None)["splats"] > 0
    assert run_session(session).state == "finished"


def test_entries_that_two_programs_write_to_run_json_are_both_kept(stopped, capture):
    before = open_run(stopped)
    session = resume(capture, TrainOptions(), stopped)
    assert run_session(session).state == "finished"
    late = before.with_record(note="of a program that opened the run before")
    assert (late.state, late.record["step"]) == ("finished", 4)
    assert open_run(stopped).record == late.record


def test_changes_at_the_same_time_are_all_made(stopped):
    def count() -> None:
        for _ in range(50):
            with open_run(stopped).changing() as record:
                record["count"] = record.get("count", 0) + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert open_run(stopped).record["count"] == 200


def test_a_change_of_the_old_record_does_not_undo_a_new_run(stopped, capture):
    old = open_run(stopped)
    entries = {name: old.record[name] for name in old.record if name not in ("step", "state")}
    new = {"capture": load_capture(capture), "record": {**entries, "step": 1}, "overwrite": True}
    begin = threading.Thread(target=create_run, args=[stopped], kwargs=new)
    with old.changing() as record:
        begin.start()
        begin.join(0.3)  # it waits for this change
        record["step"] = 3
    begin.join()
    assert open_run(stopped).record["step"] == 1


def test_a_record_that_is_lost_or_damaged_is_written_again(stopped):
    run = open_run(stopped)
    for damage in ("{", None):
        (stopped / "run.json").write_text(damage) if damage else (stopped / "run.json").unlink()
        assert run.with_record(step=3).record == {**run.record, "step": 3}
        assert open_run(stopped).record["step"] == 3


def test_an_exception_leaves_the_record_as_it_was(stopped):
    run = open_run(stopped)
    with suppress(KeyError), run.changing() as record:
        record["step"] = 7
        raise KeyError
    assert open_run(stopped).record == run.record


def test_scores_belong_to_the_present_scene(stopped, capture):
    assert evaluate_run(open_run(stopped))["images"] > 0
    assert open_run(stopped).record["metrics"]["images"] > 0
    assert " dB" in (stopped / "report.html").read_text()
    session = resume(capture, TrainOptions(), stopped)
    session.control.stop()
    assert run_session(session).state == "stopped"
    assert "metrics" not in open_run(stopped).record
    assert " dB" not in (stopped / "report.html").read_text()


def test_results_of_a_scene_are_made_again_if_a_training_replaces_it(stopped, capture, monkeypatch):
    def meanwhile(module: Any, name: str) -> None:
        real, calls = getattr(module, name), []

        def slow(*arguments: Any, **options: Any) -> Any:
            made = real(*arguments, **options)
            calls.append(made)
            if len(calls) == 1:
                session = resume(capture, TrainOptions(), stopped)
                if name == "evaluate":
                    session.control.stop()
                run_session(session)
            return made

        monkeypatch.setattr(module, name, slow)

    meanwhile(evaluating, "evaluate")
    metrics = evaluate_run(Run(stopped, {**open_run(stopped).record, "seconds": 1e6}))
    run = open_run(stopped)
    assert run.record["metrics"]["psnr"] == metrics["psnr"]
    assert metrics["splats"] == len(run.scene())
    assert metrics["seconds"] == run.record["seconds"]
    monkeypatch.undo()
    meanwhile(exporting, "write_ply")
    export_run(stopped, None)
    run = open_run(stopped)
    assert run.state == "finished"
    written = load_ply(stopped / "scene.ply")
    moved = run.scene().moved(run.capture().similarity.inverse())
    assert torch.equal(written.opacity_logits, moved.opacity_logits)


def test_a_lock_dies_with_its_process_and_is_not_inherited(stopped, capture):
    command, pipe = [sys.executable, "-Pc", HOLDER, str(stopped)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdin
        assert holder.stdout
        try:
            assert holder.stdout.readline() == "locked\n"
            with pytest.raises(BlockingIOError, match=TRAINED.format(holder.pid)):
                resume(capture, TrainOptions(), stopped)
        finally:
            holder.kill()
            holder.wait()
        assert (stopped / LOCK).read_text() == f"{holder.pid}\n", "the file stays"
        assert run_session(resume(capture, TrainOptions(), stopped)).state == "finished"
        holder.stdin.write("alive\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "alive\n", "what it had started lives on"
    assert not (stopped / LOCK).exists()


def test_a_training_of_the_page_locks_its_run(capture, tmp_path):
    order: dict[str, Any] = {"capture": str(capture), "runs": str(tmp_path), "resume": None}
    order |= {"folder": None, "order": {"preset": "quick", "changes": ENDLESS, "device": "cpu"}}
    folder = tmp_path / "pavilion" / "001"
    first = TrainingProcess(order, [])
    first.do("checkpoint")
    for message in first.messages():
        if message["t"] == "saved":
            with pytest.raises(BlockingIOError, match=TRAINED.format(first.pid)):
                resume(capture, TrainOptions(), folder)
            second = TrainingProcess({**order, "resume": str(folder)}, [])
            told = list(second.messages())
            assert second.wait() == 1
            assert TRAINED.format(first.pid) in told[-1]["sentence"]
            first.kill()
    first.wait()
    assert (folder / LOCK).exists()
    third = TrainingProcess({**order, "resume": str(folder)}, [])
    third.leave()
    assert [message["state"] for message in third.messages() if message["t"] == "result"]
    assert third.wait() == 0
    assert not (folder / LOCK).exists()


def test_a_run_that_ends_in_an_error_is_free_again(stopped, capture, monkeypatch):
    def full(scene, path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    session = resume(capture, TrainOptions(), stopped)
    with monkeypatch.context() as patch:
        patch.setattr(sessions, "save_scene", full)
        with pytest.raises(OSError, match="No space"):
            run_session(session)
    assert not (stopped / LOCK).exists(), "though the session is still there"
    with pytest.raises(ValueError, match="leave out --preset"):
        resume(capture, OPTIONS, stopped)
    assert not (stopped / LOCK).exists()
    assert run_session(resume(capture, TrainOptions(), stopped)).state == "finished"


def test_a_session_that_is_dropped_frees_its_folder(stopped, capture):
    session = resume(capture, TrainOptions(), stopped)
    del session
    assert not (stopped / LOCK).exists()


def test_a_run_that_cannot_be_begun_leaves_nothing(capture, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        start(tmp_path / "nowhere", OPTIONS, tmp_path / "new" / "run")
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="is not empty"):
        start(capture, OPTIONS, tmp_path)
    with pytest.raises(NotADirectoryError, match=r"mine\.txt is a file: choose another"):
        start(capture, OPTIONS, tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_with_nothing_but_an_old_lock_is_free(capture, tmp_path):
    (tmp_path / LOCK).write_text(f"{os.getpid()}\n")
    assert not is_taken(tmp_path)
    assert run_session(start(capture, OPTIONS, tmp_path)).state == "finished"
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("instead", [None, "another"])
def test_a_lock_on_a_file_that_is_gone_does_not_count(instead, tmp_path, monkeypatch):
    """As if another process removed the file at its end, after it was opened here."""
    real, path, calls = fcntl.flock, tmp_path / LOCK, []

    def late(file: int, kind: int) -> None:
        calls.append(kind)
        if len(calls) == 1:
            path.unlink()
            if instead:
                path.write_text(instead)
        real(file, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path):
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(BlockingIOError), locked(tmp_path):
            pass
    assert len(calls) == 3


def test_a_lock_that_moved_away_with_its_folder_leaves_the_next_one_alone(tmp_path):
    with ExitStack() as first:
        first.enter_context(locked(tmp_path / "run"))
        (tmp_path / "run").rename(tmp_path / "moved")
        with locked(tmp_path / "run"):
            first.close()
            with pytest.raises(BlockingIOError), locked(tmp_path / "run"):
                pass
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


@pytest.mark.parametrize("text", ["", "nobody", "-7", "1" * 5000, "\x1b[31m"])
def test_an_unreadable_process_id_in_the_lock_is_called_another_process(text, tmp_path):
    with locked(tmp_path):
        (tmp_path / LOCK).write_text(text)
        sentence = r"trained by (another process|process 1{20}):"
        with pytest.raises(BlockingIOError, match=sentence), locked(tmp_path):
            pass


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=LOCK), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "keep"
    assert (tmp_path / "run" / LOCK).is_symlink()


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch):
    def unable(file: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unable)
    sentence = r"cannot lock files \(No locks available\)"
    with pytest.warns(UserWarning, match=sentence), locked(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert not list(tmp_path.iterdir())
