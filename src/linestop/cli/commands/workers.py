"""The command about workers."""

from __future__ import annotations

from pathlib import Path

import click

from linestop.cli.options import common_options


@click.command()
@common_options
def workers(*, directory: Path, tenant: str, as_json: bool) -> None:
    """List the workers: role, name, state, host, version, last heartbeat, clock offset from the broker, and work held.

    A worker sends a heartbeat every 2 s; one that missed three is presumed dead. Roles without a worker are named
    below the table.
    """
    from linestop.cli import broker_client
    from linestop.cli.doctor.worker_checks import worker_cells
    from linestop.cli.output import printing
    from linestop.schemas.subjects import ACTORS

    del tenant
    all_workers = broker_client.with_client(directory, lambda client: client.workers(), as_="client")
    if as_json:
        printing.print_json(all_workers)
        return
    if all_workers:
        columns = ("role", "worker", "state", "host", "version", "heartbeat", "clock", "holds")
        printing.print_table(columns, [worker_cells(worker) for worker in all_workers], wrap=("state",))
    alive = {worker.beat.role for worker in all_workers if worker.is_working}
    if missing := [role for role in ACTORS if role not in alive]:
        printing.note(
            f"These roles have no worker: {', '.join(missing)}. Start one with `linestop actor ROLE`, `up` or `dev`."
        )
