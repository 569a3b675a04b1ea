"""``replay``: today's roles decide a log again, from the facts that its own events keep."""

from __future__ import annotations

import msgspec
import pytest
from tests.run_logs import AGENT, ASKING, SCENARIOS, STRICT, Forger

from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import Opened, decode
from linestop.testing.replay import replay


def agent_of(log: list[tuple[str, bytes, int]]) -> AgentVersion:
    """The version a scenario's run was opened with; those that are not named differ in policy and limits only."""
    opened = decode("validator", "opened", log[0][1])
    assert isinstance(opened, Opened)
    named = next((agent for agent in (ASKING, STRICT) if agent.digest() == opened.agent.digest), AGENT)
    return msgspec.structs.replace(named, policy=opened.policy, limits=opened.limits)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "refused"])
def test_every_decision_comes_out_the_same(name: str) -> None:
    """The same log and the same facts give the same decisions, in every scenario."""
    log = SCENARIOS[name]()
    differences = replay(log, agent_of(log))
    assert not differences, [(d.n, d.role, d.event, d.field) for d in differences]


def test_a_decision_that_would_come_out_differently_is_named() -> None:
    """A log in which a call was cleared by another rule than today's is told apart, with event and field."""
    log = SCENARIOS["retried"]()
    forger = Forger(log)
    forger.body("approver", "cleared")["calls"][0]["rule"] = "policy:clear"
    differences = replay(forger.messages(), agent_of(log))
    assert [(d.role, d.event, d.field) for d in differences] == [("approver", "cleared", "calls")]
