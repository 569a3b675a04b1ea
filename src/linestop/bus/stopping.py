"""Catching up with a run's head, and stopping a run from wherever one stands.

A stop retries at once from the head that the server's refusal names: it reads that one message, and only if that
does not continue the chain, whatever else is missing. So a stop among many results that come in at the same time
needs a few tries and no luck.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from linestop.bus.ports import HeadMoved, Log, StoredMessage
from linestop.bus.stamp import Stamper
from linestop.errors import Conflict
from linestop.schemas.events import Cue, Stopped, decode_envelope
from linestop.schemas.limits import APPEND_TRIES_MAX
from linestop.schemas.run import Run
from linestop.schemas.subjects import RoleName, run_event


async def catch_up(log: Log, run: Run, *, head_seq: int = 0, leader: bool = False) -> None:
    """Fold what the log has beyond ``run``. ``head_seq`` is the head a refusal named, 0 if none did."""
    if head_seq > run.head_seq:
        message = await log.message_at(head_seq)
        if message is not None and _follows(run, message):
            run.apply(message.subject, message.payload, message.seq)
            return
    for message in await log.load(run.tenant, run.run, after_seq=run.head_seq, leader=leader):
        run.apply(message.subject, message.payload, message.seq)


def _follows(run: Run, message: StoredMessage) -> bool:
    """Whether this head is the next of the chain: if not, what lies between must be read before it."""
    if not message.subject.endswith(f".{run.n + 1}"):
        return False
    try:
        return decode_envelope(message.payload).prev == run.head
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False


async def stop_run(
    log: Log, stamper: Stamper, run: Run, stop: Callable[[Run], Stopped], *, role: RoleName = "operator"
) -> int:
    """Append ``stop(run)`` at the run's head, wherever that is by now; return the number of the stop that counts.

    A run that is stopped or sealed already is left alone: its stop's number (0 if it has none) is returned.

    Raises:
        Conflict: the head moved ``APPEND_TRIES_MAX`` times.
        Unreachable: the broker did not answer; stopping again is safe.
        PermissionDenied: the credential may not stop runs.
    """
    for _ in range(APPEND_TRIES_MAX):
        if run.stopped is not None or run.sealed is not None:
            return stop_number(run)
        append = await stamper.stamp(run, role, stop(run), Cue(kind="control"))
        try:
            seq = await log.append(append)
        except HeadMoved as moved:
            await catch_up(log, run, head_seq=moved.head_seq, leader=True)
            continue
        subject = run_event(append.tenant, append.run, role=role, event=append.event, n=append.n)
        run.apply(subject, append.payload, seq)
        return append.n
    raise Conflict(f"Run {run.run} moved {APPEND_TRIES_MAX} times while it was being stopped; stop it again.")


def stop_number(run: Run) -> int:
    """The number of the event that stopped the run, 0 if nothing did."""
    return next((e.n for e in run.entries if isinstance(e.event, Stopped) and not e.ignored), 0)
