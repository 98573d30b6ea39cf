"""What the controls of the pages do, and what becomes of files that are sent."""

import json
import math
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lumigraph.app.commands.bench import generated_scene
from lumigraph.app.training.inputs import TrainOptions
from lumigraph.app.viewer.actions import Actions
from lumigraph.app.viewer.controls import server_controls
from lumigraph.app.viewer.jobs.job import Job
from lumigraph.app.viewer.library import Source
from lumigraph.app.viewer.pixel import UNKNOWN
from lumigraph.app.viewer.state import ViewerState
from lumigraph.datasets import load_capture
from lumigraph.datasets.demo import make_demo
from lumigraph.recon.files import save_ply


class FakeViewer:
    """A state, with its library and its queue, that only notes the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.jobs = self.library = self
        self.job = Job("job:1", "x", "x", "train", {}, numbers={"splats": 5000})

    def sources(self) -> list[Source]:
        """See `Library.sources`."""
        return [Source(name, name, "capture", None) for name in ("demo:small", "other")]

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **values: self.calls.append((name, *args, *values.items()))


@pytest.fixture
def fake() -> FakeViewer:
    return FakeViewer()


@pytest.fixture
def actions(fake: Any, tmp_path: Path) -> Actions:
    """Actions on a state that does nothing."""
    return Actions(fake, tmp_path)


@pytest.fixture(scope="module")
def pavilion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built-in scene: photos, and a COLMAP model."""
    return make_demo(tmp_path_factory.mktemp("made") / "pavilion", "tiny")


@pytest.fixture
def viewer(tmp_path: Path) -> Iterator[ViewerState]:
    """A state with an empty folder."""
    (tmp_path / "mine").mkdir()
    opened = ViewerState([tmp_path / "mine"], tmp_path / "runs")
    yield opened
    opened.close()


@pytest.fixture
def real(viewer: ViewerState, tmp_path: Path) -> Actions:
    """The actions on that state."""
    return Actions(viewer, tmp_path / "runs" / "uploads")


def chosen(actions: Actions) -> str:
    """What the form names."""
    return actions.controls()[0]["value"]


def until(viewer: ViewerState, what: Any) -> dict[str, Any]:
    """The state as plain data once something is true of it."""
    while not what(state := viewer.as_dict()):
        assert viewer.wait(state["version"], 60) > state["version"], state
    return state


def notes(viewer: ViewerState) -> list[str]:
    return [note["text"] for note in viewer.as_dict()["notes"]]


# Controls --------------------------------------------------------------------------------------

