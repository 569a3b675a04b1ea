"""An open question raises an alert for people, unless a service answers it."""

from __future__ import annotations

import pytest
from tests.builders import CONTRACTS, agent, at_work, call, contract

from linestop.bus.run_outcomes_and_alerts import event_alerts
from linestop.schemas.events import NEVER, Asked

NAMED = {"type": "object", "properties": {"name": {"type": "string"}}}
AGENT = agent(tools=(*CONTRACTS, contract("wait.for_event", kind="wait", parameters=NAMED)))


@pytest.mark.parametrize(
    ("tool", "args", "kinds"),
    [
        ("wait.for_event", '{"name":"paid"}', []),
        ("ask.person", '{"question":"Which?"}', ["approval-asked"]),
        ("pay", "{}", ["approval-asked"]),
    ],
)
def test_a_wait_for_an_event_raises_no_alert(tool: str, args: str, kinds: list[str]) -> None:
    """A person need not be alerted because a payment is awaited."""
    story = at_work(call(tool, args), version=AGENT)
    assert story.last(Asked)
    assert [alert.kind for alert in event_alerts(story.run, since=NEVER)] == kinds
