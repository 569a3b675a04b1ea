"""Sealed and archived runs are removed from the log as early as the operator sets; an open run never loses an event."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.to_thread
import msgspec
import pytest
from tests.stack import Stack, command, stack

from linestop.archive.duckdb_file import ArchiveFile
from linestop.archive.query_socket import QuerySocket
from linestop.archive.requests import ARCHIVE_FILE, Reach
from linestop.archive.writer import Archive
from linestop.bus import jetstream_api
from linestop.bus.connection import Connection, connect
from linestop.bus.disk_space import MIB
from linestop.bus.interfaces import StoredMessage
from linestop.bus.jetstream import JetStream
from linestop.bus.jetstream.reads import Reader
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import BusLayout, set_up
from linestop.bus.streams.stream_definitions import RUNS_RETENTION_NS, SECOND_NS, StreamSizes
from linestop.cli.bus_setup.removable_runs import reach_of
from linestop.client import Client
from linestop.errors import Refused, Unreachable
from linestop.runtime.housekeeping import log_rotation
from linestop.runtime.housekeeping.log_rotation import Cut, Rotation, find_cut, rotate
from linestop.schemas.defaults import Limits
from linestop.schemas.messages import run_of_key
from linestop.schemas.subjects import RunId, TenantId

pytestmark = [pytest.mark.anyio, pytest.mark.broker]
TENANT = TenantId("default")
SMALL = StreamSizes(runs=16 * MIB, forks=MIB, blobs=MIB, tasks=MIB, outcomes=4 * MIB, ids=MIB, small=MIB)
SECONDS = 1 / 86_400
WITHIN_S = 20.0


@pytest.fixture(autouse=True)
def short_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second for the day between the cut and what must stay."""
    monkeypatch.setattr(log_rotation, "MARGIN", timedelta(seconds=0.1))


@asynccontextmanager
async def archived(system: Stack) -> AsyncGenerator[tuple[Archive, JetStream]]:
    """The recorder's archive at work, and the bus as the operator sees it."""
    archive = Archive(system.directory / ARCHIVE_FILE)
    async with (
        await connect(system.server.credential("recorder"), name="archive") as recorder,
        await connect(system.server.credential("operator"), name="look") as operator,
        anyio.create_task_group() as tasks,
    ):
        stream = JetStream(recorder)
        tasks.start_soon(archive.run, stream.log())
        try:
            yield archive, JetStream(operator)
        finally:
            tasks.cancel_scope.cancel()


async def _done(client: Client, text: str, *, key: str = "", run: str = "") -> RunId:
    submitted = await client.submit("desk", text, key=key, run=run)
    with anyio.fail_after(WITHIN_S):
        async for _ in client.events(submitted.run, follow=True):
            pass
    return RunId(submitted.run)


async def _waiting(client: Client, *, key: str = "") -> RunId:
    run = (await client.submit("desk", "pay 5", key=key)).run
    with anyio.fail_after(WITHIN_S):
        async for entry in client.events(run, follow=True):
            if entry.name == "asked":
                break
    return RunId(run)


async def _left(turns: Rotation, bus: JetStream, *runs: RunId) -> None:
    """Rotate until no event of these runs is in the log: the archive may be busy."""
    with anyio.fail_after(WITHIN_S):
        while any([await bus.log().load(TENANT, run, leader=True) for run in runs]):
            await anyio.sleep(0.2)
            # A broker that is busy may not answer in time; the product tries again too.
            with contextlib.suppress(Unreachable):
                await turns.rotate_once(bus)


async def _config(stream: JetStream) -> dict[str, Any]:
    info = await stream.connection.api_request(jetstream_api.stream_info(stream_names.RUNS))
    return msgspec.convert(info["config"], dict[str, Any])


