"""What can be seen of each default: one case for each name of ``schemas/defaults.py`` and ``broker_defaults.py``.

A case runs with the default as it is and with another value, and must return something else. It returns plain data
and imports inside its body, so that it sees linestop as it was imported for its run (``tests.changed_default``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class Cases(dict[str, tuple[str, Callable[[], object]]]):
    """For each default the expression that it is changed to, and what is seen of it."""

    def case(self, name: str, value: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
        """Add what is seen of the default ``name``, which is changed to the expression ``value``."""

        def register(see: Callable[[], object]) -> Callable[[], object]:
            assert name not in self, name
            self[name] = (value, see)
            return see

        return register


def virtually(main: Callable[[], Awaitable[T]]) -> T:
    """The result of ``main`` under virtual time."""
    from linestop.testing.virtual_time import run_virtual  # noqa: PLC0415 - each run has its own import of linestop

    results: list[T] = []

    async def run() -> None:
        results.append(await main())

    run_virtual(run, seed=1)
    return results[0]


def failure(work: Callable[[], object]) -> str:
    """The class of the error of ``work``, or nothing."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever a bound raises
        return type(error).__name__
    return ""
