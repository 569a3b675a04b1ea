"""Catches up with a run's head, and stops a run from any process.

A stop retries at once at the head that the server's refusal names. It reads that one message, and the other missing
ones only if that message does not continue the chain. So a stop among many results that arrive at the same time
succeeds within a few attempts. A stop that still fails asks the process that works on the run, which has the run's
lock and therefore appends the stop next.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import msgspec

from linestop.bus.event_message import EventEncoder
from linestop.bus.interfaces import HeadMoved, Log, StoredMessage
from linestop.errors import Defect, LinestopError, TimedOut
from linestop.logger import Logger
from linestop.schemas.broker_defaults import STOP_WITHIN_S
from linestop.schemas.events import Cue, Stopped, decode_envelope
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import run_event

LOG = Logger("linestop.shell")
TRIES_BEFORE_HELP: Final = 3
"""Failed attempts after which a stop asks for help: a run that waits for models causes none or one."""

HELP_WITHIN_S: Final = 2.0


async def catch_up(log: Log, run: Run, *, head_seq: int = 0, leader: bool = False) -> None:
    """Fold the events that ``run`` lacks. ``head_seq`` is the head that a refusal named, 0 if none did."""
    if head_seq > run.head_seq:
        message = await log.message_at(head_seq)
        if message is not None and apply_if_next(run, message):
            return
    for message in await log.load(run.tenant, run.run, after_seq=run.head_seq, leader=leader):
        run.apply(message.subject, message.payload, message.seq)


async def catch_up_to(log: Log, run: Run, *, n_min: int, head_seq: int, leader: bool) -> None:
    """Fold the events that ``run`` lacks; ask the leader if event ``n_min`` or ``head_seq`` is still missing then.

    Raises:
        Defect: an event cannot be folded.
    """
    try:
        await catch_up(log, run, head_seq=head_seq, leader=leader)
        if run.n < n_min or run.head_seq < head_seq:
            await catch_up(log, run, leader=True)
    except LinestopError:
        raise
    except Exception as error:
        LOG.exception("fold_failed", run=run.run)
        raise Defect(f"Run {run.run} cannot be folded after event {run.n}: {error}.") from error


def apply_if_next(run: Run, message: StoredMessage) -> bool:
    """Fold this event if it is the next one of the chain; if it is not, the events before it must be read first."""
    if message.seq <= run.head_seq or not message.subject.endswith(f".{run.n + 1}"):
        return False
    try:
        if decode_envelope(message.payload).prev != run.head:
            return False
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    run.apply(message.subject, message.payload, message.seq)
    return True


async def stop_run(
    log: Log,
    encoder: EventEncoder,
    run: Run,
    make_stop: Callable[[Run], Stopped],
    *,
    request_help: Callable[[], Awaitable[object]] | None = None,
) -> int:
    """Stop the run; return the number of the event that stopped it, 0 if the run had ended before.

    Appends ``make_stop(run)`` as the operator, at the head that the last refusal named. Against a run that works
    without pause every such head is old when the append arrives. So after ``TRIES_BEFORE_HELP`` failed attempts this
    also calls ``request_help``, which asks the process that works on the run (by a message on ``control``), and
    continues to try. The first stop in the log ends the attempts: only a stored ``stopped`` counts.

    A run that is already stopped or sealed stays as it is, unless it drains and ``make_stop`` cancels its calls.

    Raises:
        TimedOut: no stop is in the log after ``STOP_WITHIN_S``; if help could be requested, the stop is stored.
        Unreachable: the broker did not answer; stopping again is safe.
        PermissionDenied: the credential may not stop runs.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + STOP_WITHIN_S
    conflicts, is_stored = 0, False
    while run.sealed is None and (run.stopped is None or make_stop(run).overrides(run.stopped)):
        if clock() >= deadline:
            raise _timed_out_error(run, conflicts, is_stored=is_stored)
        append = await encoder.encode(run, "operator", make_stop(run), Cue(kind="control"))
        try:
            seq = await log.append(append)
        except HeadMoved as moved:
            conflicts += 1
            if conflicts == TRIES_BEFORE_HELP and request_help is not None:
                is_stored = await _request_help(request_help)
            await catch_up(log, run, head_seq=moved.head_seq, leader=True)
            continue
        subject = run_event(append.tenant, append.run, role="operator", event=append.event, n=append.n)
        entry = run.apply(subject, append.payload, seq)
        if run.stopped is None:
            raise Defect(f"The stop of run {run.run} is event {entry.n} of its log but was ignored: {entry.ignored}.")
    return stop_number(run)


async def _request_help(request_help: Callable[[], Awaitable[object]]) -> bool:
    """Request help, for at most ``HELP_WITHIN_S`` and without failing; return whether that succeeded."""
    with anyio.move_on_after(HELP_WITHIN_S), contextlib.suppress(LinestopError):
        await request_help()
        return True
    return False


def _timed_out_error(run: Run, conflicts: int, *, is_stored: bool) -> TimedOut:
    rest = "it is stored, and takes effect as soon as an actor handles it" if is_stored else "stop it again"
    return TimedOut(f"Run '{run.run}' moved {conflicts} times in the {STOP_WITHIN_S:g} s it was being stopped; {rest}.")


def stop_number(run: Run) -> int:
    """Return the number of the event that stopped the run, 0 if none did."""
    return next((e.n for e in run.entries if isinstance(e.event, Stopped) and not e.ignored), 0)


def fence_number(run: Run) -> int:
    """Return the number of the event that cancelled the calls which the first stop had let finish, 0 if none did."""
    stops = [(e.n, e.event) for e in run.entries if isinstance(e.event, Stopped) and not e.ignored]
    return next((n for n, event in stops if event.overrides(stops[0][1])), 0)
