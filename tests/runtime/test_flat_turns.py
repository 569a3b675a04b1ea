"""A turn late in a run costs what an early one costs: counted in function calls and bytes, not in seconds."""

from __future__ import annotations

import sys
from statistics import median
from types import FrameType
from typing import Any

import anyio
import msgspec
import pytest
from tests.builders import reply
from tests.virtual_processes import ONE, ScriptedModel, ScriptedTools, agent, processes

from linestop.actors.model_turn import prompt
from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import ModelChoice
from linestop.schemas.model_messages import ModelReply, Price, ToolCall
from linestop.schemas.performer_interfaces import ModelWork
from linestop.schemas.tool_contracts import ToolResult, canonical
from linestop.testing.virtual_time import run_virtual

EARLY, LATE = range(4, 9), range(296, 301)
"""Turns from about event 20 and event 1,500 on: each has five events. In one of them may be a heartbeat."""

TEXT = "x" * 900
RATIO_MAX = 1.2


class CountedModel(ScriptedModel):
    """Calls a tool in every turn, and counts the calls of functions and the encoded bytes from request to request."""

    def __init__(self) -> None:
        super().__init__([])
        self.calls: dict[int, int] = {}
        self.bytes: dict[int, int] = {}
        self.ended = anyio.Event()
        self._turn = 0

    async def request(self, work: ModelWork) -> tuple[ModelReply, float]:
        """Reply with a call; the last turn's work ends here, and the next one's begins."""
        await anyio.sleep(0.01)
        self._turn = work.turn
        sys.setprofile(self._count if work.turn in EARLY or work.turn in LATE else None)
        if work.turn > LATE[-1]:
            self.ended.set()
        args = msgspec.json.encode({"q": f"{work.turn} {TEXT}"}).decode()
        made = (ToolCall(id=f"c{work.turn}", name="look", args=args),) if work.turn <= LATE[-1] else ()
        return reply(*made, model="x"), 0.01

    def _count(self, _frame: FrameType, event: str, _arg: object) -> None:
        self.calls[self._turn] = self.calls.get(self._turn, 0) + event.endswith("call")

    def canonical(self, value: Any) -> bytes:
        """Encode as the prompt does, and count the bytes."""
        encoded = canonical(value)
        self.bytes[self._turn] = self.bytes.get(self._turn, 0) + len(encoded)
        return encoded


def roomy_agent() -> AgentVersion:
    """An agent whose limits and window hold the whole conversation."""
    limits: dict[str, Any] = {
        "tokens_max": 10_000_000,
        "cost_max_micros": 50_000_000,
        "turns_max": 10_000,
        "calls_max": 10_000,
        "calls_per_tool_max": 10_000,
        "wall_s": 86_400,
        "events_max": 2_000,
    }
    price = Price(input=100_000, output=500_000)
    return msgspec.structs.replace(
        agent(limits=limits), model=ModelChoice(model="playbook/first", price=price, window_tokens=10_000_000)
    )


def test_a_turn_at_event_1500_costs_what_one_at_event_20_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folding, deciding, prompt and digest, alarms, capacity: all of one turn of a process with all roles."""
    model = CountedModel()
    monkeypatch.setattr(prompt, "canonical", model.canonical)
    results = [ToolResult(outcome="succeeded", value=f"{TEXT} {n}") for n in range(LATE[-1] + 1)]

    async def main() -> None:
        async with processes(ONE, model, ScriptedTools({"look": results}), version=roomy_agent()) as running:
            await model.ended.wait()
            run = await running.run()
            assert run.proposals[EARLY[0] - 1].n < 25
            assert run.proposals[LATE[0] - 1].n > 1_470

    try:
        run_virtual(main, seed=1)
    finally:
        sys.setprofile(None)
    for counted in (model.calls, model.bytes):
        early, late = (median(counted[turn] for turn in turns) for turns in (EARLY, LATE))
        assert 0 < late <= RATIO_MAX * early
