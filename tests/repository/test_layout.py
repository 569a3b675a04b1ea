"""The shape of the repository: links, one-way imports, packages that hold everything, functions that stay short."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "linestop"
MAIN_FOLDERS = ("actors", "bus", "sandbox", "schemas")
LAYERS: dict[str, frozenset[str]] = {
    "schemas": frozenset(),
    "actors": frozenset({"schemas"}),
    "bus": frozenset({"schemas"}),
    "sandbox": frozenset({"schemas"}),
    "models": frozenset({"schemas"}),
    "models/playbook": frozenset({"schemas", "models", "config"}),
    "config": frozenset({"schemas", "bus", "models", "sandbox"}),
    "archive": frozenset({"schemas", "bus"}),
    "reference": frozenset({"schemas", "bus"}),
    "runtime": frozenset({"schemas", "actors", "bus", "archive", "models"}),
    "client": frozenset({"schemas", "actors", "bus", "archive"}),
    "testing": frozenset({"schemas", "actors", "bus", "models", "models/playbook", "config", "runtime"}),
    "cli": frozenset(
        {"schemas", "actors", "bus", "models", "models/playbook", "config", "runtime", "sandbox", "archive", "client"}
        | {"reference", "testing"}
    ),
}
"""What each folder may import of ours, besides itself and ``NEUTRAL``."""

NEUTRAL = frozenset({"clock", "daemon_threads", "errors", "logger", "off_loop", "public_names"})
"""Modules at the top, which every folder may import."""

FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 400


def sources() -> list[Path]:
    """All Python files of the package."""
    return sorted(SRC.rglob("*.py"))


def layer(module: str) -> str:
    """The folder of a module from the root of the package: the deepest one that ``LAYERS`` names."""
    parts = module.split(".")[1:]
    inner = "/".join(parts[:2])
    return inner if inner in LAYERS else parts[0]


def imports(path: Path) -> set[str]:
    """The folders and top-level modules of linestop that a module imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            # `from linestop.models import playbook` names a folder within another one.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {layer(name) for name in found if name.startswith("linestop.")}


@pytest.mark.parametrize("name", MAIN_FOLDERS)
def test_the_top_links_to_the_four_folders(name: str) -> None:
    """A visitor sees the four main folders at the top, as relative links."""
    assert (ROOT / name).readlink() == Path("src/linestop") / name


@pytest.mark.parametrize("folder", LAYERS)
def test_imports_point_one_way(folder: str) -> None:
    """No folder imports one that stands above it; schemas import nothing of ours but what stands at the top."""
    allowed = LAYERS[folder] | {folder} | NEUTRAL
    for path in (SRC / folder).rglob("*.py"):
        module = ".".join(["linestop", *path.relative_to(SRC).with_suffix("").parts])
        if layer(module) == folder:
            forbidden_imports = imports(path) - allowed
            assert not forbidden_imports, f"{path.relative_to(ROOT)} imports {sorted(forbidden_imports)}"


def test_every_folder_has_its_layer() -> None:
    """A new folder has a row that lists what it may import."""
    folders = {path.name for path in SRC.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= set(LAYERS)


def test_modules_at_the_top_import_no_folder_that_imports_them_back() -> None:
    """A module that every folder may use knows none of them but the schemas' numbers."""
    for name in NEUTRAL:
        assert imports(SRC / f"{name}.py") <= NEUTRAL | {"schemas"}, name


def test_the_layers_have_no_circle() -> None:
    """No folder imports one that may import it, not even through others."""
    graphlib.TopologicalSorter(LAYERS).prepare()


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """The modules of linestop that a module imports, anywhere in it and for type checks too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & modules


def test_no_modules_import_each_other() -> None:
    """Not even within a folder: a reader can begin with a module that needs none of the others."""
    paths = {".".join(["linestop", *path.relative_to(SRC).with_suffix("").parts]): path for path in sources()}
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    graph = {name: imported_modules(path, set(paths)) - {name} for name, path in paths.items()}
    graphlib.TopologicalSorter(graph).prepare()


def long_functions() -> dict[str, int]:
    """Functions over the limit, by place, with their length."""
    found: dict[str, int] = {}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or 0) - node.lineno + 1
                if size > FUNCTION_LINES_MAX:
                    found[f"{path.relative_to(SRC)}:{node.name}"] = size
    return found


def long_files() -> dict[str, int]:
    """Files over the limit, with their length."""
    sizes = {str(path.relative_to(SRC)): path.read_text().count("\n") for path in sources()}
    return {name: size for name, size in sizes.items() if size > FILE_LINES_MAX}


def test_long_functions_and_files_only_shrink() -> None:
    """Functions and files over the limit are listed with their size, and may only become shorter."""
    known: dict[str, dict[str, int]] = json.loads((Path(__file__).parent / "ratchet.json").read_text())
    for kind, present in (("functions", long_functions()), ("files", long_files())):
        for place, size in present.items():
            assert place in known[kind], f"{place} has {size} lines: split it"
            assert size <= known[kind][place], f"{place} grew to {size} lines; it had {known[kind][place]}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and sdist, built from the tree with the build tools that are installed."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


def test_the_wheel_holds_every_module(built: Path) -> None:
    """Every file of the package is in the wheel, data files too."""
    names = set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())
    expected = {f"linestop/{path.relative_to(SRC)}" for path in sources()} | {"linestop/py.typed"}
    assert not expected - names


def test_the_sdist_holds_every_module(built: Path) -> None:
    """Every file of the package is in the sdist, under src."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not {f"src/linestop/{path.relative_to(SRC)}" for path in sources()} - names
    beside = {"CHANGELOG.md", "SECURITY.md", "docs/README.md", "docs/events.md", "examples/support/linestop.toml"}
    assert not beside - names


def test_the_locks_name_hashes_and_no_index() -> None:
    """The locks are pinned with hashes and do not name where packages come from."""
    for lock in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / lock).read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text
        assert "--index" not in text
