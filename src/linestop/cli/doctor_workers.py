"""What ``doctor`` and ``health`` say of the workers: is every role done, by whom, and have they the time?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from linestop.bus.connection import Connection
from linestop.bus.jetstream import JetStream
from linestop.bus.worker_heartbeats import WorkerStatus
from linestop.cli.doctor_streams import CheckWarning
from linestop.client.run_reader import read_workers
from linestop.errors import LinestopError, PermissionDenied
from linestop.schemas.subjects import ACTORS

CLOCK_SHOWN_FROM_S: Final = 0.05
CLOCK_TO_WARN_S: Final = 1.0
"""Beyond this a clock is shown as a warning; up to 30 s its worker corrects it, and beyond that decides nothing."""

WORKERS_NAMED_MAX: Final = 3


async def check_roles(connection: Connection) -> str:
    """Say that every role has a alive worker.

    Raises:
        LinestopError: a role has none.
        Warn: they all have, but a worker is overloaded or its clock is off; or this credential may not see workers.
    """
    try:
        workers = await read_workers(await JetStream.open(connection))
    except PermissionDenied:
        raise CheckWarning(
            "this credential may not see the workers: give the broker the configuration of `linestop bus init`"
        ) from None
    return workers_sentence(workers)


def workers_sentence(workers: Sequence[WorkerStatus]) -> str:
    """Say in one sentence how the workers are; raises as ``check_roles`` does."""
    alive = [worker for worker in workers if worker.alive]
    warnings = [*_clock_sentences(alive), *_overload_sentences(alive)]
    roles_done = {worker.beat.role for worker in alive if worker.is_working}
    if missing := [role for role in ACTORS if role not in roles_done]:
        plural = "these roles" if len(missing) > 1 else "this role"
        missing_sentence = (
            f"no worker does {plural}: {', '.join(missing)}; start `linestop actor {missing[0]}`, `up` or `dev`"
        )
        raise LinestopError("; ".join([missing_sentence, *warnings]))
    if warnings:
        raise CheckWarning("; ".join(warnings))
    names = {worker.beat.worker for worker in alive if worker.is_working}
    return f"every role is done ({_named(sorted(names))}), and their clocks agree with the broker's"


def overload_text(worker: WorkerStatus) -> str:
    """The part of a sentence that names a worker's overload; empty if it has the time."""
    load = worker.beat.load
    return f"overloaded: {load.sentence}" if worker.alive and load is not None and load.is_overloaded else ""


def clock_text(worker: WorkerStatus) -> str:
    """How far a worker's clock is from the broker's, if one can see it at all."""
    off_s = worker.beat.clock_offset_s
    return f"{off_s:+.1f} s" if abs(off_s) >= CLOCK_SHOWN_FROM_S else ""


def _clock_sentences(alive: Sequence[WorkerStatus]) -> list[str]:
    """Each process whose clock is off, once: all its roles have the same clock."""
    sentences: dict[str, str] = {}
    for worker in alive:
        beat = worker.beat
        if beat.why:
            sentences[beat.worker] = f"{beat.worker} decides nothing: {beat.why.rstrip('.')}"
        elif abs(beat.clock_offset_s) >= CLOCK_TO_WARN_S:
            sentences[beat.worker] = (
                f"the clock of {beat.worker} is {clock_text(worker)} from the broker's: synchronise it (NTP)"
            )
    return _first_few(list(sentences.values()))


def _overload_sentences(alive: Sequence[WorkerStatus]) -> list[str]:
    sentences = {
        worker.beat.worker: f"{worker.beat.worker} is {sentence}"
        for worker in alive
        if (sentence := overload_text(worker))
    }
    return _first_few(list(sentences.values()))


def _first_few(sentences: list[str]) -> list[str]:
    return [
        *sentences[:WORKERS_NAMED_MAX],
        *([f"and {len(sentences) - WORKERS_NAMED_MAX} more"] if len(sentences) > WORKERS_NAMED_MAX else []),
    ]


def _named(names: list[str]) -> str:
    return ", ".join(_first_few(names))
