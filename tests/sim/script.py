"""The agents, tools and models of a seed. Every draw depends on its purpose, not on the time of the draw."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec
from tests.sim.hardships import EVENTS

from linestop.sandbox.tools.builtin import ASK_PERSON, WAIT_FOR_EVENT, WAIT_UNTIL
from linestop.schemas.agents import AgentVersion
from linestop.schemas.defaults import AccountLimits, Limits
from linestop.schemas.events import ModelChoice, Policy
from linestop.schemas.model_messages import FailureClass, Price, ToolCall
from linestop.schemas.performer_interfaces import CallWork, ModelWork
from linestop.schemas.tool_contracts import Contract, ErrorType

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"q": {"type": "string", "maxLength": 40}, "n": {"type": "integer"}},
    "required": ["q"],
    "additionalProperties": False,
}
VALUES = ("red", "green", "blue", "seven")
CHECKED_TOOL = "scan"
BAD_RESULT = "rotten"


def _tool(name: str, **fields: Any) -> Contract:
    return Contract(name=name, description=f"{name} something", parameters=PARAMETERS, **fields)


TOOLS: tuple[Contract, ...] = (
    _tool("look", tier="read"),
    _tool(CHECKED_TOOL, tier="read", checks=True, kind="thread", timeout_s=2.0),
    _tool("note", tier="reversible", idempotent=True, price_micros=400),
    _tool("step", tier="reversible", idempotent=True, ordered=True, retries_max=1),
    _tool("mend", tier="reversible", kind="process", timeout_s=3.0, probe=True),
    _tool("send", tier="irreversible", idempotent=True, kind="thread", timeout_s=2.0, price_micros=1_000),
    _tool("pay", tier="irreversible", price_micros=3_000, timeout_s=4.0),
    _tool("wire", tier="irreversible", probe=True, timeout_s=6.0),
    _tool("order", tier="irreversible", probe=True, timeout_s=1.0, kind="process", calls_max=2),
    _tool("wipe", tier="destructive", timeout_s=2.0),
    msgspec.structs.replace(WAIT_UNTIL),
    msgspec.structs.replace(ASK_PERSON),
)
CONTRACTS = {tool.name: tool for tool in (*TOOLS, WAIT_FOR_EVENT)}
CallFate = Literal["works", "fails before", "fails after", "hangs", "answer lost"]
FAILURES: tuple[FailureClass, ...] = get_args(FailureClass)


@dataclass(slots=True, frozen=True)
class CallBehavior:
    """The behavior of one attempt at a call. Times in seconds; the effect comes within the tool's timeout."""

    fate: CallFate
    set_up_s: float
    effect_s: float
    reply_s: float
    error: ErrorType
    value: dict[str, Any]


@dataclass(slots=True, frozen=True)
class ModelBehavior:
    """The behavior of one model request."""

    draw: random.Random
    set_up_s: float
    takes_s: float
    hangs: bool
    failure: FailureClass | None
    billed: bool
    usage_reported: bool
    retry_after_s: float | None
    text: str
    calls: tuple[ToolCall, ...]
    out: int


