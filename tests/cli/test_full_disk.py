"""A full disk under the state folder: every command names it, and once there is room everything continues by itself."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import anyio
import msgspec
import pytest
from anyio.to_thread import run_sync
from nats.aio.msg import Msg
from tests.small_disk import fill

from linestop.bus import jetstream_api
from linestop.bus.connection import Connection, connect
from linestop.bus.jetstream import JetStream, retry
from linestop.bus.jetstream.log_probe import probe_log
from linestop.bus.jetstream.retry import NotStored
from linestop.bus.server import store_health
from linestop.bus.server.embedded import EmbeddedServer, ServerEvent
from linestop.bus.server.store_health import StoreWatch, StuckStream, read_stuck_stream
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import set_up
from linestop.bus.wire import Wire
from linestop.cli.main import run
from linestop.cli.runs import stop_runs
from linestop.errors import Unreachable
from linestop.schemas.broker_defaults import DISK_FULL_BYTES

WITHIN_S = 20.0
SUBJECT = "runs.acme.run-1.planner.proposed.{}"


class ServerEvents:
    """The events of the server, and a way to wait for them."""

    def __init__(self) -> None:
        self.events: list[ServerEvent] = []
        self._new = anyio.Event()

    def __call__(self, event: ServerEvent) -> None:
        self.events.append(event)
        self._new.set()
        self._new = anyio.Event()

    async def of(self, kind: str) -> ServerEvent:
        """The first of that kind, when it is there."""
        with anyio.fail_after(WITHIN_S):
            while True:
                for event in self.events:
                    if event.kind == kind:
                        return event
                await self._new.wait()


async def do_not_watch_store(_watch: StoreWatch) -> None:
    """Stand for a supervisor that there is not."""


@asynccontextmanager
async def planner_on(server: EmbeddedServer) -> AsyncGenerator[Wire]:
    """A planner's connection to a server that is set up and holds one event."""
    async with await connect(server.credential("bootstrap"), name="test") as connection:
        await set_up(connection)
    async with await connect(server.credential("planner"), name="test") as planner:
        wire = JetStream(planner).wire
        await wire.request(SUBJECT.format(1), b"{}")
        yield wire


async def break_runs(wire: Wire, file: Path) -> None:
    """Fill the disk and have RUNS notice it."""
    fill(file)
    with pytest.raises(Unreachable):
        await wire.request(SUBJECT.format(2), b"x" * 8192, timeout_s=0.3)


