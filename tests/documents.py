"""Reads the project's pages as a reader does: links, commands, blocks of code, tables."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME = "https://github.com/linestop/linestop"
"""The project's page, as `pyproject.toml` names it: links into it are links to files of this tree."""

_TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
PAGES = (*(ROOT / name for name in _TOP), *sorted((ROOT / "docs").rglob("*.md")))

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_ANCHOR = re.compile(r'<a id="([^"]+)">')
_COMMAND = re.compile(r"(?:^|[\s(;&])linestop ((?:-|[a-z])[^#|;&\n]*)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and its text."""

    language: str
    text: str


def name_of(page: Path) -> str:
    """A page's path as a test's id."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(match[1], match[2]) for match in _FENCE.finditer(page.read_text(encoding="utf-8"))]


def section_blocks(page: Path, heading: str) -> list[Block]:
    """The fenced blocks below a second-level heading, up to the next one."""
    text = page.read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    fenced = [Block(match[1], match[2]) for match in _FENCE.finditer(re.split(r"^## ", text, flags=re.MULTILINE)[0])]
    assert fenced, f"{name_of(page)} has no blocks below {heading!r}"
    return fenced


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """The targets of a page's links, as written."""
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors that a link may name after ``#``: headings, as the usual hosts convert them, and marks."""
    text = prose(page)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in _HEADING.findall(text)}
    return slugs | set(_ANCHOR.findall(text))


def spans(page: Path) -> list[str]:
    """The texts between backticks in a page's prose."""
    return _SPAN.findall(prose(page))


def commands(page: Path) -> list[list[str]]:
    """The words after ``linestop`` of every command in a page's shell blocks and code spans."""
    texts = [block.text for block in blocks(page) if block.language == "sh"]
    texts += [span for span in spans(page) if span.startswith("linestop ")]
    return [shlex.split(found.strip().rstrip(")")) for text in texts for found in _COMMAND.findall(text)]


def targets(page: Path) -> list[str]:
    """The targets of every ``make`` in a page's shell blocks and code spans."""
    texts = [block.text for block in blocks(page) if block.language == "sh"]
    texts += [span for span in spans(page) if span.startswith("make ")]
    return [target for text in texts for target in re.findall(r"(?:^|[;&\s])make ([a-z]+)", text)]


def table(page: Path, heading: str) -> dict[str, list[str]]:
    """The first table below a heading: its rows by their first cell, all without backticks."""
    _, _, rest = page.read_text(encoding="utf-8").partition(f"# {heading}\n")
    lines = rest.splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith("|")), len(lines))
    rows: dict[str, list[str]] = {}
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip().replace("`", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        rows[cells[0]] = cells[1:]
    return rows
