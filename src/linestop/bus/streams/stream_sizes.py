"""The sizes of the streams: chosen from the disk at set-up, and needed for a number of runs a day.

The figures of a run were measured with ``bench/sizes.py`` (nats-server 2.15.1, 2026-12-01): 150 runs of 1, 3, 10 and 20
turns, one tool call a turn, with arguments and results of 100 and of 900 bytes. No run needed more than these figures,
and runs of three or more turns needed at most a tenth less.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from linestop.bus.access.credentials import write_private
from linestop.bus.disk_space import MIB, free_bytes
from linestop.bus.server.recovery import INDEX_SHARE, MACHINE_SHARE, machine_bytes
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES, FIXED_BYTES, SMALL_STREAMS, StreamSizes
from linestop.errors import ConfigError
from linestop.schemas.broker_defaults import SPACE_FOR_NEW_WORK, STREAMS_DISK_SHARE
from linestop.schemas.defaults import RUNS_DAYS_MAX

SIZES_FILE: Final = Path("credentials") / "space.json"
"""The sizes chosen at set-up, in the state folder, beside the credentials that a process needs to create streams."""

TOTAL_MIN_BYTES: Final = 192 * MIB
SMALL_MIN_BYTES: Final = 4 * MIB
_SHARES: Final[Mapping[str, float]] = {
    "runs": 0.58,
    "blobs": 0.20,
    "outcomes": 0.09,
    "tasks": 0.05,
    "forks": 0.04,
    "ids": 0.04,
}
"""The shares of the streams that grow with the number of runs."""

RUN_BYTES: Final = 1_700
"""Bytes of every run in RUNS: opened, held, settled, sealed."""

TURN_BYTES: Final = 6_900
"""Bytes of a turn with one call in RUNS, without its texts."""

TEXT_COPIES: Final = 3
"""How often RUNS stores each byte of arguments and results: proposed, judged, finished."""

OUTCOME_BYTES: Final = 530
OUTCOME_TURN_BYTES: Final = 140
KEY_BYTES: Final = 326
ARCHIVE_SHARE: Final = 0.8
"""Bytes in the archive for each byte in RUNS; half of that after DuckDB has compressed them."""


class ExpectedLoad(msgspec.Struct, frozen=True, kw_only=True):
    """The load that an installation should handle.

    ``text_bytes`` is the size of the arguments of a call, of its result, and of the answer of a run. ``long_bytes`` is
    the total of a run's texts over 16 KiB, which are stored in BLOBS. RUNS stores runs for ``runs_days``, the other
    streams for ``days``.
    """

    runs_per_day: int
    turns: int
    text_bytes: int = 1_000
    long_bytes: int = 0
    days: int = RUNS_DAYS_MAX
    runs_days: int = RUNS_DAYS_MAX

    def retention_days(self, stream: str) -> int:
        """Return the number of days for which this stream stores a run's messages."""
        return min(self.days, self.runs_days) if stream == stream_names.RUNS else self.days


class StreamPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The space that one stream needs for a load, the space it has, and the number of days for which that suffices."""

    stream: str
    run_bytes: int
    day_bytes: int
    needed_bytes: int
    space_bytes: int
    days: float

    @property
    def fits(self) -> bool:
        """Whether the stream has the space it needs."""
        return self.needed_bytes <= self.space_bytes


class SizePlan(msgspec.Struct, frozen=True, kw_only=True):
    """The needs of a load.

    ``runs_per_day_max`` is the load that the present sizes can store for those days. ``memory_bytes`` is the broker's
    memory, ``disk_bytes`` the free disk space at set-up from which the streams become large enough.
    """

    load: ExpectedLoad
    streams: tuple[StreamPlan, ...]
    archive_day_bytes: int
    needed_bytes: int
    disk_bytes: int
    memory_bytes: int
    runs_per_day_max: int

    @property
    def fits(self) -> bool:
        """Whether every stream has the space it needs."""
        return all(stream.fits for stream in self.streams)


def sizes_for(free: int, *, memory: int = 0) -> StreamSizes:
    """Choose the sizes of new streams.

    Args:
        free: Free bytes on the disk of the streams.
        memory: Bytes of memory of the broker's machine, 0 if unknown. A broker has an index in memory, so with little
            memory a large disk is of no use.
    """
    total = int(free * STREAMS_DISK_SHARE)
    if memory:
        total = min(total, int(memory * MACHINE_SHARE / INDEX_SHARE))
    total = max(total, TOTAL_MIN_BYTES)
    small = min(max(total // 128, SMALL_MIN_BYTES), DEFAULT_SIZES.small) // MIB * MIB
    rest = total - SMALL_STREAMS * small - FIXED_BYTES
    return StreamSizes(small=small, **{name: int(rest * share) // MIB * MIB for name, share in _SHARES.items()})


def stored_sizes(directory: Path) -> StreamSizes | None:
    """Return the sizes chosen for this state folder; None if none were.

    Raises:
        ConfigError: the file with the sizes cannot be read.
    """
    path = directory / SIZES_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=StreamSizes)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"{path} does not contain the sizes of streams ({error}): restore it from a backup."
        ) from None


def store_sizes(directory: Path, sizes: StreamSizes) -> None:
    """Store the chosen sizes, so that every later start uses the same."""
    (directory / SIZES_FILE).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(directory / SIZES_FILE, msgspec.json.format(msgspec.json.encode(sizes)))


def local_sizes(directory: Path) -> StreamSizes:
    """Return the sizes for a broker that stores on the disk of ``directory`` on this machine."""
    return sizes_for(free_bytes(directory), memory=machine_bytes())


def embedded_sizes(directory: Path) -> tuple[StreamSizes, bool]:
    """Return the sizes of an embedded broker's streams, and whether they were chosen just now.

    A state folder with streams and without sizes comes from an older linestop, which used fixed sizes.
    """
    if (stored := stored_sizes(directory)) is not None:
        return stored, False
    if (directory / "jetstream").exists():
        return DEFAULT_SIZES, False
    return local_sizes(directory), True


def plan_sizes(load: ExpectedLoad, sizes: StreamSizes) -> SizePlan:
    """Compute the needs of a load in streams of these sizes. New work is refused at 90 %, so a tenth is added."""
    run_bytes = {
        stream_names.RUNS: RUN_BYTES + load.turns * TURN_BYTES + TEXT_COPIES * load.turns * load.text_bytes,
        stream_names.OUTCOMES: OUTCOME_BYTES + load.turns * OUTCOME_TURN_BYTES + load.text_bytes,
        stream_names.BLOBS: load.long_bytes,
        stream_names.bucket_stream(stream_names.IDS_BUCKET): KEY_BYTES,
    }
    available_bytes = {
        stream_names.RUNS: sizes.runs,
        stream_names.OUTCOMES: sizes.outcomes,
        stream_names.BLOBS: sizes.blobs,
        stream_names.bucket_stream(stream_names.IDS_BUCKET): sizes.ids,
    }
    stream_plans = tuple(
        _stream_plan(name, size, available_bytes[name], load) for name, size in run_bytes.items() if size
    )
    growing_bytes = sum(line.needed_bytes for line in stream_plans)
    retained = {name: size * load.retention_days(name) for name, size in run_bytes.items() if size}
    runs_per_day_max = min(
        int(available_bytes[name] * SPACE_FOR_NEW_WORK / stored) for name, stored in retained.items()
    )
    # Tasks, control messages, alerts and other small streams do not grow with the retention of runs.
    fixed_bytes = (
        DEFAULT_SIZES.total - DEFAULT_SIZES.runs - DEFAULT_SIZES.outcomes - DEFAULT_SIZES.blobs - DEFAULT_SIZES.ids
    )
    return SizePlan(
        load=load,
        streams=stream_plans,
        archive_day_bytes=int(run_bytes[stream_names.RUNS] * ARCHIVE_SHARE) * load.runs_per_day,
        needed_bytes=growing_bytes + fixed_bytes,
        disk_bytes=_disk_for({line.stream: line.needed_bytes for line in stream_plans}),
        memory_bytes=int(growing_bytes * INDEX_SHARE),
        runs_per_day_max=runs_per_day_max,
    )


def _disk_for(needed: Mapping[str, int]) -> int:
    """Return the smallest disk for which ``sizes_for`` gives each of these streams the needed bytes."""
    shares = {
        stream_names.RUNS: "runs",
        stream_names.OUTCOMES: "outcomes",
        stream_names.BLOBS: "blobs",
        stream_names.bucket_stream(stream_names.IDS_BUCKET): "ids",
    }
    # Sizes are whole mebibytes.
    rest = max((size + MIB) / _SHARES[shares[name]] for name, size in needed.items())
    return int((rest + SMALL_STREAMS * DEFAULT_SIZES.small + FIXED_BYTES) / STREAMS_DISK_SHARE) + MIB


def _stream_plan(name: str, run_bytes: int, available_bytes: int, load: ExpectedLoad) -> StreamPlan:
    day_bytes = run_bytes * load.runs_per_day
    return StreamPlan(
        stream=name,
        run_bytes=run_bytes,
        day_bytes=day_bytes,
        needed_bytes=int(day_bytes * load.retention_days(name) / SPACE_FOR_NEW_WORK),
        space_bytes=available_bytes,
        days=round(available_bytes * SPACE_FOR_NEW_WORK / day_bytes, 1),
    )
