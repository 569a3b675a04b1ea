"""Idempotency keys: how one is taken and released, and what happens without space for another."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from tests.stack import stack

from linestop.bus import jetstream_api
from linestop.bus.connection import Connection, connect
from linestop.bus.disk_space import MIB
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import StreamSizes
from linestop.client import Client
from linestop.schemas.defaults import Limits
from linestop.schemas.messages import run_of_key

pytestmark = [pytest.mark.anyio, pytest.mark.broker]
WITHIN_S = 20.0


async def _keys(connection: Connection) -> int:
    reply = await connection.api_request(jetstream_api.stream_info(stream_names.bucket_stream(stream_names.IDS_BUCKET)))
    state = msgspec.convert(reply["state"], dict[str, object])
    return msgspec.convert(state["messages"], int)


async def test_a_refused_task_takes_no_key_and_the_next_one_with_it_runs(tmp_path: Path) -> None:
    """The refusal says so; sent again, the key names one run, however often."""
    async with (
        stack(tmp_path) as line,
        Client.connect(tmp_path) as client,
        await connect(line.server.credential("bootstrap"), name="look") as reader,
    ):
        refused = [await client.submit("desc", "say hello", key="order 7") for _ in range(2)]
        assert [each.status for each in refused] == ["refused", "refused"]
        assert refused[0].sentence.endswith("The key 'order 7' was not taken and can be used again.")
        assert refused[0].run == run_of_key("default", "order 7") != refused[1].run
        assert await _keys(reader) == 0
        opened = [await client.submit("desk", "say hello", key="order 7") for _ in range(3)]
        assert [each.status for each in opened] == ["opened"] * 3
        assert len({each.run for each in opened} - {each.run for each in refused}) == 1
        other = await client.submit("desk", "say goodbye", key="order 7")
        assert other.status == "refused"
        assert other.sentence == f"The key or run id already belongs to run '{opened[0].run}', which has another task."
        assert await _keys(reader) == 1


async def test_a_run_that_ended_before_anything_started_releases_its_key(tmp_path: Path) -> None:
    """A run that has started something keeps the key for good."""
    async with stack(tmp_path) as line, Client.connect(tmp_path, as_="operator") as client:
        await line.deploy(limits=Limits(cost_max_micros=1))
        poor = await client.submit("desk", "say hello", key="k", run="mine")
        assert (await client.outcome(poor.run, timeout_s=WITHIN_S)).status == "over_budget"
        await line.deploy()
        again = await client.submit("desk", "say hello", key="k", run="mine")
        assert (again.status, again.run != "mine") == ("opened", True)
        assert (await client.outcome(again.run, timeout_s=WITHIN_S)).status == "completed"
        assert (await client.submit("desk", "say hello", key="k", run="mine")).run == again.run


async def test_an_early_stop_ends_its_run_and_releases_the_key(tmp_path: Path) -> None:
    """Any client can compute the run of a key: the owner gets one refusal, and then has the key again."""
    async with stack(tmp_path), Client.connect(tmp_path) as client:
        for key, named in (("order 7", ""), ("order 8", "mine")):
            stopped_run = named or run_of_key("default", key)
            await client.stop(stopped_run, why="not today")
            for text in ("say hello", "say goodbye"):
                refusal = await client.submit("desk", text, key=key, run=named)
                assert (refusal.status, refusal.run) == ("refused", stopped_run)
                assert refusal.sentence == (
                    "The run was stopped before it began: not today. "
                    f"The key '{key}' is free: if you send the task again, a new run with another id is opened."
                )
            opened = [await client.submit("desk", "say hello", key=key, run=named) for _ in range(3)]
            assert [each.status for each in opened] == ["opened"] * 3
            assert len({each.run for each in opened}) == 1
            assert opened[0].run != stopped_run
            assert (await client.outcome(opened[0].run, timeout_s=WITHIN_S)).status == "completed"
            assert (await client.outcome(stopped_run, timeout_s=WITHIN_S)).status == "stopped"
            other = await client.submit("desk", "say goodbye", key=key, run=named)
            assert (
                other.sentence == f"The key or run id already belongs to run '{opened[0].run}', which has another task."
            )
        await client.stop("no-key", why="not today")
        for _ in range(2):
            refused = await client.submit("desk", "say hello", run="no-key")
            assert (refused.status, refused.sentence) == ("refused", "The run was stopped before it began: not today.")


async def test_the_run_id_of_a_key_is_reserved_for_that_key(tmp_path: Path) -> None:
    """A client that computes run ids can neither open the run of another key nor cause a refusal there."""
    theirs = run_of_key("default", "order 7")
    taken = "r-" + "0" * 40
    async with stack(tmp_path) as line, Client.connect(tmp_path) as client:
        for run, key in ((theirs, ""), (theirs, "order 8"), (run_of_key("other", "order 7"), "order 7"), (taken, "")):
            refused = await client.submit("desk", "say hello", run=run, key=key)
            assert (refused.status, refused.run != run) == ("refused", True)
            assert refused.sentence.startswith(f"The task may not have the run id '{run}', which stands for another")
        owner = await client.submit("desk", "say hello", key="order 7", run=theirs)
        assert (owner.status, owner.run) == ("opened", theirs)
        assert (await client.outcome(theirs, timeout_s=WITHIN_S)).status == "completed"
        assert (await client.submit("desk", "say hello", key="order 7")).run == theirs
        assert (await client.submit("desk", "say hello", run="k-of-mine")).status == "opened"
        del line


async def test_without_space_for_a_key_only_its_task_is_refused(tmp_path: Path) -> None:
    """It gets a reply and no dead letter, and blocks neither tasks without a key nor those with a known key."""
    space = StreamSizes(ids=MIB, small=MIB)
    async with (
        stack(tmp_path, space=space) as line,
        Client.connect(tmp_path, as_="operator") as client,
        await connect(line.server.credential("validator"), name="fill") as fill,
    ):
        known = await client.submit("desk", "say hello", key="known")
        for n, size in enumerate((*[20_000] * 100, *[100] * 200)):
            await fill.request(stream_names.bucket_key(stream_names.IDS_BUCKET, f"default.{n}"), os.urandom(size))
        refused = await client.submit("desk", "say hello", key="new")
        assert refused.status == "refused"
        assert refused.sentence.startswith("There is no room for the task: The stream of $KV.ids.default.")
        assert (await client.submit("desk", "say hello", key="known")).run == known.run
        assert (await client.submit("desk", "say hello")).status == "opened"
        assert await client.dead_letters() == []