async def test_sealed_runs_are_removed_and_read_from_the_archive_and_open_ones_stay(tmp_path: Path) -> None:
    """Each open run keeps all of its events; a removed run is shown, verified and never done again."""
    reports: list[str] = []
    async with (
        stack(tmp_path, space=SMALL) as system,
        archived(system) as (archive, bus),
        Client.connect(tmp_path, as_="operator") as operator,
        Client.connect(tmp_path) as client,
    ):
        turns = Rotation(system.server.administrator, archive, days=1, report=reports.append)
        turns._days = SECONDS / 2  # type: ignore[assignment]
        first = await _waiting(client, key="k")
        await anyio.sleep(0.3)
        assert (await operator.approve(first)).status == "done"
        assert (await client.outcome(first, timeout_s=WITHIN_S)).status == "completed"
        named = await _done(client, "say hello", run="mine")
        before = [(entry.n, entry.name) async for entry in client.events(first)]
        await archive.wait_until_stored((await bus.log().page(after_seq=0))[-1].seq)
        # A cut in the middle of a run, while it waited for a person: the rest of it stays, and does not become a run.
        fourth = await Reader(bus.wire, stream_names.RUNS).at(4)
        assert fourth is not None
        assert fourth.at is not None
        assert 3 <= await rotate(system.server.administrator, Cut(now=fourth.at, before=fourth.at)) < len(before)
        assert [(entry.n, entry.name) async for entry in client.events(first)] == before
        assert (await client.submit("desk", "pay 5", key="k")).sentence.startswith(f"Run '{first}' is over")
        await anyio.sleep(0.3)
        whole: dict[RunId, int] = {}
        for _ in range(4):
            whole[await _waiting(client)] = 0
            await _done(client, "say hello")
            await anyio.sleep(0.3)
            await turns.rotate_once(bus)
            for run in whole:
                numbers = [int(m.subject.rpartition(".")[2]) for m in await bus.log().load(TENANT, run, leader=True)]
                assert numbers == list(range(1, len(numbers) + 1)), run
                assert len(numbers) >= 5
        await _left(turns, bus, first, named)
        held = f"run '{next(iter(whole))}' of tenant 'default'"
        assert any(report.startswith("RUNS keeps more than ") and held in report for report in reports)
        assert (await _config(bus))["max_age"] == RUNS_RETENTION_NS

        assert [(entry.n, entry.name) async for entry in client.events(first)] == before
        assert (await client.run(first)).sealed is not None
        assert {first, named} <= {each.run for each in await client.runs()}
        shown = await anyio.to_thread.run_sync(lambda: command(tmp_path, "show", first))
        assert shown.code == 0, shown.err
        checked = await anyio.to_thread.run_sync(lambda: command(tmp_path, "verify", first, "--json"))
        assert (checked.code, checked.json["sealed"], checked.json["events"]) == (0, True, len(before))

        again = await client.submit("desk", "pay 5", key="k")
        assert (again.status, again.run) == ("opened", first)
        assert (await client.outcome(first, timeout_s=WITHIN_S)).status == "completed"
        taken = await client.submit("desk", "say hello", run="mine")
        assert taken.status == "refused"
        assert "Run 'mine' is over (completed) and is not done again: its log has left RUNS" in taken.sentence
        for sender in (operator, client):
            with pytest.raises(Refused, match="is over"):
                await sender.stop(first)
        assert await bus.log().load(TENANT, first, leader=True) == []

        for run in whole:
            assert (await operator.approve(run)).status == "done"
            assert (await client.outcome(run, timeout_s=WITHIN_S)).status == "completed"
        await _left(turns, bus, *whole)


