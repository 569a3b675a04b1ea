"""What the streams refuse, whoever asks, and how a changed setting is noticed."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from linestop.bus import api, layout
from linestop.bus.api import ApiError
from linestop.bus.connection import Connection, connect
from linestop.bus.init import BusLayout, bus_init, set_up
from linestop.bus.permissions import CredentialName
from linestop.bus.server import EmbeddedServer
from linestop.bus.streams import DEFAULT_SPACE, SECOND_NS, Space, consumers, streams
from linestop.errors import ConfigError, PermissionDenied
from linestop.schemas import subjects
from linestop.schemas.subjects import ACTORS, AgentName, RunId, TenantId

pytestmark = [pytest.mark.anyio, pytest.mark.broker]

Everybody = dict[CredentialName, Connection]
TENANT, AGENT, DIGEST = TenantId("acme"), AgentName("support"), "cd" * 32
WRITE_ONCE = (layout.RUNS, layout.FORKS, layout.OUTCOMES, layout.BLOBS)
_runs = itertools.count(1)


def new_run() -> RunId:
    """Return a run that no other test knows."""
    return RunId(f"s-{next(_runs)}")


async def test_a_role_cannot_overwrite_its_own_event(everybody: Everybody) -> None:
    """The second message on an event's subject is refused with 10077, and the first stays."""
    subject = subjects.run_event(TENANT, new_run(), role="planner", event="proposed", n=1)
    await everybody["planner"].ask(subject, {"first": True})
    with pytest.raises(ApiError) as refused:
        await everybody["planner"].ask(subject, {"first": False})
    assert refused.value.err_code == 10077
    stored = await everybody["planner"].request(api.direct_get_last(layout.RUNS, subject))
    assert stored.data == b'{"first":true}'


async def test_an_outcome_a_blob_and_the_run_of_a_key_are_given_once(everybody: Everybody) -> None:
    """What others rely on for ever cannot be replaced, by the one who gave it either."""
    for name, subject in (
        ("recorder", subjects.outcome(TENANT, AGENT, run=new_run())),
        ("executor", subjects.blob(TENANT, DIGEST, part=0)),
        ("validator", layout.bucket_key(layout.IDS_BUCKET, "acme.key-1")),
    ):
        connection = everybody[name]  # type: ignore[index] # pyright: ignore[reportArgumentType]
        await connection.ask(subject, {"first": True})
        with pytest.raises(ApiError) as refused:
            await connection.ask(subject, {"first": False})
        assert refused.value.err_code == 10077


@pytest.mark.parametrize("stream", WRITE_ONCE)
async def test_history_cannot_be_removed_even_by_the_one_who_set_the_bus_up(everybody: Everybody, stream: str) -> None:
    """Purging, deleting a message and switching these bans off are refused to ``bootstrap``."""
    bootstrap = everybody["bootstrap"]
    config: Any = (await bootstrap.ask(api.stream_info(stream)))["config"]
    update = api.stream_info(stream).replace("INFO", "UPDATE")
    for subject, body, err_code in (
        (api.stream_purge(stream), None, 10110),
        (api.message_delete(stream), {"seq": 1}, 10057),
        (update, {**config, "deny_delete": False}, 10052),
        (update, {**config, "deny_purge": False}, 10052),
    ):
        with pytest.raises(ApiError) as refused:
            await bootstrap.ask(subject, body)
        assert refused.value.err_code == err_code


async def test_a_message_that_asks_to_replace_or_expire_others_is_refused(everybody: Everybody) -> None:
    """Rollup, expiry, schedules and counters are headers, which permissions do not see: the stream refuses."""
    for header, value, err_code in (
        ("Nats-Rollup", "all", 10111),
        ("Nats-TTL", "1s", 10166),
        ("Nats-Schedule", "@every 1s", 10188),
        ("Nats-Incr", "+1", 10168),
    ):
        subject = subjects.run_event(TENANT, new_run(), role="planner", event="proposed", n=1)
        reply = await everybody["planner"].request(subject, b"{}", headers={header: value})
        with pytest.raises(ApiError) as refused:
            api.read_reply(subject, reply.data)
        assert refused.value.err_code == err_code


async def test_a_schedule_fires_into_the_timers_stream(everybody: Everybody) -> None:
    """A role sets a timer; what fires is delivered to the timers' consumer."""
    run, approver = new_run(), everybody["approver"]
    subject = subjects.timer_set(TENANT, run, name="expiry")
    headers = {
        "Nats-Schedule": "@at 2020-01-01T00:00:00Z",
        "Nats-Schedule-Target": subjects.timer_fire(TENANT, run, name="expiry"),
    }
    api.read_reply(subject, (await approver.request(subject, b"late", headers=headers)).data)
    got: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = approver.nc.new_inbox()
    subscription = await approver.subscribe(inbox, got.put)
    pull = api.consumer_next(layout.TIMERS, layout.TIMERS_CONSUMER)
    await approver.publish(pull, b'{"batch":1,"expires":5000000000}', reply=inbox)
    fired = await asyncio.wait_for(got.get(), 6)
    assert subjects.parse_timer(fired.subject).act == "fire"
    assert fired.data == b"late"
    await approver.request(fired.reply, b"+ACK")
    await subscription.unsubscribe()


