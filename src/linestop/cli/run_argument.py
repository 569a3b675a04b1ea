"""The argument RUN of a command: a run's id, ``last``, or the beginning of an id that linestop gave."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar, cast

import click

from linestop.cli import completion

if TYPE_CHECKING:
    from linestop.client import Client

SHORT_RUN: Final = re.compile(r"last|[0-9a-f]{4,8}|(?=[0-9a-f-]{9,35}$)[0-9a-f]{8}-[0-9a-f-]*|[kr]-[0-9a-f]{4,39}")
"""``last``, or the beginning of an id that linestop gave: a UUID, or the digest of a key or of a refused task.

A name that a client chose is never completed: `order-1` must not mean `order-10`.
"""

P = ParamSpec("P")
T = TypeVar("T")


def run_argument(command: Callable[P, T]) -> Callable[P, T]:
    """Add RUN to a command that has ``common_options``; the command is called with the full id."""
    return click.argument("run", shell_complete=completion.runs)(_with_full_id(command))


def _with_full_id(command: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(command)
    def run_command(*args: P.args, **kwargs: P.kwargs) -> T:
        run = str(kwargs["run"])
        # The run of a file is looked up in that file.
        if SHORT_RUN.fullmatch(run) and not kwargs.get("file"):
            kwargs["run"] = _full_id(run, cast("Path", kwargs["directory"]), str(kwargs["tenant"]))
        return command(*args, **kwargs)

    return run_command


def _full_id(text: str, directory: Path, tenant: str) -> str:
    # Imported here: a full id is used without reading the log.
    from linestop.cli import broker_client  # noqa: PLC0415

    return broker_client.with_client(directory, lambda client: full_id(client, text, tenant=tenant), as_="client")


async def full_id(client: Client, text: str, *, tenant: str) -> str:
    """The full id of the run that RUN means; RUN itself if it is not short, or no run's id begins with it.

    Raises:
        NotFound: RUN is ``last``, and there is no run.
        InputError: several ids begin with RUN.
    """
    from linestop.errors import NotFound  # noqa: PLC0415

    if not SHORT_RUN.fullmatch(text):
        return text
    try:
        return await client.find_run(text, tenant=tenant)
    except NotFound:
        # Some commands accept a run that does not exist yet, under a name that a client chose.
        if text == "last":
            raise
        return text
