"""What is folded and decided while an append is on its way, and what is left of it if that append is lost."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec
from tests.run_logs import AGENT, RUN, TENANT, InMemory, NoAlerts, ScriptedTurns, Tools

from linestop.actors.model_turn.prompt import assemble
from linestop.bus.event_message import EventEncoder
from linestop.bus.interfaces import Append, Log, OnSent
from linestop.bus.stop_run import catch_up, stop_run
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.errors import Unreachable
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.schemas.events import ModelStarted
from linestop.schemas.messages import REPLY_HEADER, Reply
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.subjects import ACTORS, RoleName
from linestop.testing.memory import MemoryBroker, NoFaults
from linestop.testing.virtual_time import run_virtual, virtual_now

INBOX = "_INBOX.test.reply"
Loss = Callable[[], Awaitable[None]]


async def at_once() -> None:
    """Lose the append, with no other effect."""


class LosingLog:
    """A log that loses the first append of one event: it has left, and the broker never gets it."""

    def __init__(self, inner: Log, event: str, loss: Loss, lost: list[Append]) -> None:
        self._inner = inner
        self._event = event
        self._loss = loss
        self._lost = lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def append(self, append: Append, *, on_sent: OnSent | None = None) -> int:
        """Append, or lose it when it was folded ahead."""
        if self._lost or f"{append.role}.{append.event}" != self._event:
            return await self._inner.append(append, on_sent=on_sent)
        self._lost.append(append)
        assert on_sent is not None
        on_sent()
        await self._loss()
        raise Unreachable("It never arrived.")


class Losing(InMemory):
    """The ports of every role; see ``LosingLog``."""

    def __init__(self, broker: MemoryBroker, event: str, loss: Loss) -> None:
        super().__init__(broker)
        self._event = event
        self._loss = loss
        self.lost: list[Append] = []

    def log(self, role: RoleName) -> Log:
        log: Any = LosingLog(super().log(role), self._event, self._loss, self.lost)
        found: Log = log
        return found


async def serve(
    broker: MemoryBroker,
    turns: list[list[tuple[str, str]]],
    lost: str,
    *,
    scenario: Callable[[ActorProcess], Awaitable[None]],
    loss: Loss = at_once,
    headers: dict[str, str] | None = None,
) -> None:
    """Serve one task on a scripted model, losing the first append of ``lost``, if it names one."""
    await AgentStore(broker.bucket(stream_names.AGENTS_BUCKET)).deploy(AGENT)
    config = ProcessSettings(worker="w#1", now=virtual_now, random_source=random.Random(1))
    roles = [make_role(role, requester=ScriptedTurns(turns), runner=Tools({})) for role in ACTORS]
    backend = Losing(broker, lost, loss)
    process = ActorProcess(backend, roles, config)
    async with process.running():
        await broker.publish(f"tasks.{TENANT}.a", msgspec.json.encode({"text": "wait a slow", "run": RUN}), headers)
        await scenario(process)
    assert [f"{append.role}.{append.event}" for append in backend.lost] == ([lost] if lost else [])


def test_the_content_of_a_lost_append_never_reaches_a_prompt() -> None:
    """The end of a wait is appended again a little later, with another time in it: the model reads the stored one."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)

        async def scenario(_host: ActorProcess) -> None:
            await anyio.sleep(30)

        await serve(broker, [[("wait.until", "3")]], "executor.finished", scenario=scenario)
        run = Run(TENANT, RUN)
        digests: list[tuple[str, str]] = []
        for message in await broker.log().load(TENANT, RUN):
            expected = assemble(run, AGENT).sha256 if run.opened is not None else ""
            event = run.apply(message.subject, message.payload, message.seq).event
            if isinstance(event, ModelStarted):
                digests.append((event.prompt_sha256, expected))
        assert len(digests) == 2
        assert run.sealed is not None
        assert all(digest == expected for digest, expected in digests)

    run_virtual(main, seed=1)


def test_a_stop_hint_during_a_rival_append_cancels_at_once() -> None:
    """The hint names the number that the lost event had: the log is read, and the number not taken for known."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        cancelled_after_s: list[float] = []

        async def stop() -> None:
            run, log = Run(TENANT, RUN), broker.log(["operator"])
            await catch_up(log, run)
            encoder = EventEncoder(build="", blobs=broker.blobs(), random_source=random.Random(2), now=virtual_now)
            await stop_run(log, encoder, run, lambda at: stop_event(at, by="ann", why="enough"))
            await anyio.sleep(0.1)

        async def scenario(process: ActorProcess) -> None:
            await anyio.sleep(0.2)
            entry = process.shell.cache.peek(TENANT, RUN)
            began = virtual_now()
            while entry is not None and entry.performing:  # noqa: ASYNC110 - under virtual time
                await anyio.sleep(0.01)
            cancelled_after_s.append((virtual_now() - began).total_seconds())

        await serve(broker, [[("look", "a"), ("look", "slow")]], "executor.finished", scenario=scenario, loss=stop)
        assert cancelled_after_s[0] < 1

    run_virtual(main, seed=1)


def test_the_reply_to_a_task_is_the_result_of_its_pass() -> None:
    """However long the acknowledgement takes, and whatever is lost meanwhile."""

    class SlowAck(NoFaults):
        async def before(self, op: str) -> None:
            if op == "queue.ack":
                await anyio.sleep(0.5)

    async def main() -> None:
        broker = MemoryBroker(virtual_now, faults=SlowAck())
        replies: list[Reply] = []

        async def scenario(_host: ActorProcess) -> None:
            async for hint in broker.listen(INBOX):
                replies.append(msgspec.json.decode(hint.payload, type=Reply))
                return

        await serve(broker, [], "planner.proposed", scenario=scenario, headers={REPLY_HEADER: INBOX})
        assert [reply.status for reply in replies] == ["opened"]

    run_virtual(main, seed=1)


def test_a_control_message_without_effect_is_refused_whatever_its_pass_appends() -> None:
    """Events that roles append in the pass of a control message carry its cue, but are not the person's decision."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        replies: list[Reply] = []

        async def scenario(_host: ActorProcess) -> None:
            await anyio.sleep(0.5)
            async with anyio.create_task_group() as tasks:

                async def listen() -> None:
                    async for hint in broker.listen(INBOX):
                        replies.append(msgspec.json.decode(hint.payload, type=Reply))
                        return

                tasks.start_soon(listen)
                await anyio.sleep(0.1)
                await broker.publish(f"control.{TENANT}.{RUN}.resume", b'{"by":"ann"}', {REPLY_HEADER: INBOX})

        await serve(broker, [[("look", "a")]], "validator.judged", scenario=scenario)
        assert [(reply.status, reply.sentence) for reply in replies] == [("refused", "The run is not paused.")]

    run_virtual(main, seed=1)


def test_a_stop_cancels_before_its_alert_is_sent() -> None:
    """An alert that cannot be sent keeps no call running."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now, faults=NoAlerts(Unreachable("No alert gets through."), 15))
        left: list[bool] = []

        async def scenario(process: ActorProcess) -> None:
            await anyio.sleep(0.2)
            await broker.publish(f"control.{TENANT}.{RUN}.stop", b'{"by":"ann"}')
            await anyio.sleep(1)
            entry = process.shell.cache.peek(TENANT, RUN)
            left.append(entry is not None and bool(entry.performing))

        await serve(broker, [[("look", "slow")]], "", scenario=scenario)
        assert left == [False]

    run_virtual(main, seed=1)
