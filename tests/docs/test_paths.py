"""Every file, folder, module and class of ours that a page names exists."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest
from tests.documents import PAGES, ROOT, links, name_of, section_blocks, spans

PACKAGE = ROOT / "src" / "linestop"
GLOSSARY = ROOT / "docs" / "glossary.md"
_PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*(?:/|\.py)")
_OURS = re.compile(r"linestop(?:\.\w+)+")
_CLASS = re.compile(r"(?:[A-Z][a-z]+){2,}")
_ROW = re.compile(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
A_READERS_OWN = frozenset(
    {"tools.py", "tools/support.py", "flows.py", "handle.py", "playbooks/", "agents/", "fields_of.py"}
)
"""Files and folders of the project that a page tells its reader to write."""

INNER_FOLDERS = frozenset({"memory"})
"""Folders below those that the picture draws, whose name says enough."""

OTHERS_CLASSES = frozenset({"CancelledError"})
"""Classes of other projects that pages name."""


@cache
def own_files() -> frozenset[str]:
    """Every tracked place of the project, as a page may name it: from the root, the package or a folder of it."""
    found: set[str] = set()
    for top in ("src", "tests", "docs", "bench", "examples", "deploy"):
        for path in [ROOT / top, *(ROOT / top).rglob("*")]:
            if "__pycache__" not in path.parts:
                parts = path.relative_to(ROOT).parts
                found |= {"/".join(parts[index:]) + "/" * path.is_dir() for index in range(len(parts))}
    return frozenset(found)


@cache
def own_classes() -> frozenset[str]:
    """The names of all classes and type aliases of the package, and of the names in its modules."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Assign):
                found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    """A reader who looks for a file or folder by the name on the page finds one."""
    for span in spans(page):
        for path in span.replace("…", "").split(", "):
            if _PATH.fullmatch(path) and "<" not in path and path not in A_READERS_OWN and is_ours(path):
                assert path in own_files(), f"{name_of(page)} names {path}, which does not exist"


def is_ours(path: str) -> bool:
    """Whether a path can only be meant as one of the project's: a Python file, or below one of its folders."""
    first = path.split("/", maxsplit=1)[0]
    folders = {folder.name for folder in PACKAGE.iterdir()} | {"src", "tests", "docs", "bench", "examples", "deploy"}
    return path.endswith(".py") or (first in folders and not path.startswith("deploy/wheels"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    """``linestop.x.y`` is a module, or something in one."""
    for name in _OURS.findall(" ".join(spans(page)) + page.read_text(encoding="utf-8")):
        if not name.endswith((".toml", ".pub", ".key", ".outcome", ".alert", ".run", ".plan")):
            assert resolves(name), f"{name_of(page)} names {name}, which does not exist"


def resolves(name: str) -> bool:
    """Whether a dotted name leads to a module or to an attribute of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_class_that_a_page_names_exists(page: Path) -> None:
    """A name in two capitals is a class of ours, or of a project that is named here."""
    assert not {span for span in spans(page) if _CLASS.fullmatch(span)} - own_classes() - OTHERS_CLASSES


def test_every_word_of_the_glossary_lives_somewhere() -> None:
    """Each row names a module, a folder or a page that exists; no word is explained twice, and they stand in order."""
    text = GLOSSARY.read_text(encoding="utf-8")
    rows = [row for row in _ROW.findall(text) if row[0] not in {"word", "---"}]
    assert len(rows) > 50
    assert len({word for word, _ in rows}) == len(rows)
    for word, where in rows:
        paths = re.findall(r"`([^`]+)`", where)
        assert paths or "](" in where, f"{word}: the glossary does not say where it lives"
        for path in paths:
            assert (PACKAGE / path).exists(), f"{word}: {path} does not exist"
    for table in text.split("\n## ")[1:]:
        words = [word for word, _ in _ROW.findall(table) if word not in {"word", "---"}]
        assert words == sorted(words)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/README.md"])
def test_the_glossary_is_linked_where_a_reader_begins(page: str) -> None:
    """A newcomer who meets a word finds what it means."""
    assert any("glossary.md" in link for link in links(ROOT / page))


@cache
def names_of_tests() -> frozenset[str]:
    """The names of all tests and of their modules."""
    pattern = re.compile(r"^\s*(?:async )?def (test_\w+)", re.MULTILINE)
    modules = list((ROOT / "tests").rglob("*.py"))
    return frozenset(name for path in modules for name in pattern.findall(path.read_text())) | {m.stem for m in modules}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    """A promise that names its test can be checked by reading it."""
    named = re.findall(r"\btest_[a-z]\w+", page.read_text(encoding="utf-8"))
    assert not set(named) - names_of_tests()


def test_the_picture_of_the_folders_is_the_tree() -> None:
    """Every folder that the architecture draws exists, and every folder of the package is drawn."""
    picture = section_blocks(ROOT / "docs" / "architecture.md", "The folders")[0].text
    drawn = set(re.findall(r"(?<![\w/])(\w+)/(?=\s)", picture))
    folders = {path.name for path in PACKAGE.rglob("*") if path.is_dir() and any(path.glob("*.py"))}
    top = {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert drawn <= folders | top
    assert not folders - drawn - INNER_FOLDERS
