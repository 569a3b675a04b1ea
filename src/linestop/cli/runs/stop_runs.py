"""Stopping one run or all open runs of a scope: ``linestop stop``."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import anyio

from linestop.bus.disk_space import broker_disk_is_full, disk_full_message
from linestop.cli import broker_client, exit_codes
from linestop.cli.output import printing, wording
from linestop.cli.run_argument import full_id
from linestop.cli.runs.known_names import note_unknown_names
from linestop.client import Client
from linestop.client.client import DecisionOptions, StopMode
from linestop.client.credentials import state_directory
from linestop.client.result_types import Receipt
from linestop.client.run_reader import LAST_RUN
from linestop.errors import LinestopError, NotFound, PermissionDenied, Refused
from linestop.schemas.broker_defaults import BROKER_RETRY_FOR_S
from linestop.schemas.kill_switches import EVERYTHING
from linestop.schemas.run.make_stop import open_starts

BY_HAND: Final = "stopped by hand"
FAILURES_SHOWN: Final = 10
NOTE_AFTER_S: Final = 2.0
CONNECT_FOR_S: Final = BROKER_RETRY_FOR_S
"""How long a broker that does not answer is tried: as long as a stop that is not stored."""

REPLY_WITHIN_S: Final = 0.5
NOT_STORED_YET: Final = (
    "The run is stopped only once the stop is stored: until then its roles do not know of the stop, and it may "
    "continue. Retrying for some seconds; to end it at once, stop its processes."
)
QUEUED_TASKS: Final = "A task that is still queued is stopped by its id: `linestop stop ID --beforehand`."

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StopRequest:
    """How to stop, in whose name, and with which credentials; ``tenant`` is empty for the runs of every tenant."""

    directory: Path
    tenant: str
    mode: StopMode
    by: str
    why: str
    as_json: bool


def stop_one(text: str, request: StopRequest, *, beforehand: bool) -> None:
    """Stop the run that ``text`` means, as a person names it, and print the receipt.

    Raises:
        NotFound: there is no such run, and ``beforehand`` is not set.
        Refused: the run is over.
    """

    async def work(client: Client, note: asyncio.Task[None]) -> None:
        control_options = DecisionOptions(by=request.by, why=request.why or BY_HAND, tenant=request.tenant)
        run = await full_id(client, text, tenant=request.tenant)
        if text == LAST_RUN:
            await _require_not_ended(client, run, request.tenant)
        try:
            receipt = await client.stop(run, mode=request.mode, beforehand=beforehand, **control_options)
        except NotFound:
            note.cancel()
            raise NotFound(await _nothing_stopped(client, run, request.tenant)) from None
        note.cancel()
        if request.as_json:
            printing.print_json(receipt)
            return
        what_happened = "was already stopped" if receipt.already else "is stopped"
        if not receipt.existed:
            tenant = request.tenant
            printing.print_text(
                f"There was no run '{run}' of tenant '{tenant}'; a task that arrives for it is refused."
            )
            what_happened = "was already stopped beforehand" if receipt.already else "is stopped beforehand"
        printing.print_text(f"{run} {what_happened}: event {receipt.n}, by {receipt.by}, {receipt.why}")
        if receipt.fenced_n:
            printing.print_text(f"  event {receipt.fenced_n} cancelled the calls that the first stop had let finish")
        await _print_starts(client, receipt, request.tenant)
        if text == LAST_RUN:
            printing.note(f"`{LAST_RUN}` is the newest run that has begun. {QUEUED_TASKS}")

    _with_operator(request.directory, work)


async def _print_starts(client: Client, receipt: Receipt, tenant: str) -> None:
    """Print the starts without a result at the stop: still open, or what became of them since."""
    state = None
    if receipt.open:
        # The run is stopped; a log that cannot be read now only costs the names.
        with contextlib.suppress(LinestopError):
            state = await client.run(receipt.run, tenant=tenant)
    for start in receipt.open:
        call = state.calls.get(start.what) if state is not None else None
        is_open = state is None or (state.sealed is None and start in open_starts(state))
        status = "still open" if is_open else call.fate if call is not None else "ended"
        name = f"{call.tool} ({start.what}, " if call is not None else f"{start.what} ("
        printing.print_text(f"  {status}: {name}attempt {start.attempt}, started in event {start.n})")


async def _require_not_ended(client: Client, run: str, tenant: str) -> None:
    """Require that the run found as ``last`` is open, since the person may mean a newer task that is still queued.

    Raises:
        Refused: it has ended.
    """
    ended = (await client.run(run, tenant=tenant)).sealed
    if ended is not None:
        raise Refused(
            f"Nothing was stopped: `{LAST_RUN}` is {run}, the newest run that has begun, and it has ended "
            f"({ended.status}). {QUEUED_TASKS}"
        )


async def _nothing_stopped(client: Client, run: str, tenant: str) -> str:
    """Why a run that does not exist was not stopped, with the runs that the person may have meant."""
    near: list[str] = []
    with contextlib.suppress(PermissionDenied):
        near += await client.open_runs_like(run, tenant=tenant)
    if difflib.get_close_matches(run, [LAST_RUN]):
        near.insert(0, LAST_RUN)
    open_runs = f"the nearest open runs are {', '.join(near)}" if near else "no run is open"
    return (
        f"There is no run '{run}' of tenant '{tenant}', so nothing was stopped; {open_runs}. A task of that id may "
        "still be queued: to stop it before it begins, write the whole id and add `--beforehand`."
    )


def stop_many(scope: str, request: StopRequest) -> None:
    """Stop the open runs of a scope, print how many, and end with exit code 1 if one could not be stopped."""

    async def work(client: Client, note: asyncio.Task[None]) -> int:
        tenant = request.tenant
        result = await client.stop_all(
            scope, mode=request.mode, by=request.by, why=request.why or BY_HAND, tenant=tenant
        )
        note.cancel()
        scopes = [scope, *([f"tenant:{tenant}"] if tenant else [])]
        if not result.stopped and not result.failed:
            await note_unknown_names(client, scopes)
        if request.as_json:
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

    if code := _with_operator(request.directory, work):
        exit_codes.exit_with(code)


def _with_operator(directory: Path, work: Callable[[Client, asyncio.Task[None]], Awaitable[T]]) -> T:
    """Connect as the operator and do ``work``, which cancels the note on the delay once it is not needed.

    Raises:
        Unreachable: the broker does not answer.
    """

    async def main() -> T:
        client = broker_client.client_of(directory, as_="operator")
        # The note comes while the connection is tried, too: a person must not believe that the stop is in force.
        async with note_delay(client, directory) as note:
            try:
                await client.open(timeout_s=CONNECT_FOR_S)
                return await work(client, note)
            finally:
                await client.close()

    return broker_client.run_main(directory, main)


@asynccontextmanager
async def note_delay(client: Client, directory: Path) -> AsyncGenerator[asyncio.Task[None]]:
    """Note on stderr, after two seconds, what delays a stop and what that means for the run; yield that note."""

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
        yield task
    finally:
        task.cancel()
