"""What a user gets: a wheel that works in an environment and a folder of its own."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"app", "datasets", "kernels", "recon", "render", "uncertainty"}
OBJECTS = sorted(ROOT.glob("build/*/CMakeFiles/kernels_*.dir/native/*.o"))


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """What the command printed; fails the test with its last lines if it failed."""
    environment = os.environ | {"PYTHONSAFEPATH": "1"} | variables
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, "\n".join((done.stdout + done.stderr).splitlines()[-30:])
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built with this environment's tools."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=ROOT)
    (path,) = folder.glob("lumigraph-*.whl")
    return path


@pytest.fixture(scope="session")
def home(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment outside the clone with the wheel in it; it sees our dependencies, not us.

    A .pth file appends this environment's packages to its path, but the .pth files among those,
    which make this clone importable, are not read.
    """
    folder = tmp_path_factory.mktemp("home")
    venv.create(folder / "env")
    python = folder / "env/bin/python"
    install = ("-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps")
    run(sys.executable, *install, wheel, cwd=folder)
    (packages,) = folder.glob("env/lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_holds_what_runs_and_nothing_else(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {name for name in names if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in inside} == {"lumigraph"}
    assert {name.split("/")[1] for name in inside} == ROOMS
    assert {Path(name).suffix for name in inside} == {".py", ".pyi", ".so", ".typed"}
    assert not {name for name in inside if "test" in name or "/native/" in name}
    assert {f"lumigraph/{room}/py.typed" for room in ROOMS} <= inside
    licenses = {name.split("/")[-1] for name in names if ".dist-info/licenses/" in name}
    assert licenses == {"LICENSE", "NOTICE", "THIRD_PARTY.md"}
    sources = {path for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    expected = {f"lumigraph/{path.relative_to(ROOT).as_posix()}" for path in sources}
    assert {name for name in inside if name.endswith(".py")} == expected


def test_the_installed_wheel_is_what_is_imported(home: Path):
    modules = ["lumigraph.kernels._native", *(f"lumigraph.{room}" for room in sorted(ROOMS))]
    program = (
        "import importlib, json, sys, torch;"
        "print(json.dumps([importlib.import_module(name).__file__ for name in sys.argv[1:]]))"
    )
    paths = json.loads(run(home / "env/bin/python", "-c", program, *modules, cwd=home))
    assert [p for p in paths if not Path(p).is_relative_to(home)] == []


def test_the_demo_runs_from_the_installed_wheel(home: Path):
    folder = home / "empty"
    folder.mkdir()
    lumigraph = home / "env/bin/lumigraph"
    assert "demo" in run(lumigraph, "--help", cwd=folder)
    run(lumigraph, "demo", "--size", "tiny", "--steps", "20", cwd=folder, XDG_CACHE_HOME=str(home))
    (record,) = folder.glob("runs/*/*/run.json")
    assert (record.parent / "scene.ply").stat().st_size > 0
    assert str(ROOT) not in record.read_text(encoding="utf-8")


def test_help_answers_without_loading_the_heavy_libraries():
    program = """if True:
        import sys
        from lumigraph.app.cli import main
        sys.argv = ["lumigraph", "--help"]
        try:
            main()
        except SystemExit as stop:
            assert not stop.code, stop.code
        heavy = {"torch", "numpy", "viser", "pycolmap", "PIL", "imageio", "open3d"}
        sys.exit(", ".join(sorted(heavy & set(sys.modules))) or 0)
    """
    assert "demo" in run(sys.executable, "-c", program, cwd=ROOT)


@pytest.mark.skipif(not OBJECTS, reason="the native module was not built in this folder")
@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm, of binutils")
@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: "/".join(path.parts[-3::2]))
def test_no_instruction_set_leaks_out_of_its_objects(path: Path):
    """A function that two levels both define would be linked once, from either of them.

    If that is the AVX-512 one, older processors die of an illegal instruction.
    """
    level = path.parts[-3].removeprefix("kernels_").removesuffix(".dir")
    listed = run("nm", "--demangle", "--defined-only", "--extern-only", path, cwd=ROOT)
    symbols = [line.split(maxsplit=2) for line in listed.splitlines()]
    functions = [name for _, kind, name in symbols if kind in "TWiu"]
    assert [name for name in functions if not name.startswith(f"lumigraph::{level}::")] == []
