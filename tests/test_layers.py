"""Imports go one way: each room may use only those before it."""

import ast
import importlib
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "kernels": set(),
    "render": {"kernels"},
    "datasets": {"kernels", "render"},
    "recon": {"kernels", "render", "datasets"},
    "uncertainty": {"kernels", "render", "datasets"},
    "app": {"kernels", "render", "datasets", "recon", "uncertainty"},
}
# Libraries that only some files may import: what they match is a path from the root.
ONLY_IN = {
    "viser": r"app/",
    "typer": r"app/",
    "rich": r"app/",
    "open3d": r"recon/mesh",
    "pycolmap": r"datasets/lens\.py",  # See `colmap` there: loaded otherwise it breaks zlib.
    "gsplat": r"kernels/splats/gsplat\.py",
    "nerfacc": r"kernels/fields",
    "triton": r"kernels/splats/triton/",
}
DISTRIBUTION = {"PIL": "pillow", "imageio_ffmpeg": "imageio-ffmpeg"}
LEVELS_IN_APP = 8
"""The longest chain of imports within `app`: a reader can still hold it in mind."""
FILES_IN_A_FOLDER = 20
NATIVE = "lumigraph.kernels._native"  # C++, which imports nothing
FILES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))


def name_of(path: Path) -> str:
    """The path from the root, as a test's name and in messages."""
    return path.relative_to(ROOT).as_posix()


@cache
def imported(path: Path) -> frozenset[str]:
    """The dotted names that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: use absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return frozenset(names)


def module_of(path: Path) -> str:
    """The dotted name of a file: `app/run/__init__.py` is `lumigraph.app.run`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("lumigraph", *(part for part in parts if part != "__init__")))


@cache
def graph() -> dict[str, frozenset[str]]:
    """Which of our modules each of our modules imports, also inside functions."""
    paths = {module_of(path): path for path in FILES}

    def target(name: str) -> str:
        return name if name in paths else name.rpartition(".")[0]

    return {
        module: frozenset(map(target, imported(path) - {NATIVE})) & paths.keys() - {module}
        for module, path in paths.items()
    }


def levels(edges: dict[str, frozenset[str]]) -> dict[str, int]:
    """How long the longest chain of imports is that starts at each module; a circle is an error."""
    found: dict[str, int] = {}

    def visit(module: str, chain: tuple[str, ...]) -> int:
        assert module not in chain, " imports ".join((*chain[chain.index(module) :], module))
        if module not in found:
            below = [visit(other, (*chain, module)) for other in sorted(edges[module])]
            found[module] = 1 + max(below, default=0)
        return found[module]

    for module in edges:
        visit(module, ())
    return found


def libraries(path: Path) -> set[str]:
    """The top-level names a file imports that are neither ours nor Python's."""
    return {name.split(".")[0] for name in imported(path)} - sys.stdlib_module_names - {"lumigraph"}


def declared() -> set[str]:
    """The distributions that pyproject.toml names, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return {re.split(r"[^\w-]", line, maxsplit=1)[0].lower() for line in requirements}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_room_imports_only_rooms_before_it(path: Path):
    room = name_of(path).split("/")[0]
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("lumigraph.")}
    assert "lumigraph" not in imported(path), "there is no package `lumigraph`, only its rooms"
    assert rooms <= MAY_IMPORT[room] | {room}


def test_no_modules_import_each_other_in_a_circle():
    assert levels(graph())
    with pytest.raises(AssertionError, match="a imports b imports a"):
        levels({"a": frozenset("b"), "b": frozenset("a")})


def test_chains_of_imports_in_app_are_short():
    app = {module for module in graph() if module.startswith("lumigraph.app")}
    found = levels({module: graph()[module] & app for module in app})
    deepest = max(found.values())
    assert deepest <= LEVELS_IN_APP, [name for name, level in found.items() if level == deepest]


def test_a_folder_holds_few_files():
    for folder in {path.parent for path in FILES}:
        assert len(list(folder.glob("*.py"))) <= FILES_IN_A_FOLDER + 1, name_of(folder)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_libraries_are_imported_where_they_belong(path: Path):
    for library in libraries(path):
        assert re.match(ONLY_IN.get(library, ""), name_of(path)), f"{library} has its own place"
        assert DISTRIBUTION.get(library, library) in declared()


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_pycolmap_comes_through_its_one_door(folder: str):
    """Rooms are held to it above; one wrong import in a test would break the process of all."""
    for path in (ROOT / folder).rglob("*.py"):
        assert "pycolmap" not in libraries(path), f"{name_of(path)}: use datasets.lens.colmap()"


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").rglob("*.py")), ids=name_of)
def test_kernels_know_only_torch_and_their_device(path: Path):
    assert libraries(path) <= {"torch", "gsplat", "nerfacc", "triton"}


def test_lumigraph_is_a_namespace():
    """An `__init__.py` would turn `lumigraph.render` into two things."""
    assert getattr(importlib.import_module("lumigraph"), "__file__", None) is None


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_says_what_it_is_and_what_it_offers(room: str):
    module = ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(module)
    assert (ROOT / room / "py.typed").exists()
    offered = {
        alias.asname or alias.name
        for node in module.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    listed = [
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert offered == {name for names in listed for name in names}
