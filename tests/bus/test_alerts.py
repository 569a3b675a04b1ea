"""Everything that needs a person raises one alert, whichever role appended it and whichever process dies."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import anyio
import msgspec
import pytest
from nats.aio.msg import Msg
from tests.builders import Story
from tests.run_logs import AGENT, RUN, TENANT, InMemory, NoAlerts, ScriptedTurns, Tools
from tests.stack import stack

from linestop.actors.validator import Validator
from linestop.bus import run_outcomes_and_alerts
from linestop.bus.cloud_events import timestamp
from linestop.bus.connection import connect
from linestop.bus.event_message import EventEncoder
from linestop.bus.jetstream.reads import Reader
from linestop.bus.stop_run import catch_up, stop_run
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.client import Client
from linestop.errors import TooLarge, Unreachable
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.outbox import Outbox
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_binding import RoleBinding
from linestop.runtime.role_factory import make_role
from linestop.schemas import subjects
from linestop.schemas.events import NEVER, Refused, decode
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.state import LATEST
from linestop.schemas.subjects import ACTORS, RoleName, RunId, TenantId
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import run_virtual, virtual_now

SOON_S = 20.0


@asynccontextmanager
async def serving(
    broker: MemoryBroker,
    turns: Sequence[Sequence[tuple[str, str]]],
    roles: Sequence[RoleName] = ACTORS,
    *,
    name: str = "w#1",
) -> AsyncGenerator[ActorProcess]:
    """One process with these roles, on a scripted model."""
    await AgentStore(broker.bucket(stream_names.AGENTS_BUCKET)).deploy(AGENT)
    made = [make_role(role, requester=ScriptedTurns(turns), runner=Tools({})) for role in roles]
    config = ProcessSettings(worker=name, now=virtual_now, random_source=random.Random(1))
    async with ActorProcess(InMemory(broker), made, config).running() as host:
        yield host


async def submit(broker: MemoryBroker) -> None:
    """Send the task."""
    await broker.publish(f"tasks.{TENANT}.a", msgspec.json.encode({"text": "please a slow", "run": RUN}))


async def log_of(broker: MemoryBroker) -> Run:
    """The run folded from its log."""
    run = Run(TENANT, RUN)
    await catch_up(broker.log(), run)
    return run


async def stop_directly(broker: MemoryBroker) -> None:
    """Stop the run as the operator, without an actor."""
    run, log = await log_of(broker), broker.log(["operator"])
    encoder = EventEncoder(build="", blobs=broker.blobs(), random_source=random.Random(2), now=virtual_now)
    await stop_run(log, encoder, run, lambda at: stop_event(at, by="ann", why="enough"))


def alerts(broker: MemoryBroker) -> list[tuple[str, dict[str, Any]]]:
    """All alerts: kind and payload."""
    found = broker.stream(stream_names.ALERTS).matching(">")
    return [(stored.subject.rpartition(".")[2], msgspec.json.decode(stored.payload)) for stored in found]


def test_an_alert_has_the_event_as_it_is_stored() -> None:
    """With its number, id, time and the hash of the event before: the person can find it in the log."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker, [[("pay", "a")]]):
            await submit(broker)
            await anyio.sleep(2)
        [(kind, payload)] = alerts(broker)
        assert kind == "approval-asked"
        assert (payload["tenant"], payload["run"], payload["agent"]) == (TENANT, RUN, "a")
        n: int = payload["n"]
        entry = (await log_of(broker)).entries[n - 1]
        assert entry.name == "asked"
        assert decode("approver", "asked", msgspec.json.encode(payload["event"])) == entry.event
        [stored] = broker.stream(stream_names.ALERTS).matching(">")
        assert entry.event is not None
        assert stored.headers == {
            "Nats-Msg-Id": ANY,
            "traceparent": entry.event.trace,
            "Content-Type": "application/json",
            "ce-specversion": "1.0",
            "ce-id": f"t/{RUN}/{entry.n}",
            "ce-source": "/linestop/approver",
            "ce-type": "io.linestop.alert.approval-asked",
            "ce-subject": RUN,
            "ce-time": timestamp(entry.event.at),
            "ce-datacontenttype": "application/json",
        }

    run_virtual(main, seed=1)


