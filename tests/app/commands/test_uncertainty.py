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
from lumigraph.app.commands.uncertainty import Asked, estimate_run, rate_of
from lumigraph.app.run.estimate import Rate, stored_calibration, stored_confidence, stored_rate
from lumigraph.app.run.folder import Run, clear_run, open_run
from lumigraph.app.run.intervals import Promise
from lumigraph.app.run.uncertainty_report import write_uncertainty_report
from lumigraph.datasets.demo import make_demo
from lumigraph.recon.files import save_scene
from lumigraph.render import render_color
from lumigraph.uncertainty import Calibration, exact_color, view_score


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


def test_the_built_in_scene_is_found_by_itself(tmp_path: Path):
    folder = tmp_path / "run"
    invoked("demo", "--size", "tiny", "--steps", 300, "-o", folder)
    told = json.loads(invoked("uncertainty", folder, "--json"))
    assert told["origin"] == "searched"
    # A capture of that name that is another one is not taken for it.
    (folder / "uncertainty" / "estimate.json").unlink()
    record = json.loads((folder / "run.json").read_text())
    record["inputs"]["cameras_sha256"] = "0" * 64
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="give their capture with --data"):
        invoked("uncertainty", folder)


def test_a_run_and_its_capture_give_maps_numbers_and_a_page(run: Run, capture: Path):
    printed = json.loads(invoked("uncertainty", run.folder, "--data", capture, "--json"))
    assert printed["origin"] == "searched"
    assert printed["calibrated"]
    assert 0 < printed["rate"] < 1
    assert printed == json.loads((run.folder / "uncertainty" / "estimate.json").read_text())
    frames = run.capture().test
    assert len(printed["per_image"]) == len(frames) > 0
    for seen, frame in zip(printed["per_image"], frames, strict=True):
        for folder in ("maps", "means", "pictures"):
            picture = np.asarray(Image.open(run.folder / "uncertainty" / folder / seen["file"]))
            assert picture.shape == (frame.camera.height, frame.camera.width, 3)
            assert picture.std() > 1
    # It errs where it is uncertain, more than by chance, though it is hardly fitted.
    assert printed["mean"]["spearman"] > 0.02
    for whole, part in (("mean", "metrics"), ("published", "published")):
        mean = sum(seen[part]["ause_mae"] for seen in printed["per_image"]) / len(frames)
        assert printed[whole]["ause_mae"] == pytest.approx(mean)
        for measure in ("mae", "rmse"):
            for seen in printed["per_image"]:
                ause, chance, ratio = (
                    seen[part][f"ause_{measure}{end}"] for end in ("", "_chance", "_ratio")
                )
                assert ratio == pytest.approx(ause / chance)
    # The mean over masks is darker than the picture, and farther from the photo.
    assert printed["published"]["mae"] > printed["mean"]["mae"]
    assert printed["published"]["sharpness"] == printed["mean"]["sharpness"]
    curves = printed["curves"]
    for measure in ("mae", "rmse"):
        curve = curves[f"sparsification_{measure}"]
        assert (curve["values"][0], curve["ideal"][0]) == pytest.approx((1, 1))
        assert all(a >= b - 1e-9 for a, b in zip(curve["values"], curve["ideal"], strict=True))
    assert curves["risk_coverage"]["values"][-1] == pytest.approx(printed["mean"]["mae"])
    inside = curves["reliability"]["values"]
    assert sorted(inside) == inside
    assert inside[-2] == pytest.approx(printed["mean"]["coverage_95"])
    page = (run.folder / "uncertainty" / "report.html").read_text()
    assert page.count("<img") == 3 * len(frames)
    assert "Not calibrated" not in page
    assert page.count("<svg") == 4
    # There is nothing to make intervals of.
    assert printed["intervals"] is None
    assert "train with --calibration 9" in printed["intervals_note"]
    assert "train with --calibration 9" in page
    assert stored_calibration(run, run.scene()) is None

    # Without the capture the rate that was found is taken, and gives the same.
    again = json.loads(invoked("uncertainty", run.folder, "--json"))
    assert again["origin"] == "stored"
    assert again["calibrated"]
    assert again["rate"] == printed["rate"]
    assert again["mean"] == printed["mean"]
    assert "stored" in invoked("uncertainty", run.folder)


