"""The run log: compare-and-append and reading, the same on every bus."""

from __future__ import annotations

from functools import partial

import anyio
import msgspec
import pytest
from tests.bus_fixtures import BusFixture, ServerBusFixture, until

from linestop.bus.interfaces import Append, HeadMoved, Log, RemovedRun, RunChanges
from linestop.bus.jetstream import retry
from linestop.bus.jetstream.log import HEADS_PER_REQUEST_MAX
from linestop.bus.jetstream.replies import PubAck, ReplyMeaning, meaning
from linestop.errors import PermissionDenied, TooLarge
from linestop.schemas.defaults import MESSAGE_BYTES_MAX
from linestop.schemas.run.fold import fold_messages
from linestop.schemas.run.hash_chain import genesis, link
from linestop.schemas.subjects import ROLES, RoleName, RunId, TenantId, parse_run_event, run_event
from linestop.testing.cluster import Cluster

pytestmark = pytest.mark.anyio

WRITERS = 16
EVENTS_EACH = 4


def event(tenant: TenantId, run: RunId, *, n: int, head_seq: int, role: RoleName = "planner", text: str = "") -> Append:
    """An event whose payload names its writer and its predecessor."""
    payload = msgspec.json.encode({"n": n, "after": head_seq, "by": role, "text": text})
    return Append(
        tenant=tenant,
        run=run,
        role=role,
        event="stopped",
        n=n,
        head_seq=head_seq,
        payload=payload,
    )


async def chain(log: Log, tenant: TenantId, run: RunId, *, length: int) -> list[int]:
    """Append ``length`` events one after the other; return their sequences."""
    seqs = [0]
    for n in range(1, length + 1):
        seqs.append(await log.append(event(tenant, run, n=n, head_seq=seqs[-1])))
    return seqs[1:]


async def test_a_run_with_an_outcome_and_without_a_first_event_was_removed(
    bus: BusFixture, tenant: TenantId, run: RunId
) -> None:
    """Its outcome describes the run and its key; the outcome of a run whose first event is there does not count."""
    log, publisher = await bus.log(), await bus.publisher()
    assert await log.removed_run(tenant, run) is None
    outcome = msgspec.json.encode({"status": "stopped", "why": "not today", "gave_key_back": True, "n": 2})
    await publisher.outcome(tenant, "none", run, outcome, {})
    removed = await log.removed_run(tenant, run)
    assert removed == RemovedRun(status="stopped", why="not today", gave_key_back=True)
    assert removed is not None
    assert (removed.key_is_free, removed.stopped_beforehand) == (True, True)
    await chain(log, tenant, run, length=1)
    assert await log.removed_run(tenant, run) is None


@pytest.mark.parametrize(("status", "free"), [("over_budget", False), ("stopped", False), ("refused", True)])
async def test_an_old_outcome_without_key_fields_released_no_key(
    bus: BusFixture, tenant: TenantId, run: RunId, status: str, free: bool
) -> None:
    """It comes from an older linestop; a refused run had released its key then, too."""
    await (await bus.publisher()).outcome(tenant, "desk", run, msgspec.json.encode({"status": status}), {})
    removed = await (await bus.log()).removed_run(tenant, run)
    assert removed is not None
    assert (removed.status, removed.key_is_free, removed.stopped_beforehand) == (status, free, False)