class Script:
    """The draws of one seed. ``trouble_share`` is how often tools and models misbehave, 0.0 to 1.0."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        chance = self.chance("mood")
        self.trouble_share = chance.choice((0.05, 0.25, 0.5))
        self.turns = chance.randint(1, 6)
        # The outcome of an effect is hardest to recognise with a probe, so one such tool is always there.
        probed = chance.choice([tool for tool in TOOLS if tool.probe])
        self.tools = [probed, *chance.sample([tool for tool in TOOLS if tool is not probed], k=chance.randint(1, 4))]

    def chance(self, *what: object) -> random.Random:
        """A source of draws for one purpose."""
        return random.Random(":".join(str(part) for part in (self.seed, *what)))

    def call_behavior(self, work: CallWork) -> CallBehavior:
        """Draw what this attempt does outside."""
        draw = self.chance("act", work.tenant, work.run, work.call, work.attempt)
        bad: tuple[CallFate, ...] = ("fails before", "fails after", "hangs", "answer lost")
        fate: CallFate = draw.choice(bad) if draw.random() < self.trouble_share else "works"
        quick = draw.random() < 0.45
        return CallBehavior(
            fate=fate,
            set_up_s=draw.choice((0.0, 0.0, 0.01, 0.4, 3.0, 5.5)) if not quick else 0.0,
            effect_s=draw.uniform(0.001, 0.02) if quick else draw.uniform(0.02, work.timeout_s * 0.95),
            reply_s=0.0 if quick else draw.uniform(0.0, 0.3),
            error=draw.choice(("transient", "permanent", "rate_limit", "invalid")),
            value={"seen": draw.choice(VALUES), "state": BAD_RESULT if draw.random() < 0.2 else "fine"},
        )

    def model_behavior(self, work: ModelWork) -> ModelBehavior:
        """Draw what this model request returns."""
        what = (work.tenant, work.run, work.turn, work.attempt)
        draw = self.chance("turn", *what)
        failure = draw.choice(FAILURES) if draw.random() < self.trouble_share * 0.6 else None
        last = work.turn > self.turns or draw.random() < 0.1
        calls = () if last else self._calls(draw, work)
        text = f"thinking about {draw.choice(VALUES)}" if draw.random() < 0.9 else ""
        return ModelBehavior(
            draw=draw,
            set_up_s=self.chance("set up", *what).choice((0.0, 0.0, 0.0, 0.0, 0.01, 0.4, 5.5)),
            takes_s=draw.uniform(0.001, 0.05) if draw.random() < 0.7 else draw.uniform(0.05, 6.0),
            hangs=draw.random() < self.trouble_share * 0.1,
            failure=failure,
            billed=failure is None or draw.random() < 0.5,
            usage_reported=draw.random() < 0.85,
            retry_after_s=draw.choice((None, None, 0.5, 12.0, 150.0)),
            text=text,
            calls=calls,
            out=draw.choice((5, 60, 4_096)),
        )

    def _calls(self, draw: random.Random, work: ModelWork) -> tuple[ToolCall, ...]:
        found: list[ToolCall] = []
        for index in range(draw.choice((1, 1, 2, 4))):
            name = draw.choice(self.tools).name if draw.random() < 0.95 else "no-such-tool"
            call = f"c{work.turn}-{index}" if draw.random() < 0.9 else "again"
            found.append(ToolCall(id=call, name=name, args=self._args(draw, name)))
        return tuple(found)

    def _args(self, draw: random.Random, name: str) -> str:
        if draw.random() < 0.05:
            return draw.choice(("{", "[]", '{"q":1}', '{"q":"x","q":"y"}', '{"q":"x","w":1}'))
        if name == "wait.until":
            return msgspec.json.encode({"until": draw.choice((1, 5, 20, 400))}).decode()
        if name == "wait.for_event":
            waits_s = draw.choice((2, 20, 400))
            return msgspec.json.encode({"name": draw.choice(EVENTS), "timeout_s": waits_s}).decode()
        if name == "ask.person":
            return msgspec.json.encode({"question": "Which colour?"}).decode()
        args: dict[str, Any] = {"q": draw.choice(VALUES)}
        if draw.random() < 0.2:
            args["n"] = draw.randint(1, 3)
        return msgspec.json.encode(args).decode()


def draw_agents(script: Script) -> list[AgentVersion]:
    """Draw the agents of a seed: one or two, with limits and budgets that are sometimes reached."""
    return [_agent(script, name) for name in ("ann", "bob")[: script.chance("agents").randint(1, 2)]]


def _agent(script: Script, name: str) -> AgentVersion:
    draw = script.chance("agent", name)
    price = Price(input=draw.choice((100_000, 1_000_000)), output=draw.choice((400_000, 5_000_000)))
    models = [
        ModelChoice(model=f"playbook/{kind}", price=price, output_tokens_max=draw.choice((512, 2_048)))
        for kind in ("first", "second")
    ]
    limits = Limits(
        turns_max=draw.choice((2, 8)),
        calls_max=draw.choice((3, 12)),
        tokens_max=draw.choice((20_000, 60_000)),
        cost_max_micros=draw.choice((12_000, 60_000, 400_000)),
        ask_from_micros=draw.choice((2_000, 15_000)),
        wall_s=draw.choice((60, 240)),
        approval_expires_s=draw.choice((8, 40)),
        model_deadline_s=draw.choice((4.0, 40.0)),
        run_max_s=draw.choice((900, 86_400)),
        rejections_max=draw.choice((2, 3)),
        equal_calls_max=2,
        model_retries_max=draw.choice((1, 3)),
        compactions_max=draw.choice((0, 2)),
    )
    policy = Policy(
        clear=tuple(draw.sample(("pay", "wire", "order", "send"), k=draw.randint(1, 4))),
        ask=draw.choice(((), (), ("note",))),
        ask_on_spend=draw.random() < 0.2,
        provenance=draw.random() < 0.3,
        quorum=draw.choice((1, 1, 1, 2)),
    )
    return AgentVersion(
        name=name,
        prompt="Do what is asked. " * draw.choice((1, 20)),
        model=models[0],
        fallbacks=tuple(models[1:]) if draw.random() < 0.6 else (),
        on_model_down=draw.choice(("queue", "fall_back", "fail", "hand_off")),
        tools=tuple(tool for tool in (*TOOLS, WAIT_FOR_EVENT) if tool in script.tools),
        limits=limits,
        policy=policy,
        output_schema={"type": "object"} if draw.random() < 0.05 else None,
    )


def draw_accounts(script: Script) -> AccountLimits:
    """Draw the limit of the spending of all runs together."""
    draw = script.chance("accounts")
    return AccountLimits(
        user_day_micros=draw.choice((40_000, 1_000_000)),
        tenant_day_micros=draw.choice((60_000, 2_000_000)),
        system_hour_micros=draw.choice((90_000, 3_000_000)),
    )


def check_result(result: str) -> tuple[str, ...]:
    """The check of the checked tool: returns the findings about a result."""
    return ("It is rotten.",) if BAD_RESULT in result else ()
