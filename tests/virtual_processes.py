"""Processes of linestop under a virtual clock, for tests of *when* something happens.

``processes`` starts one process with all roles, or one for each role, over one broker in memory, without a repeated
sweep. Each can be killed (nothing that it does reaches the broker any more) and started again, also under another name.
"""

from __future__ import annotations

import contextvars
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.abc
import msgspec
from tests.builders import reply
from tests.run_logs import RUN, TENANT, InMemory

from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.errors import LinestopError, Unreachable
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.schemas.agents import AgentVersion
from linestop.schemas.defaults import Limits
from linestop.schemas.events import ModelChoice
from linestop.schemas.model_messages import FailureClass, ModelFailed, ModelReply, Price, ToolCall
from linestop.schemas.performer_interfaces import CallWork, ModelWork
from linestop.schemas.run.fold import Run, fold_messages
from linestop.schemas.subjects import ACTORS, RoleName
from linestop.schemas.tool_contracts import Contract, ToolError, ToolResult
from linestop.testing.memory import MemoryBroker, NoFaults
from linestop.testing.virtual_time import virtual_now

ONE: tuple[tuple[RoleName, ...], ...] = (ACTORS,)
EACH: tuple[tuple[RoleName, ...], ...] = tuple((role,) for role in ACTORS)
FIRST = ModelChoice(model="playbook/first", price=Price(input=1_000_000, output=5_000_000))
SECOND = ModelChoice(model="playbook/second", price=Price(input=1_000_000, output=5_000_000))
_ARGS: dict[str, Any] = {
    "type": "object",
    "properties": {"q": {}, "until": {}, "question": {}, "name": {}, "timeout_s": {}},
}
TOOLS = (
    Contract(name="look", description="look", parameters=_ARGS, tier="read", timeout_s=20.0),
    Contract(name="mail", description="mail", parameters=_ARGS, tier="reversible", idempotent=True, timeout_s=20.0),
    Contract(name="wire", description="wire", parameters=_ARGS, tier="reversible", probe=True, timeout_s=20.0),
    Contract(name="slow", description="slow", parameters=_ARGS, tier="read", timeout_s=900.0),
    Contract(name="once", description="once", parameters=_ARGS, tier="reversible", timeout_s=20.0),
    Contract(name="pay", description="pay", parameters=_ARGS, tier="irreversible"),
    Contract(name="wait.until", description="wait", parameters=_ARGS, tier="read", kind="wait", repeatable=True),
    Contract(name="wait.for_event", description="wait", parameters=_ARGS, tier="read", kind="wait"),
)
LATE_MAX_S = 0.005
"""How late an alarm may be: it is set a millisecond late, so that its moment has come in spite of rounding."""


def agent(**fields: Any) -> AgentVersion:
    """An agent with ``TOOLS``; ``limits`` has the values unlike the defaults, ``timeout_s`` that of each tool."""
    limits = Limits(**fields.pop("limits", {}))
    timeouts: dict[str, float] = fields.pop("timeout_s", {})
    tools = tuple(msgspec.structs.replace(t, timeout_s=timeouts.get(t.name, t.timeout_s)) for t in TOOLS)
    return AgentVersion(name="a", prompt="be good", model=FIRST, tools=tools, limits=limits, **fields)


def calls(*requested: tuple[str, dict[str, Any]]) -> ModelReply:
    """A reply that makes these calls; without calls, the final answer."""
    made = (
        ToolCall(id=f"{tool}-{index}", name=tool, args=msgspec.json.encode(args).decode())
        for index, (tool, args) in enumerate(requested)
    )
    return reply(*made, model="x")


def down(kind: FailureClass = "availability", retry_after_s: float | None = None) -> ModelFailed:
    """A model that fails."""
    return ModelFailed(kind, "no", possibly_billed=False, retry_after_s=retry_after_s)


def busy(retry_after_s: float | None = None) -> ToolResult:
    """A tool that fails and may be tried again."""
    error = ToolError(type="transient", message="busy", retry_safe=True, retry_after_s=retry_after_s)
    return ToolResult(outcome="failed", error=error)


