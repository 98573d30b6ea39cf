"""What a user gets: a wheel that works in an environment and a folder of its own."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
ROOMS = {"app", "datasets", "kernels", "recon", "render", "uncertainty"}
IMPORTED_AS = {"pillow": "PIL", "imageio-ffmpeg": "imageio_ffmpeg"}
OF_AN_EXTRA = {"triton": r"lumigraph/kernels/splats/triton/\w+\.py"}
"""Libraries of extras that whole files are made of, which others import in functions alone."""
FULL_INSTALL = "LUMIGRAPH_FULL_INSTALL"
"""Where this is set, as `.ci/run` does, pip fetches the wheel's dependencies by its metadata."""
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
def home(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder outside the clone with the wheel installed in its `env`.

    Its dependencies are fetched by pip if `FULL_INSTALL` is set. Else those of this environment
    are lent to it by a .pth file, which adds this environment's packages to its path; the .pth
    files among them, which make this clone importable, are not read.
    """
    folder = tmp_path_factory.mktemp("home")
    venv.create(folder / "env")
    pip = ("-m", "pip", "--python", folder / "env/bin/python", "install", "--quiet")
    if os.environ.get(FULL_INSTALL):
        run(sys.executable, *pip, "--constraint", ROOT / "constraints.txt", wheel, cwd=folder)
    else:
        run(sys.executable, *pip, "--no-index", "--no-deps", wheel, cwd=folder)
        (packages,) = folder.glob("env/lib/python*/site-packages")
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    yield folder
    shutil.rmtree(folder / "env")  # more than a GB if dependencies were fetched


def text_in(wheel: Path, pattern: str) -> dict[str, str]:
    """The text files of a wheel whose names match, by name."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if re.search(pattern, name)]
        return {name: archive.read(name).decode() for name in names}


def required(wheel: Path) -> tuple[set[str], set[str]]:
    """The distributions that the wheel's metadata asks for: in every install, and by extras."""
    (metadata,) = text_in(wheel, r"\.dist-info/METADATA$").values()
    lines = message_from_string(metadata).get_all("Requires-Dist", [])
    requirements = [Requirement(line) for line in lines]
    core = {r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})}
    return core, {r.name for r in requirements} - core


def libraries(code: ast.AST, *, in_functions: bool) -> set[str]:
    """The libraries that code imports, by statement or `import_module`; Python's own do not count.

    Without those in functions it is what the file cannot be imported without.
    """
    names, nodes = set(), [code]
    while nodes:
        node = nodes.pop()
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module)):
                names.add(module)
            case ast.Call(func=ast.Name("import_module"), args=[ast.Constant(value=str(name))]):
                names.add(name)
            case ast.FunctionDef() if not in_functions:
                continue
        nodes += ast.iter_child_nodes(node)
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"lumigraph"}


def test_the_wheel_holds_what_runs_and_nothing_else(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {name for name in names if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in inside} == {"lumigraph"}
    assert {name.split("/")[1] for name in inside} == ROOMS
    kinds = {".py", ".pyi", ".so", ".typed", ".html", ".js", ".css"}
    assert {Path(name).suffix for name in inside} == kinds
    assert not {name for name in inside if "test" in name or "/native/" in name}
    assert {f"lumigraph/{room}/py.typed" for room in ROOMS} <= inside
    licenses = {name.split("/")[-1] for name in names if ".dist-info/licenses/" in name}
    assert licenses == {"LICENSE", "NOTICE", "THIRD_PARTY.md"}
    sources = {path for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    expected = {f"lumigraph/{path.relative_to(ROOT).as_posix()}" for path in sources}
    assert {name for name in inside if name.endswith(".py")} == expected


def test_the_wheel_requires_what_its_code_imports(wheel: Path):
    core, extra = ({IMPORTED_AS.get(n, n) for n in names} for names in required(wheel))
    for name, source in text_in(wheel, r"\.py$").items():
        code = ast.parse(source)
        own = {library for library, files in OF_AN_EXTRA.items() if re.fullmatch(files, name)}
        needed = libraries(code, in_functions=False) - own
        assert needed <= core, f"{name} would not import by itself"
        assert libraries(code, in_functions=True) <= core | extra, f"{name} needs what none brings"


def test_every_install_brings_only_what_is_used(wheel: Path):
    sources = text_in(wheel, r"\.py$").values()
    used = {n for source in sources for n in libraries(ast.parse(source), in_functions=True)}
    core, _ = required(wheel)
    assert {name for name in core if IMPORTED_AS.get(name, name) not in used} == set()


def test_the_third_party_page_lists_what_the_wheel_requires(wheel: Path):
    (page,) = text_in(wheel, r"/THIRD_PARTY\.md$").values()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("|")]
    listed = {name for row in rows for cell in row[1:3] for name in re.findall(r"[\w-]+", cell)}
    core, extra = required(wheel)
    assert (core | extra) - listed == set()


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


def test_every_room_is_type_checked():
    include = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]["include"]
    assert {f"build/links/lumigraph/{room}" for room in ROOMS} <= set(include)
