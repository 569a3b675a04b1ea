"""Every credential tries subjects without a right to them, on the real server."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from linestop.bus import jetstream_api
from linestop.bus.access.credential_permissions import AccessOptions, covers, grants
from linestop.bus.access.rights import CREDENTIALS, CredentialName
from linestop.bus.connection import Connection
from linestop.bus.server.nats_accounts import accounts_section
from linestop.bus.streams import stream_names
from linestop.errors import PermissionDenied
from linestop.reference.permissions_page import permissions_markdown
from linestop.schemas import subjects
from linestop.schemas.subjects import ACTORS, ROLES, VERBS, AgentName, RoleName, RunId, TenantId

pytestmark = [pytest.mark.anyio, pytest.mark.broker]

Connections = dict[CredentialName, Connection]
TENANT, AGENT, DIGEST = TenantId("acme"), AgentName("support"), "ab" * 32
DOCS = Path(__file__).parents[2] / "docs" / "permissions.md"
_runs = itertools.count(1)


def new_run() -> RunId:
    """Return a run that no other test knows."""
    return RunId(f"p-{next(_runs)}")


def event_subject(run: RunId, role: RoleName, n: int = 1, event: str = "stopped") -> str:
    """Build the subject of an event of the tests' tenant."""
    return subjects.run_event(TENANT, run, role=role, event=event, n=n)


async def stored_subjects(connections: Connections, pattern: str, stream: str = stream_names.RUNS) -> list[str]:
    """The subjects stored in a stream, read with a credential that may read everything."""
    body = {"subjects_filter": pattern}
    state: Any = (await connections["bootstrap"].api_request(jetstream_api.stream_info(stream), body))["state"]
    return sorted(state.get("subjects") or {})


async def test_each_role_appends_stopped_under_its_own_name_only(connections: Connections) -> None:
    """Of all credentials, only a role's own one can append an event of that role."""
    run = new_run()

    async def attempt(name: CredentialName, n: int, role: RoleName) -> bool:
        try:
            await connections[name].api_request(event_subject(run, role, n), {})
        except PermissionDenied as error:
            assert f"credential {name!r} may not publish to {event_subject(run, role, n)!r}" in str(error)  # noqa: PT017
            return False
        return True

    pairs: list[tuple[CredentialName, RoleName]] = [(name, role) for name in CREDENTIALS for role in ROLES]
    done = await asyncio.gather(*(attempt(name, n, role) for n, (name, role) in enumerate(pairs, 1)))
    assert [pair for pair, ok in zip(pairs, done, strict=True) if ok] == [(role, role) for role in ROLES]
    assert len(await stored_subjects(connections, subjects.run_filter(TENANT, run))) == len(ROLES)


async def test_a_refused_publish_fails_at_once(connections: Connections) -> None:
    """The error names the subject and the credential long before any timeout."""
    before = time.monotonic()
    with pytest.raises(PermissionDenied, match="credential 'planner' may not publish to 'runs"):
        await connections["planner"].request(event_subject(new_run(), "approver", event="granted"), timeout_s=30)
    with pytest.raises(PermissionDenied, match="credential 'watcher' may not publish to 'wake"):
        await connections["watcher"].publish_checked(subjects.wake(TENANT, new_run(), role="budget"))
    assert time.monotonic() - before < 5


FORBIDDEN = {
    "live": subjects.live_subject(event_subject(RunId("x"), "planner")),
    "purge": f"{jetstream_api.PREFIX}.STREAM.PURGE.{stream_names.RUNS}",
    "delete stream": f"{jetstream_api.PREFIX}.STREAM.DELETE.{stream_names.RUNS}",
    "delete message": f"{jetstream_api.PREFIX}.STREAM.MSG.DELETE.{stream_names.RUNS}",
    "change stream": jetstream_api.stream_info(stream_names.RUNS).replace("INFO", "UPDATE"),
    "restore stream": jetstream_api.stream_info(stream_names.RUNS).replace("INFO", "RESTORE"),
    "copy stream": jetstream_api.stream_info(stream_names.RUNS).replace("INFO", "SNAPSHOT"),
    "move stream": f"{jetstream_api.PREFIX}.STREAM.LEADER.STEPDOWN.{stream_names.RUNS}",
    "create stream": jetstream_api.stream_create("MINE"),
    "delete consumer": jetstream_api.consumer_info(stream_names.RUNS, stream_names.SEALED_CONSUMER).replace(
        "INFO", "DELETE"
    ),
    "pause consumer": jetstream_api.consumer_info(stream_names.RUNS, stream_names.SEALED_CONSUMER).replace(
        "INFO", "PAUSE"
    ),
    "move cluster": f"{jetstream_api.PREFIX}.META.LEADER.STEPDOWN",
    "create consumer": jetstream_api.consumer_create(stream_names.RUNS, "mine"),
    "create filtered consumer": jetstream_api.consumer_create(stream_names.RUNS, "mine.runs.>"),
    "create bucket consumer": jetstream_api.consumer_create(
        stream_names.bucket_stream(stream_names.SHARED_BUCKET), "mine"
    ),
    "outcome as a watcher would see it": subjects.live_subject(subjects.outcome(TENANT, AGENT, run=RunId("x"))),
    "fired timer": subjects.timer_fire(TENANT, RunId("x"), name="late"),
    "JetStream's own subject": "$JS.API.STREAM.PURGE.OTHER",
    "system": "$SYS.REQ.SERVER.PING",
    "another inbox": "_INBOX.nobody.abc",
}