async def test_a_run_that_was_removed_still_gives_its_key_back(tmp_path: Path) -> None:
    """Whether its key is free does not depend on how long its log stays; a run that started something keeps it."""
    async with (
        stack(tmp_path, space=SMALL) as system,
        archived(system) as (archive, bus),
        Client.connect(tmp_path, as_="operator") as client,
    ):
        turns = Rotation(system.server.administrator, archive, days=1, report=lambda _: None)
        turns._days = SECONDS / 2  # type: ignore[assignment]
        stopped_run = run_of_key("default", "stopped")
        await client.stop(stopped_run, why="not today")
        await system.deploy(limits=Limits(cost_max_micros=1))
        poor = RunId((await client.submit("desk", "say hello", key="poor", run="mine")).run)
        ended = [await client.outcome(run, timeout_s=WITHIN_S) for run in (stopped_run, poor)]
        assert [(each.status, each.gave_key_back) for each in ended] == [("stopped", True), ("over_budget", True)]
        await system.deploy()
        done = await _done(client, "say hello", key="done")
        assert not (await client.outcome(done, timeout_s=WITHIN_S)).gave_key_back
        await _left(turns, bus, stopped_run, poor, done)

        refused = await client.submit("desk", "say hello", key="stopped")
        assert (refused.status, refused.run) == ("refused", stopped_run)
        assert refused.sentence == (
            "The run was stopped before it began: not today. "
            "The key 'stopped' is free: if you send the task again, a new run with another id is opened."
        )
        refusal = next(m for m in await bus.log().page(after_seq=0) if ".r-" in m.subject)
        await _left(turns, bus, RunId(refusal.subject.split(".")[2]))
        for key, named, left in (("stopped", "", stopped_run), ("poor", "mine", poor)):
            opened = [await client.submit("desk", "say hello", key=key, run=named) for _ in range(3)]
            assert [each.status for each in opened] == ["opened"] * 3
            assert len({each.run for each in opened} - {left}) == 1
            assert (await client.outcome(opened[0].run, timeout_s=WITHIN_S)).status == "completed"
        taken = await client.submit("desk", "say hello", run="mine")
        assert (taken.status, taken.run) == ("refused", "mine")
        again = await client.submit("desk", "say hello", key="done")
        assert (again.status, again.run) == ("opened", done)
        assert again.sentence.startswith(
            f"Run '{done}' is over (completed) and is not done again: its log has left RUNS"
        )
        assert await bus.log().load(TENANT, done, leader=True) == []


async def test_events_that_the_archive_does_not_have_stay(tmp_path: Path) -> None:
    """And without an archive, all events stay."""
    async with (
        stack(tmp_path, space=SMALL) as system,
        Client.connect(tmp_path) as client,
        await connect(system.server.credential("operator"), name="look") as connection,
    ):
        await _done(client, "say hello")
        bus = JetStream(connection)
        await anyio.sleep(0.3)
        cut = await find_cut(bus, Reach(watermark=0), 0.1 * SECONDS)
        assert (cut.before, cut.held_by) == (None, "the archive does not have event 1 of the log yet")
        last = await find_cut(bus, Reach(watermark=10_000), 0.1 * SECONDS)
        assert last.before is not None
        assert last.held_by == ""
        known = await find_cut(bus, Reach(watermark=10_000, oldest_open_seq=1), 0.1 * SECONDS)
        assert known.before is None
        assert "the archive knows run" in known.held_by
        assert (await find_cut(bus, Reach(watermark=10_000), 1)).before is None


async def test_an_interrupted_rotation_is_set_right_at_once_or_by_the_next_start(tmp_path: Path) -> None:
    """RUNS keeps 90 days again, whichever process died in between."""
    async with (
        stack(tmp_path, space=SMALL, actors=False) as system,
        await connect(system.server.credential("bootstrap"), name="look") as bootstrap,
        await connect(system.server.credential("operator"), name="look") as operator,
    ):
        bus = JetStream(operator)
        now = (await find_cut(bus, Reach(watermark=0), 1)).now
        cut = Cut(now=now, before=now - timedelta(hours=1))
        failing, ages = [True], list[int]()

        @asynccontextmanager
        async def administrator() -> AsyncGenerator[Connection]:
            async with system.server.administrator() as admin:
                asked, original = 0, admin.api_request

                async def ask(*args: Any, **options: Any) -> dict[str, Any]:
                    nonlocal asked
                    asked += 1
                    if failing[0] and asked > 2:
                        raise Unreachable("The broker went away.")
                    return await original(*args, **options)

                admin.api_request = ask  # type: ignore[method-assign]
                try:
                    yield admin
                finally:
                    ages.append((await _config(bus))["max_age"])
                    failing[0] = False

        with pytest.raises(Unreachable):
            await rotate(administrator, cut)
        assert 3_600 * SECOND_NS <= ages[0] < 3_700 * SECOND_NS
        assert (await _config(bus))["max_age"] == RUNS_RETENTION_NS

        async with system.server.administrator() as admin:
            config = await _config(bus)
            short = {**config, "max_age": 3_600 * SECOND_NS}
            await admin.api_request(jetstream_api.server_subject(jetstream_api.stream_update(stream_names.RUNS)), short)
        done = await set_up(bootstrap, BusLayout(sizes=SMALL))
        assert [sentence.split(" `")[0] for sentence in done.outdated] == [
            "stream RUNS is as an older linestop made it (max_age); the broker's administrator has to run"
        ]
        assert "--max-age=7776000s" in done.outdated[0]
        await set_up(bootstrap, BusLayout(sizes=SMALL), administrator=system.server.administrator)
        assert (await _config(bus))["max_age"] == RUNS_RETENTION_NS


