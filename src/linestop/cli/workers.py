"""``workers``: the workers with their roles, their state and the work they hold."""

from __future__ import annotations

from typing import Any

from linestop.bus.stores.worker_heartbeats import WorkerStatus
from linestop.cli import output
from linestop.cli.doctor_workers import clock_text, overload_text
from linestop.client import Client
from linestop.schemas.subjects import ACTORS


def workers(**options: Any) -> None:  # noqa: ANN401 - as click gives them
    """List the workers, by role."""

    async def work(client: Client) -> list[WorkerStatus]:
        return await client.workers()

    all_workers = output.with_client(options["directory"], work, as_="client")
    if options["as_json"]:
        output.print_json(all_workers)
        return
    if all_workers:
        columns = ("role", "worker", "state", "host", "version", "heartbeat", "clock", "holds")
        output.print_table(columns, [row(worker) for worker in all_workers], wrap=("state",))
    alive = {worker.beat.role for worker in all_workers if worker.is_working}
    if missing := [role for role in ACTORS if role not in alive]:
        output.note(
            f"These roles have no worker: {', '.join(missing)}. Start one with `linestop actor ROLE`, `up` or `dev`."
        )


def row(worker: WorkerStatus) -> tuple[str, ...]:
    """The cells of one worker."""
    beat = worker.beat
    state: str = beat.state if worker.alive or beat.state == "ended" else "dead"
    if beat.why and worker.alive:
        state += f": {output.short(beat.why)}"
    if overload := overload_text(worker):
        state += f", {overload}"
    holds = f"{output.counted(beat.runs, 'run')}, {output.counted(beat.starts, 'start')}"
    last = f"{output.age(worker.last_beat)} ago"
    return (beat.role, beat.worker, state, beat.host, beat.version, last, clock_text(worker) or "right", holds)
