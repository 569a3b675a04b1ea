"""The completion of runs and agents in the shell: quick and silent, or empty.

A person who presses Tab waits at the prompt: on any error (no broker, no project, an unreadable file) nothing is
completed and nothing is printed.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from linestop.client import Client

TIMEOUT_S: Final = 0.7
"""The time for a completion, imports included: with the start of Python it is less than a second."""

RUNS_OFFERED_MAX: Final = 200
LAST: Final = "last"


def runs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The tenant's newest runs that begin with the typed text, newest first, and ``last``."""

    async def work(client: Client, tenant: str) -> Sequence[str]:
        return [*await client.newest(RUNS_OFFERED_MAX, tenant=tenant), LAST]

    return _items(_from_broker(ctx, work), incomplete)


def agents(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The deployed agents."""

    async def work(client: Client, _tenant: str) -> Sequence[str]:
        # Imported here, as in the whole command line: a completion must not wait for imports that it does not need.
        from linestop.bus.stores.agent_versions import AgentStore  # noqa: PLC0415
        from linestop.bus.streams import stream_names  # noqa: PLC0415

        return sorted(await AgentStore(client.bus.bucket(stream_names.AGENTS_BUCKET)).names())

    return _items(_from_broker(ctx, work), incomplete)


def agent_files(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The agents in the project's files."""

    def read_names() -> Sequence[str]:
        from linestop.config.project_file import load_project  # noqa: PLC0415 - as above

        _enter_project(ctx)
        return [file.stem for file in load_project().agent_files()]

    return _items(_names_in_time(read_names), incomplete)


def _from_broker(ctx: click.Context, work: Callable[..., object]) -> Sequence[str]:
    """The names that ``work`` returns with a client of the command's state folder."""

    def read_names() -> Sequence[str]:
        from linestop.cli import broker_client, options  # noqa: PLC0415 - as above

        _enter_project(ctx)
        directory = Path(ctx.params.get("directory") or options.directory_default())
        tenant = ctx.params.get("tenant") or options.tenant_default()
        return broker_client.with_client(directory, lambda client: work(client, tenant), as_="client")  # type: ignore[arg-type, return-value] # pyright: ignore[reportArgumentType, reportUnknownVariableType] # it is a coroutine function

    return _names_in_time(read_names)


def _enter_project(ctx: click.Context) -> None:
    """Change to the folder of ``--project`` or its variable; the command itself does not run for a completion."""
    folder = ctx.find_root().params.get("project") or os.environ.get("LINESTOP_PROJECT")
    if folder:
        os.chdir(folder)


def _names_in_time(read_names: Callable[[], Sequence[str]]) -> Sequence[str]:
    """The names that ``read_names`` returns in time; else the process exits: a host lookup cannot be cancelled."""
    names: list[str] = []

    def work() -> None:
        with contextlib.suppress(Exception, SystemExit):
            names.extend(read_names())

    # The thread ends with the process; its messages are discarded.
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):  # noqa: PTH123 - a device
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(TIMEOUT_S)
        if thread.is_alive():
            os._exit(0)
    return names


def _items(names: Sequence[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