def test_a_message_id_published_beforehand_suppresses_no_alert() -> None:
    """A client that knows the run and guesses numbers cannot take the id of a future alert."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        thief = broker.publisher()
        for ident in (*(f"{TENANT}/{RUN}/{n}" for n in range(1, 30)), f"no-worker/{TENANT}/planner"):
            await thief.alert(TENANT, "noise", b"{}", {"Nats-Msg-Id": ident})
        async with serving(broker, [[("pay", "a")]]):
            await submit(broker)
            await anyio.sleep(2)
        assert [kind for kind, _ in alerts(broker) if kind != "noise"] == ["approval-asked"]

    run_virtual(main, seed=1)


def test_the_message_id_of_an_alert_depends_on_the_whole_alert_and_not_on_its_sender() -> None:
    """Two processes that read the same log compute the same id; another event in its place has another id."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker, [[("pay", "a")]]):
            await submit(broker)
            await anyio.sleep(2)
        run, again = await log_of(broker), await log_of(broker)
        [one], [same] = (
            list(run_outcomes_and_alerts.event_alerts(run, since=NEVER)),
            list(run_outcomes_and_alerts.event_alerts(again, since=NEVER)),
        )
        assert one == same
        asked = next(entry for entry in run.entries if entry.name == "asked")
        assert asked.event is not None
        other = run_outcomes_and_alerts.alert_for_event(
            run, msgspec.structs.replace(asked, event=msgspec.structs.replace(asked.event, id="other"))
        )
        assert other is not None
        assert other.headers["ce-id"] == one.headers["ce-id"]
        assert other.headers["Nats-Msg-Id"] != one.headers["Nats-Msg-Id"]
        [mine, still, theirs] = [
            run_outcomes_and_alerts.no_worker_alert(run, "planner", nonce=nonce) for nonce in ("a", "a", "b")
        ]
        assert mine.headers["Nats-Msg-Id"] == still.headers["Nats-Msg-Id"] != theirs.headers["Nats-Msg-Id"]

    run_virtual(main, seed=1)


def test_an_operators_stop_raises_one_alert_when_the_run_is_sealed() -> None:
    """No role appended it, so the recorder publishes the alert."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker, [[("look", "slow")]]):
            await submit(broker)
            await anyio.sleep(1)
            await stop_directly(broker)
            await anyio.sleep(30)
        assert [(kind, payload["event"]["by"]) for kind, payload in alerts(broker)] == [("stopped", "ann")]

    run_virtual(main, seed=1)


def test_an_actors_stop_raises_one_alert() -> None:
    """The alert that was published at once is not published again when the run is sealed."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker, [[("look", "slow")]]):
            await submit(broker)
            await anyio.sleep(1)
            await broker.publish(f"control.{TENANT}.{RUN}.stop", b'{"by":"ann"}')
            await anyio.sleep(30)
        assert [kind for kind, _ in alerts(broker)] == ["stopped"]

    run_virtual(main, seed=1)


def test_a_stop_after_an_illegal_decision_raises_an_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a stop that the shell itself appends."""
    monkeypatch.setattr(Validator, "decide", _illegal(Validator.decide))

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker, []):
            await submit(broker)
            await anyio.sleep(10)
        assert [(kind, payload["event"]["code"]) for kind, payload in alerts(broker)] == [("stopped", "defect")]

    run_virtual(main, seed=1)


def _illegal(inner: Any) -> Any:
    def decide(self: Any, run: Run, *args: Any) -> Any:
        event = inner(self, run, *args)
        wrong = run.proposals and not run.done
        return msgspec.structs.replace(event, proposal_n=99) if wrong and event is not None else event

    return decide


def _die_before_the_alert(*_: object) -> None:
    """Die before the alert is published."""


def test_an_alert_that_its_process_did_not_live_to_send_is_sent_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process stores its event and dies before the alert; the next one's first sweep publishes it."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        with monkeypatch.context() as dying:
            dying.setattr(Outbox, "alert", _die_before_the_alert)
            async with serving(broker, [[("pay", "a")]]):
                await submit(broker)
                await anyio.sleep(2)
        assert alerts(broker) == []
        for _ in range(2):
            async with serving(broker, [[("pay", "a")]]):
                await anyio.sleep(2)
        assert [kind for kind, _ in alerts(broker)] == ["approval-asked"]

    run_virtual(main, seed=1)


@pytest.mark.parametrize("roles", [ACTORS, ("recorder", "budget")])
def test_a_question_raises_its_alert_later_if_its_process_died_first(
    monkeypatch: pytest.MonkeyPatch, roles: Sequence[RoleName]
) -> None:
    """However old an open question is, the first pass of the recorder's sweep publishes its alert."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        with monkeypatch.context() as dying:
            dying.setattr(Outbox, "alert", _die_before_the_alert)
            async with serving(broker, [[("pay", "a")]]):
                await submit(broker)
                await anyio.sleep(2)
        await anyio.sleep(600)
        async with serving(broker, [[("pay", "a")]], roles):
            await anyio.sleep(2)
        assert [kind for kind, _ in alerts(broker)] == ["approval-asked"]

    run_virtual(main, seed=1)


