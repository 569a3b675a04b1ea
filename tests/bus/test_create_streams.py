"""Setting up a bus: what is created and updated, and how a changed setting is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.bus.administered import administered

from linestop.bus import jetstream_api
from linestop.bus.access.credentials import ensure_credentials
from linestop.bus.access.rights import CredentialName
from linestop.bus.connection import Connection, connect
from linestop.bus.jetstream_api import ApiError
from linestop.bus.server.embedded import EmbeddedServer
from linestop.bus.server.outside_broker import bus_init, server_config_text
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import BusLayout, compare, set_up
from linestop.bus.streams.stream_definitions import (
    DEFAULT_SIZES,
    SECOND_NS,
    StreamSizes,
    consumer_spec,
    consumers,
    streams,
)
from linestop.errors import ConfigError, PermissionDenied

pytestmark = [pytest.mark.anyio, pytest.mark.broker]

Connections = dict[CredentialName, Connection]
WRITE_ONCE = (stream_names.RUNS, stream_names.FORKS, stream_names.OUTCOMES, stream_names.BLOBS)


def update(stream: str) -> str:
    """The subject that changes a stream, which no credential may use."""
    return jetstream_api.stream_info(stream).replace("INFO", "UPDATE")


async def test_messages_cannot_be_removed_even_by_the_servers_administrator(tmp_path: Path) -> None:
    """The streams themselves refuse a purge, the deletion of a message and the removal of these bans."""
    async with administered(tmp_path) as server:
        async with await connect(server.credentials["bootstrap"], name="test") as bootstrap:
            await set_up(bootstrap)
        for stream in WRITE_ONCE:
            config: Any = (await server.ask(jetstream_api.stream_info(stream)))["config"]
            for subject, body, err_code in (
                (f"{jetstream_api.PREFIX}.STREAM.PURGE.{stream}", None, 10110),
                (f"{jetstream_api.PREFIX}.STREAM.MSG.DELETE.{stream}", {"seq": 1}, 10057),
                (update(stream), {**config, "deny_delete": False}, 10052),
                (update(stream), {**config, "deny_purge": False}, 10052),
            ):
                with pytest.raises(ApiError) as refused:
                    await server.ask(subject, body)
                assert refused.value.err_code == err_code


SWITCHES = {
    "allow_atomic": True,
    "allow_batched": True,
    "no_ack": True,
    # The last change: the server does not let it be switched off again.
    "allow_msg_ttl": True,
    "allow_msg_schedules": False,
    "allow_msg_counter": False,
    "allow_rollup_hdrs": False,
}
"""Settings that let messages vanish, change or arrive unrequested, and whether a server lets them be set later."""


async def test_a_rule_that_is_switched_off_later_is_reported(tmp_path: Path) -> None:
    """The comparison names each change of the administrator to a write-once stream, and who can revert it."""
    async with administered(tmp_path) as server, await connect(server.credentials["bootstrap"], name="test") as mine:
        assert (await set_up(mine)).differences == await compare(mine) == ()
        buckets = (stream_names.IDS_BUCKET, stream_names.AGENTS_BUCKET, stream_names.WORKERS_BUCKET)
        for stream in (*WRITE_ONCE, *map(stream_names.bucket_stream, buckets)):
            config: Any = (await server.ask(jetstream_api.stream_info(stream)))["config"]
            allowed: set[str] = set()
            for field in SWITCHES:
                try:
                    await server.ask(update(stream), {**config, field: True})
                except ApiError:
                    continue
                allowed.add(field)
                sentences = [
                    line for line in await compare(mine) if line.startswith(f"stream {stream} has {field} true")
                ]
                assert len(sentences) == 1
                assert "have the broker's administrator" in sentences[0]
            assert allowed == {field for field, possible in SWITCHES.items() if possible}
        assert (await set_up(mine)).differences == await compare(mine) != ()


async def test_setting_up_twice_changes_nothing_and_a_difference_is_reported(tmp_path: Path) -> None:
    """An existing stream is compared and not changed; space and replicas may differ, rules may not."""
    async with (
        EmbeddedServer(tmp_path) as server,
        await connect(server.credential("bootstrap"), name="test") as bootstrap,
    ):
        loose = {"name": "RUNS", "subjects": ["runs.>"], "storage": "file", "max_bytes": 1_000_000}
        await bootstrap.api_request(
            jetstream_api.stream_create("RUNS"), {**loose, "allow_direct": True, "num_replicas": 1}
        )
        assert "stream TASKS is missing: `linestop dev` or `linestop bus init` creates it." in await compare(bootstrap)
        first = await set_up(bootstrap)
        assert "stream TASKS" in first.created
        assert "stream RUNS" not in first.created
        sentences = " ".join(first.differences)
        for field in ("deny_purge", "deny_delete", "max_msgs_per_subject", "republish", "discard", "max_age"):
            assert f"stream RUNS has {field} " in sentences
        assert "max_bytes" not in sentences
        assert (
            'stream RUNS has discard "old" where linestop needs "new": find out who changed it, '
            "then have the broker's administrator set it back or delete it (docs/operations.md)."
        ) in first.differences
        with pytest.raises(ConfigError, match="stream RUNS has deny_purge"):
            first.require_no_differences()
        second = await set_up(bootstrap)
        assert second.created == ()
        assert second.differences == first.differences
        assert await compare(bootstrap) == second.differences


async def test_a_consumer_is_brought_up_to_date_where_the_server_lets_it(tmp_path: Path) -> None:
    """Its filters may change with the version; its start cannot, so a person must decide."""
    async with (
        EmbeddedServer(tmp_path) as server,
        await connect(server.credential("bootstrap"), name="test") as bootstrap,
    ):
        assert (await set_up(bootstrap)).updated == ()
        spec = consumer_spec(stream_names.SEALED_CONSUMER)
        older = {**spec.config, "filter_subjects": ["runs.*.*.recorder.amended.>"]}
        body = {"stream_name": spec.stream, "config": older, "action": "update"}
        await bootstrap.api_request(jetstream_api.consumer_create(spec.stream, spec.name), body)
        # Comparing changes nothing.
        for _ in range(2):
            sentences = await compare(bootstrap)
            assert len(sentences) == 1
            assert sentences[0].startswith("consumer sealed of RUNS is as an older linestop made it (filter_subjects)")
        done = await set_up(bootstrap)
        assert (done.created, done.differences) == ((), ())
        assert done.updated == ("consumer sealed of RUNS (filter_subjects)",)
        assert await compare(bootstrap) == ()


@pytest.mark.parametrize(
    ("field", "other"),
    [("deliver_policy", "new"), ("ack_policy", "all"), ("deliver_subject", "control.acme.x.approve")],
)
async def test_a_consumer_that_cannot_be_brought_up_to_date_is_left_alone(
    tmp_path: Path, field: str, other: str
) -> None:
    """It is named once for each different setting, also for those that could be changed."""
    spec = next(spec for spec in consumers() if spec.name == stream_names.SEALED_CONSUMER)
    config = {**spec.config, field: other, "ack_wait": 30 * SECOND_NS}
    async with (
        EmbeddedServer(tmp_path) as server,
        await connect(server.credential("bootstrap"), name="test") as bootstrap,
    ):
        runs = next(each for each in streams() if each.name == spec.stream)
        await bootstrap.api_request(jetstream_api.stream_create(runs.name), runs.config)
        body = {"stream_name": spec.stream, "config": config, "action": "create"}
        await bootstrap.api_request(jetstream_api.consumer_create(spec.stream, spec.name), body)
        done = await set_up(bootstrap)
        assert done.updated == ()
        assert sorted(line.split()[:6] for line in done.differences) == [
            ["consumer", "sealed", "of", "RUNS", "has", name] for name in sorted([field, "ack_wait"])
        ]


async def test_buckets_of_an_older_linestop_may_stay_as_they_are(tmp_path: Path) -> None:
    """They refused less and republished more; the destination of republished messages is still checked."""
    async with (
        EmbeddedServer(tmp_path) as server,
        await connect(server.credential("bootstrap"), name="test") as bootstrap,
    ):
        for spec in streams():
            name = spec.name.removeprefix("KV_")
            republish = {"src": f"$KV.{name}.>", "dest": f"live.{name}.>"}
            old = {"deny_purge": False, "allow_rollup_hdrs": True, "republish": republish}
            if name in {stream_names.AGENTS_BUCKET, stream_names.SHARED_BUCKET}:
                await bootstrap.api_request(jetstream_api.stream_create(spec.name), {**spec.config, **old})
            if name == stream_names.TASKS:
                aimed = {"src": "tasks.>", "dest": "runs.acme.x.approver.>"}
                await bootstrap.api_request(jetstream_api.stream_create(spec.name), {**spec.config, "republish": aimed})
        (difference,) = (await set_up(bootstrap)).differences
        assert difference.startswith('stream TASKS has republish {"src":"tasks.>","dest":"runs.acme.x.approver.>"}')


@pytest.mark.parametrize(
    ("url", "listen"),
    [
        ("nats://[::1]:7", "[::1]:7"),
        ("nats://127.0.0.5, nats://10.0.0.1:7", "127.0.0.5:4222"),
        ("nats://localhost:7", "localhost:7"),
        ("nats://[2001:db8::1]:7", "0.0.0.0:7"),
        ("nats://nats:7", "0.0.0.0:7"),
    ],
)
def test_a_server_for_this_machine_listens_on_loopback_only(tmp_path: Path, url: str, listen: str) -> None:
    """Every loopback address counts, also in IPv6; any other name is how other machines reach the server."""
    assert json.loads(server_config_text(ensure_credentials(tmp_path, url), url))["listen"] == listen


async def test_too_little_space_is_one_sentence(tmp_path: Path) -> None:
    """The sentence names the stream that does not fit and the server's reason."""
    async with (
        EmbeddedServer(tmp_path) as server,
        await connect(server.credential("bootstrap"), name="test") as bootstrap,
    ):
        huge = BusLayout(sizes=StreamSizes(runs=DEFAULT_SIZES.total * 2))
        with pytest.raises(ConfigError, match=r"stream RUNS cannot be created: .*insufficient storage"):
            await set_up(bootstrap, huge)


