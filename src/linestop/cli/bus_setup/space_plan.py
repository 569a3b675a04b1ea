"""The space that a number of runs a day needs, and whether it is there: ``linestop bus plan``."""

from __future__ import annotations

from linestop.bus.access.credentials import (
    credential_path,
)
from linestop.bus.disk_space import GIB, format_bytes, free_bytes, is_broker_directory
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES, StreamSizes
from linestop.bus.streams.stream_sizes import ExpectedLoad, SizePlan, local_sizes, sizes_for, stored_sizes
from linestop.cli.output import printing
from linestop.config.project_file import Project


def sizes_to_plan_for(project: Project, disk: int | None) -> tuple[StreamSizes, str]:
    """The sizes of the streams that the plan is compared with, and where they come from, in words."""
    directory = project.directory
    space = stored_sizes(directory)
    if disk is not None:
        return sizes_for(disk), f"the sizes that `bus init --disk` would choose for {format_bytes(disk)}"
    if space is not None:
        return space, f"the sizes that were chosen for {directory}"
    if is_broker_directory(directory) or credential_path(directory, "bootstrap").exists():
        return DEFAULT_SIZES, f"the sizes of {directory}, made by an older linestop"
    free = format_bytes(free_bytes(directory))
    return local_sizes(directory), f"the sizes that set-up would choose for {free} free here"


def print_plan(load: ExpectedLoad, load_plan: SizePlan, *, sizes_source: str, archive_days: int) -> None:
    """Print the plan: a row for each stream, then room, memory, archive, and the remedy if it does not fit."""
    rows = [
        (
            line.stream,
            f"{line.run_bytes / 1024:,.1f} KiB",
            format_bytes(line.day_bytes),
            format_bytes(line.needed_bytes),
            format_bytes(line.space_bytes),
            f"{line.days:,.0f}",
            "yes" if line.fits else "no",
        )
        for line in load_plan.streams
    ]
    printing.print_table(
        ("stream", "per run", "per day", _needed_heading(load), "size", "days until full", "fits"), rows
    )
    day, memory = format_bytes(load_plan.archive_day_bytes), format_bytes(load_plan.memory_bytes)
    printing.print_text(f"sizes    {sizes_source}")
    printing.print_text(f"room     for {load_plan.runs_per_day_max:,} such runs a day, kept for {load.days} days")
    printing.print_text(
        f"streams  {format_bytes(load_plan.needed_bytes)} needed in all, and {memory} of the "
        f"broker's memory for their index"
    )
    grows = _archive_text(load_plan.archive_day_bytes, archive_days)
    printing.print_text(f"archive  {day} a day on the recorder's disk, {grows}")
    if not load_plan.fits:
        disk_gib = -(-load_plan.disk_bytes // GIB)
        printing.print_text(
            f"remedy   set up with {disk_gib} GiB free (`bus init --disk {disk_gib}GiB`), or enlarge streams:"
        )
        printing.print_text("         docs/operations.md#changing-what-no-credential-may")


def _needed_heading(load: ExpectedLoad) -> str:
    """The heading of a column; RUNS may keep its runs for fewer days than the other streams."""
    runs = load.retention_days(stream_names.RUNS)
    days = f"needed for {load.days} days"
    return days if runs == load.days else f"{days}, {stream_names.RUNS} for {runs}"


def _archive_text(day_bytes: int, database_days: int) -> str:
    """How fast the archive grows."""
    if not database_days:
        return f"{format_bytes(365 * day_bytes)} a year in its database (`keep.archive_days`)"
    database = format_bytes(database_days * day_bytes)
    return f"{database} in its database; runs older than {database_days} days are in Parquet files"
