"""A test's view of a running system: an operator's connection, and the scripted agent."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
from tests.e2e.role_process import registry

from linestop.bus.access.credentials import Credential
from linestop.bus.connection import connect
from linestop.bus.jetstream import JetStream
from linestop.bus.jetstream.reads import Reader
from linestop.bus.jetstream.retry import publish
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.bus.wire import header_block
from linestop.errors import InputError
from linestop.schemas import subjects
from linestop.schemas.agents import AgentVersion
from linestop.schemas.defaults import Limits
from linestop.schemas.events import ModelChoice
from linestop.schemas.messages import Control, Verb
from linestop.schemas.model_messages import Price
from linestop.schemas.run.call_states import Stage
from linestop.schemas.run.fold import Run, fold_messages
from linestop.schemas.subjects import AgentName, RunId, TenantId
from linestop.schemas.tool_contracts import Contract

TENANT = TenantId("e2e")
AGENT = AgentName("clerk")
POLL_S = 0.25
"""How long a lost live event may delay the next read of the log."""

PLAYBOOK = """
name = "clerk"
[[step]]
when = {turn = 1}
call = [{tool = "lookup", args = {what = "prices"}}]
[[step]]
when = {turn = 2}
call = [{tool = "keyed", args = {what = "order"}}, {tool = "bare", args = {what = "letter"}}]
[[step]]
when = {turn = 3}
say = "all done"
"""


def agent(base_url: str, *, limits: Limits | None = None, tools: Sequence[Contract] = (), **more: Any) -> AgentVersion:
    """The scripted agent."""
    return AgentVersion(
        name=more.pop("name", AGENT),
        prompt="Do what the script says.",
        base_url=base_url,
        model=ModelChoice(model=more.pop("model", "playbook/clerk"), price=Price(input=1_000_000, output=5_000_000)),
        tools=tuple(tools) or registry().contracts(),
        limits=limits or Limits(model_deadline_s=1.0),
        **more,
    )


class OperatorView:
    """An operator's connection to the broker."""

    def __init__(self, bus: JetStream) -> None:
        self.bus = bus
        self.log = bus.log()
        self._event_arrived = asyncio.Condition()
        self._watchers: dict[str, Callable[[str, str, int], None]] = {}
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._last: dict[str, int] = {}

    async def deploy(self, version: AgentVersion) -> None:
        """Let new runs use this version."""
        await AgentStore(self.bus.bucket(stream_names.AGENTS_BUCKET)).deploy(version)

    async def publish(self, subject: str, payload: bytes, **headers: str) -> None:
        """Publish to a stream as a service would, until it is stored. ``_`` in a header's name stands for ``-``."""
        block = header_block({name.replace("_", "-"): value for name, value in headers.items()})
        await publish(self.bus.wire, subject, payload, headers=block)

    async def task(self, run: str, text: str = "go", *, name: str = AGENT) -> None:
        """Send a task whose run is called ``run``."""
        await self.publish(subjects.task(TENANT, AgentName(name)), msgspec.json.encode({"text": text, "run": run}))

    async def control(self, run: str, verb: Verb, **fields: Any) -> None:
        """Send a control message about a run as a person."""
        control = msgspec.convert({"by": "ann", **fields}, Control)
        await self.publish(subjects.control(TENANT, RunId(run), verb=verb), msgspec.json.encode(control))

    async def fold(self, run: str) -> Run:
        """The run, folded from its log as it is now."""
        stored = await self.log.load(TENANT, RunId(run))
        return fold_messages(TENANT, RunId(run), [(m.subject, m.payload, m.seq) for m in stored])

    def watch(self, run: str, on_event: Callable[[str, str, int], None]) -> None:
        """Call ``on_event`` with role, event and the count of that event in the run, for each event that is stored."""
        self._watchers[run] = on_event

    async def until(self, run: str, condition: Callable[[Run], bool], *, within_s: float = 60.0) -> Run:
        """Fold the run until the condition holds, again after each new event."""
        state = await self.fold(run)
        with anyio.move_on_after(within_s):
            while not condition(state):
                await self.wait_for_event_or_poll()
                state = await self.fold(run)
        assert condition(state), log_lines(state)
        return state

    async def outcome(self, run: str) -> dict[str, Any]:
        """Wait for the run's outcome and return it as it was published."""
        reader = Reader(self.bus.wire, stream_names.OUTCOMES)
        with anyio.fail_after(120):
            while True:
                messages = await reader.last_of_each(subjects.run_outcome_filter(TENANT, RunId(run)))
                if messages:
                    outcome: dict[str, Any] = msgspec.json.decode(messages[0].payload)
                    return outcome
                await self.wait_for_event_or_poll()

    async def resolve(self, state: Run, took_effect: Callable[[str], bool]) -> list[str]:
        """Decide as a person about effects with an unknown outcome; return the tools whose effect is to be retried."""
        retried: list[str] = []
        for call in state.proposal.calls if state.proposal and not state.done else ():
            if call.stage is Stage.ASKED and call.asked_about_outcome:
                action = "done" if took_effect(call.tool) else "retry"
                await self.control(state.run, "resolve", call=call.call, action=action, result="seen in the world")
                retried += [call.tool] if action == "retry" else []
        return retried

    async def wait_for_event_or_poll(self) -> None:
        """Wait for the next event of any run of these tests, at most ``POLL_S``: it may have been missed."""
        with anyio.move_on_after(POLL_S):
            async with self._event_arrived:
                await self._event_arrived.wait()

    async def _on_event(self, message: Any) -> None:
        try:
            event = subjects.parse_run_event(subjects.stored_subject(message.subject))
        except InputError:
            return
        if event.n > self._last.get(event.run, 0):
            self._last[event.run] = event.n
            self._counts[event.run, event.role, event.event] += 1
            if event.run in self._watchers:
                count = self._counts[event.run, event.role, event.event]
                self._watchers[event.run](event.role, event.event, count)
        async with self._event_arrived:
            self._event_arrived.notify_all()

    async def listen(self) -> None:
        """Subscribe to every event as it is stored."""
        await self.bus.connection.nc.subscribe(  # pyright: ignore[reportUnknownMemberType]
            f"live.runs.{TENANT}.>", cb=self._on_event
        )


@asynccontextmanager
async def operator_view(credential: Credential) -> AsyncGenerator[OperatorView]:
    """An operator's view over its own connection."""
    async with await connect(credential, name="test-operator") as connection:
        scene = OperatorView(JetStream(connection))
        await scene.listen()
        yield scene


def log_lines(run: Run) -> str:
    """A run's log in a few lines, for a failed assertion."""
    lines = [f"{run.run}: {run.phase}, stopped {run.stopped and run.stopped.why!r}"]
    lines += [f"  {e.n} {e.role}.{e.name} {e.event.at.time() if e.event else ''} {e.ignored}" for e in run.entries]
    return "\n".join(lines)


def event_names(run: Run) -> list[tuple[str, str, int]]:
    """The run's events as (role, event, which of that name), in order."""
    counts: Counter[tuple[str, str]] = Counter()
    names: list[tuple[str, str, int]] = []
    for entry in run.entries:
        if not entry.ignored:
            counts[entry.role, entry.name] += 1
            names.append((entry.role, entry.name, counts[entry.role, entry.name]))
    return names
