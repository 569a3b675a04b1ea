"""The one event that wakes a role after a person's decision is lost: the recorder's sweep finds the run."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from tests.bus.test_deadlines_on_time import until_event, virtually
from tests.virtual_processes import EACH, BrokerFaults, Processes, ScriptedModel, agent, calls, processes

from linestop.schemas.defaults import SWEEP_EVERY_S

EXPIRES_S = 3_600
LONG_BEFORE_S = 61
"""By then the sweep has seen the run wait, and knows until when."""

LATE_MAX_S = 2 * SWEEP_EVERY_S + 0.6


async def decide(line: Processes, verb: str) -> None:
    """Send the person's decision about the only call."""
    proposal = (await line.run()).proposal
    assert proposal is not None
    call = proposal.calls[0]
    assert call.grant is not None
    await line.send_control(
        verb, call=call.call, args_sha256=call.args_sha256, contract_digest=call.grant.contract_digest
    )


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ("approver.granted", "executor.started"),
        ("approver.denied", "planner.started"),
        ("approver.resumed", "executor.started"),
    ],
)
def test_a_decision_whose_event_wakes_nobody_is_acted_on_by_the_next_sweeps(
    lost: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when the question expires, up to which the sweep would leave the run alone."""

    def copies(_self: BrokerFaults, subject: str) -> Sequence[float]:
        return () if subject.startswith("live.") and f".{lost}." in subject else (0.0,)

    monkeypatch.setattr(BrokerFaults, "copies", copies)

    async def main() -> None:
        version = agent(limits={"wall_s": 100_000, "approval_expires_s": EXPIRES_S})
        model = ScriptedModel([calls(("pay", {"q": "1"}))])
        async with processes(EACH, model, version=version, sweeping=True) as line:
            await until_event(line, "approver.asked", 1)
            await anyio.sleep(LONG_BEFORE_S)
            count = len(await line.event_times(expected))
            if lost == "approver.resumed":
                await line.send_control("pause")
                await anyio.sleep(LONG_BEFORE_S)
                await decide(line, "approve")
                await anyio.sleep(LONG_BEFORE_S)
                await line.send_control("resume")
            else:
                await decide(line, "approve" if lost == "approver.granted" else "deny")
            await until_event(line, lost, 1)
            await until_event(line, expected, count + 1)
            [lost_at] = await line.event_times(lost)
            assert (await line.event_times(expected))[count] - lost_at <= LATE_MAX_S

    virtually(main)