async def test_a_wake_given_up_is_recorded(everybody: Everybody) -> None:
    """A delivery that is refused as often as allowed ends as an advisory for the recorder."""
    budget, recorder = everybody["budget"], everybody["recorder"]
    subject = subjects.run_event(TENANT, new_run(), role="operator", event="stopped", n=1)
    seq = (await everybody["operator"].ask(subject, {}))["seq"]
    got: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = budget.nc.new_inbox()
    subscription = await budget.subscribe(inbox, got.put)
    pull = api.consumer_next(layout.RUNS, layout.role_consumer("budget"))
    deliveries = 0
    while deliveries < 5:
        await budget.publish(pull, b'{"batch":1,"expires":5000000000}', reply=inbox)
        delivered = await asyncio.wait_for(got.get(), 6)
        deliveries += delivered.subject == subject
        await budget.request(delivered.reply, b"-NAK" if delivered.subject == subject else b"+ACK")
    await budget.publish(pull, b'{"batch":1,"no_wait":true}', reply=inbox)
    await asyncio.wait_for(got.get(), 6)
    await subscription.unsubscribe()
    advised: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = recorder.nc.new_inbox()
    subscription = await recorder.subscribe(inbox, advised.put)
    pull = api.consumer_next(layout.ADVISORIES, layout.ADVISORIES_CONSUMER)
    await recorder.publish(pull, b'{"batch":1,"expires":5000000000}', reply=inbox)
    advice = await asyncio.wait_for(advised.get(), 6)
    assert f'"stream_seq":{seq},'.encode() in advice.data
    await subscription.unsubscribe()


async def test_setting_up_twice_changes_nothing_and_a_difference_is_told(tmp_path: Path) -> None:
    """What exists is compared and left alone; space and copies may differ, rules may not."""
    async with (
        EmbeddedServer(tmp_path) as server,
        await connect(server.credential("bootstrap"), name="test") as bootstrap,
    ):
        loose = {"name": "RUNS", "subjects": ["runs.>"], "storage": "file", "max_bytes": 1_000_000}
        await bootstrap.ask(api.stream_create("RUNS"), {**loose, "allow_direct": True, "num_replicas": 1})
        first = await set_up(bootstrap)
        assert "stream TASKS" in first.created
        assert "stream RUNS" not in first.created
        told = " ".join(first.differences)
        for field in ("deny_purge", "deny_delete", "max_msgs_per_subject", "republish", "discard", "max_age"):
            assert f"stream RUNS has {field} " in told
        assert "max_bytes" not in told
        assert (
            'stream RUNS has discard "old" where linestop needs "new": '
            "look who changed it, then set it back or delete it."
        ) in first.differences
        with pytest.raises(ConfigError, match="stream RUNS has deny_purge"):
            first.require_no_differences()
        second = await set_up(bootstrap, BusLayout(wakes={"budget": ("runs.*.*.planner.proposed.>",)}))
        assert second.created == ("consumer role_budget of RUNS",)
        assert second.differences == first.differences
        third = await set_up(bootstrap, BusLayout(wakes={"budget": ("runs.*.*.planner.failed.>",)}))
        assert any(line.startswith("consumer role_budget of RUNS has filter_subj") for line in third.differences)


async def test_too_little_space_is_one_sentence(tmp_path: Path) -> None:
    """A stream that does not fit names itself and the server's reason."""
    async with (
        EmbeddedServer(tmp_path) as server,
        await connect(server.credential("bootstrap"), name="test") as bootstrap,
    ):
        huge = BusLayout(space=Space(runs=DEFAULT_SPACE.total * 2))
        with pytest.raises(ConfigError, match=r"stream RUNS cannot be created: .*insufficient storage"):
            await set_up(bootstrap, huge)


async def test_only_the_one_who_sets_up_may_set_up(everybody: Everybody) -> None:
    """Another credential is told so by name."""
    with pytest.raises(PermissionDenied, match="credential 'watcher' may not publish"):
        await set_up(everybody["watcher"])


async def test_an_outside_server_is_set_up_the_same_way(
    server: EmbeddedServer, everybody: Everybody, tmp_path: Path
) -> None:
    """Unknown credentials give the text to paste; known ones give streams; both may be repeated."""
    assert not everybody["bootstrap"].closed
    before = await bus_init(server.url, tmp_path)
    assert before.set_up is None
    assert "reload it, and run this again" in before.next_step
    assert before.server_config.lstrip().startswith('"accounts"')
    assert before.server_config == (await bus_init(server.url, tmp_path)).server_config
    after = await bus_init(server.url, server.directory)
    assert after.set_up is not None
    assert after.set_up.created == after.set_up.differences == ()


def test_every_stream_is_bounded_and_every_wake_given_up_is_noticed() -> None:
    """Nothing grows without limit, and only hints are ever given up."""
    specs = streams()
    assert all(spec.config["max_bytes"] > 0 and spec.config["max_msg_size"] > 0 for spec in specs)
    assert sum(spec.config["max_bytes"] for spec in specs) <= DEFAULT_SPACE.total
    given_up = [
        spec.name
        for spec in consumers(dict.fromkeys(ACTORS, ("runs.*.*.operator.stopped.>",)))
        if spec.config["max_deliver"] > 0
    ]
    assert given_up == [layout.role_consumer(role) for role in ACTORS]
    assert {spec.config["num_replicas"] for spec in streams(replicas=3)} == {3}


def test_what_a_killed_process_held_of_peoples_words_and_timers_comes_again_soon() -> None:
    """However often: a word is not given up because the processes that had it died."""
    specs = [s for s in consumers() if s.stream in {layout.CONTROL, layout.TIMERS, layout.TASKS}]
    assert len(specs) == len(ACTORS) + 2
    for spec in specs:
        assert (spec.config["ack_wait"], spec.config["max_deliver"]) == (2 * SECOND_NS, -1)


def test_every_control_message_is_somebodys() -> None:
    """Stops are everybody's; whatever else there is, of any form, is the approver's to answer."""
    filters = {s.name: s.config["filter_subjects"] for s in consumers() if s.stream == layout.CONTROL}
    assert filters.pop(layout.control_consumer("approver")) == ["control.>"]
    assert list(filters.values()) == [["control.*.*.stop"]] * (len(ACTORS) - 1)
