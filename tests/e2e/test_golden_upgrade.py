"""In-flight upgrade: today's build ends the runs that an older build left open, on a real broker.

The messages of the golden logs are stored in the run log unchanged, with the credentials of the roles that appended
them, and so is the agent's version. Then today's process starts: all roles, a scripted model, the next incarnation of
the worker of that time. The test plays a person only where the log waits for one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.builders import CONTRACTS, RUN, TENANT
from tests.e2e.scene import OperatorView, log_lines, operator_view
from tests.golden_logs.make import HERE
from tests.golden_logs.test_golden_logs import Message, log_of

from linestop import clock
from linestop.bus.broker_backend import JetStreamBackend
from linestop.bus.connection import connect
from linestop.bus.jetstream import JetStream
from linestop.bus.jetstream.reads import Reader
from linestop.bus.server.embedded import EmbeddedServer
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import set_up
from linestop.bus.wire import header_block
from linestop.models.caller import Requester
from linestop.models.playbook import PlaybookServer
from linestop.models.playbook.script import parse_playbook
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import AnyTool, make_tool
from linestop.sandbox.tools.registry import Registry
from linestop.sandbox.tools.tool_runner import RegistryRunner
from linestop.schemas import subjects
from linestop.schemas.events import Finished, Question
from linestop.schemas.messages import Control, Verb
from linestop.schemas.run.call_states import Stage
from linestop.schemas.run.fold import Run, fold_messages
from linestop.schemas.subjects import ACTORS, parse_run_event
from linestop.schemas.tool_contracts import Contract, Digest
from linestop.schemas.verify.check_log import verify

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.broker]

ENDED_WITHIN_S = 30.0
UPGRADE_TOOK = timedelta(seconds=15)
"""The time from the last event of the older build to today's process: open starts are over, nothing is stale."""

PLAYBOOKS = tuple(f'name = "{name}"\n[[step]]\nrepeat = true\nsay = "that is all"\n' for name in ("large", "small"))

CUTS = {
    "completed": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 17, 19, 22, 24, 25, 26, 27, 28),
    "unknown-resolved": (8, 9, 10, 12, 13, 14, 17),
    "stopped-with-late-facts": (11, 12, 13, 14, 16, 17),
    "compacted": (14, 15, 16, 17),
    "fallen-back": (4, 6, 7, 12, 15, 17, 18),
    "denied-spending": (13, 14, 15, 16),
    "looped": (20, 22, 23, 24),
    "read-at-once": (5, 6, 10, 11, 13, 23, 26),
    "refused": (1, 2),
    "stopped-first": (1, 2),
}
"""The number of events after which the older build was stopped: after each kind of event at least once."""

ENDS = {
    "stopped-with-late-facts": ("stopped", 11),
    "denied-spending": ("denied", 14),
    "looped": ("failed", 22),
    "refused": ("refused", 1),
    "stopped-first": ("stopped", 1),
}
"""How a run ends, and the first event from which this holds; before it, and in all other runs: ``completed``."""


class OlderContract(Contract, frozen=True, kw_only=True, omit_defaults=True):
    """A tool's contract with the digest that an older build gave it."""

    pinned: str = ""

    def digest(self) -> Digest:
        """The digest that the older build gave it."""
        return Digest(self.pinned)


def tools_of(log: Sequence[Message]) -> Registry:
    """The tools that the run was opened with; all return at once."""
    opened = json.loads(log[0][1])
    pinned: dict[str, str] = {tool["name"]: tool["contract_digest"] for tool in opened.get("tools", [])}

    async def succeed(ctx: Context, q: str = "", amount: float = 0) -> dict[str, bool]:
        """Succeed."""
        del ctx, q, amount
        return {"ok": True}

    async def probe(ctx: Context, q: str = "", amount: float = 0) -> bool | None:
        """Cannot tell."""
        del ctx, q, amount
        return None

    registry = Registry()
    for contract in CONTRACTS:
        older = OlderContract(**msgspec.structs.asdict(contract), pinned=pinned.get(contract.name, ""))
        if contract.kind == "wait":
            registry.add_contract(older, "tests")
            continue
        tool: AnyTool = make_tool(
            succeed, {"name": contract.name, "probe": probe} if contract.probe else {"name": contract.name}
        )
        tool.contract = older
        registry.add(tool, "tests")
    return registry


