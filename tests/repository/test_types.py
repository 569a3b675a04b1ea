"""The code knows the types of its values: ``Any`` stands only where a library or the calling code leaves no other."""

from __future__ import annotations

import re
from pathlib import Path

SOURCES = sorted((Path(__file__).parents[2] / "src").rglob("*.py"))
ANY_PER_THOUSAND_LINES_MAX = 4


def test_any_is_rare() -> None:
    """Decoded JSON has names of its own, ``JsonValue`` and ``JsonObject``; lines that import ``Any`` do not count."""
    lines = [line for path in SOURCES for line in path.read_text().splitlines()]
    uses = sum(len(re.findall(r"\bAny\b", line)) for line in lines if not re.match(r"from \S+ import ", line))
    assert len(lines) > 10_000
    assert uses <= ANY_PER_THOUSAND_LINES_MAX * len(lines) / 1_000