@pytest.fixture(scope="module")
def set_aside(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set_aside") / "run"
    invoked("train", capture, "-o", folder, "--steps", 300, "--calibration", 9)
    return folder


@pytest.fixture
def calibrated(set_aside: Path, tmp_path: Path) -> Run:
    """A run of one's own, with views set aside."""
    shutil.copytree(set_aside, tmp_path / "calibrated")
    return open_run(tmp_path / "calibrated")


def test_views_set_aside_give_intervals(calibrated: Run, capture: Path):
    found = json.loads(invoked("uncertainty", calibrated.folder, "--data", capture, "--json"))
    scene, views, made = calibrated.scene(), calibrated.views(), found["intervals"]
    assert len(views.calibration) == made["views"] == 9
    scores = []
    for frame in (*views.calibration, *views.test):
        _, std = exact_color(scene, frame.camera, found["rate"], background=views.background)
        picture = render_color(scene, frame.camera, background=views.background)
        scores.append(view_score(picture, std, frame.image().float() / 255, beta=0.1))
    assert made["scores"] == pytest.approx(scores[:9], rel=1e-6)
    assert made["q"] == max(made["scores"])  # the ninth of ten
    covered = [score <= made["q"] for score in scores[9:]]
    assert [seen["interval"]["covered"] for seen in found["per_image"]] == covered
    assert made["covered_views"] == pytest.approx(sum(covered) / len(covered))
    widths = [seen["interval"]["width"] for seen in found["per_image"]]
    assert made["width"] == pytest.approx(sum(widths) / len(widths))
    for seen in found["per_image"]:
        # Of standard deviations that the floor leaves as they are, all but a few.
        assert seen["interval"]["width"] == pytest.approx(
            2 * made["q"] * seen["metrics"]["sharpness"], rel=0.01
        )
    assert found["intervals_note"] is None
    page = (calibrated.folder / "uncertainty" / "report.html").read_text()
    assert f"<b>{sum(covered)} of {len(covered)}</b><span>test views covered" in page
    assert f"{made['q']:.3g} standard deviations" in page
    assert page.count("% in intervals") == len(covered)
    assert "not calibrated, too" not in page
    assert made["test_views"] == "listed"  # the built-in scene names its own
    assert "The capture itself or the list given with --test names them" in page
    by_rule = {**found, "intervals": {**made, "test_views": "every_nth"}}
    page = write_uncertainty_report(calibrated, by_rule).read_text()
    assert "They are every Nth photo of the same list" in page

    stored = stored_calibration(calibrated, scene)
    assert stored == Calibration.from_plain(made)
    # They are of this scene alone.
    assert stored_calibration(calibrated, scene[:-1]) is None


def test_a_level_that_needs_more_views_is_lowered_with_a_note(calibrated: Run):
    said = " ".join(
        invoked("uncertainty", calibrated.folder, "--rate", 0.1, "--level", 0.95).split()
    )
    assert "standard deviations to both" in said
    assert "sides should hold 90 % of the colour values in 90 % of views" in said
    assert "19 calibration views are needed" in said
    page = (calibrated.folder / "uncertainty" / "report.html").read_text()
    assert "there are 9: the intervals cover 90 % of views." in page
    assert "It holds for a drop rate that is not calibrated, too" in page
    narrow = estimate_run(calibrated, Asked(rate=0.1, promise=Promise(0.5, 0.5)))["intervals"]
    assert narrow["q"] < stored_at(calibrated, 0.9, 0.9)
    assert (narrow["alpha"], narrow["beta"], narrow["level"]) == (0.5, 0.5, 0.5)


def stored_at(run: Run, level: float, within: float) -> float:
    estimate_run(run, Asked(rate=0.1, promise=Promise(level, within)))
    stored = stored_calibration(run, run.scene())
    assert stored is not None
    return stored.q


def test_intervals_of_sampled_deviations_are_not_those_of_exact_ones(calibrated: Run):
    found = estimate_run(calibrated, Asked(rate=0.1, trials=20))
    # What is found with few masks scatters, so that it must be stretched further.
    assert found["intervals"]["q"] > stored_at(calibrated, 0.9, 0.9)
    estimate_run(calibrated, Asked(rate=0.1, trials=20))
    assert stored_calibration(calibrated, calibrated.scene()) is None


def test_nothing_is_made_of_maps_of_zeros(calibrated: Run):
    found = estimate_run(calibrated, Asked(rate=0.0))
    assert found["intervals"] is None
    assert "nothing varies" in found["intervals_note"]
    assert stored_calibration(calibrated, calibrated.scene()) is None
    assert "At a drop rate of 0" in invoked("uncertainty", calibrated.folder, "--rate", 0)


def test_a_page_without_test_views_has_intervals(capture: Path, tmp_path: Path):
    (tmp_path / "bare").mkdir()
    for name in ("images", "sparse"):
        (tmp_path / "bare" / name).symlink_to(capture / name)
    options = ["--steps", 2, "--test-every", 0, "--calibration", 4]
    invoked("train", tmp_path / "bare", "-o", tmp_path / "run", *options)
    found = json.loads(invoked("uncertainty", tmp_path / "run", "--rate", 0.1, "--json"))
    assert found["mean"] is found["curves"] is None
    assert found["intervals"]["covered_views"] is found["intervals"]["width"] is None
    page = (tmp_path / "run" / "uncertainty" / "report.html").read_text()
    assert "No photos were held out" in page
    assert "measured on 4 photos, the calibration views" in page
    assert "test views covered" not in page
    assert "they hold" not in invoked("uncertainty", tmp_path / "run", "--rate", 0.1)


def test_stored_intervals_are_checked(calibrated: Run):
    assert stored_calibration(calibrated, calibrated.scene()) is None
    estimate_run(calibrated, Asked(rate=0.1))
    path, scene = calibrated.folder / "uncertainty" / "estimate.json", calibrated.scene()
    estimate = json.loads(path.read_text())
    hostile = [{"q": -1}, {"q": "2"}, {"q": None}, {"alpha": 0}, {"beta": 1}, {"views": 8}]
    for change in hostile:
        path.write_text(json.dumps({**estimate, "intervals": {**estimate["intervals"], **change}}))
        with pytest.raises(ValueError, match=r"estimate\.json: "):
            stored_calibration(calibrated, scene)
    for content in (json.dumps({**estimate, "intervals": 7}), "[]", "{", '"x"'):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"estimate\.json"):
            stored_calibration(calibrated, scene)
    path.write_text('{"rate": 0.1}')  # as it was before there were any
    assert stored_calibration(calibrated, scene) is None