@pytest.mark.parametrize("what", FORBIDDEN)
async def test_a_forbidden_subject_is_refused_to_every_credential(connections: Connections, what: str) -> None:
    """Forging republished messages, deleting, changing and creating are refused, to ``bootstrap`` too."""
    for name in CREDENTIALS:
        with pytest.raises(PermissionDenied, match=f"credential '{name}' may not publish to"):
            await connections[name].publish_checked(FORBIDDEN[what], b"{}")


@pytest.mark.parametrize("name", CREDENTIALS)
async def test_a_credential_receives_only_from_its_own_inbox(connections: Connections, name: CredentialName) -> None:
    """It cannot subscribe to another inbox, all inboxes, all subjects, or acknowledgements."""

    async def ignore(_msg: Msg) -> None: ...

    others = [f"{stream_names.inbox_prefix(other)}.>" for other in CREDENTIALS if other != name]
    for subject in [*others, "_INBOX.>", ">", "runs.>", "control.>", "tasks.>", "$JS.ACK.>", "$JS.API.>"]:
        with pytest.raises(PermissionDenied, match=f"credential {name!r} may not subscribe to"):
            await connections[name].subscribe(subject, ignore)


@pytest.mark.parametrize("name", CREDENTIALS)
async def test_a_role_pulls_and_acknowledges_only_its_own_consumers(
    connections: Connections, name: CredentialName
) -> None:
    """Tasks, outcomes to publish and people's decisions reach no other role; stops reach any role."""
    pulls: list[tuple[str, str, Collection[str]]] = [
        (stream_names.RUNS, stream_names.SEALED_CONSUMER, {"recorder"}),
        (stream_names.TASKS, stream_names.TASKS_CONSUMER, {"validator"}),
        *((stream, consumer, {"approver"}) for stream, consumer in stream_names.REQUESTS_CONSUMERS),
        *((stream, consumer, ACTORS) for stream, consumer in stream_names.STOPS_CONSUMERS),
    ]
    for stream, consumer, holders in pulls:
        pull = jetstream_api.consumer_next(stream, consumer)
        ack = jetstream_api.consumer_ack(stream, consumer).replace(">", "1.999999.1.1.1")
        body = msgspec.json.encode({"batch": 1, "no_wait": True})
        if name in holders:
            await connections[name].publish_checked(pull, body)
            await connections[name].publish_checked(ack, b"+WPI")
        else:
            for subject in (pull, ack):
                with pytest.raises(PermissionDenied):
                    await connections[name].publish_checked(subject, body)