ACTIONS = {
    "rescan": ("rescan",),
    "open": ("show", "demo:small"),
    "follow": ("follow",),
    "resume_run": ("resume_run", "demo:small"),
    "pause": ("pause",),
    "resume": ("resume",),
    "stop": ("stop",),
    "checkpoint": ("checkpoint",),
    "start": ("start", "demo:small", TrainOptions(preset="quick")),
    "cancel:7": ("cancel", "7"),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_button_does_what_it_says(fake: FakeViewer, actions: Actions, action: str):
    actions.do(action, True)
    assert fake.calls == [ACTIONS[action]]


def test_live_settings_are_sent_to_the_training(fake: FakeViewer, actions: Actions):
    actions.do("degree", "2")
    actions.do("splat_limit", 5000.0)
    actions.do("ssim_weight", 0.25)
    assert fake.calls == [
        ("change", ("degree", 2)),
        ("change", ("splat_limit", 5000)),
        ("change", ("ssim_weight", 0.25)),
    ]
    assert isinstance(fake.calls[1][1][1], int)
    fake.calls.clear()
    actions.do("splat_limit", 4999)
    change, (note, kind, text) = fake.calls
    assert (change, note, kind) == (("change", ("splat_limit", 4999)), "note", "info")
    assert text.startswith("The scene has 5,000 splats already, more than 4,999: no more are added")


def test_the_form_is_filled_and_then_ordered(fake: FakeViewer, actions: Actions):
    changes: list[None] = []
    actions.changed = lambda: changes.append(None)
    for name, value in (("source", "other"), ("preset", "high"), ("minutes", 20), ("downscale", 2)):
        actions.do(name, value)
    assert len(changes) == 4
    actions.do("start", True)
    actions.do("open", True)
    actions.do("resume_run", True)
    order = TrainOptions(preset="high", minutes=20, downscale=2)
    assert fake.calls == [("start", "other", order), ("show", "other"), ("resume_run", "other")]
    actions.do("minutes", 0)
    actions.do("optimizer", "lm-published")
    actions.do("start", True)
    order = TrainOptions(preset="high", downscale=2, changes={"optimizer": "lm-published"})
    assert fake.calls[3:] == [("start", "other", order)]


BAD = [
    ("nothing", True),
    ("method", "Gaussian splats"),
    ("_form", 1),
    ("", None),
    ("source", "elsewhere"),
    ("source", None),
    ("preset", "best"),
    ("preset", 1),
    ("optimizer", "sgd"),
    ("optimizer", None),
    ("degree", "4"),
    ("degree", None),
    *((name, value) for name in ("minutes", "downscale") for value in (-1, 0.5, "1", None, True)),
    ("minutes", 1441),
    ("downscale", 65),
    *(
        (name, value)
        for name in ("minutes", "splat_limit")
        for value in (math.nan, math.inf, -math.inf, 1e300 + 0.5, "many", None, False)
        if (name, value) != ("splat_limit", 1e300 + 0.5)
    ),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_an_impossible_value_is_refused_with_a_sentence(
    fake: FakeViewer, actions: Actions, name: str, value: Any
):
    changes: list[None] = []
    actions.changed = lambda: changes.append(None)
    with pytest.raises(ValueError, match=r"\w+ \w+ \w+"):
        actions.do(name, value)
    assert fake.calls == []
    assert changes == []


def test_a_number_may_be_any_in_the_range_of_its_control(actions: Actions):
    form = {"source": "", "preset": "quick", "minutes": 0, "optimizer": "adam", "downscale": 0}
    for control in server_controls(form, {}, ()):
        if control["id"] in ("minutes", "downscale"):
            for value in (control["low"], control["high"]):
                actions.do(control["id"], value)
            for value in (control["low"] - 1, control["high"] + 1):
                with pytest.raises(ValueError, match=f"to {control['high']}$"):
                    actions.do(control["id"], value)


def test_a_value_that_no_training_can_have_is_refused_by_the_viewer(real: Actions):
    for name, value in (("splat_limit", 0), ("ssim_weight", 2), ("ssim_weight", None)):
        with pytest.raises(ValueError, match="take a"):
            real.do(name, value)
    with pytest.raises(ValueError, match="No training is running"):
        real.do("pause", True)


# What is seen ----------------------------------------------------------------------------------


def test_rescan_finds_new_sources(real: Actions, viewer: ViewerState, tmp_path: Path):
    save_ply(generated_scene(20), tmp_path / "mine" / "late.ply")
    assert not any(source["name"] == "late.ply" for source in viewer.library.as_dicts())
    real.do("rescan", True)
    until(
        viewer, lambda _: any(source["name"] == "late.ply" for source in viewer.library.as_dicts())
    )
    assert "late.ply" in [option["label"] for option in real.controls()[0]["options"]]


def test_confidence_can_be_chosen_where_it_is_known(
    real: Actions, viewer: ViewerState, tmp_path: Path
):
    def option() -> dict[str, str]:
        mode = next(control for control in real.controls() if control["id"] == "mode")
        return next(each for each in mode["options"] if each["value"] == "confidence")

    assert "why" not in option()  # nothing is shown of which it could be known
    scene = generated_scene(20)
    save_ply(scene, tmp_path / "mine" / "a.ply")
    save_ply(scene, tmp_path / "mine" / "b.ply", extra={"confidence": torch.ones(20)})
    for name, why in (("a.ply", UNKNOWN), ("b.ply", None)):
        before = viewer.scene()
        viewer.show(viewer.library.add(tmp_path / "mine" / name).id)
        until(viewer, lambda state, before=before: viewer.scene() is not before)
        assert option().get("why") == why
    json.dumps(real.controls())


def test_the_scene_shown_has_a_first_view_and_following_ends_with_another(
    real: Actions, viewer: ViewerState, tmp_path: Path
):
    assert viewer.as_dict()["shown"] is None
    assert json.loads(viewer.frusta()) == []
    save_ply(generated_scene(20), tmp_path / "mine" / "a.ply")
    viewer.library.refresh()
    real.do("source", next(s["id"] for s in viewer.library.as_dicts() if s["kind"] == "ply"))
    real.do("open", True)
    until(viewer, lambda state: state["shown"])
    shown = viewer.as_dict()["shown"]
    assert set(shown["first_view"]) == {"position", "target", "up", "fov"}
    assert not shown["following"]
    real.do("follow", True)
    assert viewer.as_dict()["shown"]["following"]
    json.dumps([viewer.as_dict(), real.controls()], allow_nan=False)
    assert viewer.frusta() is viewer.frusta()  # it is written once


def test_a_stopped_run_is_chosen_and_can_be_resumed(
    real: Actions, viewer: ViewerState, pavilion: Path, tmp_path: Path
):
    shutil.copytree(pavilion, tmp_path / "mine" / "pavilion")
    changes = {"steps": 1_000_000, "splat_limit": 500, "refine_stop": 1}
    viewer.start(
        viewer.library.add(tmp_path / "mine" / "pavilion").id,
        TrainOptions("quick", changes=changes),
    )
    until(viewer, lambda state: (state["current"] or {}).get("step"))
    real.do("stop", True)
    until(viewer, lambda _: "is stopped" in str(notes(viewer)))
    step = viewer.as_dict()["current"]["step"]
    source = next(s for s in viewer.library.as_dicts() if s["kind"] == "run")
    until(viewer, lambda _: chosen(real) == source["id"])
    words = f"{source['name']} is stopped at step {step:,} of 1,000,000: press Resume run"
    assert words in notes(viewer)[-1]
    assert next(c for c in real.controls() if c["id"] == "resume_run")["enabled"]


def test_a_training_that_is_stopped_while_it_loads_leaves_nothing_to_resume(
    real: Actions, viewer: ViewerState
):
    before = chosen(real)
    viewer._over(Job("job:1", "demo:tiny", "tiny", "train", {}, state="stopped"))
    assert "tiny was stopped before its first step: nothing was saved" in notes(viewer)
    assert chosen(real) == before


# Files -----------------------------------------------------------------------------------------


def sent(actions: Actions, name: str, data: bytes) -> None:
    """Sends a file as the stream does."""
    upload = actions.upload(name, len(data))
    try:
        assert upload.add(data[:10]) == (len(data) <= 10)
        assert len(data) <= 10 or upload.add(data[10:])
        upload.finish()
    finally:
        upload.drop()


def files_in(tmp_path: Path) -> list[str]:
    """All that was sent and is still there, without the time in it."""
    folder = tmp_path / "runs" / "uploads"
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted("/".join(path.parts[1:]) for path in paths)


def test_a_capture_in_a_zip_is_chosen(
    real: Actions, viewer: ViewerState, tmp_path: Path, pavilion: Path
):
    packed = shutil.make_archive(str(tmp_path / "x"), "zip", pavilion.parent, "pavilion")
    sent(real, "garden.zip", Path(packed).read_bytes())
    source = next(
        s for s in viewer.library.as_dicts() if s["name"].startswith("pavilion (uploaded ")
    )
    assert chosen(real) == source["id"]
    assert "ready to start" in notes(viewer)[-1]
    assert "garden.zip" not in files_in(tmp_path)
    assert "garden/pavilion/sparse/0/images.txt" in files_in(tmp_path)


@pytest.mark.parametrize("member", ["a/b.jpg", "a/b.sh"])
def test_nothing_of_a_zip_without_cameras_is_kept(real: Actions, tmp_path: Path, member: str):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(member, "nothing")
    before = chosen(real)
    with pytest.raises(ValueError, match="holds no"):
        sent(real, "x.zip", (tmp_path / "x.zip").read_bytes())
    assert files_in(tmp_path) == []
    assert chosen(real) == before


def test_a_ply_is_chosen_and_shown(real: Actions, viewer: ViewerState, tmp_path: Path):
    save_ply(generated_scene(20), tmp_path / "x.ply")
    sent(real, "a.ply", (tmp_path / "x.ply").read_bytes())
    state = until(viewer, lambda state: state["shown"])
    assert state["shown"]["source"] == chosen(real)


CLOUD = b"""ply
format ascii 1.0
element vertex 1
property float x
property float y
property float z
end_header
0 0 0
"""


@pytest.mark.parametrize("data", [b"hello\n", b"ply", CLOUD, CLOUD[:-3]])
def test_nothing_of_a_ply_that_cannot_be_opened_is_kept(
    real: Actions, viewer: ViewerState, tmp_path: Path, data: bytes
):
    before, sources = chosen(real), viewer.library.as_dicts()
    with pytest.raises(ValueError, match=r"x\.ply \w+") as refused:
        sent(real, "x.ply", data)
    assert "b'" not in str(refused.value)
    assert files_in(tmp_path) == []
    assert real._sitting._held == {}
    assert (chosen(real), viewer.library.as_dicts()) == (before, sources)
    assert viewer.as_dict()["opening"] == ""
    assert real._viewer._follows


def test_an_incomplete_file_is_not_kept(real: Actions, tmp_path: Path):
    upload = real.upload("a.ply", 10)
    assert not upload.add(b"ply")
    upload.drop()
    assert files_in(tmp_path) == []


def test_photos_and_a_model_sent_together_make_a_capture(
    real: Actions, viewer: ViewerState, tmp_path: Path, pavilion: Path
):
    photos = sorted((pavilion / "images").iterdir())
    first = chosen(real)
    for photo in photos[:3]:
        sent(real, photo.name, photo.read_bytes())
    assert chosen(real) == first
    assert len(notes(viewer)) == 1
    assert "send their transforms.json or COLMAP model" in notes(viewer)[0]
    for name in ("points3D.txt", "cameras.txt", "images.txt"):
        assert chosen(real) == first
        sent(real, name, (pavilion / "sparse" / "0" / name).read_bytes())
    source = next(s for s in viewer.library.as_dicts() if s["id"] == chosen(real))
    assert (source["kind"], source["name"].split(" (")[0]) == ("capture", "photos")
    for photo in photos[3:]:
        sent(real, photo.name, photo.read_bytes())
    assert len(notes(viewer)) == 2
    assert "photos and cameras" in notes(viewer)[1]
    (folder,) = (tmp_path / "runs" / "uploads").glob("*/photos")
    capture = load_capture(folder)
    assert len(capture.train) + len(capture.test) == len(photos)


def test_cameras_may_come_before_their_photos(real: Actions, viewer: ViewerState):
    before = chosen(real)
    for name in ("cameras.txt", "images.txt", "points3D.txt"):
        sent(real, name, b"# nothing")
    assert notes(viewer) == []
    sent(real, "zz.jpg", b"photo")
    assert chosen(real) != before
    assert len(notes(viewer)) == 1


def test_photos_sent_after_a_start_make_another_capture(
    real: Actions, viewer: ViewerState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    started: list[str] = []
    monkeypatch.setattr(viewer, "start", lambda source, order: started.append(source))
    real.do("start", True)  # of something else
    sent(real, "a.jpg", b"a")
    sent(real, "transforms.json", b"{}")
    real.do("source", "demo:tiny")
    real.do("start", True)
    sent(real, "b.jpg", b"b")
    real.do(
        "source",
        next(
            s["id"] for s in viewer.library.as_dicts() if s["name"].startswith("photos (uploaded ")
        ),
    )
    real.do("start", True)
    sent(real, "c.jpg", b"c")
    assert len(started) == 3
    assert files_in(tmp_path) == [
        "photos/images/a.jpg",
        "photos/images/b.jpg",
        "photos/transforms.json",
        "photos_2/images/c.jpg",
    ]