def test_a_rate_that_is_given_is_marked_as_not_calibrated(run: Run):
    assert "0.1000 (given, not calibrated)" in invoked("uncertainty", run.folder, "--rate", 0.1)
    assert "Not calibrated" in (run.folder / "uncertainty" / "report.html").read_text()
    # Nor is it when it is taken again.
    assert "0.1000 (stored, not calibrated)" in invoked("uncertainty", run.folder)


def test_a_rate_that_was_found_for_another_scene_is_not_calibrated(run: Run, capture: Path):
    found = json.loads(invoked("uncertainty", run.folder, "--data", capture, "--json"))
    assert stored_rate(run, run.scene()) == Rate(found["rate"], "stored", 0.05, found["base_ssim"])
    save_scene(run.scene()[1:], run.folder / "scene.safetensors")
    for scene in (run.scene(), None):
        assert stored_rate(run, scene) == Rate(found["rate"], "outdated")
    said = invoked("uncertainty", run.folder)
    assert "found for another scene, not calibrated" in said
    assert "Not calibrated" in (run.folder / "uncertainty" / "report.html").read_text()
    # With the photos it is searched for again.
    again = json.loads(invoked("uncertainty", run.folder, "--data", capture, "--json"))
    assert (again["origin"], again["calibrated"]) == ("searched", True)


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
        (["--rate", "0.1", "--level", "1"], "share of views that intervals must cover"),
        (["--rate", "0.1", "--within", "0"], "above 0 and at most 1, not 0.0"),
    ],
)
def test_an_impossible_option_is_refused_in_one_sentence(
    run: Run, capture: Path, tmp_path: Path, words: list[str], sentence: str
):
    (tmp_path / "empty").mkdir()
    places = {"empty": str(tmp_path / "empty"), "capture": str(capture)}
    words = [word.format(**places) for word in words]
    result = CliRunner().invoke(cli.app, ["uncertainty", str(run.folder), *words])
    assert isinstance(result.exception, ValueError | OSError)
    assert sentence.format(**places) in str(result.exception)
    assert not (run.folder / "uncertainty" / "estimate.json").exists()


def test_stored_estimates_are_checked(run: Run):
    path = run.part("uncertainty") / "estimate.json"
    for content in ('{"rate": 2}', '{"rate": "0.1"}', '{"rate": null}', "[]", "{"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"estimate\.json"):
            rate_of(run, run.scene(), run.views(), Asked())


def test_another_run_in_the_folder_does_not_keep_the_estimate(run: Run):
    estimate_run(run, Asked(rate=0.1))
    clear_run(run.folder)
    assert not (run.folder / "uncertainty").exists()
