"""A server that reads its streams gets the time and the memory that it needs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped] # its stubs are a separate package
import pytest

from linestop.bus.disk_space import MIB
from linestop.bus.server.embedded import EmbeddedServer
from linestop.bus.server.recovery import MEMORY_VARIABLE, Progress, memory_limit, stored_bytes


def _work(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_a_working_process_makes_progress_and_an_idle_one_does_not(tmp_path: Path) -> None:
    """Processor time counts, also without a new line in the log; so does a new line."""
    log = tmp_path / "nats.log"
    progress = Progress(os.getpid(), log, now=0.0)
    _work(0.15)
    assert progress.no_progress_s(25.0) == 0.0
    assert progress.no_progress_s(54.0) == 29.0
    log.write_text("recovered")
    assert progress.no_progress_s(60.0) == 0.0
    assert progress.no_progress_s(95.0) == 35.0


def test_reading_bytes_counts_as_progress(tmp_path: Path) -> None:
    """A slow disk takes no processor time."""
    (tmp_path / "1.blk").write_bytes(bytes(MIB))
    progress = Progress(os.getpid(), tmp_path / "nats.log", now=0.0)
    assert len((tmp_path / "1.blk").read_bytes()) == MIB
    assert progress.no_progress_s(40.0) == 0.0


@pytest.mark.parametrize(
    ("stored", "machine", "limit"),
    [
        (0, 0, "200MiB"),
        (1600 * MIB, 0, "600MiB"),
        (1600 * MIB, 1024 * MIB, "512MiB"),
        (1600 * MIB, 256 * MIB, "200MiB"),
    ],
)
def test_the_memory_limit_grows_with_the_stored_bytes_up_to_half_of_the_machine(
    stored: int, machine: int, limit: str
) -> None:
    """With too little recovery is slow; too much would take the memory of the actors."""
    assert memory_limit(stored, machine=machine) == limit


def test_stored_bytes_include_all_subfolders(tmp_path: Path) -> None:
    """Also in a missing folder."""
    assert stored_bytes(tmp_path / "none") == 0
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "1.blk").write_bytes(bytes(10))
    (tmp_path / "a" / "b" / "2.blk").write_bytes(bytes(5))
    assert stored_bytes(tmp_path) == 15


@pytest.mark.anyio
@pytest.mark.broker
async def test_a_memory_limit_in_the_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment wins over what is derived."""
    monkeypatch.setenv(MEMORY_VARIABLE, "333MiB")
    async with EmbeddedServer(tmp_path) as server:
        assert psutil.Process(server.pid).environ()[MEMORY_VARIABLE] == "333MiB"
