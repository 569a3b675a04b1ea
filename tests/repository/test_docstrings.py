"""What docstrings name exists: names of the code, files and sections of the pages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from tests.documents import ROOT, anchors

_SPAN = re.compile(r"``([^`\n]+)``")
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*(?:\(\))?")
_LIKE_OURS = re.compile(r".*[._].*|[A-Z][A-Za-z]+")
"""Dotted, with an underscore, or with a capital: what plain words are not."""

_FILE = re.compile(r"[\w-]+(?:/[\w-]+)*\.py")
_SECTION = re.compile(r"\bdocs/[\w/-]+\.md(?:#[\w-]+)?")
OTHERS_NAMES = frozenset({"nats.aio.client.Client", "inference_geo", "OTEL_TRACES_SAMPLER", "_bytes", "__str__"})
"""Names of other projects, of Python, and the ending of names that have a unit."""


@cache
def modules(folder: str) -> dict[Path, ast.Module]:
    """All modules below a folder, parsed."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / folder).rglob("*.py"))}


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring of a module, also of those below a constant or a field."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def words_of(tree: ast.Module) -> Iterator[str]:
    """Every identifier of a module, and every word of its strings that are not docstrings."""
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(name=name):
                yield from name.split(".")
            case ast.Constant(value=str(text)) if id(node) not in documented:
                yield from re.findall(r"\w+", text)
            case _:
                pass


@cache
def known(folder: str) -> frozenset[str]:
    """The words that a docstring below a folder may use as names: of the package, and of the tests in tests."""
    found: set[str] = set()
    for top in {"src", folder}:
        for path, tree in modules(top).items():
            found |= {*path.relative_to(ROOT).with_suffix("").parts, *words_of(tree)}
    return frozenset(found)


@cache
def files() -> frozenset[str]:
    """Every module of the project, as a docstring may name it: from the root or from any folder above it."""
    found: set[str] = set()
    for top in ("src", "tests", "bench", "examples", "deploy"):
        for path in modules(top):
            parts = path.relative_to(ROOT).parts
            found |= {"/".join(parts[index:]) for index in range(len(parts))}
    return frozenset(found)


def gone(span: str, folder: str) -> bool:
    """Whether a span names something like ours that does not exist."""
    if _FILE.fullmatch(span):
        return span not in files()
    if span in OTHERS_NAMES or not _NAME.fullmatch(span) or not _LIKE_OURS.fullmatch(span):
        return False
    return not set(span.removesuffix("()").split(".")) <= known(folder)


@pytest.mark.parametrize("folder", ["src", "tests"])
def test_every_name_in_a_docstring_exists(folder: str) -> None:
    """A reader who searches for the name or the file finds it."""
    found = [
        f"{path.relative_to(ROOT)}:{line} names {span}"
        for path, tree in modules(folder).items()
        for line, text in docstrings(tree)
        for span in _SPAN.findall(text)
        if gone(span, folder)
    ]
    assert not found, "\n".join(found)


def test_every_section_that_the_code_names_exists() -> None:
    """A message or docstring that sends a reader to a page, or to a section of it, names one that is there."""
    named = {
        section
        for tree in modules("src").values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for section in _SECTION.findall(node.value)
    }
    assert len(named) > 5
    for section in sorted(named):
        page, _, anchor = section.partition("#")
        assert (ROOT / page).is_file(), section
        assert not anchor or anchor in anchors(ROOT / page), section