async def test_only_bootstrap_may_set_up_a_bus(connections: Connections) -> None:
    """The error names the other credential."""
    with pytest.raises(PermissionDenied, match="credential 'watcher' may not publish"):
        await set_up(connections["watcher"])


async def test_an_outside_server_is_set_up_the_same_way(
    server: EmbeddedServer, connections: Connections, tmp_path: Path
) -> None:
    """Unknown credentials get a configuration; with known ones streams are created; both may be repeated."""
    assert not connections["bootstrap"].closed
    before = await bus_init(server.url, tmp_path)
    assert (before.set_up, before.reachable) == (None, True)
    assert "restart it, and run this again" in before.next_step
    assert before.server_config == (await bus_init(server.url, tmp_path)).server_config
    after = await bus_init(server.url, server.directory)
    assert after.set_up is not None
    assert after.set_up.created == after.set_up.differences == ()


OLD: dict[str, dict[str, Any]] = {
    **{key: {"compression": "s2"} for key in (stream_names.RUNS, stream_names.FORKS, stream_names.BLOBS)},
    stream_names.CONTROL: {"retention": "limits", "max_msg_size": 256 * 1024 + 8 * 1024},
    stream_names.DEAD: {"discard": "new", "max_msgs_per_subject": -1},
    stream_names.bucket_stream(stream_names.IDS_BUCKET): {"discard_new_per_subject": True, "max_age": 0},
}
OLD_DURABLES = ("control_planner", "control_validator", "control_approver")