def test_a_question_that_is_answered_raises_no_second_alert() -> None:
    """A later process finds no open question in a stopped run, and publishes no alert."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker, [[("pay", "a")]]):
            await submit(broker)
            await anyio.sleep(2)
        run = await log_of(broker)
        assert [alert.kind for alert in run_outcomes_and_alerts.event_alerts(run, since=LATEST, asked_after=0)] == [
            "approval-asked"
        ]
        assert list(run_outcomes_and_alerts.event_alerts(run, since=LATEST, asked_after=run.n)) == []
        await stop_directly(broker)
        assert list(run_outcomes_and_alerts.event_alerts(await log_of(broker), since=LATEST, asked_after=0)) == []

    run_virtual(main, seed=1)


def test_a_sweep_that_knows_the_run_sends_the_alert_that_the_asking_process_did_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The asking process dies before the alert; the recorder sees that the run has moved and publishes it."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker, [], ["recorder", "budget", "validator"]) as recorder:
            await submit(broker)
            await anyio.sleep(12)
            monkeypatch.setattr(Outbox, "alert", _die_before_the_alert)
            async with serving(broker, [[("pay", "a")]], [r for r in ACTORS if r not in recorder.shell.role_names]):
                await anyio.sleep(3)
            await anyio.sleep(10)
        # The first alert is about the time without a planner.
        assert [kind for kind, _ in alerts(broker)] == ["no-worker", "approval-asked"]

    run_virtual(main, seed=1)


def test_a_run_that_its_worker_does_not_advance_is_stopped_after_an_alert() -> None:
    """For all the recorder knows there is a planner, as with workers of an older linestop: the run counts as stuck."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker, [], [role for role in ACTORS if role != "planner"]) as host:
            host.sweep.is_role_missing = lambda role: role != "planner"
            await submit(broker)
            await anyio.sleep(60)
            assert [(kind, payload.get("role")) for kind, payload in alerts(broker)] == [("no-worker", "planner")]
            await anyio.sleep(200)
        assert [kind for kind, _ in alerts(broker)] == ["no-worker", "stopped"]
        assert alerts(broker)[1][1]["event"]["code"] == "stuck"

    run_virtual(main, seed=1)


def test_a_run_without_a_worker_for_its_role_raises_an_alert_within_ten_seconds_and_is_not_stuck() -> None:
    """The alert comes once, and as long as there is no planner the run is not stopped as stuck."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker, [], [role for role in ACTORS if role != "planner"]):
            await anyio.sleep(20)
            await submit(broker)
            await anyio.sleep(10)
            assert [(kind, payload.get("role")) for kind, payload in alerts(broker)] == [("no-worker", "planner")]
            await anyio.sleep(100)
            assert [kind for kind, _ in alerts(broker)] == ["no-worker"]
            assert (await log_of(broker)).stopped is None

    run_virtual(main, seed=1)


@pytest.mark.parametrize("killed", [False, True])
def test_the_no_worker_alert_comes_within_ten_seconds_of_the_death_of_the_last_worker(killed: bool) -> None:
    """After an orderly end or a kill: the run waits from the last heartbeat of its planner on."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker, [], [role for role in ACTORS if role != "planner"]):
            async with serving(broker, [], ["planner"], name="p#1") as planner:
                await anyio.sleep(20)
                if killed:
                    planner.presence.round = planner.presence._store_heartbeat = _store_no_heartbeat  # type: ignore[method-assign,assignment] # pyright: ignore[reportPrivateUsage]
            await submit(broker)
            await anyio.sleep(10)
            assert [(kind, payload.get("role")) for kind, payload in alerts(broker)] == [("no-worker", "planner")]

    run_virtual(main, seed=1)


async def _store_no_heartbeat(*_: object) -> None:
    """Store no heartbeat, like a killed process."""


