"""The messages that streams refuse from every credential."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time

import msgspec
import pytest
from nats.aio.msg import Msg

from linestop.bus import jetstream_api
from linestop.bus.access.rights import CREDENTIALS, CredentialName
from linestop.bus.connection import Connection
from linestop.bus.jetstream import JetStream
from linestop.bus.jetstream_api import ApiError
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES, SECOND_NS, consumers, streams
from linestop.errors import PermissionDenied
from linestop.schemas import subjects
from linestop.schemas.subjects import ACTORS, ROLES, AgentName, RoleName, RunId, TenantId

pytestmark = [pytest.mark.anyio, pytest.mark.broker]

Connections = dict[CredentialName, Connection]
TENANT, AGENT, DIGEST = TenantId("acme"), AgentName("support"), "cd" * 32
_runs = itertools.count(1)


def new_run() -> RunId:
    """Return a run that no other test knows."""
    return RunId(f"s-{next(_runs)}")


LAST = "Nats-Expected-Last-Subject-Sequence"
AGAIN: dict[str, dict[str, str]] = {
    "no concurrency header": {},
    "its own subject's": {LAST: "{seq}"},
    "the run's": {LAST: "{seq}", f"{LAST}-Subject": "{run}"},
    "another run's": {LAST: "0", f"{LAST}-Subject": "runs.acme.nobody.>"},
}


@pytest.mark.parametrize("headers", AGAIN)
@pytest.mark.parametrize("role", ROLES)
async def test_a_role_cannot_overwrite_its_own_event(connections: Connections, role: RoleName, headers: str) -> None:
    """The second message on an event's subject is refused at once with a reason, and the first stays."""
    run, connection = new_run(), connections[role]
    subject = subjects.run_event(TENANT, run, role=role, event="stopped", n=1)
    seq = (await connection.api_request(subject, {"role": role}))["seq"]
    claim = {"role": "approver" if role != "approver" else "planner", "tenant": "other", "n": 7}
    named = {
        name: value.format(seq=seq, run=subjects.run_filter(TENANT, run)) for name, value in AGAIN[headers].items()
    }
    reply = await connection.request(subject, msgspec.json.encode(claim), headers=named)
    with pytest.raises(ApiError, match=f"refused {subject}: maximum messages per subject exceeded") as refused:
        jetstream_api.read_reply(subject, reply.data)
    assert refused.value.err_code == 10077
    stored = await connection.request(jetstream_api.direct_get_last(stream_names.RUNS, subject))
    assert stored.data == msgspec.json.encode({"role": role})


@pytest.mark.parametrize("role", ROLES)
async def test_an_append_to_a_wrong_head_is_refused_with_the_real_head(
    connections: Connections, role: RoleName
) -> None:
    """The header is checked for every role: the refusal names the right sequence."""
    run, connection = new_run(), connections[role]
    first, second = (subjects.run_event(TENANT, run, role=role, event="stopped", n=n) for n in (1, 2))
    seq = (await connection.api_request(first, {}))["seq"]
    named = {LAST: "0", f"{LAST}-Subject": subjects.run_filter(TENANT, run)}
    reply = await connection.request(second, b"{}", headers=named)
    with pytest.raises(ApiError, match=f"refused {second}: wrong last sequence: {seq} ") as refused:
        jetstream_api.read_reply(second, reply.data)
    assert refused.value.err_code == 10071


@pytest.mark.parametrize("headers", AGAIN)
@pytest.mark.parametrize("name", sorted(set(CREDENTIALS) - set(ROLES)))
async def test_a_credential_that_is_not_a_role_appends_nothing_to_a_run(
    connections: Connections, name: CredentialName, headers: str
) -> None:
    """Whatever the headers and the payload, the refusal comes at once and names the subject and the credential."""
    run = new_run()
    named = {
        header: value.format(seq=0, run=subjects.run_filter(TENANT, run)) for header, value in AGAIN[headers].items()
    }
    for role in ROLES:
        subject = subjects.run_event(TENANT, run, role=role, event="stopped", n=1)
        claim = msgspec.json.encode({"role": role, "by": "operator"})
        began = time.monotonic()
        with pytest.raises(PermissionDenied, match=f"credential {name!r} may not publish to {subject!r}"):
            await connections[name].request(subject, claim, headers=named, timeout_s=30)
        assert time.monotonic() - began < 5


async def test_an_outcome_and_a_blob_are_stored_once(connections: Connections) -> None:
    """They cannot be replaced, not even by their publisher."""
    for name, subject in (
        ("recorder", subjects.outcome(TENANT, AGENT, run=new_run())),
        ("executor", subjects.blob(TENANT, DIGEST, part=0)),
    ):
        connection = connections[name]  # type: ignore[index] # pyright: ignore[reportArgumentType]
        await connection.api_request(subject, {"first": True})
        with pytest.raises(ApiError) as refused:
            await connection.api_request(subject, {"first": False})
        assert refused.value.err_code == 10077