def test_an_administrator_gets_two_commands_that_are_valid_for_an_hour() -> None:
    """The age is an hour longer than that of the cut, so that within the hour no later event is removed."""
    now = datetime(2026, 5, 31, 12, tzinfo=UTC)
    assert Cut(now=now, before=now - timedelta(days=14)).manual_commands() == (
        "nats stream edit RUNS -f --max-age=1213200s && nats stream edit RUNS -f --max-age=7776000s"
    )


async def test_an_archive_that_is_not_open_yet_is_waited_for(tmp_path: Path) -> None:
    """`dev` starts both at once; the log is rotated then, and not an hour later."""
    found: list[Reach] = []
    async with (
        stack(tmp_path, space=SMALL, actors=False) as system,
        await connect(system.server.credential("recorder"), name="archive") as recorder,
        anyio.create_task_group() as tasks,
    ):
        stream, archive = JetStream(recorder), Archive(system.directory / ARCHIVE_FILE)

        async def reach() -> None:
            found.append(await archive.reach())
            tasks.cancel_scope.cancel()

        tasks.start_soon(reach)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(archive.run, stream.log())
    assert len(found) == 1


def elsewhere(_directory: Path) -> bool:
    """The broker does not keep its files here."""
    return False


async def test_the_command_prints_what_may_be_removed_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the broker of `linestop dev` it names the setting, for an outside one what must stay and why."""
    async with (
        stack(tmp_path, space=SMALL) as system,
        archived(system) as (archive, _),
        Client.connect(tmp_path) as client,
    ):
        mine = await anyio.to_thread.run_sync(lambda: command(tmp_path, "bus", "rotate"))
        assert (mine.code, "set [keep] runs_days" in " ".join(mine.err.split())) == (2, True)
        monkeypatch.setattr("linestop.cli.bus_setup.removable_runs.is_broker_directory", elsewhere)
        await _done(client, "say hello")
        await archive.wait_until_stored(1)
        young = await anyio.to_thread.run_sync(lambda: command(tmp_path, "bus", "rotate", "--keep-days", "1", "--json"))
        assert young.json == {"before": None, "held_by": "", "commands": ""}
        assert (await anyio.to_thread.run_sync(lambda: command(tmp_path, "bus", "rotate"))).code == 0


class AtWork(Archive):
    """An archive that is open as in its recorder, without a broker."""

    async def __aenter__(self) -> Self:
        """Open it."""
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self._close()


async def test_the_command_asks_a_recorder_at_work_for_its_oldest_open_run(tmp_path: Path) -> None:
    """A run that the archive knows as open stays, whether its recorder runs or not, and whatever the log shows."""
    path = tmp_path / ARCHIVE_FILE
    file = ArchiveFile(path)
    file.store([StoredMessage(subject="runs.t.open.validator.opened.1", payload=b"{}", seq=7)])
    file.close()
    want = Reach(watermark=7, oldest_open_seq=7)
    assert await reach_of(path) == want
    async with AtWork(path) as archive, QuerySocket(path, archive.handle_query).open():
        assert await reach_of(path) == want
