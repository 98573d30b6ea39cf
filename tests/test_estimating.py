"""`lumigraph uncertainty`: a run's rate, maps and numbers, and what is said when they cannot be."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lumigraph.app import cli
from lumigraph.app.estimating import Asked, estimate_run, rate_of, stored_confidence
from lumigraph.app.run_folder import Run, clear_run, open_run
from lumigraph.datasets.demo import make_demo


def invoked(*words: object) -> str:
    result = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("captures") / "tiny", "tiny")


@pytest.fixture(scope="module")
def trained(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    invoked("train", capture, "-o", folder, "--steps", 300)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    """A run of one's own."""
    shutil.copytree(trained, tmp_path / "run")
    return open_run(tmp_path / "run")


def test_a_run_and_its_capture_give_maps_numbers_and_a_page(run: Run, capture: Path):
    printed = json.loads(invoked("uncertainty", run.folder, "--data", capture, "--json"))
    assert printed["origin"] == "searched"
    assert printed["calibrated"]
    assert 0 < printed["rate"] < 1
    assert printed == json.loads((run.folder / "uncertainty" / "estimate.json").read_text())
    frames = run.capture().test
    assert len(printed["per_image"]) == len(frames) > 0
    for seen, frame in zip(printed["per_image"], frames, strict=True):
        for folder in ("maps", "means"):
            picture = np.asarray(Image.open(run.folder / "uncertainty" / folder / seen["file"]))
            assert picture.shape == (frame.camera.height, frame.camera.width, 3)
            assert picture.std() > 1
    # It errs where it is uncertain, more than by chance, though it is hardly fitted.
    assert printed["mean"]["spearman"] > 0.02
    mean = sum(seen["metrics"]["ause_mae"] for seen in printed["per_image"]) / len(frames)
    assert printed["mean"]["ause_mae"] == pytest.approx(mean)
    curve = printed["sparsification"]
    assert curve["left"][0] == curve["oracle"][0] == 1
    assert all(a >= b - 1e-9 for a, b in zip(curve["left"], curve["oracle"], strict=True))
    page = (run.folder / "uncertainty" / "report.html").read_text()
    assert page.count("<img") == 3 * len(frames)
    assert "Not calibrated" not in page

    # Without the capture the rate that was found is taken, and gives the same.
    again = json.loads(invoked("uncertainty", run.folder, "--json"))
    assert again["origin"] == "stored"
    assert again["calibrated"]
    assert again["rate"] == printed["rate"]
    assert again["mean"] == printed["mean"]
    assert "stored" in invoked("uncertainty", run.folder)


def test_a_rate_that_is_given_is_marked_as_not_calibrated(run: Run):
    assert "0.1000 (given, not calibrated)" in invoked("uncertainty", run.folder, "--rate", 0.1)
    assert "Not calibrated" in (run.folder / "uncertainty" / "report.html").read_text()
    # Nor is it when it is taken again.
    assert "0.1000 (stored, not calibrated)" in invoked("uncertainty", run.folder)


def test_trials_come_near_the_exact_numbers(run: Run):
    sure = estimate_run(run, Asked(rate=0.1))
    some = estimate_run(run, Asked(rate=0.1, trials=100))
    assert some["trials"] == 100
    assert some["mean"]["sharpness"] == pytest.approx(sure["mean"]["sharpness"], rel=0.05)
    assert estimate_run(run, Asked(rate=0.1, trials=100)) == some


def test_each_splat_gets_a_confidence_that_is_exported(run: Run, tmp_path: Path):
    assert not json.loads(invoked("export", run.folder, "--json"))["confidence"]
    estimate_run(run, Asked(rate=0.1))
    scene = run.scene()
    trusted = stored_confidence(run, scene)
    assert trusted is not None
    assert trusted.shape == (len(scene),)
    assert 0 <= trusted.min() < trusted.max() <= 1
    assert float(trusted[trusted > 0].median()) == pytest.approx(0.5, abs=0.05)
    path = tmp_path / "out.ply"
    assert json.loads(invoked("export", run.folder, "-o", path, "--json"))["confidence"]
    header, data = path.read_bytes().split(b"end_header\n", 1)
    names = re.findall(r"property float (\w+)", header.decode())
    rows = np.frombuffer(data, "<f4").reshape(len(scene), len(names))
    assert names[-1] == "confidence"
    assert np.array_equal(rows[:, -1], trusted.numpy())
    assert "confidence" in invoked("export", run.folder, "-o", path)
    # It is of this scene alone.
    assert stored_confidence(run, scene[:-1]) is None
    kept = run.folder / "uncertainty" / "confidence.safetensors"
    kept.write_bytes(kept.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is damaged"):
        stored_confidence(run, scene)


def test_nothing_varies_at_a_rate_of_zero(run: Run):
    found = estimate_run(run, Asked(rate=0.0))
    assert found["mean"]["max_std"] == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "give their capture with --data, or a rate with --rate"),
        (["--rate", "1"], "at least 0 and less than 1, but this is 1.0"),
        (["--rate", "-0.5"], "at least 0 and less than 1"),
        (["--data", "{empty}"], "{empty}"),
        (["--data", "{capture}", "--margin", "1.5"], "between 0 and 1, not 1.5"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    run: Run, capture: Path, tmp_path: Path, words: list[str], sentence: str
):
    (tmp_path / "empty").mkdir()
    places = {"empty": str(tmp_path / "empty"), "capture": str(capture)}
    words = [word.format(**places) for word in words]
    result = CliRunner().invoke(cli.app, ["uncertainty", str(run.folder), *words])
    assert isinstance(result.exception, ValueError | OSError)
    assert sentence.format(**places) in str(result.exception)
    assert not (run.folder / "uncertainty" / "estimate.json").exists()


def test_what_is_stored_is_checked(run: Run):
    path = run.part("uncertainty") / "estimate.json"
    for content in ('{"rate": 2}', '{"rate": "0.1"}', '{"rate": null}', "[]", "{"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"estimate\.json"):
            rate_of(run, run.scene(), run.views(), Asked())


def test_another_run_in_the_folder_does_not_keep_the_estimate(run: Run):
    estimate_run(run, Asked(rate=0.1))
    clear_run(run.folder)
    assert not (run.folder / "uncertainty").exists()
