"""The kill switches: names that an operator closes, so that nothing of theirs starts any more."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from linestop.errors import InputError
from linestop.schemas.subjects import check_name

Kind = Literal["all", "tenant", "agent", "user", "tool"]
KINDS: Final[tuple[Kind, ...]] = ("all", "tenant", "agent", "user", "tool")
KEY: Final = "closed"
"""The key of the bucket `switches` that holds the closed ones, as a JSON list of names."""

OLDER_KEY: Final = "door.closed"
"""Where an older linestop kept them, in the bucket `shared`."""

EVERYTHING: Final = "all"
UNREADABLE: Final = "unreadable"
"""What is closed where the key holds something else: nobody knows which were closed, so all are taken to be."""

NAME_CHARS_MAX: Final = 200
CLOSED_MAX: Final = 1_000


def switch_name(text: str) -> str:
    """The switch that a person names: ``all``, or ``tenant:NAME``, ``agent:NAME``, ``user:NAME``, ``tool:NAME``.

    Raises:
        InputError: it is none of them.
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
    """The closed switches that the key's value names.

    Raises:
        msgspec.DecodeError: it is not a JSON list of texts; ``RecursionError`` and ``UnicodeDecodeError`` likewise.
    """
    return msgspec.json.decode(value, type=frozenset[str])