OK = ToolResult(outcome="succeeded", value={"ok": True})
HANGS = 10_000.0
"""Duration of something that never ends, in seconds."""


class ScriptedModel:
    """Gives the scripted replies one after the other, then the final answer; each takes ``takes_s``."""

    def __init__(self, script: Sequence[ModelReply | ModelFailed], takes_s: Sequence[float] = ()) -> None:
        self._script = list(script)
        self._takes_s = list(takes_s)
        self.models_requested: list[str] = []

    async def request(self, work: ModelWork) -> tuple[ModelReply, float]:
        """Give the next reply."""
        self.models_requested.append(work.request.model)
        reply = self._script.pop(0) if self._script else calls()
        takes_s = self._takes_s.pop(0) if self._takes_s else 0.01
        began = anyio.current_time()
        with anyio.move_on_after(work.request.deadline_s):
            await anyio.sleep(takes_s)
            if isinstance(reply, ModelFailed):
                raise reply
            return reply, anyio.current_time() - began
        raise ModelFailed("availability", "too slow", possibly_billed=True)


class ScriptedTools:
    """Gives each tool's results one after the other, then success."""

    def __init__(
        self, script: dict[str, list[ToolResult]] | None = None, takes_s: dict[str, list[float]] | None = None
    ) -> None:
        self._script = {name: list(results) for name, results in (script or {}).items()}
        self._takes_s = {name: list(times) for name, times in (takes_s or {}).items()}
        self.performed: list[str] = []

    async def run(self, works: tuple[CallWork, ...]) -> AsyncIterator[tuple[CallWork, ToolResult, float]]:
        """Perform all at once."""
        send, receive = anyio.create_memory_object_stream[tuple[CallWork, ToolResult, float]](len(works))

        async def one(work: CallWork) -> None:
            began = anyio.current_time()
            result = await self._one(work)
            await send.send((work, result, anyio.current_time() - began))

        async with send, receive, anyio.create_task_group() as tasks:
            for work in works:
                tasks.start_soon(one, work)
            for _ in works:
                yield await receive.receive()

    async def _one(self, work: CallWork) -> ToolResult:
        name = f"{work.tool}?" if work.probe else work.tool
        self.performed.append(name)
        times = self._takes_s.get(name)
        results = self._script.get(name)
        with anyio.move_on_after(work.timeout_s):
            await anyio.sleep(times.pop(0) if times else 0.01)
            return results.pop(0) if results else OK
        return ToolResult(outcome="unknown", error=ToolError(type="transient", message="too slow"))


_PROCESS: contextvars.ContextVar[str] = contextvars.ContextVar("process", default="")


class KilledError(LinestopError):
    """Raised for every operation of a killed process on the broker."""


class BrokerFaults(NoFaults):
    """The processes that are dead, and whether the broker can be reached."""

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.away = False
        self.lose_reply_to = ""
        self.last_subject: Callable[[], str] = str

    @staticmethod
    def current_process() -> str:
        """The process whose step this is."""
        return _PROCESS.get()

    async def before(self, op: str) -> None:
        """Refuse dead processes, and every process while the broker is away."""
        if _PROCESS.get() in self.dead:
            raise KilledError(op)
        if self.away and _PROCESS.get():
            await anyio.sleep(0.5)
            raise Unreachable(f"The broker did not reply to {op}.")

    async def after(self, op: str) -> None:
        """Lose the reply to one append."""
        if op == "log.append" and self.lose_reply_to and f".{self.lose_reply_to}." in self.last_subject():
            self.lose_reply_to = ""
            raise Unreachable("The reply was lost.")


@dataclass
class _Process:
    name: str
    roles: tuple[RoleName, ...]
    scope: anyio.CancelScope
    ended: anyio.Event


