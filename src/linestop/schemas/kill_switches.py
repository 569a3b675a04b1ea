"""The kill switches: an operator closes a name, and nothing that belongs to it starts any more."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from linestop.errors import InputError
from linestop.schemas.subjects import check_name

Kind = Literal["all", "tenant", "agent", "user", "tool"]
KINDS: Final[tuple[Kind, ...]] = ("all", "tenant", "agent", "user", "tool")
KEY: Final = "closed"
"""The key of the bucket `switches` that holds the closed switches, as a JSON list of names."""

OLDER_KEY: Final = "door.closed"
"""The key in the bucket `shared` where older versions stored them."""

EVERYTHING: Final = "all"
UNREADABLE: Final = "unreadable"
"""The closed switches if the key's value is unreadable: it is unknown which were closed, so all count as closed."""

NAME_CHARS_MAX: Final = 200
CLOSED_MAX: Final = 1_000


def switch_name(text: str) -> str:
    """Return the switch of that text: ``all``, or ``tenant:NAME``, ``agent:NAME``, ``user:NAME``, ``tool:NAME``.

    Raises:
        InputError: the text has none of these forms.
    """
    kind, colon, name = text.partition(":")
    if text == EVERYTHING:
        return text
    if not colon or not name or kind not in KINDS[1:]:
        raise InputError(
            f"'{text[:80]}' is not a kill switch; use all, tenant:NAME, agent:NAME, user:NAME or tool:NAME."
        )
    if len(name) > NAME_CHARS_MAX:
        raise InputError(f"The name of a kill switch has {len(name)} characters; at most {NAME_CHARS_MAX} are allowed.")
    if kind in {"tenant", "agent"}:
        check_name(kind, name)
    return text


def closed_switches(value: bytes) -> frozenset[str]:
    """Return the closed switches that the key's value names.

    Raises:
        msgspec.DecodeError: the value is not a JSON list of texts; also ``RecursionError`` and ``UnicodeDecodeError``.
    """
    return msgspec.json.decode(value, type=frozenset[str])
