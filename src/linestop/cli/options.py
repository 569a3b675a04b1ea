"""The declaration of a command: its options and help are here, its implementation is imported when it is called.

So ``linestop run --help`` answers at once: it imports neither the broker's client nor a database.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import click

CONFIG_FILE: Final = "linestop.toml"
DIRECTORY_DEFAULT: Final = ".linestop"

SHORT_RUN: Final = re.compile(r"last|[0-9a-f]{4,8}|(?=[0-9a-f-]{9,35}$)[0-9a-f]{8}-[0-9a-f-]*|[kr]-[0-9a-f]{4,39}")
"""``last``, or the beginning of an id that linestop gave: a UUID, or the digest of a key or of a refused task.

A name that a client chose is never completed: `order-1` must not mean `order-10`.
"""


class WholeNumber(click.IntRange):
    """A whole number within bounds; error messages call it "whole number"."""

    name = "whole number"


class Bytes(click.ParamType[int]):
    """A number of bytes, with a unit or without: ``200GiB``, ``1.5TB``, ``1073741824``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401 - click's
        """Read a size; an invalid one is reported by click."""
        match = _BYTES.fullmatch(str(value).strip())
        unit = match["unit"].upper() if match else ""
        if match is None or unit not in _UNITS:
            self.fail(f"'{value}' is not a size: write it as 200GiB, 1.5TB or a number of bytes.", param, ctx)
        return int(float(match["number"]) * _UNITS[unit])


_BYTES: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)")
_UNITS: Final = {
    "": 1, "B": 1, **{f"{prefix}IB": 1024 ** (n + 1) for n, prefix in enumerate("KMGT")},
    **{f"{prefix}B": 1000 ** (n + 1) for n, prefix in enumerate("KMGT")},
}  # fmt: skip

P = ParamSpec("P")
T = TypeVar("T")


def implemented_by(target: str) -> Callable[[Callable[[], None]], Callable[..., object]]:
    """Run the function ``<module>:<name>`` of this folder with the options of the declaration."""

    def decorate(declaration: Callable[[], None]) -> Callable[..., object]:
        @functools.wraps(declaration)
        def run_command(**options: Any) -> object:  # noqa: ANN401 - as click gives them
            if SHORT_RUN.fullmatch(options.get("run", "")) and "directory" in options and not options.get("file"):
                options["run"] = _whole_run_id(options["run"], options)
            return implementation_of(target)(**options)

        run_command.__dict__["target"] = target
        return run_command

    return decorate


def _whole_run_id(text: str, options: dict[str, Any]) -> str:
    """The full id of the run that a person named by ``last`` or by the beginning of its id."""
    # Imported here: a full id is used without reading the log.
    from linestop.cli import broker_client  # noqa: PLC0415
    from linestop.errors import NotFound  # noqa: PLC0415

    try:
        return broker_client.with_client(
            options["directory"], lambda client: client.find_run(text, tenant=options["tenant"]), as_="client"
        )
    except NotFound:
        # Some commands accept a run that does not exist yet, under a name that a client chose.
        if text == "last":
            raise
        return text


def implementation_of(target: str) -> Callable[..., object]:
    """Import the implementation of a command."""
    module, _, name = target.partition(":")
    implementation: Callable[..., object] = getattr(importlib.import_module(f"linestop.cli.{module}"), name)
    return implementation


def json_option(command: Callable[P, T]) -> Callable[P, T]:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print data as JSON, one document per line.")(command)


def nats_option(command: Callable[P, T]) -> Callable[P, T]:
    """Add ``--nats``."""
    text = "Address of the broker [LINESTOP_NATS, else linestop.toml, else the credential's]."
    return click.option("--nats", metavar="URL", help=text)(command)


def common_options(command: Callable[P, T]) -> Callable[P, T]:
    """Add the options of every command about runs: ``--dir``, ``--tenant``, ``--json``."""
    command = json_option(command)
    command = click.option(
        "--tenant",
        default=tenant_default,
        help="The tenant of the runs [LINESTOP_TENANT, else linestop.toml, else `default`].",
    )(command)
    return click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path),
        default=directory_default,
        help="The state folder, or a credential file [LINESTOP_DIR, else linestop.toml, else .linestop]. For a folder "
        "other than the project's own, the broker is the one that its credential names.",
    )(command)


def shown_option(command: Callable[P, T]) -> Callable[P, T]:
    """Add ``--shown``, which binds a decision to the question that was shown."""
    return click.option(
        "--shown",
        default="",
        metavar="DIGEST",
        help="The digest of the question that was shown, as `approvals` prints it.",
    )(command)


def person_options(command: Callable[P, T]) -> Callable[P, T]:
    """Add the options of every decision: ``--by`` and ``--why``."""
    command = click.option("--why", default="", help="The reason; it is stored permanently.")(command)
    return click.option("--by", default="", help="The person who decides; by default your user name.")(command)


def tenant_default() -> str:
    """The tenant of commands without ``--tenant``."""
    # Imported here: the help needs none of it, and without a project there is nothing to read.
    if not Path(CONFIG_FILE).exists() and not os.environ.get("LINESTOP_TENANT"):
        from linestop.schemas.defaults import DEFAULT_TENANT  # noqa: PLC0415

        return DEFAULT_TENANT
    from linestop.config.project_file import load_project  # noqa: PLC0415

    return load_project().config.tenant


def directory_default() -> str:
    """The state folder of commands without ``--dir``."""
    if not Path(CONFIG_FILE).exists():
        return os.environ.get("LINESTOP_DIR") or DIRECTORY_DEFAULT
    # Imported here: as above.
    from linestop.config.project_file import load_project  # noqa: PLC0415

    return str(load_project().directory)
