"""``workers``: who does which role, since when, and what each of them holds."""

from __future__ import annotations

from typing import Any, Final

from linestop.bus.beats import Worker
from linestop.cli import output
from linestop.client import Client
from linestop.schemas.subjects import ACTORS

CLOCK_SHOWN_FROM_S: Final = 0.05


def workers(**options: Any) -> None:  # noqa: ANN401 - as click gives them
    """List the workers, by role."""

    async def work(client: Client) -> list[Worker]:
        return await client.workers()

    found = output.with_client(options["directory"], work, as_="client")
    if options["as_json"]:
        output.say_json(found)
        return
    if found:
        columns = ("role", "worker", "state", "host", "version", "last beat", "clock", "holds")
        output.say_table(columns, [row(worker) for worker in found], fold=("state",))
    alive = {worker.beat.role for worker in found if worker.alive}
    if missing := [role for role in ACTORS if role not in alive]:
        output.note(f"No worker does this: {', '.join(missing)}. Start one with `linestop actor ROLE`, `up` or `dev`.")


def row(worker: Worker) -> tuple[str, ...]:
    """What a person reads of one worker."""
    beat = worker.beat
    state: str = beat.state if worker.alive or beat.state == "ended" else "dead"
    if beat.why and worker.alive:
        state += f": {output.short(beat.why)}"
    holds = f"{output.counted(beat.runs, 'run')}, {output.counted(beat.starts, 'start')}"
    clock = f"{beat.clock_offset_s:+.1f} s" if abs(beat.clock_offset_s) >= CLOCK_SHOWN_FROM_S else "right"
    return (beat.role, beat.worker, state, beat.host, beat.version, f"{output.ago(worker.last_beat)} ago", clock, holds)
