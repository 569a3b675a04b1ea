"""Whole logs of runs, made by the real roles in memory under virtual time, and a forger that changes them."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import anyio
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.builders import reply

from linestop.bus.interfaces import Blobs, Bucket, LiveMessage, Log, Publisher, Queue, Timers
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import ConsumerSpec
from linestop.errors import LinestopError
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.intake import Person
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import AskedCall, ModelChoice, Policy
from linestop.schemas.messages import Control, Verb, signed_bytes
from linestop.schemas.model_messages import ModelReply, Price, ToolCall
from linestop.schemas.performer_interfaces import CallWork, ModelWork
from linestop.schemas.run.call_states import Stage
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import ACTORS, RoleName, RunId, TenantId
from linestop.schemas.tool_contracts import Contract, Tier, ToolError, ToolResult
from linestop.schemas.verify.chain_links import read_chain
from linestop.schemas.verify.checkpoint_signature import Checkpoint, TrustedKey, sign
from linestop.testing.memory import MemoryBroker, NoFaults
from linestop.testing.virtual_time import run_virtual, virtual_now

Message = tuple[str, bytes, int]
TENANT, RUN = TenantId("t"), RunId("r1")
ANN = Ed25519PrivateKey.from_private_bytes(b"a" * 32)
BOB = Ed25519PrivateKey.from_private_bytes(b"b" * 32)
RECORDER = Ed25519PrivateKey.from_private_bytes(b"r" * 32)


def public(key: Ed25519PrivateKey) -> str:
    """The public half of a key, in hex."""
    return key.public_key().public_bytes_raw().hex()


KEYS = {
    "ann": TrustedKey(public_key=public(ANN), purpose="person", name="ann"),
    "bob": TrustedKey(public_key=public(BOB), purpose="person", name="bob"),
    "rec-1": TrustedKey(public_key=public(RECORDER), purpose="checkpoint"),
}
_PARAMETERS = {
    "type": "object",
    "properties": {"q": {"type": "string"}},
    "required": ["q"],
    "additionalProperties": False,
}


def _tool(name: str, tier: Tier, **more: Any) -> Contract:
    return Contract(name=name, description=name, parameters=_PARAMETERS, tier=tier, **more)


AGENT = AgentVersion(
    name="a",
    prompt="be good",
    model=ModelChoice(model="playbook/x", price=Price(input=1_000_000, output=5_000_000)),
    tools=(
        _tool("look", "read"),
        _tool("pay", "irreversible", price_micros=1_000),
        _tool("mail", "irreversible", idempotent=True),
        _tool("post", "irreversible", retries_max=0),
        _tool("wipe", "destructive"),
        Contract(
            name="wait.until",
            description="wait",
            parameters={"type": "object", "properties": {"until": {}}, "required": ["until"]},
            tier="read",
            kind="wait",
        ),
    ),
    policy=Policy(clear=("mail",), deciders=("ann", "bob")),
)


_QUESTION = {"type": "object", "properties": {"question": {"type": "string"}}, "required": ["question"]}
_ASK = Contract(name="ask.person", description="ask", parameters=_QUESTION, tier="read", kind="wait")
ASKING = msgspec.structs.replace(AGENT, tools=(*AGENT.tools, _ASK))
SPENDING = msgspec.structs.replace(
    AGENT,
    policy=Policy(ask_on_spend=True, deciders=("ann", "bob")),
    limits=msgspec.structs.replace(AGENT.limits, ask_from_micros=0),
)
STRICT = msgspec.structs.replace(AGENT, output_schema={"type": "object"})


class InMemory:
    """The ports of every role over one broker in memory."""

    replicated = False

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def log(self, role: RoleName) -> Log:
        return self._broker.log([role])

    def publisher(self, role: RoleName) -> Publisher:
        del role
        return self._broker.publisher()

    def queue(self, role: RoleName, spec: ConsumerSpec) -> Queue:
        del role
        return self._broker.queue(spec)

    def blobs(self, role: RoleName) -> Blobs:
        del role
        return self._broker.blobs()

    def bucket(self, role: RoleName, bucket: str) -> Bucket:
        del role
        return self._broker.bucket(bucket)

    def timers(self, role: RoleName) -> Timers:
        del role
        return self._broker.timers()

    async def live(self, role: RoleName, *filters: str, group: str = "") -> AsyncGenerator[LiveMessage]:
        del role
        async for message in self._broker.listen(*filters, group=group):
            yield message


class ScriptedTurns:
    """A model that makes these calls turn by turn, (tool, argument), then answers."""

    def __init__(self, turns: Sequence[Sequence[tuple[str, str]]]) -> None:
        self._turns = turns

    async def request(self, work: ModelWork) -> tuple[ModelReply, float]:
        await anyio.sleep(0.01)
        turn = sum(1 for message in work.request.messages if message.role == "assistant")
        scripted_calls = self._turns[turn] if turn < len(self._turns) else ()
        calls = tuple(
            ToolCall(id=f"c{turn + 1}{'abcdef'[i]}", name=tool, args=_args(tool, value))
            for i, (tool, value) in enumerate(scripted_calls)
        )
        text = "let me see" if calls else "All done, token sk-ant-REDACTME0123456789abcdef."
        return reply(*calls, text=text, model="x"), 0.01


def _args(tool: str, value: str) -> str:
    # Written with spaces, so that the canonical form is not what the model wrote.
    if tool == "ask.person":
        return f'{{ "question": "{value}" }}'
    return f'{{"until": {value}}}' if tool == "wait.until" else f'{{ "q": "{value}" }}'


class NoAlerts(NoFaults):
    """No person can be alerted: after ``takes_s`` seconds every alert ends in this error."""

    def __init__(self, error: LinestopError, takes_s: float) -> None:
        self._error = error
        self._takes_s = takes_s

    async def before(self, op: str) -> None:
        """Refuse every alert."""
        if op == "publisher.alert":
            await anyio.sleep(self._takes_s)
            raise self._error


class Tools:
    """Tools that succeed, except for the arguments in ``outcomes``."""

    def __init__(self, outcomes: Mapping[str, ToolResult]) -> None:
        self._outcomes = outcomes

    async def run(self, works: tuple[CallWork, ...]) -> AsyncIterator[tuple[CallWork, ToolResult, float]]:
        for work in works:
            await anyio.sleep(0.01)
            value = msgspec.json.decode(work.args)["q"]
            if value == "slow":
                await anyio.sleep(3_600)
            yield work, self._outcomes.get(value, ToolResult(outcome="succeeded", value={"ok": value})), 0.01


class LiveRun:
    """A run in progress: send it control messages, wait for it, read its log."""

    def __init__(self, broker: MemoryBroker, process: ActorProcess) -> None:
        self.broker = broker
        self.process = process

    @property
    def run(self) -> Run:
        """The run in the process's cache."""
        entry = self.process.shell.cache.peek(TENANT, RUN)
        assert entry is not None
        return entry.run

    async def send(self, verb: Verb, **fields: Any) -> None:
        """Send a control message, signed with ann's key."""
        control = Control(by=fields.pop("by", "ann"), nonce="once", **fields)
        control = msgspec.structs.replace(
            control, key_id="ann", signature=ANN.sign(signed_bytes(TENANT, RUN, verb, control)).hex()
        )
        await self.broker.publish(f"control.{TENANT}.{RUN}.{verb}", msgspec.json.encode(control))
        await anyio.sleep(1)

    async def decide(self, verb: Verb) -> None:
        """Approve or deny every call that waits for a person."""
        for call in list(self.run.calls.values()):
            if call.stage is Stage.ASKED and isinstance(call.asked, AskedCall):
                await self.send(
                    verb,
                    call=call.call,
                    args_sha256=call.asked.args_sha256,
                    contract_digest=call.asked.contract_digest,
                )


