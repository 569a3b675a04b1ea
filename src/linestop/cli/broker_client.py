"""A command's connection to the broker, with the credential of its state folder."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import anyio
import msgspec

from linestop.bus.access.credentials import credential_path, require_urls
from linestop.bus.access.rights import CredentialName
from linestop.bus.disk_space import broker_disk_is_full, disk_full_message
from linestop.bus.jetstream.retry import NotStored
from linestop.cli.output import printing
from linestop.cli.output.closed_pipes import until_reader_is_gone
from linestop.client import Client
from linestop.client.credentials import identify, state_directory
from linestop.config.project_file import CONFIG_FILE, load_project

T = TypeVar("T")

CONNECTION_POLL_S: Final = 1.0
POLLS_BEFORE_NOTE: Final = 3
"""A broker that restarts answers again by then."""


def client_of(directory: Path, *, as_: CredentialName) -> Client:
    """A client, not yet connected, with the credential ``as_`` of the state directory.

    The broker is where the environment says, else ``linestop.toml`` if the directory is that project's own, else
    the credential: the credential of one installation is not for the broker of another.

    Raises:
        ConfigError: ``linestop.toml`` names a broker, and the directory is not in its folder.
    """
    url = os.environ.get("LINESTOP_NATS", "")
    if url:
        require_urls(url, "LINESTOP_NATS")
    elif Path(CONFIG_FILE).exists():
        project = load_project()
        if state_directory(directory).resolve() == project.directory.resolve():
            url = project.broker_url(directory if directory.is_file() else credential_path(directory, as_))
    identity = identify(directory, as_=as_)
    if url:
        credential = msgspec.structs.replace(identity.credential, url=url)
        identity = msgspec.structs.replace(identity, credential=credential)
    return Client(identity, name="cli")


def with_client(directory: Path, work: Callable[[Client], Awaitable[T]], *, as_: CredentialName = "operator") -> T:
    """Connect as ``client_of`` says, do ``work``, and return what it returns."""

    async def main() -> T:
        async with client_of(directory, as_=as_) as client:
            return await work(client)

    return run_main(directory, main)


def run_main(directory: Path, main: Callable[[], Awaitable[T]]) -> T:
    """Return what ``main`` returns.

    Raises:
        NotStored: the broker stores nothing; if that is because the disk of this state folder is full, it says so.
    """
    try:
        return anyio.run(main)
    except NotStored:
        if broker_disk_is_full(state := state_directory(directory)):
            raise NotStored(disk_full_message(state)) from None
        raise


@asynccontextmanager
async def note_lost_connection(client: Client) -> AsyncGenerator[None]:
    """Print a note if the broker does not answer for 3 s; following continues when it answers again.

    Raises:
        BrokenPipeError: the reader of the output is gone; a followed run may print nothing for hours.
    """
    no_reader = anyio.CancelScope()

    async def watch_connection() -> None:
        polls_without_connection = 0
        while True:
            await anyio.sleep(CONNECTION_POLL_S)
            polls_without_connection = 0 if client.connected else polls_without_connection + 1
            if polls_without_connection == POLLS_BEFORE_NOTE:
                printing.note("The broker does not answer; waiting for it.")

    async def end_when_reader_is_gone() -> None:
        await until_reader_is_gone()
        no_reader.cancel()

    tasks = [asyncio.create_task(watch_connection()), asyncio.create_task(end_when_reader_is_gone())]
    try:
        with no_reader:
            yield
    finally:
        for task in tasks:
            task.cancel()
    if no_reader.cancelled_caught:
        raise BrokenPipeError