async def test_appended_events_are_loaded_unchanged(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """A load returns subject, bytes and sequence of every event, in order."""
    log = await bus.log()
    first = event(tenant, run, n=1, head_seq=0, text="é\n\0")
    seq = await log.append(first)
    second = event(tenant, run, n=2, head_seq=seq)
    seqs = [seq, await log.append(second)]
    loaded = await log.load(tenant, run, leader=True)
    assert [m.payload for m in loaded] == [first.payload, second.payload]
    assert [m.seq for m in loaded] == seqs
    assert loaded[1].subject == run_event(tenant, run, role="planner", event="stopped", n=2)


async def test_a_stale_head_is_refused_and_the_real_one_named(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """An append after another event than the last stores nothing and names the last one."""
    log = await bus.log()
    seqs = await chain(log, tenant, run, length=2)
    with pytest.raises(HeadMoved) as refused:
        await log.append(event(tenant, run, n=2, head_seq=seqs[0], text="rival"))
    assert refused.value.head_seq == seqs[1]
    assert len(await log.load(tenant, run, leader=True)) == 2


async def test_a_first_event_is_refused_in_a_run_that_has_one(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """Head 0 requires that the run does not exist yet."""
    log = await bus.log()
    [seq] = await chain(log, tenant, run, length=1)
    with pytest.raises(HeadMoved) as refused:
        await log.append(event(tenant, run, n=1, head_seq=0, text="rival"))
    assert refused.value.head_seq == seq


async def test_appending_the_same_event_again_returns_its_sequence(
    bus: BusFixture, tenant: TenantId, run: RunId
) -> None:
    """A repeated append is recognised, also after later events and from another connection."""
    log = await bus.log()
    seqs = await chain(log, tenant, run, length=3)
    other = await bus.log()
    assert await other.append(event(tenant, run, n=3, head_seq=seqs[1])) == seqs[2]
    assert await other.append(event(tenant, run, n=1, head_seq=0)) == seqs[0]
    assert len(await log.load(tenant, run, leader=True)) == 3


async def test_an_event_appended_again_at_its_own_head_is_recognised(
    bus: BusFixture, tenant: TenantId, run: RunId
) -> None:
    """Its subject is taken by itself."""
    log = await bus.log()
    seqs = await chain(log, tenant, run, length=2)
    again = event(tenant, run, n=2, head_seq=seqs[0])
    assert await log.append(msgspec.structs.replace(again, head_seq=seqs[1])) == seqs[1]
    assert [m.seq for m in await log.load(tenant, run, leader=True)] == seqs


async def test_a_message_that_is_not_an_event_stays_in_the_log_and_blocks_nothing(
    bus: BusFixture, tenant: TenantId, run: RunId
) -> None:
    """Garbage under a run's subject is loaded with its sequence, counts as the head, and is not part of the chain."""
    log, rogue = await bus.log(), await bus.log("executor")
    head = genesis(tenant, run)
    seq = 0
    stored: list[int] = []
    for n in (1, 2):
        garbage = event(tenant, run, n=7 * n, head_seq=seq, role="executor")
        before = seq
        seq = await rogue.append(msgspec.structs.replace(garbage, payload=b"\xff no event"))
        payload = msgspec.json.encode({"id": f"e{n}", "prev": head, "by": "ann", "why": "enough"})
        real = msgspec.structs.replace(event(tenant, run, n=n, head_seq=before), payload=payload)
        with pytest.raises(HeadMoved) as moved:
            await log.append(real)
        assert moved.value.head_seq == seq
        stored += [seq, seq := await log.append(msgspec.structs.replace(real, head_seq=seq))]
        head = link(real.subject, payload)
    loaded = await log.load(tenant, run, leader=True)
    assert [m.seq for m in loaded] == stored
    assert [m.seq for m in await log.load(tenant, run, after_seq=stored[1], leader=True)] == stored[2:]
    folded = fold_messages(tenant, run, [(m.subject, m.payload, m.seq) for m in loaded])
    assert [entry.n for entry in folded.entries] == [0, 1, 0, 2]
    assert (folded.n, folded.head, folded.head_seq) == (2, head, seq)


async def test_an_event_is_never_overwritten(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """Another event under a subject that is taken is refused, even with the right head."""
    log = await bus.log()
    seqs = await chain(log, tenant, run, length=2)
    with pytest.raises(HeadMoved):
        await log.append(event(tenant, run, n=1, head_seq=seqs[1], text="forged"))
    loaded = await log.load(tenant, run, leader=True)
    assert [m.payload for m in loaded][:1] == [event(tenant, run, n=1, head_seq=0).payload]


async def test_of_two_rivals_one_wins(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """Two roles append after the same head at the same time: one event is stored, the other is a conflict."""
    outcomes: list[str] = []

    async def attempt(role: RoleName) -> None:
        log = await bus.log(role)
        try:
            await log.append(event(tenant, run, n=1, head_seq=0, role=role))
            outcomes.append("stored")
        except HeadMoved:
            outcomes.append("moved")

    async with anyio.create_task_group() as group:
        group.start_soon(attempt, "planner")
        group.start_soon(attempt, "operator")
    assert sorted(outcomes) == ["moved", "stored"]


async def test_sixteen_writers_make_exactly_one_chain(
    bus: BusFixture, tenant: TenantId, run: RunId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the race, each accepted event names its predecessor as head; three nodes show all kinds of conflicts."""
    accepted: list[int] = []
    acks: set[str] = set()

    def noted(ack: PubAck) -> ReplyMeaning:
        acks.add(meaning(ack))
        return meaning(ack)

    monkeypatch.setattr(retry, "meaning", noted)

    async def writer(number: int) -> None:
        role = ROLES[number % len(ROLES)]
        log = await bus.log(role)
        mine = 0
        while mine < EVENTS_EACH:
            head = await log.head(tenant, run)
            n = parse_run_event(head.subject).n + 1 if head else 1
            head_seq = head.seq if head else 0
            try:
                accepted.append(
                    await log.append(event(tenant, run, n=n, head_seq=head_seq, role=role, text=f"{number}/{mine}"))
                )
            except HeadMoved:
                continue
            mine += 1

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(WRITERS):
                group.start_soon(partial(writer, number))
    loaded = await (await bus.log()).load(tenant, run, leader=True)
    assert sorted(accepted) == [m.seq for m in loaded]
    assert [parse_run_event(m.subject).n for m in loaded] == list(range(1, WRITERS * EVENTS_EACH + 1))
    heads = [msgspec.json.decode(m.payload)["after"] for m in loaded]
    assert heads == [0, *(m.seq for m in loaded)][:-1]
    if isinstance(bus, ServerBusFixture):
        # Only replicas can have another append in flight; they refuse this one without naming a head.
        on_three = isinstance(bus.server, Cluster)
        assert {"stored", "superseded"} <= acks
        assert ("in_flight" in acks) == on_three
        assert (len(bus.nodes) > 1) == on_three, "the clients of a cluster must be spread over its nodes"


async def test_a_long_run_is_loaded_whole_and_in_order(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """Over 2,000 events are read in pages; from a sequence on, and from the leader too."""
    log = await bus.log()
    seqs = await chain(log, tenant, run, length=2_100)
    assert [m.seq for m in await log.load(tenant, run, leader=True)] == seqs

    async def a_replica_has_all() -> bool:
        return [m.seq for m in await log.load(tenant, run)] == seqs

    await until(a_replica_has_all)
    assert [m.seq for m in await log.load(tenant, run, after_seq=seqs[1_499], leader=True)] == seqs[1_500:]
    assert await log.load(tenant, run, after_seq=seqs[-1]) == []


async def test_a_load_sees_no_other_run(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """Runs whose names begin alike, and the same run of another tenant, stay apart."""
    log = await bus.log()
    await chain(log, tenant, run, length=2)
    await chain(log, tenant, RunId(f"{run}-2"), length=1)
    assert len(await log.load(tenant, run, leader=True)) == 2
    assert await log.load(TenantId("nobody"), run) == []


async def test_head_and_message_at_come_from_the_leader(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """The last message and any message by its sequence; None where there is none."""
    log = await bus.log()
    assert await log.head(tenant, run) is None
    seqs = await chain(log, tenant, run, length=3)
    head = await log.head(tenant, run)
    assert head is not None
    assert head.seq == seqs[-1]
    assert await log.message_at(seqs[-1]) == head
    assert await log.message_at(10_000_000) is None


async def test_open_runs_are_those_begun_and_not_sealed(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """A run is open from its first event of any kind until the recorder seals it."""
    log = await bus.log()
    recorder = await bus.log("recorder")
    other = RunId(f"{run}-b")
    [seq] = await chain(log, tenant, run, length=1)
    await chain(log, tenant, other, length=2)
    assert {(tenant, run), (tenant, other)} <= set(await log.open_runs())
    sealed = event(tenant, run, n=2, head_seq=seq, role="recorder")
    await recorder.append(msgspec.structs.replace(sealed, event="sealed"))
    still_open = await log.open_runs()
    assert (tenant, run) not in still_open
    assert (tenant, other) in still_open


async def test_space_used_is_a_share(bus: BusFixture) -> None:
    """It is between 0.0 and 1.0."""
    assert 0.0 <= (await (await bus.log()).fullest()).used < 1.0


async def test_an_event_over_the_limit_is_refused_in_a_sentence(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """An event of the largest size is stored, one byte more is not."""
    log = await bus.log()
    largest = msgspec.structs.replace(event(tenant, run, n=1, head_seq=0), payload=b"x" * MESSAGE_BYTES_MAX)
    seq = await log.append(largest)
    with pytest.raises(TooLarge, match="blobs"):
        await log.append(
            msgspec.structs.replace(event(tenant, run, n=2, head_seq=seq), payload=b"x" * (MESSAGE_BYTES_MAX + 1))
        )
    assert [len(m.payload) for m in await log.load(tenant, run, leader=True)] == [MESSAGE_BYTES_MAX]


async def test_a_role_cannot_append_for_another(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """The broker refuses a planner's approval at once, and nothing is stored."""
    log = await bus.log("planner")
    with anyio.fail_after(2), pytest.raises(PermissionDenied):
        await log.append(event(tenant, run, n=1, head_seq=0, role="approver"))
    assert await log.load(tenant, run, leader=True) == []


async def test_pages_hold_every_message_of_every_run_in_order(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """Read page by page, the log is complete and in order, and ends."""
    log = await bus.log()
    first = await log.append(event(tenant, run, n=1, head_seq=0))
    other = await log.append(event(tenant, RunId(f"{run}-x"), n=1, head_seq=0))
    last = await log.append(event(tenant, run, n=2, head_seq=first))
    seen: list[int] = []
    while page := await log.page(after_seq=seen[-1] if seen else first - 1):
        seen += [message.seq for message in page]
    assert seen == list(range(first, seen[-1] + 1))
    assert {first, other, last} <= set(seen)


async def test_one_request_tells_which_runs_have_moved(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """A run has moved if a message with the next number is stored, whatever its role and name, also a void one."""
    log, other, none = await bus.log(), RunId(f"{run}-other"), RunId(f"{run}-none")
    await chain(log, tenant, run, length=3)
    await chain(log, tenant, other, length=12)
    heads = [(tenant, run, 3), (tenant, other, 12), (tenant, none, 0)]
    assert await log.moved(heads) == set()
    assert await log.moved([]) == set()
    assert await log.moved([(tenant, run, 2), (tenant, other, 11), (tenant, none, 1)]) == {
        (tenant, run),
        (tenant, other),
    }
    head = await log.head(tenant, run)
    assert head is not None
    await log.append(event(tenant, run, n=4, head_seq=head.seq))
    assert await log.moved(heads) == {(tenant, run)}
    many = [(tenant, RunId(f"{run}-{n}"), 0) for n in range(2 * HEADS_PER_REQUEST_MAX)]
    assert await log.moved([*many, *heads]) == {(tenant, run)}


async def test_the_runs_that_began_and_were_sealed_are_read_from_a_position_on(
    bus: BusFixture, tenant: TenantId, run: RunId
) -> None:
    """What was read before is not read again; other events of the runs are not read at all."""
    log, recorder = await bus.log(), await bus.log("recorder")
    before, other = RunId(f"{run}-before"), RunId(f"{run}-other")
    await chain(log, tenant, before, length=2)
    start = await log.run_changes(None)
    assert (start.begun, start.sealed) == ([], [])
    for name in (run, other):
        await chain(log, tenant, name, length=3)
    head = await log.head(tenant, other)
    assert head is not None
    seal = event(tenant, other, n=4, head_seq=head.seq, role="recorder")
    await recorder.append(msgspec.structs.replace(seal, event="sealed"))

    async def changes() -> RunChanges | None:
        found = await log.run_changes(start.position)
        return found if found.sealed and len(found.begun) == 2 else None

    read = await until(changes)
    assert read is not None
    assert [key for key in read.begun if key[0] == tenant] == [(tenant, run), (tenant, other)]
    assert [key for key in read.sealed if key[0] == tenant] == [(tenant, other)]
    again = await log.run_changes(read.position)
    assert (again.begun, again.sealed, again.position) == ([], [], read.position)