@pytest.fixture
def at_that_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the process a clock that can be set to the time of the golden logs."""
    monkeypatch.setattr(clock, "PROCESS_CLOCK", clock.Clock())


async def put(server: EmbeddedServer, name: str, log: Sequence[Message]) -> None:
    """Store the agent's version and these messages as the older build did, each by the credential of its role."""
    async with await connect(server.credential("operator"), name="older") as connection:
        stored = HERE / f"{name}.agent.json"
        if stored.exists():
            digest = json.loads(log[0][1])["agent"]["digest"]
            agents = JetStream(connection).bucket(stream_names.AGENTS_BUCKET)
            await agents.create(f"version.{digest}", stored.read_bytes())
            await agents.create("current.desk", digest.encode())
    async with AsyncExitStack() as stack:
        wires: dict[str, Any] = {}
        last = 0
        for subject, payload, _ in log:
            event = parse_run_event(subject)
            if event.role not in wires:
                credential = server.credential(event.role)
                connection = await stack.enter_async_context(await connect(credential, name="older"))
                wires[event.role] = JetStream(connection).wire
            event_id = json.loads(payload)["id"]
            headers = header_block(
                {
                    "Nats-Expected-Last-Subject-Sequence": str(last),
                    "Nats-Expected-Last-Subject-Sequence-Subject": f"runs.{TENANT}.{RUN}.>",
                    "Nats-Msg-Id": f"{RUN}:{event.n}:{event_id}",
                    "ce-specversion": "1.0",
                    "ce-id": event_id,
                    "ce-source": f"/linestop/{event.role}",
                    "ce-type": f"io.linestop.run.{event.role}.{event.event}",
                }
            )
            reply = json.loads((await wires[event.role].request(subject, payload, headers=headers)).data)
            assert "error" not in reply, reply
            last = reply["seq"]


@asynccontextmanager
async def upgraded(directory: Path, name: str, log: Sequence[Message], tools: Registry) -> AsyncGenerator[OperatorView]:
    """A broker with the messages of the older build, and one process of today's build with all roles."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedServer(directory))
        async with await connect(server.credential("bootstrap"), name="set-up") as connection:
            (await set_up(connection)).require_no_differences()
        await put(server, name, log)
        model = await stack.enter_async_context(PlaybookServer([parse_playbook(playbook) for playbook in PLAYBOOKS]))
        backend = await JetStreamBackend.open({role: server.credential(role) for role in ACTORS}, name="new")
        stack.push_async_callback(backend.aclose)
        requester = Requester(base_urls={"playbook": model.url})
        stack.push_async_callback(requester.aclose)
        runner = RegistryRunner(tools, directory / "workspaces")
        roles = [make_role(role, requester=requester, runner=runner) for role in ACTORS]
        config = ProcessSettings(worker="w#2", compare_clock=False, sweep_every_s=0.5, drain_s=0.1)
        scene = await stack.enter_async_context(operator_view(server.credential("operator")))
        await stack.enter_async_context(ActorProcess(backend, roles, config).running())
        yield scene


def control_messages(run: Run) -> list[tuple[Verb, Control]]:
    """The control messages of a person for the questions of this state, so that the run continues."""
    messages: list[tuple[Verb, Control]] = []
    if run.paused:
        messages.append(("resume", Control(by="ann")))
    if run.spend_asked:
        messages.append(("approve", Control(by="ann")))
    for call in run.proposal.calls if run.proposal and not run.done else ():
        if call.stage is not Stage.ASKED or call.grant is None:
            continue
        target = Control(
            by="ann", call=call.call, args_sha256=call.args_sha256, contract_digest=call.grant.contract_digest
        )
        if call.asked_about_outcome:
            messages.append(("resolve", Control(by="ann", call=call.call, action="done", result={"id": 9})))
        elif isinstance(call.asked, Question):
            messages.append(("answer", Control(by="ann", call=call.call, answer="the first")))
        else:
            messages.append(("approve", target))
    return messages


async def load(scene: OperatorView) -> list[Message]:
    """The run's messages as they are stored."""
    return [(m.subject, m.payload, m.seq) for m in await scene.log.load(TENANT, RUN)]


async def ended(scene: OperatorView) -> Run:
    """The run when it is over; the test, as a person, decides every question once."""
    decided_n = 0
    with anyio.move_on_after(ENDED_WITHIN_S):
        while True:
            run = fold_messages(TENANT, RUN, await load(scene))
            if run.sealed is not None and not run.late_results:
                return run
            for verb, control in control_messages(run) if run.n > decided_n else ():
                await scene.publish(subjects.control(TENANT, RUN, verb=verb), msgspec.json.encode(control))
                decided_n = run.n
            await scene.wait_for_event_or_poll()
    raise AssertionError(f"the run hangs: {log_lines(fold_messages(TENANT, RUN, await load(scene)))}")


