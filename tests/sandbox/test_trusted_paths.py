"""The trusted paths that exist for the lint."""

from __future__ import annotations

from typing import Any

import pytest

from linestop.sandbox.tools.contract_lint import _path_exists as leads_somewhere  # pyright: ignore[reportPrivateUsage]

RETURNS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "contacts": {"type": "array", "items": {"$ref": "#/$defs/Contact"}},
        "more": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
    },
    "$defs": {"Contact": {"type": "object", "properties": {"email": {"type": "string"}}}},
}


@pytest.mark.parametrize(
    ("path", "leads"),
    [
        ("contacts[].email", True),
        ("contacts", True),
        ("more[]", True),
        ("$", True),
        ("contacts[].phone", False),
        ("contacts.email", False),
        ("nothing[]", False),
    ],
)
def test_a_path_into_a_list_names_its_items(path: str, *, leads: bool) -> None:
    """``[]`` stands for every item; without it a list has no fields."""
    steps = [] if path == "$" else path.replace("[]", ".[]").split(".")
    assert leads_somewhere(RETURNS, steps) is leads
