"""Declaring a command: its options and its help here, what it does elsewhere, imported when it is called.

So ``linestop run --help`` answers at once: it imports neither the broker's client nor a database.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import click

CONFIG_FILE: Final = "linestop.toml"
DIRECTORY_DEFAULT: Final = ".linestop"
TENANT_DEFAULT: Final = "default"

P = ParamSpec("P")
T = TypeVar("T")


def does(target: str) -> Callable[[Callable[[], None]], Callable[..., object]]:
    """Let a declaration do what the function ``<module>:<name>`` of this folder does, with the same arguments."""

    def decorate(declared: Callable[[], None]) -> Callable[..., object]:
        @functools.wraps(declared)
        def call(**given: Any) -> object:  # noqa: ANN401 - as click gives them
            return body_of(target)(**given)

        call.__dict__["target"] = target
        return call

    return decorate


def body_of(target: str) -> Callable[..., object]:
    """Import what a command does."""
    module, _, name = target.partition(":")
    body: Callable[..., object] = getattr(importlib.import_module(f"linestop.cli.{module}"), name)
    return body


def as_json(command: Callable[P, T]) -> Callable[P, T]:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print data as JSON, one document a line.")(command)


def nats(command: Callable[P, T]) -> Callable[P, T]:
    """Add ``--nats``."""
    text = "Address of the broker [LINESTOP_NATS, else linestop.toml, else the credential's]."
    return click.option("--nats", metavar="URL", help=text)(command)


def common(command: Callable[P, T]) -> Callable[P, T]:
    """Add what every command about runs takes: ``--dir``, ``--tenant``, ``--json``."""
    command = as_json(command)
    command = click.option(
        "--tenant", default=_tenant, help="Whose runs [LINESTOP_TENANT, else linestop.toml, else `default`]."
    )(command)
    return click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path),
        default=_directory,
        help="The state directory, or a credential file [LINESTOP_DIR, else linestop.toml, else .linestop]. Another "
        "than the project's is asked at the broker that its credential names.",
    )(command)


def shown(command: Callable[P, T]) -> Callable[P, T]:
    """Add what binds a decision to what was shown."""
    return click.option(
        "--shown",
        default="",
        metavar="DIGEST",
        help="What was shown, as `approvals` prints it.",
    )(command)


def person(command: Callable[P, T]) -> Callable[P, T]:
    """Add what every decision takes: ``--by`` and ``--why``."""
    command = click.option("--why", default="", help="The reason; it is kept for ever.")(command)
    return click.option("--by", default="", help="Who says so; by default your user name.")(command)


def _tenant() -> str:
    if not Path(CONFIG_FILE).exists() and not os.environ.get("LINESTOP_TENANT"):
        return TENANT_DEFAULT
    # Imported here: without a project there is nothing to read, and the help reads nothing.
    from linestop.project import load_project  # noqa: PLC0415

    return load_project().config.tenant


def _directory() -> str:
    if not Path(CONFIG_FILE).exists():
        return os.environ.get("LINESTOP_DIR") or DIRECTORY_DEFAULT
    # Imported here: as above.
    from linestop.project import load_project  # noqa: PLC0415

    return str(load_project().directory)
