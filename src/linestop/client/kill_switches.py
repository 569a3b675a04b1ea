"""Closing and opening kill switches, and reading which are closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from linestop.bus.stores.kill_switch_store import KillSwitchStore
from linestop.errors import Conflict, InputError
from linestop.schemas.kill_switches import CLOSED_MAX, UNREADABLE, closed_switches, switch_name

TRIES_MAX: Final = 20


class KillSwitchClient:
    """The kill switches; only the operator's credential may change them."""

    def __init__(self, store: KillSwitchStore) -> None:
        self._store = store

    async def closed(self) -> frozenset[str]:
        """The closed kill switches; only ``unreadable`` if the stored value is not a list of names."""
        stored = await self._store.get()
        return frozenset() if stored is None else _read(stored.value)

    async def close(self, *names: str) -> frozenset[str]:
        """Close these kill switches; return all that are closed then.

        Raises:
            InputError: a name is not a kill switch, too many are closed, or the stored value cannot be read.
            PermissionDenied: the credential is not the operator's.
        """
        names_to_close = frozenset(switch_name(name) for name in names)
        return await self._change(lambda closed: closed | names_to_close)

    async def open(self, *names: str) -> frozenset[str]:
        """Open these kill switches; return those that are still closed. An unreadable value is replaced.

        Raises:
            InputError: a name is not a kill switch, or is not closed.
            PermissionDenied: the credential is not the operator's.
        """
        names_to_open = frozenset(switch_name(name) for name in names)

        def opened(closed: frozenset[str]) -> frozenset[str]:
            if missing := sorted(names_to_open - closed):
                listed = ", ".join(sorted(closed)) or "none is"
                raise InputError(f"The kill switch '{missing[0]}' is not closed; closed: {listed}.")
            return closed - names_to_open

        return await self._change(opened, repair=True)

    async def _change(
        self, change: Callable[[frozenset[str]], frozenset[str]], *, repair: bool = False
    ) -> frozenset[str]:
        for _ in range(TRIES_MAX):
            stored = await self._store.get()
            closed = frozenset[str]() if stored is None else _read(stored.value)
            if UNREADABLE in closed and not repair:
                raise InputError(
                    "The stored kill switches cannot be read, so all count as closed: open them with "
                    "`linestop switch open all`, then close those that must stay closed."
                )
            new_closed = frozenset[str]() if UNREADABLE in closed else change(closed)
            if len(new_closed) > CLOSED_MAX:
                raise InputError(f"At most {CLOSED_MAX} kill switches may be closed at once; open some of them.")
            value = msgspec.json.encode(sorted(new_closed))
            try:
                await self._store.replace(stored, value)
            except Conflict:
                continue
            return new_closed
        raise Conflict(f"Other clients changed the kill switches {TRIES_MAX} times in between; try again.")


def _read(value: bytes) -> frozenset[str]:
    try:
        return closed_switches(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return frozenset({UNREADABLE})
