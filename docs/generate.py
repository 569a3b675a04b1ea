"""Rewrites the pages that are made from the code: ``python -m docs.generate``."""  # noqa: INP001 - a script beside pages

from __future__ import annotations

from pathlib import Path

from linestop.reference.permissions_page import permissions_markdown
from linestop.reference.events_page import events_markdown
from linestop.reference.json_schema import phases_markdown

PAGES = {
    "events.md": events_markdown,
    "permissions.md": permissions_markdown,
    "phases.md": phases_markdown,
}


def main() -> None:
    """Write every page beside this file."""
    for name, page in PAGES.items():
        (Path(__file__).parent / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