PUBLISHERS: dict[str, set[str]] = {
    subjects.task(TENANT, AGENT): {"operator", "client"},
    **{
        subjects.control(TENANT, RunId("x"), verb=verb): {"operator"}
        | ({"client"} if verb in {"stop", "pause", "resume", "answer"} else set[str]())
        | (set(ACTORS) if verb == "stop" else set[str]())
        for verb in VERBS
    },
    subjects.outcome(TENANT, AGENT, run=RunId("x")): {"recorder"},
    subjects.delta(TENANT, RunId("x"), turn=1, attempt=1): {"planner"},
    subjects.alert(TENANT, "stopped"): set(ACTORS),
    subjects.timer_set(TENANT, RunId("x"), name="late"): set(ACTORS),
    subjects.blob(TENANT, DIGEST, part=0): {*ROLES, "fork"},
    subjects.fork(event_subject(RunId("x"), "planner")): {"fork"},
    **{subjects.wake(TENANT, RunId("x"), role=role): set(ROLES) for role in ACTORS},
    **{subjects.dead_letter(TENANT, RunId("x"), role=role): {role} for role in ACTORS},
    stream_names.bucket_key(stream_names.AGENTS_BUCKET, "support"): {"operator"},
    stream_names.bucket_key(stream_names.IDS_BUCKET, "acme.key"): {"validator"},
    stream_names.bucket_key(stream_names.SHARED_BUCKET, "account.user.u1"): {"budget"},
    stream_names.bucket_key(stream_names.SHARED_BUCKET, "hold.run.1"): set(),
    stream_names.bucket_key(stream_names.SHARED_BUCKET, "door.closed"): set(),
    stream_names.bucket_key(stream_names.SWITCHES_BUCKET, "closed"): {"operator"},
    stream_names.bucket_key(stream_names.SWITCHES_BUCKET, "other"): set(),
    stream_names.bucket_key(stream_names.SHARED_BUCKET, "breaker.model"): set(),
    stream_names.bucket_key(stream_names.SHARED_BUCKET, "worker.w1"): set(),
    stream_names.bucket_key(stream_names.WORKERS_BUCKET, "w1"): set(ACTORS),
    stream_names.bucket_key(stream_names.POSITIONS_BUCKET, "client.outcomes.billing"): {"client"},
    stream_names.bucket_key(stream_names.POSITIONS_BUCKET, "watcher.alerts.pager"): {"watcher"},
    stream_names.reply_inbox("client", "abc"): set(ACTORS),
    "_INBOX.client.abcdefghijklmnopqrstuv.1": set(),
    jetstream_api.direct_get(stream_names.RUNS): {*ROLES, "client", "watcher", "fork"},
    jetstream_api.direct_get(stream_names.FORKS): {"fork"},
    jetstream_api.direct_get(stream_names.DEAD): {"operator"},
    jetstream_api.direct_get(stream_names.CONTROL): set(),
    jetstream_api.message_get(stream_names.RUNS): {*ROLES, "client"},
    **{
        jetstream_api.stream_create(stream): {"bootstrap"}
        for stream in (stream_names.RUNS, stream_names.bucket_stream(stream_names.SHARED_BUCKET))
    },
    jetstream_api.consumer_create(stream_names.RUNS, stream_names.SEALED_CONSUMER): {"bootstrap"},
}


@pytest.mark.parametrize("subject", PUBLISHERS)
async def test_every_other_subject_is_published_only_by_its_holders(connections: Connections, subject: str) -> None:
    """The table as the server enforces it, subject by subject, for every credential."""
    who: set[str] = set()
    for name in CREDENTIALS:
        try:
            # No stream and no API accepts this body, so the tests do not affect each other.
            await connections[name].publish_checked(subject, b"", headers={"Nats-Expected-Stream": "none"})
        except PermissionDenied:
            continue
        who.add(name)
    assert who == PUBLISHERS[subject]


@pytest.mark.parametrize("how", ["direct get", "message get", "acknowledgement", "pull"])
async def test_a_reply_of_the_server_cannot_be_aimed_at_another_role(connections: Connections, how: str) -> None:
    """If a planner names the approver's subject as reply subject, nothing is stored and no process is misled."""
    run, planner = new_run(), connections["planner"]
    forged = event_subject(run, "approver", 2, "granted")
    await planner.api_request(event_subject(run, "planner", 1, "proposed"), {"by": "a person, really"})
    await connections["operator"].api_request(event_subject(run, "operator", 1), {})
    subjects_received: list[str] = []

    async def hear(msg: Msg) -> None:
        subjects_received.append(msg.subject)

    subscription = await connections["watcher"].subscribe(subjects.live_subject("runs.>"), hear)
    requests = {
        "direct get": (
            jetstream_api.direct_get_last(stream_names.RUNS, event_subject(run, "planner", 1, "proposed")),
            b"",
        ),
        "message get": (
            jetstream_api.message_get(stream_names.RUNS),
            msgspec.json.encode({"last_by_subj": event_subject(run, "planner", 1, "proposed")}),
        ),
        "acknowledgement": (event_subject(run, "planner", 3, "proposed"), b"{}"),
        "pull": (
            jetstream_api.consumer_next(stream_names.CONTROL, stream_names.STOPS_CONSUMERS[0][1]),
            msgspec.json.encode({"batch": 5, "no_wait": True}),
        ),
    }
    subject, payload = requests[how]
    for reply in (forged, subjects.live_subject(forged), f"{stream_names.inbox_prefix('approver')}.abc"):
        await planner.publish(subject, payload, reply_to=reply)
    # A reply to a later request means that these were handled too.
    await planner.api_request(jetstream_api.stream_info(stream_names.RUNS))
    await connections["watcher"].api_request(jetstream_api.stream_info(stream_names.RUNS))
    await subscription.unsubscribe()
    assert forged not in await stored_subjects(connections, subjects.run_filter(TENANT, run))
    assert not [subject for subject in subjects_received if "approver" in subject]


