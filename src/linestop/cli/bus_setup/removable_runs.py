"""The runs that may be removed early from an outside broker's log, and the commands for it: ``linestop bus rotate``."""

from __future__ import annotations

from pathlib import Path

import anyio

from linestop.archive.duckdb_file import ArchiveFile
from linestop.archive.query_socket import ask_reach
from linestop.archive.requests import Reach
from linestop.bus.disk_space import is_broker_directory
from linestop.bus.streams import stream_names
from linestop.cli.output import printing
from linestop.errors import ConfigError, NotFound
from linestop.runtime.housekeeping.log_rotation import Cut


def refuse_broker_of_dev(directory: Path) -> None:
    """Check that the broker is an outside one.

    Raises:
        ConfigError: the state folder belongs to ``linestop dev``.
    """
    if is_broker_directory(directory):
        raise ConfigError(
            f"The broker of {directory} belongs to `linestop dev`, which removes old runs every hour: set [keep] "
            "runs_days in linestop.toml and restart it."
        )


def print_cut(cut: Cut, keep_days: int, *, as_json: bool) -> None:
    """Print until when events may be removed, why no later, and the commands that remove them."""
    if as_json:
        printing.print_json(
            {"before": cut.before, "held_by": cut.held_by, "commands": cut.manual_commands() if cut.before else ""}
        )
        return
    if cut.held_by:
        printing.note(f"{stream_names.RUNS} keeps more than {keep_days} days: {cut.held_by}.")
    if cut.before is None:
        printing.note("Nothing can be removed now.")
        return
    printing.note(
        f"Events from before {cut.before:%Y-%m-%d %H:%M} UTC may be removed. Run this within the hour, as the broker's"
    )
    printing.note("administrator: the first command removes them, the second lets RUNS keep 90 days again.")
    printing.print_text(cut.manual_commands())


async def reach_of(path: Path) -> Reach:
    """How far the archive of this state folder has read the log.

    Raises:
        NotFound: there is no archive.
    """
    if not await anyio.Path(path).is_file():
        raise NotFound(
            f"There is no archive in '{path.parent}', and unarchived runs must stay in the log: run this where "
            "the recorder's archive is, or name its folder with --dir."
        )
    found = await ask_reach(path)
    if found is not None:
        return found
    file = ArchiveFile(path)
    try:
        return file.reach()
    finally:
        file.close()