async def check(scene: OperatorView, run: Run, log: Sequence[Message]) -> None:
    """The older messages are unchanged, the end is consistent, and ``verify`` agrees from the log alone."""
    messages = await load(scene)
    assert messages[: len(log)] == list(log)
    assert not [entry for entry in run.entries if entry.ignored], log_lines(run)
    assert not run.open_attempts
    assert not run.holds
    # The golden logs reserve money of no account. That is the only problem; today's build adds none.
    verdict = verify(TENANT, RUN, messages)
    assert [(problem.n, problem.rule) for problem in verdict.problems] in ([], [(2, "budget")]), verdict
    assert verdict.events == run.n
    assert run.sealed is not None
    reader = Reader(scene.bus.wire, stream_names.OUTCOMES)
    with anyio.fail_after(ENDED_WITHIN_S):
        while not (outcome := await reader.last_of_each(subjects.run_outcome_filter(TENANT, RUN))):
            await scene.wait_for_event_or_poll()
    assert msgspec.json.decode(outcome[0].payload)["status"] == run.sealed.status
    dead_letters = await Reader(scene.bus.wire, stream_names.DEAD).last_of_each("dead.>")
    assert not dead_letters, dead_letters


def moment(log: Sequence[Message]) -> datetime:
    """When the last of these events was appended."""
    return fold_messages(TENANT, RUN, list(log)).at


def tools_reported_missing(run: Run, length: int) -> list[str]:
    """The tools that today's process reported as missing, in order."""
    results = [entry.event for entry in run.entries[length:] if isinstance(entry.event, Finished)]
    return [
        run.calls[e.call].tool
        for e in results
        if e.error is not None and "is not here: deploy the one" in e.error.message
    ]


@pytest.mark.usefixtures("at_that_time")
@pytest.mark.parametrize("name", CUTS)
async def test_a_run_that_an_older_build_began_is_ended_by_todays(name: str, tmp_path: Path) -> None:
    """After any kind of event, today's process continues the run where the older build stopped, until its seal."""
    whole = log_of(name)
    for length in CUTS[name]:
        log = whole[:length]
        clock.PROCESS_CLOCK.follow(moment(log) + UPGRADE_TOOK, clock.machine_s())
        async with upgraded(tmp_path / str(length), name, log, tools_of(whole)) as scene:
            run = await ended(scene)
            await check(scene, run, log)
        assert run.sealed is not None
        status, since = ENDS.get(name, ("completed", 1))
        assert run.sealed.status == (status if length >= since else "completed"), log_lines(run)
        assert not tools_reported_missing(run, length), log_lines(run)


@pytest.mark.usefixtures("at_that_time")
@pytest.mark.parametrize(
    ("name", "length", "tools"),
    [("completed", 6, ["look", "pay"]), ("completed", 10, ["pay"]), ("unknown-resolved", 9, ["wire"])],
)
async def test_a_run_whose_tools_are_gone_ends_with_that_reason(
    name: str, length: int, tools: list[str], tmp_path: Path
) -> None:
    """Today's process has none of the tools: each call ends with that reason, and a person decides unknown outcomes."""
    log = log_of(name)[:length]
    clock.PROCESS_CLOCK.follow(moment(log) + UPGRADE_TOOK, clock.machine_s())
    async with upgraded(tmp_path, name, log, Registry()) as scene:
        run = await ended(scene)
        await check(scene, run, log)
    assert tools_reported_missing(run, length) == tools, log_lines(run)
    assert run.sealed is not None
    assert run.sealed.status == "completed", log_lines(run)
    assert name == "completed" or "resolved" in {entry.name for entry in run.entries[length:]}, log_lines(run)


@pytest.mark.parametrize(
    ("name", "length"), [("completed", 3), ("completed", 7), ("completed", 11), ("fallen-back", 15)]
)
async def test_a_run_that_is_resumed_months_later_is_stopped_as_too_old(name: str, length: int, tmp_path: Path) -> None:
    """By the real clock its deadline is long over: nothing is started, and the outcome says why."""
    log = log_of(name)[:length]
    async with upgraded(tmp_path, name, log, tools_of(log)) as scene:
        run = await ended(scene)
        await check(scene, run, log)
    assert run.stopped is not None
    assert (run.stopped.code, run.stopped.why) == ("deadline", "The run did not end within 30 days."), log_lines(run)
    assert run.sealed is not None
    assert run.sealed.status == "failed", log_lines(run)
    assert "started" not in {entry.name for entry in run.entries[length:]}, log_lines(run)
