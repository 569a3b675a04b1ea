"""Where long computations over outside data run: in a thread, so that the event loop still receives a stop.

The author of a page, an argument or an answer decides how much there is to compute. A computation of more than a few
milliseconds must therefore not stand between the loop and a stop. The interpreter's lock is given up between two
steps of Python, but not within one call of C: so no function that is passed in here may be one long call, such as a
regular expression over many megabytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from linestop.schemas.defaults import OFF_LOOP_BYTES

T = TypeVar("T")


async def off_loop(size: int, work: Callable[[], T], *, give_up: bool = False) -> T:
    """Return what ``work`` returns; it runs in a thread if it is about more than ``LONG_BYTES`` bytes.

    It is waited for even if the caller is cancelled meanwhile: what it works on has happened already. With
    ``give_up`` the caller goes on at once then, and nothing that ``work`` reads may be changed until it ends.
    """
    if size <= OFF_LOOP_BYTES:
        return work()
    if give_up:
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
    done: list[T] = []
    with anyio.CancelScope(shield=True):
        done.append(await anyio.to_thread.run_sync(work))
    return done[0]
