"""The commands that stop one run or all runs of a scope, and those of the kill switches."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import click
from click.core import ParameterSource

from linestop.actors.facts import kill_switch_message
from linestop.bus.disk_space import broker_disk_is_full, disk_full_message
from linestop.cli import broker_client, exit_codes
from linestop.cli.output import printing, wording
from linestop.cli.runs.known_names import note_unknown_names
from linestop.client import Client
from linestop.client.client import DecisionOptions
from linestop.client.credentials import state_directory
from linestop.client.run_reader import LAST_RUN
from linestop.errors import InputError, NotFound, PermissionDenied
from linestop.schemas.kill_switches import EVERYTHING, UNREADABLE

FAILURES_SHOWN = 10
NOTE_AFTER_S: Final = 2.0
REPLY_WITHIN_S: Final = 0.5
NOT_STORED_YET: Final = (
    "The run is stopped only once the stop is stored: until then its roles do not know of the stop, and it may "
    "continue. Retrying for some seconds; to end it at once, stop its processes."
)


def stop(run: str, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Stop RUN, or the open runs that the options name."""
    scope_options = {kind: options.pop(kind) for kind in ("agent", "user", "tool")}
    scopes = [f"{kind}:{name}" for kind, name in scope_options.items() if name]
    scopes += [EVERYTHING] if options.pop("all_runs") else []
    is_tenant_named = click.get_current_context().get_parameter_source("tenant") is ParameterSource.COMMANDLINE
    if run and scopes:
        raise InputError("Give a RUN or one of --all, --agent, --user and --tool, not both.")
    if len(scopes) > 1:
        raise InputError("Give one of --all, --agent, --user and --tool; --tenant may be added.")
    if options["beforehand"] and not run:
        raise InputError("--beforehand needs one RUN.")
    if run:
        _stop_one(run, **options)
    elif scopes or is_tenant_named:
        _stop_many(scopes[0] if scopes else EVERYTHING, is_tenant_named=is_tenant_named, **options)
    else:
        raise InputError("Give the RUN to stop, or one of --all, --tenant, --agent, --user and --tool.")


def _stop_one(run: str, *, mode: Any, by: str, why: str, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    async def work(client: Client) -> None:
        control_options = DecisionOptions(by=by, why=why or "stopped by hand", tenant=options["tenant"])
        try:
            async with note_delay(client, options["directory"]):
                receipt = await client.stop(run, mode=mode, beforehand=options["beforehand"], **control_options)
        except NotFound:
            raise NotFound(await _nothing_stopped(client, run, options["tenant"])) from None
        if options["as_json"]:
            printing.print_json(receipt)
            return
        what_happened = "was already stopped" if receipt.already else "is stopped"
        if not receipt.existed:
            tenant = options["tenant"]
            printing.print_text(
                f"There was no run '{run}' of tenant '{tenant}'; a task that arrives for it is refused."
            )
            what_happened = "was already stopped beforehand" if receipt.already else "is stopped beforehand"
        printing.print_text(f"{run} {what_happened}: event {receipt.n}, by {receipt.by}, {receipt.why}")
        if receipt.fenced_n:
            printing.print_text(f"  event {receipt.fenced_n} cancelled the calls that the first stop had let finish")
        for start in receipt.open:
            printing.print_text(f"  still open: {start.what} (attempt {start.attempt}, started in event {start.n})")

    broker_client.with_client(options["directory"], work)


async def _nothing_stopped(client: Client, run: str, tenant: str) -> str:
    """Why a run that does not exist was not stopped, with the runs that the person may have meant."""
    near: list[str] = []
    with contextlib.suppress(PermissionDenied):
        near += await client.open_runs_like(run, tenant=tenant)
    if difflib.get_close_matches(run, [LAST_RUN]):
        near.insert(0, LAST_RUN)
    open_runs = f"the nearest open runs are {', '.join(near)}" if near else "no run is open"
    return (
        f"There is no run '{run}' of tenant '{tenant}', so nothing was stopped; {open_runs}. To stop a run before its "
        "task is opened, add `--beforehand`."
    )


def _stop_many(scope: str, *, is_tenant_named: bool, mode: Any, by: str, why: str, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    async def work(client: Client) -> int:
        tenant = options["tenant"] if is_tenant_named else ""
        async with note_delay(client, options["directory"]):
            result = await client.stop_all(scope, mode=mode, by=by, why=why or "stopped by hand", tenant=tenant)
        scopes = [scope, *([f"tenant:{tenant}"] if tenant else [])]
        if not result.stopped and not result.failed:
            await note_unknown_names(client, scopes)
        if options["as_json"]:
            printing.print_json(result)
            return 1 if result.failed else 0
        over = f"; {wording.counted(result.over, 'run')} had already ended" if result.over else ""
        printing.print_text(f"{wording.counted(len(result.stopped), 'run')} stopped{over}.")
        for run, sentence in list(result.failed.items())[:FAILURES_SHOWN]:
            printing.print_text(f"  {run} is not stopped: {sentence}")
        if result.failed:
            printing.note(f"{wording.counted(len(result.failed), 'run')} could not be stopped: repeat the command.")
        closes = scope if scope != EVERYTHING or not tenant else f"tenant:{tenant}"
        printing.note(f"New runs are still accepted; `linestop switch close {closes}` refuses them.")
        return 1 if result.failed else 0

    if code := broker_client.with_client(options["directory"], work):
        exit_codes.exit_with(code)


@asynccontextmanager
async def note_delay(client: Client, directory: Path) -> AsyncGenerator[None]:
    """Note on stderr, after two seconds, what delays a stop and what that means for the run."""

    async def note_cause() -> None:
        await anyio.sleep(NOTE_AFTER_S)
        if not client.connected or not await client.bus.wire.is_responding(within_s=REPLY_WITHIN_S):
            cause = "The broker does not answer"
        elif broker_disk_is_full(state_directory(directory)):
            cause = disk_full_message(state_directory(directory)).rstrip(".")
        else:
            cause = "The broker answers, but does not confirm that the stop is stored (see `linestop doctor`)"
        printing.note(f"{cause}. {NOT_STORED_YET}")

    task = asyncio.create_task(note_cause())
    try:
        yield
    finally:
        task.cancel()


def close(switches: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Close kill switches."""

    async def work(client: Client) -> frozenset[str]:
        closed = await client.kill_switches.close(*switches)
        await note_unknown_names(client, switches)
        return closed

    _print_closed(broker_client.with_client(options["directory"], work), as_json=options["as_json"])


def open_switches(switches: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Open kill switches."""

    async def work(client: Client) -> frozenset[str]:
        return await client.kill_switches.open(*switches)

    _print_closed(broker_client.with_client(options["directory"], work), as_json=options["as_json"])


def list_switches(**options: Any) -> None:  # noqa: ANN401 - as click gives them
    """List the closed kill switches."""

    async def work(client: Client) -> frozenset[str]:
        return await client.kill_switches.closed()

    _print_closed(broker_client.with_client(options["directory"], work, as_="client"), as_json=options["as_json"])


def _print_closed(closed: frozenset[str], *, as_json: bool) -> None:
    if as_json:
        printing.print_json({"closed": sorted(closed)})
    elif closed:
        printing.print_text(closed_sentence(closed))
    else:
        printing.print_text("No kill switch is closed.")


def closed_sentence(closed: frozenset[str]) -> str:
    """The closed kill switches, in one sentence."""
    if UNREADABLE in closed:
        return kill_switch_message(UNREADABLE)
    return f"Closed: {', '.join(sorted(closed))}. Nothing that a closed kill switch names can start."