async def test_streams_of_an_older_linestop_are_brought_up_to_date_by_the_embedded_server(tmp_path: Path) -> None:
    """Their messages stay, acknowledged ones and unused durables go, and no other credential may do it."""
    async with (
        EmbeddedServer(tmp_path) as server,
        await connect(server.credential("bootstrap"), name="test") as bootstrap,
        await connect(server.credential("operator"), name="test") as person,
        await connect(server.credential("validator"), name="test") as validator,
    ):
        for spec in streams():
            if spec.name in OLD:
                await bootstrap.api_request(jetstream_api.stream_create(spec.name), {**spec.config, **OLD[spec.name]})
        async with server.administrator() as admin:
            for name in OLD_DURABLES:
                filters = ["control.>"] if name == "control_approver" else ["control.*.*.stop"]
                config = {**consumers()[0].config, "durable_name": name, "name": name, "filter_subjects": filters}
                body = {"stream_name": stream_names.CONTROL, "config": config, "action": "create"}
                await admin.api_request(
                    jetstream_api.server_subject(jetstream_api.consumer_create(stream_names.CONTROL, name)), body
                )
        await person.api_request("runs.acme.x.operator.stopped.1", {})
        await person.api_request("control.acme.x.stop", {})
        await person.api_request("control.acme.x.approve", {})
        await validator.api_request(stream_names.bucket_key(stream_names.IDS_BUCKET, "acme.k"), ["r", "d"])
        sentences = (await set_up(bootstrap)).outdated
        assert len(sentences) == len(OLD)
        assert all(
            line.startswith(f"stream {name} is as an older linestop made it")
            for name, line in zip(OLD, sentences, strict=True)
        )
        assert "`nats stream edit RUNS -f --compression=none`" in sentences[0]
        assert set(sentences) <= set(await compare(bootstrap))
        done = await set_up(bootstrap, administrator=server.administrator)
        assert (done.outdated, done.differences) == ((), ())
        assert "stream RUNS (compression)" in done.updated
        assert await compare(bootstrap) == ()
        states = {name: (await bootstrap.api_request(jetstream_api.stream_info(name)))["state"] for name in OLD}
        message_counts: dict[str, Any] = {name: state["messages"] for name, state in states.items()}  # type: ignore[index]
        assert message_counts == {**dict.fromkeys(OLD, 0), "RUNS": 1, "CONTROL": 2, "KV_ids": 1}
        assert states["CONTROL"]["consumer_count"] == 2  # type: ignore[index]
        with pytest.raises(PermissionDenied):
            await bootstrap.api_request(jetstream_api.stream_update(stream_names.RUNS), {})
