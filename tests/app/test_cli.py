"""The commands from outside: their output, their files, and their errors."""

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from typer.testing import CliRunner

from lumigraph.app import cli
from lumigraph.app.commands.train import stopping
from lumigraph.app.console import fail, notice, program, report, resume_command, warn
from lumigraph.app.run.folder import open_run
from lumigraph.app.training.events import TrainingControl
from lumigraph.app.training.inputs import TrainOptions, automatic_downscale, inputs_of
from lumigraph.app.training.session import checkpoints, run_session
from lumigraph.app.training.start import resume, start
from lumigraph.datasets import load_capture
from lumigraph.datasets.demo import make_demo
from lumigraph.render import Camera

COMMAND = [sys.executable, "-Pc", "from lumigraph.app.cli import main; main()"]
STEPS = 300


def lumigraph(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own."""
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def call(*words: object) -> str:
    """Runs the command in this process, and returns what it printed on standard output."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def call_json(*words: object) -> dict:
    """What a command prints with --json: one line, one object."""
    (line,) = call(*words, "--json").splitlines()
    return json.loads(line)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest built-in scene, on disk."""
    return make_demo(tmp_path_factory.mktemp("captures") / "tiny", "tiny")


@pytest.fixture(scope="module")
def trained(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A finished run in a folder that was moved, without its photos, and the printed result."""
    home = tmp_path_factory.mktemp("trained")
    shutil.copytree(capture, home / "photos")
    printed = call_json("train", home / "photos", "-o", home / "run", "--steps", STEPS)
    shutil.rmtree(home / "photos")
    shutil.move(home / "run", home / "moved run")
    return home / "moved run", printed


@pytest.mark.parametrize("module", ["lumigraph.app.cli", "lumigraph.app.viewer.jobs.worker"])
def test_waiting_threads_sleep_soon_unless_the_environment_sets_otherwise(module):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    program = f"import {module}, os; print(*(os.environ.get(name) for name in {names}))"
    unset = {k: v for k, v in os.environ.items() if k not in names}
    active = {**unset, "OMP_WAIT_POLICY": "active"}
    for given, expected in ((unset, "passive 1000"), (active, "active None")):
        done = subprocess.run(
            [sys.executable, "-Pc", program], capture_output=True, text=True, env=given, timeout=60
        )
        assert done.stdout.strip() == expected


def test_training_prints_its_results(trained):
    printed = trained[1]
    assert printed["state"] == "finished"
    assert printed["step"] == printed["steps"] == STEPS
    assert printed["psnr"] > 10
    assert 0 < printed["ssim"] < 1
    assert printed["images"] > 0
    assert printed["seconds"] > 0
    assert printed["steps_per_second"] > 0
    assert printed["peak_memory_mb"] > 50
    assert printed["iterations"] == []
    assert "Levenberg" not in (trained[0] / "report.html").read_text()


@pytest.mark.parametrize(
    ("optimizer", "steps", "iterations"), [("lm", 56, 1), ("lm-published", 45, 5)]
)
def test_a_fit_that_levenberg_marquardt_finishes_tells_its_iterations(
    capture, tmp_path, optimizer, steps, iterations
):
    words = ("train", capture, "-o", tmp_path / "run", "--optimizer", optimizer)
    printed = call_json(*words, "--steps", 60)
    assert printed["step"] == printed["steps"] == steps
    numbers = [each["number"] for each in printed["iterations"]]
    assert numbers == list(range(1, iterations + 1))
    assert all(each["before"] > 0 and each["images"] > 0 for each in printed["iterations"])
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["plan"]["optimizer"] == optimizer
    report = (tmp_path / "run" / "report.html").read_text()
    assert "<h2>Levenberg-Marquardt</h2>" in report
    assert report.count("<td>taken</td>") == sum(x["accepted"] for x in printed["iterations"])
    result = CliRunner().invoke(cli.app, [*map(str, words), "--minutes", "1"])
    assert result.exit_code == 2
    assert "--minutes works with Adam alone" in result.output


def test_a_moved_run_is_evaluated_without_its_photos(trained):
    folder, printed = trained
    metrics = call_json("eval", folder)
    assert {key: metrics[key] for key in ("psnr", "ssim", "images", "splats", "seconds")} == {
        key: printed[key] for key in ("psnr", "ssim", "images", "splats", "seconds")
    }
    assert len(metrics["per_image"]) == metrics["images"]
    mean = sum(view["psnr"] for view in metrics["per_image"]) / metrics["images"]
    assert metrics["psnr"] == pytest.approx(mean)
    assert f"{metrics['psnr']:.2f} dB" in call("eval", folder)


def test_a_moved_run_is_rendered_and_filmed(trained, tmp_path):
    from lumigraph.app.run.film import ffmpeg

    folder, _ = trained
    for views in ("orbit", "path", "test"):
        options = ["--views", views, "--frames", 3, "--scale", 0.5, "-o", tmp_path]
        made = call_json("render", folder, *options)
        pictures = sorted(Path(made["folder"]).glob("*.png"))
        assert len(pictures) == made["images"] > 0
        if ffmpeg() and views != "test":
            assert Path(made["film"]).stat().st_size > 0
    made = call_json("render", folder, "--frames", 2, "--depth", "--no-film")
    assert Path(made["folder"]) == folder / "renders" / "orbit_depth"
    assert made["film"] is None


def test_pictures_are_not_made_among_photos(trained, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "0000_test_000.png").write_bytes(b"a photo")
    done = lumigraph("render", trained[0], "-o", tmp_path, "--views", "test")
    assert (done.returncode, "choose another folder" in done.stderr) == (1, True)
    (tmp_path / "orbit.mp4").write_bytes(b"a film")
    done = lumigraph("render", trained[0], "-o", tmp_path, "--frames", 2)
    assert (done.returncode, "orbit.mp4 exists and" in done.stderr) == (1, True)
    assert (tmp_path / "test" / "0000_test_000.png").read_bytes() == b"a photo"
    assert (tmp_path / "orbit.mp4").read_bytes() == b"a film"


def test_a_moved_run_is_exported_and_the_file_rendered(trained, tmp_path):
    folder, printed = trained
    made = call_json("export", folder, "-o", tmp_path / "scene.ply")
    assert made["splats"] == printed["splats"]
    assert made["psnr"] > 50
    views = call_json("render", tmp_path / "scene.ply", "--frames", 2, "--scale", 0.1, "--no-film")
    assert views["images"] == 2


def test_train_views_are_evaluated_where_the_photos_are(trained, capture):
    folder, _ = trained
    metrics = call_json("eval", folder, "--split", "train", "--data", capture)
    assert metrics["images"] == len(open_run(folder).capture().train)


def test_a_capture_is_inspected(capture):
    facts = call_json("inspect", capture)
    assert facts["train"] > 0
    assert facts["test"] > 0
    assert facts["points"] > 0
    assert sum(facts["sizes"].values()) == facts["train"] + facts["test"]
    assert "extent of cameras" in call("inspect", capture)


def test_the_doctor_says_what_was_chosen():
    facts = call_json("doctor")
    assert facts["instruction_set"] in facts["instruction_sets"]
    assert facts["device"] in ("cpu", "cuda")
    assert facts["device_reason"]
    assert call("doctor")


def until(process: subprocess.Popen[str], word: str) -> None:
    """Reads the error output of the process until a line begins with the word."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(word):
            return
    pytest.fail(f"the process ended without printing {word}")


def test_an_interrupted_training_prints_the_command_that_resumes_it(capture, tmp_path):
    folder = tmp_path / "a run"
    command = [*COMMAND, "train", str(capture), "-o", str(folder), "--steps", "1000000"]
    pipes: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        until(process, "step ")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    run = open_run(folder)
    assert run.state == "stopped"
    assert checkpoints(run)[-1].name == f"{run.record['step']:08d}.safetensors"

    with subprocess.Popen(output, shell=True, start_new_session=True, **pipes) as process:
        until(process, "Resuming at step")
        until(process, "step ")
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert open_run(folder).record["step"] > run.record["step"]


def test_the_program_is_named_as_it_was_called(monkeypatch, tmp_path):
    script, other = tmp_path / "my env" / "lumigraph", tmp_path / "other" / "lumigraph"
    for path in (script, other):
        path.parent.mkdir()
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for called, search, words in [
        (script, other.parent, [str(script)]),
        (script, script.parent, ["lumigraph"]),
        (script, tmp_path, [str(script)]),
        ("my env/lumigraph", tmp_path, [str(script)]),
        ("-c", script.parent, [sys.executable, "-Pm", "lumigraph.app.cli"]),
        ("cli.py", script.parent, [sys.executable, "-Pm", "lumigraph.app.cli"]),
    ]:
        monkeypatch.setattr(sys, "argv", [str(called)])
        monkeypatch.setenv("PATH", str(search))
        assert program() == words
    monkeypatch.setattr(sys, "argv", [str(other)])
    line = resume_command(Path("a photo's folder"), Path("run"))
    assert shlex.split(line) == [str(other), "train", "a photo's folder", "--resume", "run"]


NAMES = ["-cap", "--resume", "a b", "it's", '"q"', "new\nline", "\x1b[31mred", "$HOME", "a\\b", "~"]
NAMES += ["*", "a;b", "\x9b31m", "\u202ertl", "caf\u00e9", os.fsdecode(b"caf\xe9"), "'\\\x07'"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_the_command_to_resume_can_be_pasted_whatever_the_names(name, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["-c"])
    line = resume_command(Path(name), Path(name) / "run")
    assert line.isprintable()
    shown = subprocess.check_output(["bash", "-c", f"printf '%s\\0' {line}"]).split(b"\0")
    words = [os.fsdecode(word) for word in shown[len(program()) : -1]]
    resumed = []

    def resume(capture: Path, options: TrainOptions, folder: Path) -> None:
        resumed.append((capture, folder))
        raise InterruptedError

    monkeypatch.setattr("lumigraph.app.training.start.resume", resume)
    assert CliRunner().invoke(cli.app, words).exit_code == 1
    assert resumed == [(Path(name), Path(name) / "run")]


def test_a_run_in_folders_with_names_that_begin_with_a_dash_can_be_resumed(capture, tmp_path):
    (tmp_path / "-cap").symlink_to(capture)
    words = ["train", "--steps", "1000000", "-o", "-run", "--", "-cap"]
    pipes: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*COMMAND, *words], cwd=tmp_path, **pipes) as process:
        until(process, "step ")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    with subprocess.Popen(f"exec {output}", cwd=tmp_path, shell=True, **pipes) as process:
        until(process, "Resuming at step")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert open_run(tmp_path / "-run").state == "stopped"


def test_a_training_in_the_background_is_ended_by_the_signal_to_terminate(capture, tmp_path):
    words = [*COMMAND, "train", str(capture), "-o", str(tmp_path / "run"), "--steps", "1000000"]
    command = f"trap '' INT; exec {shlex.join(words)}"  # as shells start background jobs
    with subprocess.Popen(["bash", "-c", command], stderr=subprocess.PIPE, text=True) as process:
        until(process, "step ")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert open_run(tmp_path / "run").state == "stopped"


def test_nothing_that_is_printed_controls_a_terminal(tmp_path, capsys):
    hostile = "a\x1b[2J\x9b31m:smile:[red]b\r\nc"
    for say in (notice, warn, lambda text: report(False, {}, text, [(text, text)])):
        say(hostile)
    with pytest.raises(SystemExit):
        fail(ValueError(hostile))
    out, err = capsys.readouterr()
    for text in (out, err):
        assert all(c.isprintable() or c == "\n" for c in text)
        assert ":smile:[red]b" in text


@pytest.mark.parametrize("kept", [signal.SIGHUP, signal.SIGINT])
def test_signals_that_are_ignored_stay_so(kept, capture, tmp_path):
    before = signal.signal(kept, signal.SIG_IGN)
    try:
        call("train", capture, "-o", tmp_path / "run", "--steps", 1)
        assert signal.getsignal(kept) is signal.SIG_IGN
        with stopping(TrainingControl()) as received:
            os.kill(os.getpid(), kept)
            assert not received
    finally:
        signal.signal(kept, before)


def test_the_first_signal_stops_the_session():
    control = TrainingControl()
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # The tests may run under nohup.
    try:
        with stopping(control) as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert control.stopped
            assert received == [signal.SIGHUP]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_existing_files_are_not_overwritten_by_default(trained, capture):
    folder, _ = trained
    done = lumigraph("train", capture, "-o", folder, "--steps", 1)
    assert done.returncode == 1
    assert "--resume" in done.stderr
    assert open_run(folder).record["steps"] == STEPS


def test_a_run_is_written_over_when_asked(capture, tmp_path):
    for steps in (1, 2):
        options = ["-o", tmp_path / "run", "--overwrite", "--steps", steps]
        assert call_json("train", capture, *options)["steps"] == steps


def test_a_finished_run_cannot_be_resumed(trained, capture):
    folder, _ = trained
    done = lumigraph("train", capture, "--resume", folder)
    assert (done.returncode, "finished" in done.stderr) == (1, True)


def test_views_set_aside_are_written_down_and_kept_on_resume(capture, tmp_path, capsys):
    order = TrainOptions(device="cpu", calibration=3, changes={"steps": 2})
    session = start(capture, order, tmp_path / "run")
    session.control.stop()
    run = run_session(session)
    assert run.asked["calibration"] == run.record["inputs"]["calibration"] == 3
    aside = [frame.name for frame in run.capture().calibration]
    with pytest.raises(ValueError, match="so leave out --calibration; to train with"):
        resume(capture, TrainOptions(calibration=4), run.folder)
    session = resume(capture, TrainOptions(), run.folder)
    assert [frame.name for frame in session.capture.calibration] == aside
    assert run_session(session).state == "finished"
    assert len(open_run(run.folder).capture().calibration) == 3


def test_a_run_resumes_with_the_views_that_were_set_aside_whatever_is_chosen_now(
    capture, tmp_path, monkeypatch
):
    order = TrainOptions(device="cpu", calibration=3, changes={"steps": 2})
    with monkeypatch.context() as earlier:
        earlier.setattr("lumigraph.datasets.load._chance", lambda name: name.encode())
        session = start(capture, order, tmp_path / "run")
        session.control.stop()
        run = run_session(session)
    aside = [frame.name for frame in run.capture().calibration]
    assert aside != [frame.name for frame in load_capture(capture, calibration=3).calibration]
    assert run.selection().calibration == aside
    session = resume(capture, TrainOptions(), run.folder)
    assert [frame.name for frame in session.capture.calibration] == aside
    assert run_session(session).state == "finished"
    assert inputs_of(run.selection().load(capture)) == run.record["inputs"]


def test_the_photos_set_aside_are_part_of_the_inputs_of_a_run(capture):
    whole = inputs_of(load_capture(capture))
    some, others = (inputs_of(load_capture(capture, calibration=count)) for count in (2, 3))
    hashes = {each["cameras_sha256"] for each in (whole, some, others)}
    assert len(hashes) == 3
    aside = load_capture(capture, calibration=3)
    fewer = inputs_of(dataclasses.replace(aside, calibration=()))
    assert all(fewer[key] != others[key] for key in ("cameras_sha256", "photos_blake2b"))
    assert some["photos"] == whole["photos"] == some["train"] + some["test"] + 2
    assert "calibration" not in whole  # runs of earlier versions can be resumed


def test_views_are_set_aside_by_an_option(capture, tmp_path, monkeypatch):
    monkeypatch.setattr("lumigraph.app.commands.demo.demo_capture", lambda size: capture)
    for words in (["train", capture], ["demo", "--size", "tiny"]):
        folder = tmp_path / str(words[0])
        call(*words, "-o", folder, "--steps", 2, "--calibration", 4)
        assert len(open_run(folder).capture().calibration) == 4
        assert json.loads((folder / "run.json").read_text())["asked"]["calibration"] == 4
    views = len(load_capture(capture).train)
    done = lumigraph("train", capture, "-o", tmp_path / "none", "--calibration", views)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"ask for 0 to {views - 1}" in done.stderr
    assert not (tmp_path / "none").exists()


def test_photos_are_held_out_by_name_or_not_at_all(capture, tmp_path):
    (tmp_path / "held.txt").write_text("train_003.png\ntrain_001.png\n")
    options = ["--steps", 2, "--test", tmp_path / "held.txt"]
    assert call_json("train", capture, "-o", tmp_path / "named", *options)["images"] == 2
    metrics = call_json("eval", tmp_path / "named", "--data", capture)
    assert [view["name"] for view in metrics["per_image"]] == ["train_001.png", "train_003.png"]

    (tmp_path / "bare").mkdir()
    for name in ("images", "sparse"):
        (tmp_path / "bare" / name).symlink_to(capture / name)
    options = ["--steps", 2, "--test-every", 0]
    assert call_json("train", tmp_path / "bare", "-o", tmp_path / "all", *options)["images"] == 0
    assert call_json("eval", tmp_path / "all")["psnr"] is None
    assert "no views to evaluate" in call("eval", tmp_path / "all")


def test_large_photos_are_made_smaller_by_default(capture):
    class Large:
        width, height = 4032, 3024

    frame = dataclasses.replace(load_capture(capture).train[0], camera=cast(Camera, Large))
    large = dataclasses.replace(load_capture(capture), train=(frame,))
    assert automatic_downscale(load_capture(capture)) == 1
    assert automatic_downscale(large) == 3


@pytest.mark.parametrize("change", ["camera", "photo", "point"])
def test_a_run_is_resumed_only_with_the_capture_it_was_started_with(capture, tmp_path, change):
    shutil.copytree(capture, tmp_path / "capture")
    before = inputs_of(load_capture(tmp_path / "capture"))
    (tmp_path / "capture" / "images" / "not_used.png").write_bytes(b"")
    assert (
        inputs_of(load_capture(tmp_path / "capture")) == before == inputs_of(load_capture(capture))
    )
    if change == "photo":
        path = tmp_path / "capture" / "images" / "train_000.png"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        file, word = {"camera": ("images.txt", 6), "point": ("points3D.txt", 2)}[change]
        path = tmp_path / "capture" / "sparse" / "0" / file
        first, rest = path.read_text().split("\n", 1)
        words = first.split()
        words[word] = "0.5"
        path.write_text(" ".join(words) + "\n" + rest)
    assert inputs_of(load_capture(tmp_path / "capture")) != before


def test_resuming_with_another_version_warns_that_the_result_may_differ(capture, tmp_path, capsys):
    order = TrainOptions(device="cpu", changes={"steps": 2})
    session = start(capture, order, tmp_path / "run")
    session.control.stop()
    run = run_session(session)
    capsys.readouterr()
    resume(capture, TrainOptions(), run.folder)
    assert "may differ slightly" not in capsys.readouterr().err
    run.with_record(versions={**run.record["versions"], "torch": "2.0.0"})
    resume(capture, TrainOptions(), run.folder)
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if "may differ slightly" in line
    ]
    assert "torch 2.0.0 to " in line


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["train", "nowhere"], 1, "nowhere"),
        (["inspect", "nowhere"], 1, "nowhere"),
        (["eval", "nowhere"], 1, "does not exist"),
        (["export", "."], 1, "no run.json"),
        (["render", "nothing.ply"], 1, "nothing.ply"),
        (["train", "x", "--steps", "0"], 2, "--steps"),
        (["train", "x", "--calibration", "-1"], 2, "--calibration"),
        (["train", "x", "--resume", "y", "-o", "z"], 2, "--resume"),
        (["train", "x", "--resume", "y"], 1, "y does not exist"),
        (["eval"], 2, "RUN"),
        (["fly"], 2, "fly"),
    ],
)
def test_the_error_of_a_command_is_one_line(words, code, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lumigraph", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr().err
    assert stop.value.code == code
    assert sentence in said
    assert "Traceback" not in said
    if code == 1:
        assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "and nothing is left behind"


def test_debugging_shows_where_an_error_comes_from(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lumigraph", "eval", "nowhere"])
    monkeypatch.setenv("LUMIGRAPH_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        cli.main()


def test_an_error_in_our_own_code_keeps_its_traceback(monkeypatch):
    def broken() -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(KeyError):
        cli.main()


def test_a_folder_that_cannot_be_written_is_one_line(capture):
    done = lumigraph("train", capture, "-o", "/proc/lumigraph/run", "--steps", 1)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.stderr


def test_the_version_is_printed():
    assert call("--version").startswith("lumigraph ")


def test_the_help_of_every_command_shows_at_most_one_default_for_each_option():
    import typer

    for name, command in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        for option in command.params:
            shown = option.get_help_record(command.make_context(name, [], resilient_parsing=True))
            assert shown is None or shown[1].count("default: ") <= 1, (name, shown)