Intervention = Callable[[LiveRun], Awaitable[None]]


def record(
    turns: Sequence[Sequence[tuple[str, str]]],
    intervene: Intervention,
    *,
    outcomes: Mapping[str, ToolResult] | None = None,
    agent: AgentVersion = AGENT,
) -> list[Message]:
    """Run the agent on a scripted model; ``intervene`` is what people do meanwhile. Returns the log."""

    async def main() -> list[Message]:
        broker = MemoryBroker(virtual_now)
        await AgentStore(broker.bucket(stream_names.AGENTS_BUCKET)).deploy(agent)
        people = {"ann": Person(name="ann", public_key=public(ANN))}
        config = ProcessSettings(worker="w#1", now=virtual_now, random_source=random.Random(1), people=people)
        roles = [make_role(role, requester=ScriptedTurns(turns), runner=Tools(outcomes or {})) for role in ACTORS]
        process = ActorProcess(InMemory(broker), roles, config)
        async with process.running():
            await broker.publish(f"tasks.{TENANT}.a", msgspec.json.encode({"text": "please a b c slow", "run": RUN}))
            await anyio.sleep(1)
            await intervene(LiveRun(broker, process))
            await anyio.sleep(1)
            messages = await broker.log().load(TENANT, RUN)
        return [(message.subject, message.payload, message.seq) for message in messages]

    return run_virtual(main, seed=1)


