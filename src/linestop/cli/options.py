"""The options and types of options that several commands have."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import click

CONFIG_FILE: Final = "linestop.toml"
DIRECTORY_DEFAULT: Final = ".linestop"


class WholeNumber(click.IntRange):
    """A whole number within bounds; error messages call it "whole number"."""

    name = "whole number"


def runs_days_max() -> int:
    """The longest time for which RUNS keeps a run, in days."""
    # Imported here: the help of a command needs no bounds.
    from linestop.schemas.defaults import RUNS_DAYS_MAX  # noqa: PLC0415

    return RUNS_DAYS_MAX


class RunsDays(click.ParamType[int]):
    """Days for which RUNS keeps runs: at least 1, at most ``runs_days_max``."""

    name = "days"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401 - click's
        """Read a number of days; one out of bounds is reported by click."""
        return WholeNumber(min=1, max=runs_days_max()).convert(value, param, ctx)


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
    "": 1,
    "B": 1,
    **{f"{prefix}IB": 1024 ** (n + 1) for n, prefix in enumerate("KMGT")},
    **{f"{prefix}B": 1000 ** (n + 1) for n, prefix in enumerate("KMGT")},
}

P = ParamSpec("P")
T = TypeVar("T")


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