async def test_a_pull_a_batch_read_and_an_acknowledgement_cross_into_the_streams_account(
    connections: Connections,
) -> None:
    """A role receives everything it needs: many replies, in order, and the confirmation of an ack."""
    run = new_run()
    for n in (1, 2):
        await connections["operator"].api_request(event_subject(run, "operator", n), {"n": n})
    recorder = connections["recorder"]
    inbox = recorder.nc.new_inbox()
    got: asyncio.Queue[Msg] = asyncio.Queue()
    subscription = await recorder.subscribe(inbox, got.put)
    body = msgspec.json.encode({"multi_last": [subjects.run_filter(TENANT, run)]})
    await recorder.publish(jetstream_api.direct_get(stream_names.RUNS), body, reply_to=inbox)
    replies = [await asyncio.wait_for(got.get(), 5) for _ in range(3)]
    assert [reply.data for reply in replies] == [b'{"n":1}', b'{"n":2}', b""]
    await recorder.api_request(f"runs.{TENANT}.{run}.recorder.sealed.3", {"n": 3})
    pull = jetstream_api.consumer_next(stream_names.RUNS, stream_names.SEALED_CONSUMER)
    await recorder.publish(pull, msgspec.json.encode({"batch": 100, "no_wait": True}), reply_to=inbox)
    while (msg := await asyncio.wait_for(got.get(), 5)).reply:
        assert msg.reply.startswith(jetstream_api.consumer_ack(stream_names.RUNS, stream_names.SEALED_CONSUMER)[:-1])
        await recorder.request(msg.reply, b"+ACK")
    assert (await recorder.api_request(jetstream_api.consumer_info(stream_names.RUNS, stream_names.SEALED_CONSUMER)))[
        "num_ack_pending"
    ] == 0
    await subscription.unsubscribe()


async def test_live_events_and_replies_reach_the_credentials_that_may_receive_them(connections: Connections) -> None:
    """A client follows a stored event and gets a role's reply, and each hint reaches its role once."""
    run = new_run()
    got: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = stream_names.reply_inbox("client", "t1")
    opened = [
        await connections["client"].subscribe(subjects.live_subject(subjects.run_filter(TENANT, run)), got.put),
        await connections["client"].subscribe(inbox, got.put),
        await connections["budget"].subscribe(subjects.wake_filter("budget"), got.put, queue="budget"),
    ]
    await connections["recorder"].api_request(event_subject(run, "recorder"), {})
    assert (await asyncio.wait_for(got.get(), 5)).subject == subjects.live_subject(event_subject(run, "recorder"))
    await connections["validator"].publish_checked(inbox, b"answer")
    assert (await asyncio.wait_for(got.get(), 5)).data == b"answer"
    await connections["executor"].publish_checked(subjects.wake(TENANT, run, role="budget"), b"hint")
    assert (await asyncio.wait_for(got.get(), 5)).data == b"hint"
    assert got.empty()
    for subscription in opened:
        await subscription.unsubscribe()


def test_a_client_without_the_option_cannot_read_runs() -> None:
    """Without the option a client can neither read nor follow runs, nor read their long texts."""
    mine = grants("client", AccessOptions(client_reads_runs=False))
    assert not [s for s in (*mine.publish, *mine.subscribe) if "RUNS" in s or "BLOBS" in s or "live.runs" in s]
    assert subjects.live_subject("runs.>") in grants("client").subscribe


@pytest.mark.parametrize("name", CREDENTIALS)
def test_no_two_rights_of_a_credential_overlap(name: CredentialName) -> None:
    """Two imports that match one message would deliver it twice."""
    for one, other in itertools.permutations(grants(name).publish, 2):
        assert not covers(one, other)


def test_no_credential_shares_the_account_of_the_streams() -> None:
    """All other rules depend on this isolation: one account a credential, and none in that of the streams."""
    section = accounts_section({name: [{"user": name}] for name in CREDENTIALS})
    users = {name: [user["user"] for user in account.get("users", ())] for name, account in section.items()}
    assert users.pop("LINESTOP") == []
    assert sorted(users.values()) == sorted([name] for name in CREDENTIALS)
    assert [name for name, account in section.items() if "jetstream" in account] == ["LINESTOP"]


def test_the_page_about_permissions_is_up_to_date() -> None:
    """docs/permissions.md agrees with the table."""
    assert DOCS.read_text() == permissions_markdown()
    assert re.search(r"^## planner$", permissions_markdown(), re.MULTILINE)