class Processes:
    """All processes, the broker, and the one run."""

    def __init__(
        self, tasks: anyio.abc.TaskGroup, model: ScriptedModel, scripted_tools: ScriptedTools, *, config: dict[str, Any]
    ) -> None:
        self.faults = BrokerFaults()
        self.broker = MemoryBroker(virtual_now, faults=self.faults)
        self.model, self.scripted_tools = model, scripted_tools
        runs = self.broker.stream(stream_names.RUNS)
        self.faults.last_subject = lambda: runs.matching(">")[-1].subject
        self.began, self.began_s = virtual_now(), anyio.current_time()
        self.config = config
        self._tasks = tasks
        self.alive: list[_Process] = []

    async def start(self, roles: tuple[RoleName, ...], name: str = "") -> None:
        """Start a process with these roles, and return when it serves."""
        name = name or f"{roles[0]}#1"
        process = _Process(name, roles, anyio.CancelScope(), anyio.Event())
        self.alive.append(process)
        await self._tasks.start(self._live, process)

    async def kill(self, role: RoleName) -> tuple[RoleName, ...]:
        """End the process that has this role, as SIGKILL does; return all of its roles."""
        process = next(p for p in self.alive if role in p.roles)
        await self.end(process.name)
        return process.roles

    async def end(self, name: str) -> None:
        """End the process of this name, as SIGKILL does."""
        process = next(p for p in self.alive if p.name == name)
        self.alive.remove(process)
        self.faults.dead.add(name)
        process.scope.cancel()
        await process.ended.wait()

    async def next_event(self) -> None:
        """Wait until another event is stored."""
        stored = anyio.Event()
        self.broker.stream(stream_names.RUNS).listeners.append(lambda _: stored.set())
        await stored.wait()

    @staticmethod
    def name_of(layout_: tuple[tuple[RoleName, ...], ...], role: RoleName) -> str:
        """The name, without incarnation, of the process that has this role at first."""
        return next(roles[0] for roles in layout_ if role in roles)

    async def send_control(self, verb: str, **fields: Any) -> None:
        """Publish a control message of a person."""
        await self.broker.publish(f"control.{TENANT}.{RUN}.{verb}", msgspec.json.encode({"by": "ann", **fields}))

    async def run(self) -> Run:
        """The run, folded from its log."""
        found = await self.broker.log().load(TENANT, RUN)
        return fold_messages(TENANT, RUN, [(m.subject, m.payload, m.seq) for m in found])

    async def event_times(self, *names: str) -> list[float]:
        """When each event of these names (``role.event``, or ``event``) was appended: seconds from the beginning."""
        return [
            (entry.event.at - self.began).total_seconds()
            for entry in (await self.run()).entries
            if entry.event is not None and (f"{entry.role}.{entry.name}" in names or entry.name in names)
        ]

    async def _live(self, process: _Process, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        _PROCESS.set(process.name)
        roles = [make_role(role, requester=self.model, runner=self.scripted_tools) for role in process.roles]
        options: dict[str, Any] = {"sweeping": False, "drain_s": 0.0, "now": virtual_now, **self.config}
        config = ProcessSettings(worker=process.name, random_source=random.Random(1), **options)
        with process.scope:
            try:
                async with ActorProcess(InMemory(self.broker), roles, config).running():
                    task_status.started()
                    await anyio.sleep_forever()
            finally:
                process.ended.set()


@asynccontextmanager
async def processes(
    layout_: tuple[tuple[RoleName, ...], ...],
    model: ScriptedModel,
    scripted_tools: ScriptedTools | None = None,
    *,
    version: AgentVersion | None = None,
    **config: Any,
) -> AsyncGenerator[Processes]:
    """Start processes with these roles, deploy the agent and send its task."""
    async with anyio.create_task_group() as tasks:
        made = Processes(tasks, model, scripted_tools or ScriptedTools(), config=config)
        await AgentStore(made.broker.bucket(stream_names.AGENTS_BUCKET)).deploy(version or agent())
        for roles in layout_:
            await made.start(roles)
        made.began, made.began_s = virtual_now(), anyio.current_time()
        await made.broker.publish(f"tasks.{TENANT}.a", msgspec.json.encode({"text": "please", "run": RUN, "user": "u"}))
        try:
            yield made
        finally:
            for process in list(made.alive):
                await made.kill(process.roles[0])
            tasks.cancel_scope.cancel()
