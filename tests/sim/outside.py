"""The world outside: the real effects of tools and models, counted where no worker can change them.

A request on the wire takes effect also if the worker that sent it dies. Effects are counted by effect key; the real
cost of a model request is billed when the request is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import anyio
import msgspec
from tests.sim.faults import seconds
from tests.sim.hardships import Hardship
from tests.sim.loop import PROCESS, Process, SimLoop
from tests.sim.script import CallBehavior, Script

from linestop.sandbox.tools import tool_runner
from linestop.sandbox.tools.call_function import FunctionReply
from linestop.sandbox.tools.perform_call import PerformLimits, result_of
from linestop.schemas.model_messages import ModelFailed, ModelReply, ModelRequest, Usage
from linestop.schemas.performer_interfaces import CallWork, ModelWork
from linestop.schemas.run.call_states import ITEM_BYTES
from linestop.schemas.tool_contracts import Contract, ToolError, ToolResult

Identity = tuple[str, str, str, str]
"""The identity of an effect without its key: tenant, run, tool, digest of the arguments."""


@dataclass(slots=True)
class Request:
    """One action of a performer: an effect, a probe or a model request. Times are true seconds."""

    kind: str
    tenant: str
    run: str
    call: str
    attempt: int
    process: str
    begun_s: float
    started_by: datetime
    key: str = ""
    tool: str = ""
    args_sha256: str = ""
    contract_digest: str = ""
    wider: tuple[str, ...] = ()
    """How the current tool is wider than the agreed contract."""

    sent_s: float | None = None
    sent_at: datetime | None = None
    ended_s: float | None = None
    billed_micros: int = 0
    proof: tuple[float, float] = (-1.0, -1.0)
    """When its worker had last sent a start in that run, and when it had last loaded the log."""


@dataclass(slots=True)
class OutsideWorld:
    """All requests, and how often each effect key took effect."""

    script: Script
    contracts: dict[str, Contract]
    hardship: Hardship = field(default_factory=Hardship)
    requests: list[Request] = field(default_factory=list[Request])
    effects: dict[Identity, int] = field(default_factory=dict[Identity, int])
    keys: set[str] = field(default_factory=set[str])
    """The effect keys that took effect: used by probes and by idempotent tools."""

    def effect(self, work: CallWork, *, idempotent: bool) -> None:
        """Take effect; the same key again changes nothing if the tool passes its key on."""
        if idempotent and work.key in self.keys:
            return
        self.keys.add(work.key)
        identity = (work.tenant, work.run, work.tool, hashlib.sha256(work.args).hexdigest())
        self.effects[identity] = self.effects.get(identity, 0) + 1


_SAFE_FAILURE = ToolError(type="transient", message="It did not work; try again.", retry_safe=True)


def is_past_start_by(now: datetime, start_by: datetime) -> bool:
    """The last check before the first byte leaves; see ``linestop.schemas.start_deadline``."""
    return now >= start_by


Proof = Callable[[str, str], tuple[float, float]]


class SimRunner:
    """Performs the executor's calls of one worker; see ``linestop.schemas.performer_interfaces.ToolRunner``."""

    def __init__(
        self,
        outside: OutsideWorld,
        process: Process,
        now: Callable[[], datetime],
        proof: Proof,
        tools: Mapping[str, Contract],
    ) -> None:
        self._outside = outside
        self._process = process
        self._now = now
        self._proof = proof
        self._tools = tools
        """The contracts that the process has loaded."""

    async def run(self, works: tuple[CallWork, ...]) -> AsyncIterator[tuple[CallWork, ToolResult, float]]:
        """Perform all calls at once; yield each with its result as it ends."""
        send, receive = anyio.create_memory_object_stream[tuple[CallWork, ToolResult, float]](len(works))

        async def one(work: CallWork) -> None:
            began = seconds()
            result = await self._perform(work)
            await send.send((work, result, seconds() - began))

        async with send, receive, anyio.create_task_group() as tasks:
            for work in works:
                tasks.start_soon(one, work)
            for _ in works:
                yield await receive.receive()

    async def _perform(self, work: CallWork) -> ToolResult:
        behavior = self._outside.script.call_behavior(work)
        request = Request(
            kind="probe" if work.probe else "effect",
            tenant=work.tenant,
            run=work.run,
            call=work.call,
            attempt=work.attempt,
            process=self._process.name,
            begun_s=seconds(),
            started_by=work.start_by,
            key=work.key,
            tool=work.tool,
            args_sha256=hashlib.sha256(work.args).hexdigest(),
            contract_digest=work.grant.contract_digest,
            proof=self._proof(work.tenant, work.run),
        )
        self._outside.requests.append(request)
        try:
            await anyio.sleep(behavior.set_up_s)
            request.wider = work.grant.widened_by(self._tools[work.tool])
            if changed := refused_by_grant(work, self._tools[work.tool]):
                return changed
            if is_past_start_by(self._now(), work.start_by):
                if work.probe:
                    return ToolResult(outcome="failed", error=_SAFE_FAILURE)
                return ToolResult(outcome="never_started", begun=False)
            with anyio.move_on_after(work.timeout_s):
                return await (self._probe(work, behavior) if work.probe else self._effect(work, behavior, request))
            return self._interrupted(work)
        finally:
            request.ended_s = seconds()

    async def _probe(self, work: CallWork, behavior: CallBehavior) -> ToolResult:
        await anyio.sleep(behavior.effect_s)
        if behavior.fate in {"hangs", "answer lost"}:
            await anyio.sleep_forever()
        if behavior.fate == "fails before":
            return ToolResult(outcome="unknown", error=_SAFE_FAILURE)
        happened = work.key in self._outside.keys
        return ToolResult(outcome="succeeded" if happened else "never_started", value={"probed": happened})

    async def _effect(self, work: CallWork, behavior: CallBehavior, request: Request) -> ToolResult:
        contract = self._tools[work.tool]
        if behavior.fate == "fails before":
            return ToolResult(outcome="failed", error=ToolError(type=behavior.error, message="No.", retry_safe=True))
        request.sent_s, request.sent_at = seconds(), self._now()
        happens = behavior.fate != "hangs"
        arrival = self._send(work, contract, behavior) if happens and work.tier != "read" else None
        try:
            await anyio.sleep(behavior.effect_s)
        finally:
            if arrival is not None and contract.kind == "process":
                arrival.cancel()
        if behavior.fate in {"hangs", "answer lost"}:
            await anyio.sleep_forever()
        await anyio.sleep(behavior.reply_s)
        if behavior.fate == "fails after":
            return self._interrupted(work) if contract.safe_to_repeat else _raised(contract)
        return ToolResult(outcome="succeeded", value=behavior.value, cost_micros=work.cost_max_micros // 2)

    def _send(self, work: CallWork, contract: Contract, behavior: CallBehavior) -> asyncio.TimerHandle:
        """Put the request on the wire: only the end of a child process cancels it."""
        loop = cast("SimLoop", asyncio.get_running_loop())
        handle = loop.call_later(
            behavior.effect_s * 0.9,
            lambda: self._outside.effect(work, idempotent=contract.idempotent),
            context=loop.outside.copy(),
        )
        if contract.kind in {"process", "thread"}:
            self._process.at_death.append(handle.cancel)
        return handle

    def _interrupted(self, work: CallWork) -> ToolResult:
        """The result of an interrupted call in the sandbox: see ``linestop.sandbox.tools.perform_call``."""
        if work.probe or not self._tools[work.tool].safe_to_repeat:
            return ToolResult(outcome="unknown", error=ToolError(type="transient", message="It did not end."))
        return ToolResult(outcome="failed", error=_SAFE_FAILURE)


def refused_by_grant(work: CallWork, current: Contract) -> ToolResult | None:
    """The refusal in production of a tool that may do more than the run was opened with."""
    return tool_runner._refused_by_grant(work, current)  # pyright: ignore[reportPrivateUsage]


def _raised(contract: Contract) -> ToolResult:
    """The result in production of a tool that acted and then raised."""
    error = ToolError(type="permanent", message=f"tool {contract.name} raised ValueError: half done")
    nothing_seen: Any = SimpleNamespace(http=SimpleNamespace(requests=(), effect_sent=False))
    return result_of(contract, FunctionReply(error=error), nothing_seen, PerformLimits())


class SimRequester:
    """Sends the planner's requests of one worker; see ``linestop.schemas.performer_interfaces.ModelRequester``."""

    def __init__(self, outside: OutsideWorld, process: Process, now: Callable[[], datetime], proof: Proof) -> None:
        self._outside = outside
        self._process = process
        self._now = now
        self._proof = proof

    async def request(self, work: ModelWork) -> tuple[ModelReply, float]:
        """Answer by the script of the seed, or raise ``ModelFailed``."""
        assert PROCESS.get() is self._process
        turn = self._outside.script.model_behavior(work)
        request = Request(
            kind="model",
            tenant=work.tenant,
            run=work.run,
            call=str(work.turn),
            attempt=work.attempt,
            process=self._process.name,
            begun_s=seconds(),
            started_by=work.start_by,
            proof=self._proof(work.tenant, work.run),
        )
        self._outside.requests.append(request)
        try:
            await anyio.sleep(turn.set_up_s)
        finally:
            request.ended_s = seconds()
        if is_past_start_by(self._now(), work.start_by):
            raise ModelFailed("cancelled", "It was not begun.", begun=False)
        if self._outside.hardship.is_active("provider away") and work.request.model.endswith("first"):
            raise ModelFailed("availability", "The provider is away.", possibly_billed=False)
        request.sent_s, request.sent_at = seconds(), self._now()
        # A provider counts the same prompt the same way each time, so an earlier count bounds later ones.
        tokens = self._outside.script.chance("tokens", work.tenant, work.run, work.request.model)
        usage = Usage(fresh_in=tokens_of(work.request, tokens), out=min(turn.out, work.request.output_tokens_max))
        if turn.billed:
            request.billed_micros = work.price.cost_micros(usage)
        try:
            with anyio.move_on_after(work.request.deadline_s):
                await anyio.sleep(turn.takes_s)
                if turn.hangs:
                    await anyio.sleep_forever()
                if turn.failure:
                    reported_usage = usage if turn.billed and turn.usage_reported else None
                    raise ModelFailed(
                        turn.failure,
                        f"scripted {turn.failure}",
                        usage=reported_usage,
                        retry_after_s=turn.retry_after_s,
                        possibly_billed=turn.billed,
                    )
                return ModelReply(
                    text=turn.text,
                    calls=turn.calls,
                    stop_reason="calls" if turn.calls else "end",
                    usage=usage,
                    usage_reported=turn.usage_reported,
                    model=work.request.model,
                ), turn.takes_s
            raise ModelFailed("availability", "no answer in time", possibly_billed=True)
        finally:
            request.ended_s = seconds()


def tokens_of(request: ModelRequest, chance: random.Random) -> int:
    """The tokens that a provider counts for a request: at worst each byte and all framing that the bounds allow."""
    texts = [request.system, *(message.text for message in request.messages)]
    texts += [part for message in request.messages for call in message.calls for part in (call.name, call.args)]
    size = sum(len(text.encode()) for text in texts) + sum(len(msgspec.json.encode(tool)) for tool in request.tools)
    framing = ITEM_BYTES * (1 + len(request.messages) + len(request.tools))
    return size + framing if chance.random() < 0.3 else size // 3