@pytest.mark.anyio
@pytest.mark.broker
async def test_a_full_disk_is_reported_and_recovers(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``doctor``, ``health`` and ``stop`` name the remedy; once there is room, the log accepts events again."""
    monkeypatch.chdir(small_disk)
    # The time for which a request is repeated is not tested here.
    monkeypatch.setattr(retry.RetryPolicy.__init__, "__kwdefaults__", {"within_s": 0.5})
    monkeypatch.setattr(stop_runs, "NOTE_AFTER_S", 1.0)
    state, server_events = small_disk / ".linestop", ServerEvents()
    async with EmbeddedServer(state, on_event=server_events) as server, planner_on(server) as wire:
        # There is no worker, which is not tested here.
        assert await run_sync(run, ["health"]) == 1
        assert "stores messages, with" in capsys.readouterr().out

        await break_runs(wire, small_disk / "other-data")
        for command in (["health"], ["stop", "run-1", "--beforehand"], ["doctor"]):
            assert await run_sync(run, command) == 8, command
            printed = " ".join("".join(capsys.readouterr()).split())
            assert f"The disk with the state folder {state} is full (0.0 MiB free)" in printed, command
            assert str(state / "nats.log") in printed, command
            # A person who stops a run is told the cause before the last try is over.
            assert (f"{stop_runs.NOT_STORED_YET} linestop:" in printed) == (command[0] == "stop"), printed
        assert "is full" in (await server_events.of("stuck")).sentence

        (small_disk / "other-data").unlink()
        await server_events.of("restarted")
        assert await wire.wait_connected(within_s=WITHIN_S)
        await wire.request(SUBJECT.format(2), b"x" * 8192)
        assert await run_sync(run, ["health"]) == 1
    assert [event.kind for event in server_events.events] == ["started", "stuck", "stuck", "restarted", "stopped"]
    assert "could not be written to" in server_events.events[2].sentence


@pytest.mark.anyio
@pytest.mark.broker
async def test_a_broken_log_is_detected_without_writing_to_it(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a broker that is not restarted, ``health`` fails although there is room, and it leaves no event behind."""
    monkeypatch.chdir(small_disk)
    monkeypatch.setattr(StoreWatch, "run", do_not_watch_store)
    async with EmbeddedServer(small_disk / ".linestop") as server, planner_on(server) as wire:
        await break_runs(wire, small_disk / "other-data")
        (small_disk / "other-data").unlink()
        async with await connect(server.credential("client"), name="test") as client:
            await probe_log(JetStream(client).wire, client.credential)
        with pytest.raises(NotStored, match="RUNS does not store: usually the disk"):
            await probe_log(wire, server.credential("planner"))
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(stop_runs, "NOTE_AFTER_S", 1.0)
        monkeypatch.setattr(retry.RetryPolicy.__init__, "__kwdefaults__", {"within_s": 0.5})
        assert await run_sync(run, ["stop", "run-1", "--beforehand"]) == 8
        printed = " ".join(capsys.readouterr().err.split())
        assert printed.startswith("The broker answers, but does not confirm that the stop is stored")
        assert stop_runs.NOT_STORED_YET in printed
        info = msgspec.json.decode((await wire.request(jetstream_api.stream_info(stream_names.RUNS))).data)
        assert info["state"]["messages"] == 1


def test_only_a_failed_write_is_stuck() -> None:
    """A server that is unwell for another reason is not started again for it."""
    answer = b'{"server":{},"data":{"status":"unavailable","error":"%s"}}'
    stuck = answer % rb"JetStream stream 'LINESTOP \u003e RUNS' write error: write 1.blk: no space left on device"
    assert read_stuck_stream(stuck) == StuckStream("RUNS", "write 1.blk: no space left on device")
    assert read_stuck_stream(answer % rb"JetStream stream 'LINESTOP \u003e RUNS' is not current") is None
    assert read_stuck_stream(b'{"data":{"status":"ok"}}') is None


class Ill:
    """A server's health: a stream of it cannot be written to."""

    async def request(self, subject: str) -> Msg:
        """As ``Connection``."""
        error = "JetStream stream 'LINESTOP > RUNS' write error: no space left on device"
        data = msgspec.json.encode({"data": {"status": "unavailable", "error": error}})
        return Msg(_client=cast("Any", None), subject=subject, data=data)


async def restarts(monkeypatch: pytest.MonkeyPatch, free: Callable[[int], int], *, seconds: int) -> list[int]:
    """The seconds at which a stuck server is restarted, on a disk whose free space is given for each second."""
    now, at = 0, list[int]()

    async def restart() -> None:
        at.append(now)

    def free_bytes(_directory: Path) -> int:
        return free(now)

    def is_full(_directory: Path) -> bool:
        return free(now) < DISK_FULL_BYTES

    monkeypatch.setattr(store_health, "free_bytes", free_bytes)
    monkeypatch.setattr(store_health, "is_full", is_full)
    monkeypatch.setattr(time, "monotonic", lambda: float(now))
    watch = StoreWatch(store_health.new_supervisor(""), Path(), report=lambda _: None, restart=restart)
    for now in range(1, seconds + 1):  # noqa: B007 - read by the functions above
        await watch.check(cast("Connection", Ill()))
    return at


@pytest.mark.anyio
async def test_room_that_was_made_is_used_at_once_however_often_the_disk_was_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pause between restarts is for a broken disk: there it grows, but free space ends it at once."""
    gib = 1024**3

    def fills_again(second: int) -> int:
        return 0 if second % 10 < 5 else gib

    assert {*range(5, 100, 10)} <= {*await restarts(monkeypatch, fills_again, seconds=100)}
    broken = await restarts(monkeypatch, lambda _: gib, seconds=100)
    assert [later - sooner for sooner, later in pairwise(broken)] == [2, 4, 8, 16, 32]

    def freed(second: int) -> int:
        return gib if second < 50 else 2 * gib

    assert await restarts(monkeypatch, freed, seconds=60) == [1, 3, 7, 15, 31, 50, 54]
