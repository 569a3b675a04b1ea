"""The commands that stop: one run, all runs of a scope, and what may start at all."""

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

from linestop.actors.facts import switch_closed
from linestop.bus.disk_space import broker_disk_is_full, full_sentence
from linestop.cli import output
from linestop.cli.known_names import tell_of_unknown
from linestop.client import Client
from linestop.client.client import Said
from linestop.client.credentials import state_directory
from linestop.client.run_reader import LAST
from linestop.errors import InputError, NotFound, PermissionDenied
from linestop.schemas.kill_switches import EVERYTHING, UNREADABLE

FAILURES_SHOWN = 10
TOLD_AFTER_S: Final = 2.0
ANSWER_WITHIN_S: Final = 0.5
NOT_CERTAIN: Final = (
    "The run is stopped only once the stop is stored: until then its roles are not told, and it may go on. Trying "
    "again for some seconds; to end it at once, stop its processes."
)


def stop(run: str, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Stop RUN, or the open runs that the options name."""
    given = {kind: options.pop(kind) for kind in ("agent", "user", "tool")}
    scopes = [f"{kind}:{name}" for kind, name in given.items() if name]
    scopes += [EVERYTHING] if options.pop("all_runs") else []
    named = click.get_current_context().get_parameter_source("tenant") is ParameterSource.COMMANDLINE
    if run and scopes:
        raise InputError("Name a RUN or say which runs (--all, --agent, --user, --tool), not both.")
    if len(scopes) > 1:
        raise InputError("Give one of --all, --agent, --user and --tool; --tenant may stand beside it.")
    if options["beforehand"] and not run:
        raise InputError("--beforehand goes with one RUN.")
    if run:
        _stop_one(run, **options)
    elif scopes or named:
        _stop_many(scopes[0] if scopes else EVERYTHING, tenant_named=named, **options)
    else:
        raise InputError("Name the RUN to stop, or say which: --all, --tenant, --agent, --user or --tool.")


def _stop_one(run: str, *, mode: Any, by: str, why: str, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    async def work(client: Client) -> None:
        said = Said(by=by, why=why or "stopped by hand", tenant=options["tenant"])
        try:
            async with telling_of_delay(client, options["directory"]):
                receipt = await client.stop(run, mode=mode, beforehand=options["beforehand"], **said)
        except NotFound:
            raise NotFound(await _nothing_stopped(client, run, options["tenant"])) from None
        if options["as_json"]:
            output.say_json(receipt)
            return
        done = "was stopped before" if receipt.already else "is stopped"
        if not receipt.existed:
            tenant = options["tenant"]
            output.say(f"There was no run '{run}' of tenant '{tenant}'; a task that comes for it is refused.")
            done = "was stopped beforehand already" if receipt.already else "is stopped beforehand"
        output.say(f"{run} {done}: event {receipt.n}, by {receipt.by}, {receipt.why}")
        if receipt.fenced_n:
            output.say(f"  event {receipt.fenced_n} cancelled the calls that the first stop had let finish")
        for start in receipt.open:
            output.say(f"  still open: {start.what} (attempt {start.attempt}, started in event {start.n})")

    output.with_client(options["directory"], work)


async def _nothing_stopped(client: Client, run: str, tenant: str) -> str:
    """Why a run that does not exist was not stopped, with the runs that may be meant."""
    near: list[str] = []
    with contextlib.suppress(PermissionDenied):
        near += await client.open_runs_like(run, tenant=tenant)
    if difflib.get_close_matches(run, [LAST]):
        near.insert(0, LAST)
    open_runs = f"the nearest open runs are {', '.join(near)}" if near else "no run is open"
    return (
        f"There is no run '{run}' of tenant '{tenant}', so nothing was stopped; {open_runs}. To stop a run before its "
        "task is opened, add `--beforehand`."
    )


def _stop_many(scope: str, *, tenant_named: bool, mode: Any, by: str, why: str, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    async def work(client: Client) -> int:
        tenant = options["tenant"] if tenant_named else ""
        async with telling_of_delay(client, options["directory"]):
            found = await client.stop_all(scope, mode=mode, by=by, why=why or "stopped by hand", tenant=tenant)
        named = [scope, *([f"tenant:{tenant}"] if tenant else [])]
        if not found.stopped and not found.failed:
            await tell_of_unknown(client, named)
        if options["as_json"]:
            output.say_json(found)
            return 1 if found.failed else 0
        over = f"; {output.counted(found.over, 'run')} had ended already" if found.over else ""
        output.say(f"{output.counted(len(found.stopped), 'run')} stopped{over}.")
        for run, sentence in list(found.failed.items())[:FAILURES_SHOWN]:
            output.say(f"  {run} is not stopped: {sentence}")
        if found.failed:
            output.note(f"{output.counted(len(found.failed), 'run')} could not be stopped: repeat the command.")
        closes = scope if scope != EVERYTHING or not tenant else f"tenant:{tenant}"
        output.note(f"New runs may still come in; `linestop switch close {closes}` keeps them out.")
        return 1 if found.failed else 0

    if code := output.with_client(options["directory"], work):
        output.finish(code)


@asynccontextmanager
async def telling_of_delay(client: Client, directory: Path) -> AsyncGenerator[None]:
    """Say after two seconds what holds a stop up and what that means for the run, while it is tried again."""

    async def look() -> None:
        await anyio.sleep(TOLD_AFTER_S)
        if not client.connected or not await client.bus.wire.answers(within_s=ANSWER_WITHIN_S):
            cause = "The broker does not answer"
        elif broker_disk_is_full(state_directory(directory)):
            cause = full_sentence(state_directory(directory)).rstrip(".")
        else:
            cause = (
                "The broker answers, but does not say that the stop is stored (`linestop doctor` looks for the cause)"
            )
        output.note(f"{cause}. {NOT_CERTAIN}")

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()


def close(switches: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Close kill switches."""

    async def work(client: Client) -> frozenset[str]:
        closed = await client.kill_switches.close(*switches)
        await tell_of_unknown(client, switches)
        return closed

    _say_closed(output.with_client(options["directory"], work), as_json=options["as_json"])


def open_switches(switches: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Open kill switches."""

    async def work(client: Client) -> frozenset[str]:
        return await client.kill_switches.open(*switches)

    _say_closed(output.with_client(options["directory"], work), as_json=options["as_json"])


def list_switches(**options: Any) -> None:  # noqa: ANN401 - as click gives them
    """List the closed kill switches."""

    async def work(client: Client) -> frozenset[str]:
        return await client.kill_switches.closed()

    _say_closed(output.with_client(options["directory"], work, as_="client"), as_json=options["as_json"])


def _say_closed(closed: frozenset[str], *, as_json: bool) -> None:
    if as_json:
        output.say_json({"closed": sorted(closed)})
    elif closed:
        output.say(closed_sentence(closed))
    else:
        output.say("No kill switch is closed.")


def closed_sentence(closed: frozenset[str]) -> str:
    """What is closed, in one sentence."""
    if UNREADABLE in closed:
        return switch_closed(UNREADABLE)
    return f"Closed: {', '.join(sorted(closed))}. What a closed kill switch names starts nothing."
