"""Catching up with a run's head, and stopping a run from wherever one stands.

A stop retries at once from the head that the server's refusal names: it reads that one message, and only if that
does not continue the chain, whatever else is missing. So a stop among many results that come in at the same time
needs a few tries and no luck. One that still loses asks the process that works on the run, which holds its lock and
so says it next.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import msgspec
import structlog

from linestop.bus.event_envelope import EventEncoder
from linestop.bus.interfaces import HeadMoved, Log, StoredMessage
from linestop.errors import Defect, LinestopError, TimedOut
from linestop.schemas.events import Cue, Stopped, decode_envelope
from linestop.schemas.run.state import Run
from linestop.schemas.subjects import run_event

LOG = structlog.get_logger("linestop.shell")
STOP_WITHIN_S: Final = 10.0
"""How long a stop is tried, against a run that moves all the time."""

TRIES_BEFORE_HELP: Final = 3
"""Heads that a stop loses to before it asks for help: a run that waits for models loses to none or one."""

HELP_WITHIN_S: Final = 2.0


async def catch_up(log: Log, run: Run, *, head_seq: int = 0, leader: bool = False) -> None:
    """Fold what the log has beyond ``run``. ``head_seq`` is the head a refusal named, 0 if none did."""
    if head_seq > run.head_seq:
        message = await log.message_at(head_seq)
        if message is not None and _is_next(run, message):
            run.apply(message.subject, message.payload, message.seq)
            return
    for message in await log.load(run.tenant, run.run, after_seq=run.head_seq, leader=leader):
        run.apply(message.subject, message.payload, message.seq)


async def catch_up_to(log: Log, run: Run, *, n_min: int, head_seq: int, leader: bool) -> None:
    """Fold what the log has beyond ``run``; one that then is not at event ``n_least``, or this head, asks the leader.

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


def _is_next(run: Run, message: StoredMessage) -> bool:
    """Whether this head is the next of the chain: if not, what lies between must be read before it."""
    if not message.subject.endswith(f".{run.n + 1}"):
        return False
    try:
        return decode_envelope(message.payload).prev == run.head
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False


async def stop_run(
    log: Log,
    encoder: EventEncoder,
    run: Run,
    make_stop: Callable[[Run], Stopped],
    *,
    request_help: Callable[[], Awaitable[object]] | None = None,
) -> int:
    """See to it that the run is stopped; return the number of the event that did it, 0 if the run was over before.

    It appends ``stop(run)`` as the operator, at the head that the last refusal named. Against a run that works
    without pause every such head is old when the append arrives, so after ``TRIES_ALONE`` lost tries it also calls
    ``ask``, which is to ask the process that works on the run (by a word on ``control``) and goes on trying itself.
    Whichever is in the log first ends it: nothing but a stored ``stopped`` is taken for one.

    A run that is stopped or sealed already is left alone, unless it drains and ``stop`` is to end that.

    Raises:
        TimedOut: neither is in the log after ``STOP_WITHIN_S``; if it could be asked for, the stop is kept.
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
    """Ask for help, but do not wait long for it, nor fail over it."""
    with anyio.move_on_after(HELP_WITHIN_S), contextlib.suppress(LinestopError):
        await request_help()
        return True
    return False


def _timed_out_error(run: Run, conflicts: int, *, is_stored: bool) -> TimedOut:
    rest = "it is kept, and counts as soon as an actor takes it up" if is_stored else "stop it again"
    return TimedOut(f"Run '{run.run}' moved {conflicts} times in the {STOP_WITHIN_S:g} s it was being stopped; {rest}.")


def stop_number(run: Run) -> int:
    """The number of the event that stopped the run, 0 if nothing did."""
    return next((e.n for e in run.entries if isinstance(e.event, Stopped) and not e.ignored), 0)


def fence_number(run: Run) -> int:
    """The number of the event that cancelled what the run's stop let end, 0 if nothing did."""
    stops = [(e.n, e.event) for e in run.entries if isinstance(e.event, Stopped) and not e.ignored]
    return next((n for n, event in stops if event.overrides(stops[0][1])), 0)
