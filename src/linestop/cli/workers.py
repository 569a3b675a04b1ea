"""``workers``: the workers with their roles, their state and the work they hold."""

from __future__ import annotations

from typing import Any

from linestop.bus.stores.worker_heartbeats import WorkerStatus
from linestop.cli import broker_client
from linestop.cli.doctor.worker_checks import clock_text, overload_text
from linestop.cli.output import printing, wording
from linestop.client import Client
from linestop.schemas.subjects import ACTORS


def workers(**options: Any) -> None:  # noqa: ANN401 - as click gives them
    """List the workers, by role."""

    async def work(client: Client) -> list[WorkerStatus]:
        return await client.workers()

    all_workers = broker_client.with_client(options["directory"], work, as_="client")
    if options["as_json"]:
        printing.print_json(all_workers)
        return
    if all_workers:
        columns = ("role", "worker", "state", "host", "version", "heartbeat", "clock", "holds")
        printing.print_table(columns, [row(worker) for worker in all_workers], wrap=("state",))
    alive = {worker.beat.role for worker in all_workers if worker.is_working}
    if missing := [role for role in ACTORS if role not in alive]:
        printing.note(
            f"These roles have no worker: {', '.join(missing)}. Start one with `linestop actor ROLE`, `up` or `dev`."
        )


def row(worker: WorkerStatus) -> tuple[str, ...]:
    """The cells of one worker."""
    beat = worker.beat
    state: str = beat.state if worker.alive or beat.state == "ended" else "dead"
    if beat.why and worker.alive:
        state += f": {wording.short(beat.why)}"
    if overload := overload_text(worker):
        state += f", {overload}"
    holds = f"{wording.counted(beat.runs, 'run')}, {wording.counted(beat.starts, 'start')}"
    last = f"{wording.age(worker.last_beat)} ago"
    return (beat.role, beat.worker, state, beat.host, beat.version, last, clock_text(worker) or "right", holds)