UNKNOWN = ToolResult(outcome="unknown", error=ToolError(type="transient", message="lost"))
RETRY = ToolResult(outcome="failed", error=ToolError(type="transient", message="busy", retry_safe=True))


async def _nothing(live_run: LiveRun) -> None:
    del live_run


async def _approve(live_run: LiveRun) -> None:
    await live_run.decide("approve")


async def _deny(live_run: LiveRun) -> None:
    await live_run.decide("deny")


async def _expire(live_run: LiveRun) -> None:
    del live_run
    await anyio.sleep(4_000)


async def _stop_while_paying(live_run: LiveRun) -> None:
    await live_run.decide("approve")
    await live_run.send("stop", why="enough")


async def _pause(live_run: LiveRun) -> None:
    await live_run.send("pause")
    await live_run.decide("approve")
    await live_run.send("resume")


async def _edit(live_run: LiveRun) -> None:
    call = next(c for c in live_run.run.calls.values() if c.stage is Stage.ASKED)
    assert isinstance(call.asked, AskedCall)
    digests = {"args_sha256": call.asked.args_sha256, "contract_digest": call.asked.contract_digest}
    await live_run.send("edit", call=call.call, args={"q": "b"}, **digests)


async def _answer(live_run: LiveRun) -> None:
    call = next(c for c in live_run.run.calls.values() if c.stage is Stage.ASKED)
    await live_run.send("answer", call=call.call, answer={"which": "b"})


async def _approve_spending(live_run: LiveRun) -> None:
    await live_run.send("approve", call="")


async def _retry_unknown_outcome(live_run: LiveRun) -> None:
    await live_run.decide("approve")
    await anyio.sleep(1)
    unsettled = next(c for c in live_run.run.calls.values() if c.asked_about_outcome)
    await live_run.send("resolve", call=unsettled.call, action="retry")
    await anyio.sleep(1)
    if unsettled.asked_about_outcome:
        await live_run.send("resolve", call=unsettled.call, action="done", result={"ok": 1})


SCENARIOS: dict[str, Callable[[], list[Message]]] = {
    "approved": lambda: record([[("look", "a"), ("mail", "b")], [("pay", "a")]], _approve),
    "denied": lambda: record([[("pay", "a")]], _deny),
    "expired": lambda: record([[("pay", "a")]], _expire),
    "stopped": lambda: record([[("pay", "slow")]], _stop_while_paying),
    "stopped while asked": lambda: record([[("pay", "a")]], lambda live_run: live_run.send("stop", why="no")),
    "paused": lambda: record([[("pay", "a")]], _pause),
    "edited": lambda: record([[("pay", "a")]], _edit),
    "edited read": lambda: record(
        [[("look", "a")]],
        _edit,
        agent=msgspec.structs.replace(AGENT, policy=Policy(ask=("look",), deciders=("ann", "bob"))),
    ),
    "destroyed": lambda: record([[("wipe", "a")]], _approve),
    "wrong arguments": lambda: record([[("look", '"')], [("nothing", "a")]], _nothing),
    "retried": lambda: record([[("look", "a")]], _expire, outcomes={"a": RETRY}),
    "in doubt": lambda: record([[("post", "a")]], _retry_unknown_outcome, outcomes={"a": UNKNOWN}),
    "asked twice": lambda: record([[("mail", "a")], [("mail", "a")]], _nothing),
    "waited": lambda: record([[("wait.until", "30")]], _expire),
    "answered": lambda: record([[("ask.person", "which?")]], _answer, agent=ASKING),
    "spending": lambda: record([[("look", "a")]], _approve_spending, agent=SPENDING),
    "returned": lambda: record([[("look", "a")]], _nothing, agent=STRICT),
    "doubled": lambda: record(
        [[("post", "a")], [("post", "a")]],
        _nothing,
        agent=msgspec.structs.replace(AGENT, policy=Policy(clear=("post",))),
    ),
    "out of turns": lambda: record([[("look", str(i))] for i in range(30)], _expire),
    "out of money": lambda: record(
        [[("look", "a")]],
        _nothing,
        agent=msgspec.structs.replace(AGENT, limits=msgspec.structs.replace(AGENT.limits, cost_max_micros=10)),
    ),
    "refused": lambda: record(
        [],
        _nothing,
        agent=msgspec.structs.replace(AGENT, limits=msgspec.structs.replace(AGENT.limits, input_chars_max=3)),
    ),
}