async def test_a_message_that_asks_to_replace_or_expire_others_is_refused(connections: Connections) -> None:
    """Roll-up, expiry, schedules and counters are headers, which permissions do not cover: the stream refuses them."""
    for header, value, err_code in (
        ("Nats-Rollup", "all", 10111),
        ("Nats-TTL", "1s", 10166),
        ("Nats-Schedule", "@every 1s", 10188),
        ("Nats-Incr", "+1", 10168),
    ):
        subject = subjects.run_event(TENANT, new_run(), role="planner", event="proposed", n=1)
        reply = await connections["planner"].request(subject, b"{}", headers={header: value})
        with pytest.raises(ApiError) as refused:
            jetstream_api.read_reply(subject, reply.data)
        assert refused.value.err_code == err_code


async def test_a_blob_is_stored_although_another_role_used_its_digest_as_a_message_id(connections: Connections) -> None:
    """An id is valid in the whole stream: a guessed one must not make another role's text a repetition."""
    data = b"what connections knows will be stored"
    name = subjects.blob(TENANT, hashlib.sha256(data).hexdigest(), part=0)
    taken_id_headers = {"Nats-Msg-Id": name, "Linestop-Parts": "1"}
    reply = await connections["planner"].request(
        subjects.blob(TENANT, "ef" * 32, part=0), b"x", headers=taken_id_headers
    )
    assert "error" not in msgspec.json.decode(reply.data)
    blobs = JetStream(connections["executor"]).blobs()
    digest = await blobs.put(TENANT, data)
    assert await blobs.get(TENANT, digest) == data


@pytest.mark.parametrize(
    ("name", "bucket", "key"),
    [
        *((role, stream_names.WORKERS_BUCKET, f"of-{role}") for role in ACTORS),
        ("budget", stream_names.SHARED_BUCKET, "account.tenant-acme.today"),
        ("operator", stream_names.SWITCHES_BUCKET, "closed"),
        ("operator", stream_names.AGENTS_BUCKET, "desk"),
        ("client", stream_names.POSITIONS_BUCKET, "client.outcomes.billing"),
    ],
)
async def test_a_writer_of_one_key_cannot_erase_the_bucket(
    connections: Connections, name: CredentialName, bucket: str, key: str
) -> None:
    """A header that replaces all stored values would reach the accounts and kill switches of others."""
    subject = stream_names.bucket_key(bucket, key)
    await connections[name].api_request(subject, 1)
    reply = await connections[name].request(subject, b"2", headers={"Nats-Rollup": "all"})
    with pytest.raises(ApiError) as refused:
        jetstream_api.read_reply(subject, reply.data)
    assert refused.value.err_code == 10111


async def test_a_schedule_fires_into_the_timers_stream(connections: Connections) -> None:
    """A role sets a timer; when it fires, it is delivered to the timers' consumer."""
    run, approver = new_run(), connections["approver"]
    subject = subjects.timer_set(TENANT, run, name="expiry")
    headers = {
        "Nats-Schedule": "@at 2020-01-01T00:00:00Z",
        "Nats-Schedule-Target": subjects.timer_fire(TENANT, run, name="expiry"),
    }
    jetstream_api.read_reply(subject, (await approver.request(subject, b"late", headers=headers)).data)
    got: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = approver.nc.new_inbox()
    subscription = await approver.subscribe(inbox, got.put)
    pull = jetstream_api.consumer_next(stream_names.TIMERS, stream_names.TIMERS_CONSUMER)
    await approver.publish(pull, b'{"batch":1,"expires":5000000000}', reply_to=inbox)
    fired = await asyncio.wait_for(got.get(), 6)
    assert subjects.parse_timer(fired.subject).action == "fire"
    assert fired.data == b"late"
    await approver.request(fired.reply, b"+ACK")
    await subscription.unsubscribe()


def test_every_stream_is_bounded_and_no_consumer_gives_up() -> None:
    """Nothing grows without a limit, and no message is dropped because the processes that had it died."""
    specs = streams()
    assert all(spec.config["max_bytes"] > 0 and spec.config["max_msg_size"] > 0 for spec in specs)
    assert sum(spec.config["max_bytes"] for spec in specs) <= DEFAULT_SIZES.total
    assert all(spec.config["max_deliver"] == -1 for spec in consumers())
    assert {spec.config["num_replicas"] for spec in streams(replicas=3)} == {3}


def test_control_messages_and_timers_of_a_killed_process_are_redelivered_soon() -> None:
    """However often: no message is dropped because the processes that had it died. A stop waits the shortest time."""
    specs = [
        s
        for s in consumers()
        if s.stream in {stream_names.CONTROL, stream_names.CLIENTS, stream_names.TIMERS, stream_names.TASKS}
    ]
    assert len(specs) == 6
    for spec in specs:
        soon_s = 1 if (spec.stream, spec.name) in stream_names.STOPS_CONSUMERS else 2
        assert (spec.config["ack_wait"], spec.config["max_deliver"]) == (soon_s * SECOND_NS, -1)


def test_every_control_message_belongs_to_exactly_one_consumer() -> None:
    """Each verb of both streams is in exactly one durable's filter, or a message would stay stored or be lost."""
    for stream, root in ((stream_names.CONTROL, "control"), (stream_names.CLIENTS, "clients")):
        filters = [f for s in consumers() if s.stream == stream for f in s.config["filter_subjects"]]
        assert sorted(filters) == sorted(f"{root}.*.*.{verb}" for verb in subjects.VERBS)
