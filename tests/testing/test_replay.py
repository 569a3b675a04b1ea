"""``replay``: today's roles take the decisions of a log again, with the facts that its events store."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.run_logs import AGENT, ASKING, SCENARIOS, STRICT, Forger
from tests.stack import stack

import linestop.testing
from linestop.bus.streams import stream_names
from linestop.client import Client
from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import Opened, decode
from linestop.schemas.subjects import RunId, TenantId
from linestop.testing import replay

Message = tuple[str, bytes, int]
TENANT = TenantId("default")


def agent_of(log: list[Message]) -> AgentVersion:
    """The version a scenario's run was opened with; other versions differ only in policy and limits."""
    opened = decode("validator", "opened", log[0][1])
    assert isinstance(opened, Opened)
    version = next((agent for agent in (ASKING, STRICT) if agent.digest() == opened.agent.digest), AGENT)
    return msgspec.structs.replace(version, policy=opened.policy, limits=opened.limits)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "refused"])
def test_replay_takes_every_decision_the_same_way(name: str) -> None:
    """The same log and the same facts give the same decisions, in every scenario."""
    log = SCENARIOS[name]()
    differences = replay(log, agent_of(log))
    assert not differences, [(d.n, d.role, d.event, d.field) for d in differences]


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_log_without_its_agent_is_compared_in_part(name: str) -> None:
    """Without the agent's version, decisions that depend on its prompt and schemas are skipped; no other differs."""
    assert replay(SCENARIOS[name]()) == []


def test_a_decision_that_differs_today_is_reported() -> None:
    """A log in which a call was cleared by another rule than today's is reported, with event and field."""
    log = SCENARIOS["approved"]()
    forger = Forger(log)
    forger.body("approver", "cleared")["calls"][0]["rule"] = "tier:reversible"
    for agent in (agent_of(log), None):
        differences = replay(forger.messages(), agent)
        assert [(d.role, d.event, d.field) for d in differences] == [("approver", "cleared", "calls")]


def test_a_message_that_is_not_an_event_of_the_run_is_skipped() -> None:
    """Neither an empty log nor garbage before, between and after the events is a difference."""
    log = SCENARIOS["approved"]()
    strange = [("runs.T.?", b"{}"), ("runs.t.r1.planner.dreamt.99", b"\xff"), ("runs.t.r1.a.b.c.d", b"[" * 100_000)]
    littered = [(subject, payload, 0) for subject, payload in strange] + log
    littered += [(subject, payload, log[-1][2] + at) for at, (subject, payload) in enumerate(strange, 1)]
    assert replay([]) == replay(littered[:3]) == []
    assert replay(littered, agent_of(log)) == []


@pytest.mark.anyio
@pytest.mark.broker
async def test_a_run_on_a_real_clock_is_replayed_the_same_way(tmp_path: Path) -> None:
    """Time passes between a decision and its append; every deadline is computed again to the microsecond."""
    async with stack(tmp_path) as system, Client.connect(system.directory, as_="operator") as client:
        for run, text in (("paid", "pay 5"), ("cut", "hang")):
            await client.submit("desk", text, run=run)
        await system.effects.hanging.wait()
        await client.stop("cut", why="enough")
        async for entry in client.events("paid", follow=True):
            if entry.name == "asked":
                await client.approve("paid", by="ann")
        await client.outcome("cut")
        for run in ("paid", "cut"):
            stored = await client.bus.log().load(TENANT, RunId(run))
            opened = (await client.run(run)).opened
            assert opened is not None
            version = await client.bus.bucket(stream_names.AGENTS_BUCKET).get(f"version.{opened.agent.digest}")
            assert version is not None
            log = [(message.subject, message.payload, message.seq) for message in stored]
            differences = replay(log, blobs={opened.agent.digest: version.value})
            assert not differences, [(d.n, d.role, d.event, d.field) for d in differences]


def test_every_public_name_of_testing_can_be_imported() -> None:
    """A test of an agent imports everything from one module, in any order."""
    assert {name for name in linestop.testing.__all__ if getattr(linestop.testing, name, None) is None} == set()
    assert set(linestop.testing.__all__) <= set(dir(linestop.testing))
    assert callable(linestop.testing.replay)
    with pytest.raises(AttributeError, match="no attribute 'mock'"):
        _ = linestop.testing.mock  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