def signed_checkpoint(messages: list[Message], n: int, key: Ed25519PrivateKey = RECORDER) -> Checkpoint:
    """A checkpoint of the run at event ``n``, signed by ``key`` in the recorder's name."""
    head = read_chain(TENANT, RUN, messages).links[n - 1].sha256
    at = datetime(2026, 1, 2, tzinfo=UTC)
    return sign(key, Checkpoint(tenant=TENANT, run=RUN, n=n, head_sha256=head, at=at, key_id="rec-1", signature=""))


class Forger:
    """A log as editable events. ``messages`` chains them again, so that no hash reveals the forgery."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        for subject, payload, _ in messages:
            tokens = subject.split(".")
            self.events.append((tokens[3], tokens[4], msgspec.json.decode(payload)))

    def find(self, role: str, name: str, nth: int = 1) -> int:
        """The number of the nth such event; an empty role stands for any."""
        numbers = [n for n, event in enumerate(self.events, 1) if event[1] == name and role in {"", event[0]}]
        return numbers[nth - 1]

    def body(self, role: str, name: str, nth: int = 1) -> dict[str, Any]:
        """The payload of the nth such event, to be changed in place."""
        return self.events[self.find(role, name, nth) - 1][2]

    def insert(self, n: int, role: str, name: str, body: dict[str, Any]) -> int:
        """Insert an event as number ``n``; all references to later events by number move along."""
        for _, _, other in self.events:
            _shift(other, n)
        at = self.events[n - 2][2]["at"] if n > 1 else "2026-01-01T00:00:00Z"
        self.events.insert(n - 1, (role, name, {"id": f"forged-{n}", "at": at, **copy.deepcopy(body)}))
        return n

    def insert_copy(self, role: str, name: str, *, at: int, nth: int = 1, **changes: Any) -> int:
        """Insert a copy of the nth such event as number ``at``, with changed fields."""
        body = {key: value for key, value in self.body(role, name, nth).items() if key not in {"id", "at", "prev"}}
        return self.insert(at, role, name, {**body, **changes})

    def messages(self) -> list[Message]:
        """The log, chained again; a seal names the head before it, as it must."""
        head = hashlib.sha256(f"{TENANT}/{RUN}".encode()).hexdigest()
        made: list[Message] = []
        for n, (role, name, body) in enumerate(self.events, 1):
            body["prev"] = head
            if body.get("head_sha256"):
                body["head_sha256"] = body.pop("forged_head", head)
                body["totals"]["events"] = body["totals"].pop("forged_events", n - 1)
            subject = f"runs.{TENANT}.{RUN}.{role}.{name}.{n}"
            payload = msgspec.json.encode(body)
            head = hashlib.sha256(subject.encode() + b"\0" + payload).hexdigest()
            made.append((subject, payload, 10 * n))
        return made


_NUMBERS = frozenset({"gate_n", "proposal_n", "recorded_n", "finished_n"})


def _shift(value: object, n: int) -> None:
    """Move references to events from ``n`` on by one."""
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        for key, item in fields.items():
            if key in {"by_event", "open"}:
                for line in cast("list[dict[str, int]]", item):
                    line["n"] += line["n"] >= n
            elif key in _NUMBERS and isinstance(item, int) and item >= n:
                fields[key] = item + 1
            _shift(item, n)
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            _shift(item, n)
