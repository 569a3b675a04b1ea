"""The check of the workers for ``doctor`` and ``health``: every role has a worker, none is overloaded, clocks agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from linestop.bus.connection import Connection
from linestop.bus.jetstream import JetStream
from linestop.bus.stores.worker_heartbeats import WorkerStatus
from linestop.cli.doctor.stream_checks import CheckWarning
from linestop.cli.output import wording
from linestop.client.run_reader import read_workers
from linestop.errors import LinestopError, PermissionDenied
from linestop.schemas.defaults import CLOCK_TO_WARN_S
from linestop.schemas.subjects import ACTORS

CLOCK_SHOWN_FROM_S: Final = 0.05
WORKERS_NAMED_MAX: Final = 3


async def check_roles(connection: Connection) -> str:
    """Check that every role has a live worker.

    Raises:
        LinestopError: a role has no worker.
        CheckWarning: a worker is overloaded, its clock is wrong, or this credential may not read the workers.
    """
    try:
        workers = await read_workers(JetStream(connection))
    except PermissionDenied:
        raise CheckWarning(
            "this credential may not read the workers: give the broker the configuration of `linestop bus init`"
        ) from None
    return workers_sentence(workers)


def workers_sentence(workers: Sequence[WorkerStatus]) -> str:
    """Return one sentence about the workers; raises like ``check_roles``."""
    alive = [worker for worker in workers if worker.alive]
    warnings = [*_clock_sentences(alive), *_overload_sentences(alive)]
    roles_done = {worker.beat.role for worker in alive if worker.is_working}
    if missing := [role for role in ACTORS if role not in roles_done]:
        subject = "these roles have" if len(missing) > 1 else "this role has"
        missing_sentence = (
            f"{subject} no worker: {', '.join(missing)}; start `linestop actor {missing[0]}`, `up` or `dev`"
        )
        raise LinestopError("; ".join([missing_sentence, *warnings]))
    if warnings:
        raise CheckWarning("; ".join(warnings))
    names = {worker.beat.worker for worker in alive if worker.is_working}
    return f"every role has a worker ({_named(sorted(names))}), and their clocks agree with the broker's"


def overload_text(worker: WorkerStatus) -> str:
    """The part of a sentence that names a worker's overload; empty if the worker is not overloaded."""
    load = worker.beat.load
    return f"overloaded: {load.sentence}" if worker.alive and load is not None and load.is_overloaded else ""


def clock_text(worker: WorkerStatus) -> str:
    """The difference between a worker's clock and the broker's; empty if it is too small to show."""
    off_s = worker.beat.clock_offset_s
    return f"{off_s:+.1f} s" if abs(off_s) >= CLOCK_SHOWN_FROM_S else ""


def _clock_sentences(alive: Sequence[WorkerStatus]) -> list[str]:
    """One sentence for each process whose clock is wrong: all its roles share one clock."""
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


def worker_cells(worker: WorkerStatus) -> tuple[str, ...]:
    """One worker as a row of ``linestop workers``."""
    beat = worker.beat
    state: str = beat.state if worker.alive or beat.state == "ended" else "dead"
    if beat.why and worker.alive:
        state += f": {wording.short(beat.why)}"
    if overload := overload_text(worker):
        state += f", {overload}"
    holds = f"{wording.counted(beat.runs, 'run')}, {wording.counted(beat.starts, 'start')}"
    last = f"{wording.age(worker.last_beat)} ago"
    return (beat.role, beat.worker, state, beat.host, beat.version, last, clock_text(worker) or "right", holds)