def test_no_worker_alert_is_sent_while_a_run_waits_for_a_person() -> None:
    """A run that waits for a person waits for no worker."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker, [[("pay", "a")]]) as host:
            await submit(broker)
            await anyio.sleep(2)
        del host
        async with serving(broker, [], ["recorder", "budget"]):
            await anyio.sleep(60)
        assert [kind for kind, _ in alerts(broker)] == ["approval-asked"]

    run_virtual(main, seed=1)


def test_a_waiting_run_is_not_stopped_because_its_alert_cannot_be_sent() -> None:
    """A question that is too large for an alert does not stop the run: it waits until a person finds it."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now, faults=NoAlerts(TooLarge("It is too large."), 0))
        async with serving(broker, [[("pay", "a")]]):
            await submit(broker)
            await anyio.sleep(300)
            run = await log_of(broker)
        assert run.phase == Phase.WAITING
        assert [entry.name for entry in run.entries if entry.name == "stopped"] == []
        assert alerts(broker) == []

    run_virtual(main, seed=1)


def test_an_alert_that_cannot_be_sent_delays_nothing() -> None:
    """The run continues while no alert can be published."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now, faults=NoAlerts(Unreachable("No alert gets through."), 15))
        async with serving(broker, [[("look", "slow")]]):
            await submit(broker)
            await anyio.sleep(1)
            await broker.publish(f"control.{TENANT}.{RUN}.stop", b'{"by":"ann"}')
            await anyio.sleep(2)
            assert (await log_of(broker)).sealed is not None

    run_virtual(main, seed=1)


@pytest.mark.anyio
@pytest.mark.broker
async def test_on_the_real_server_a_stop_raises_one_alert_and_every_message_has_its_headers(tmp_path: Path) -> None:
    """An operator's stop and an actor's: one alert each, repeated or not; outcome and dead letter have headers, too."""
    async with stack(tmp_path) as line, Client.connect(line.directory, as_="operator") as operator:
        async with await connect(line.server.credential("operator"), name="look") as connection:
            wire = connection.wire
            messages: list[Msg] = []
            await wire.subscribe("live.alerts.>", messages.append)
            submitted = [await operator.submit("desk", "hang"), await operator.submit("desk", "hang")]
            await operator.stop(submitted[0].run, why="drill")
            async with Client.connect(line.directory) as client:
                await client.stop(submitted[1].run, why="enough")
            assert line.host is not None
            outbox, binding = line.host.shell.outbox, line.host.shell.bindings[0]
            run = Run(TENANT, RUN)
            for each in submitted:
                outcome = await operator.outcome(each.run, timeout_s=SOON_S)
                run = Run(TenantId(outcome.tenant), RunId(outcome.run))
                await catch_up(binding.log, run)
                await outbox.publish_alerts(run, run_outcomes_and_alerts.event_alerts(run, since=NEVER))
                stored = await Reader(wire, stream_names.OUTCOMES).direct_last(f"outcomes.default.desk.{each.run}")
                assert stored is not None
                assert stored.headers["ce-type"] == "io.linestop.outcome"
                assert run.sealed is not None
                assert stored.headers["traceparent"] == run.sealed.trace
            outbox.dead_letter(binding, run, "for the test")
            await binding.publisher.alert(run.tenant, "last", b"{}", {})
            with anyio.fail_after(SOON_S):
                while not messages or not messages[-1].subject.endswith(".last"):  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                dead = Reader(wire, stream_names.DEAD)
                while not (dead_letter := await dead.direct_last(_dead_letter_subject(binding, run))):  # noqa: ASYNC110
                    await anyio.sleep(0.01)
        payloads = [msgspec.json.decode(message.data) for message in messages[:-1]]
        assert sorted(each["run"] for each in payloads) == sorted(each.run for each in submitted)
        assert {each["event"]["why"] for each in payloads} == {"drill", "enough"}
        assert [(message.headers or {}).get("ce-type") for message in messages[:-1]] == [
            "io.linestop.alert.stopped"
        ] * 2
        assert dead_letter.headers["ce-type"] == "io.linestop.dead"
        assert dead_letter.headers["traceparent"].startswith("00-")


def _dead_letter_subject(binding: RoleBinding, run: Run) -> str:
    return subjects.dead_letter(run.tenant, run.run, role=binding.role.name)


@pytest.mark.parametrize("stopped_first", [True, False])
def test_the_outcome_of_a_run_that_never_opened_goes_to_one_place(stopped_first: bool) -> None:
    """``none`` if it was stopped first, whether or not its task arrived in time; else the requested agent."""
    story = Story()
    stop = stop_event(story.run, by="ann", why="enough")
    refused = Refused(code="stopped" if stopped_first else "bad_task", sentence="No.", agent="desk")
    if stopped_first:
        story.given(stop, by="operator").given(refused)
    else:
        story.given(refused).given(stop, by="operator")
    assert run_outcomes_and_alerts.agent_of(story.run) == (subjects.NO_AGENT if stopped_first else "desk")
