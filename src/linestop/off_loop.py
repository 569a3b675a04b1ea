"""Runs long computations over outside data in a thread, so that the event loop can still receive a stop.

The author of a page, an argument or an answer decides how much there is to compute. A computation of more than a few
milliseconds must therefore not block the loop. The interpreter's lock is released between two steps of Python, but not
within one call of C: so ``work`` must not be one long call, such as a regular expression over many megabytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import anyio.to_thread

OFF_LOOP_BYTES: Final = 64 * 1024
"""Work on more outside data than this takes milliseconds, so it runs outside the event loop."""

T = TypeVar("T")


async def off_loop(size: int, work: Callable[[], T], *, give_up: bool = False) -> T:
    """Return the result of ``work``, which runs in a thread if ``size`` is more than ``OFF_LOOP_BYTES`` bytes.

    The work is waited for even if the caller is cancelled meanwhile: its input has happened already. With ``give_up``
    a cancelled caller continues at once, and nothing that ``work`` reads may be changed until it ends.
    """
    if size <= OFF_LOOP_BYTES:
        return work()
    if give_up:
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
    done: list[T] = []
    with anyio.CancelScope(shield=True):
        done.append(await anyio.to_thread.run_sync(work))
    return done[0]
