"""``dev``, ``up`` and ``actor`` as real processes on a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest
import structlog.testing
from nats.aio.msg import Msg

from linestop.bus import jetstream_api
from linestop.bus.access.credentials import credential_path, ensure_credentials, load_credential, write_credential
from linestop.bus.connection import connect
from linestop.bus.server.embedded import EmbeddedServer
from linestop.bus.streams.stream_sizes import stored_sizes
from linestop.cli.serving.until_signal import repeat_until_done
from linestop.client import Client
from linestop.errors import Unreachable
from linestop.runtime.workers.worker_names import host_name, lock_name
from linestop.schemas.events import EffectStarted, Finished
from linestop.schemas.subjects import ACTORS, parse_delta
from linestop.testing.virtual_time import run_virtual

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.e2e]
READY_WITHIN_S = 30.0


class Process:
    """A ``linestop`` process and its stderr so far; ``out`` is its stdout once it has ended."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.error_text = ""
        self.out = b""

    async def wait_for_words(self, words: str) -> None:
        """Wait until stderr has ``words``."""
        assert self.process.stderr is not None
        with anyio.fail_after(READY_WITHIN_S):
            while words not in self.error_text:
                line = await self.process.stderr.readline()
                assert line, f"it ended without saying {words!r}: {self.error_text}"
                self.error_text += line.decode()

    async def end_with(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it with a signal, and return its exit code."""
        self.process.send_signal(number)
        with anyio.fail_after(READY_WITHIN_S):
            self.out, rest = await self.process.communicate()
        self.error_text += rest.decode()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def started(
    folder: Path, *args: str, program: Sequence[str] = (sys.executable, "-m", "linestop.cli.main")
) -> AsyncGenerator[Process]:
    """Start ``linestop`` in ``folder`` and make sure that it does not outlive the test."""
    process = await asyncio.create_subprocess_exec(
        *program,
        *args,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_dev_works_in_an_empty_folder(tmp_path: Path) -> None:
    """No configuration, no key: a run completes, and Ctrl-C ends everything cleanly."""
    async with started(tmp_path, "dev") as dev:
        await dev.wait_for_words("Ctrl-C ends it")
        # How long it took is measured by `python -m bench starting`, not here.
        assert float(dev.error_text.split("ready after ")[1].split(" s")[0]) > 0
        assert 'linestop run hello "What time is it?"' in dev.error_text
        chosen = stored_sizes(tmp_path / ".linestop")
        assert chosen is not None
        credential = load_credential(credential_path(tmp_path / ".linestop", "bootstrap"))
        async with await connect(credential, name="look") as observer:
            runs = msgspec.convert(
                (await observer.api_request(jetstream_api.stream_info("RUNS")))["config"], dict[str, Any]
            )
        assert runs["max_bytes"] == chosen.runs
        async with Client.connect(tmp_path / ".linestop", as_="operator") as client:
            submitted = await client.submit("hello", "What time is it?")
            outcome = await client.outcome(submitted.run, timeout_s=READY_WITHIN_S)
        assert outcome.status == "completed"
        assert "I am a script" in str(outcome.answer)
        assert await dev.end_with(signal.SIGINT) == 0
        assert "Shutting down" in dev.error_text
        assert "Traceback" not in dev.error_text, dev.error_text


PRINTING_TOOL = """
import os

from linestop import Context, tool

print("loaded", flush=True)
os.system("echo loaded too")


@tool(tier="read", owner="test")
async def look(ctx: Context) -> str:
    \"\"\"Look.\"\"\"
    return ctx.run
"""


async def test_output_of_a_tool_does_not_mix_with_data(tmp_path: Path) -> None:
    """It goes to stderr, from the import of its module on: stdout has the one line for programs."""
    (tmp_path / "linestop.toml").write_text('tools = ["tools.py"]\n')
    (tmp_path / "tools.py").write_text(PRINTING_TOOL)
    async with started(tmp_path, "dev", "--json") as dev:
        await dev.wait_for_words("Ctrl-C ends it")
        assert await dev.end_with() == 0
    assert [json.loads(line)["ready"] for line in dev.out.splitlines()] == [True]
    assert "loaded" in dev.error_text
    assert "loaded too" in dev.error_text


async def test_ready_processes_describe_themselves_in_one_json_line(tmp_path: Path) -> None:
    """With ``--json``: the broker's address, the roles, and the process id to signal. Text for people is on stderr."""
    state = str(tmp_path / ".linestop")
    async with started(tmp_path, "dev", "--json") as dev:
        await dev.wait_for_words("Ctrl-C ends it")
        async with started(tmp_path, "actor", "executor", "--name", "extra", "--json") as actor:
            await actor.wait_for_words("The executor works as extra#1")
            assert await actor.end_with() == 0
        async with started(tmp_path, "up", "--name", "second", "--json") as up:
            await up.wait_for_words("Ctrl-C ends it")
            assert await up.end_with() == 0
        broker = _broker_of(dev.process.pid)
        assert await dev.end_with() == 0
    ready_messages = [json.loads(each.out) for each in (dev, actor, up)]
    assert [one["worker"] for one in ready_messages] == ["dev#1", "extra#1", "second#1"]
    assert [one["pid"] for one in ready_messages] == [each.process.pid for each in (dev, actor, up)]
    assert [one["broker_pid"] for one in ready_messages] == [broker, 0, 0]
    assert {(one["ready"], one["url"], one["directory"]) for one in ready_messages} == {
        (True, ready_messages[0]["url"], state)
    }
    assert ready_messages[1]["roles"] == ["executor"]
    assert {tuple(sorted(one["roles"])) for one in (ready_messages[0], ready_messages[2])} == {tuple(sorted(ACTORS))}
    assert ready_messages[0]["agents"] == ["hello"]
    assert [each.out.count(b"\n") for each in (dev, actor, up)] == [1, 1, 1]


async def test_dev_survives_a_crash_of_its_broker(tmp_path: Path) -> None:
    """The broker is restarted at the same address, and later runs work."""
    async with started(tmp_path, "dev") as dev:
        await dev.wait_for_words("Ctrl-C ends it")
        async with Client.connect(tmp_path / ".linestop", as_="operator") as client:
            os.kill(_broker_of(dev.process.pid), signal.SIGKILL)
            await dev.wait_for_words("again.")
            submitted = await client.submit("hello", "Still there?", key="after-the-crash")
            outcome = await client.outcome(submitted.run, timeout_s=READY_WITHIN_S)
        assert outcome.status == "completed"
        code = await dev.end_with()
        assert code == 0, dev.error_text


async def test_tasks_beside_the_actors_are_started_again_every_second_while_the_broker_is_away() -> None:
    """Such a task ends only when its work is done, and an outage is logged once, not every second."""
    began_s: list[float] = []

    async def work() -> None:
        began_s.append(anyio.current_time())
        if len(began_s) < 4:
            raise Unreachable("The broker is away.")

    with structlog.testing.capture_logs() as logged:
        await anyio.to_thread.run_sync(run_virtual, partial(repeat_until_done, work))
    assert [round(at_s - began_s[0], 3) for at_s in began_s] == [0, 1, 2, 3]
    assert [(line["log_level"], line["error"]) for line in logged] == [("warning", "The broker is away.")]


async def test_a_crash_in_the_first_moment_ends_nothing(tmp_path: Path) -> None:
    """Tasks beside the actors wait for the broker, and work once it answers again."""
    async with started(tmp_path, "dev") as dev:
        await dev.wait_for_words("linestop is ready")
        os.kill(_broker_of(dev.process.pid), signal.SIGKILL)
        await dev.wait_for_words("again.")
        async with Client.connect(tmp_path / ".linestop", as_="operator") as client:
            submitted = await client.submit("hello", "Still there?")
            assert (await client.outcome(submitted.run, timeout_s=READY_WITHIN_S)).status == "completed"
        code = await dev.end_with()
        assert code == 0, dev.error_text


async def test_dev_goes_on_where_it_ended(tmp_path: Path) -> None:
    """The state remains, and the worker is the next incarnation of its name."""
    workers: list[str] = []
    seen: set[str] = set()
    for _ in range(2):
        async with started(tmp_path, "dev") as dev:
            await dev.wait_for_words("Ctrl-C ends it")
            async with Client.connect(tmp_path / ".linestop", as_="operator") as client:
                submitted = await client.submit("hello", "Hello?")
                await client.outcome(submitted.run, timeout_s=READY_WITHIN_S)
                run = await client.run(submitted.run)
                workers += [e.event.worker for e in run.entries if isinstance(e.event, EffectStarted)]
                seen = {line.run for line in await client.runs()}
            assert await dev.end_with() == 0
    assert workers == ["dev#1", "dev#2"]
    assert len(seen) == 2


async def test_two_workers_of_one_name_cannot_run(tmp_path: Path) -> None:
    """The second process names the holder of the name."""
    with lock_name(tmp_path / ".linestop", "dev"):
        async with started(tmp_path, "dev") as dev:
            await dev.wait_for_words(f"The worker name dev is held by process {os.getpid()}")
            assert await dev.process.wait() == 2


@pytest.mark.parametrize("name", [(), ("--name", "other")])
async def test_a_second_dev_in_one_folder_is_refused(tmp_path: Path, name: tuple[str, ...]) -> None:
    """Under any worker name, the remedy is the same."""
    async with EmbeddedServer(tmp_path / ".linestop"):
        with lock_name(tmp_path / ".linestop", "dev"):
            async with started(tmp_path, "dev", *name) as second:
                await second.wait_for_words(f"linestop dev already runs here (process {os.getpid()} ")
                await second.wait_for_words("end it with Ctrl-C there and start it again to load changed files")
                assert await second.process.wait() == 2


async def test_dev_warns_of_an_agent_that_cannot_work(tmp_path: Path) -> None:
    """A playbook that is not there, a key that is not set: no run of it could do anything."""
    (tmp_path / "agents").mkdir()
    for name, model in (("a", "playbook/suport"), ("b", "openai/gpt-4o")):
        (tmp_path / "agents" / f"{name}.toml").write_text(f"model = '{model}'")
        (tmp_path / "agents" / f"{name}.md").write_text("Hello.")
    async with started(tmp_path, "dev") as dev:
        await dev.wait_for_words(
            "The agent a uses playbook/suport, and there is no such playbook; there is playbook/hello."
        )
        await dev.wait_for_words("openai/gpt-4o needs OPENAI_API_KEY, which is not set")
        assert await dev.end_with() == 0


async def test_an_actor_says_that_it_waits_for_its_broker_and_ends_on_a_signal(tmp_path: Path) -> None:
    """A broker may come up later than its actors; a signal need not wait for it."""
    ensure_credentials(tmp_path / ".linestop", "nats://127.0.0.1:1")
    async with started(tmp_path, "actor", "planner") as actor:
        await actor.wait_for_words("no broker answers at nats://127.0.0.1:1 within 5 s (Connection refused)")
        await actor.wait_for_words("Trying for 30 s")
        assert await actor.end_with() == 0


@pytest.mark.parametrize(
    ("roles", "sentence"),
    [
        (("planner", "budget", "planner"), "The role planner is named twice: name each role once."),
        (("executor", "planner"), "credentials/executor.json does not exist: "),
    ],
)
async def test_an_actor_that_cannot_have_all_its_roles_has_none(
    tmp_path: Path, roles: tuple[str, ...], sentence: str
) -> None:
    """A role given twice and a missing credential are each one sentence, before anything is asked of the broker."""
    credential = ensure_credentials(tmp_path / "all", "nats://127.0.0.1:1")["planner"]
    write_credential(credential_path(tmp_path / ".linestop", "planner"), credential)
    async with started(tmp_path, "actor", *roles) as actor:
        await actor.wait_for_words(sentence)
        assert await actor.process.wait() == 2
    assert actor.error_text.count("\n") == 1


async def test_an_actor_in_its_own_process_does_its_role(tmp_path: Path) -> None:
    """``up`` serves all roles of an outside broker; ``actor`` joins in under a name of its own."""
    (tmp_path / "a").mkdir()
    async with started(tmp_path / "a", "dev") as dev:
        await dev.wait_for_words("Ctrl-C ends it")
        async with started(tmp_path / "a", "actor", "executor", "--name", "extra") as actor:
            await actor.wait_for_words("The executor works as extra#1")
            assert await actor.end_with() == 0
        async with started(tmp_path / "a", "up", "--name", "second") as up:
            await up.wait_for_words("Ctrl-C ends it")
            started_at = time.monotonic()
            async with Client.connect(tmp_path / "a" / ".linestop", as_="operator") as client:
                submitted = await client.submit("hello", "Hello?")
                outcome = await client.outcome(submitted.run, timeout_s=READY_WITHIN_S)
                run = await client.run(submitted.run)
            assert outcome.status == "completed"
            assert sum(isinstance(e.event, Finished) for e in run.entries) == 1
            assert time.monotonic() - started_at < READY_WITHIN_S
            assert await up.end_with() == 0
        assert await dev.end_with() == 0


async def test_three_processes_do_the_work_of_all_roles(tmp_path: Path) -> None:
    """The recommended separation, on a broker of its own; the roles' order on the command line makes no difference."""
    words = (("planner",), ("executor",), ("recorder", "budget", "approver", "validator"))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(EmbeddedServer(tmp_path / ".linestop"))
        each = [await stack.enter_async_context(started(tmp_path, "actor", *roles, "--json")) for roles in words]
        await each[0].wait_for_words(f"The planner works as {host_name()}-planner#1")
        await each[1].wait_for_words(f"The executor works as {host_name()}-executor#1")
        gates = f"{host_name()}-validator-approver-budget-recorder"
        await each[2].wait_for_words(f"The roles validator, approver, budget, recorder work as {gates}#1")
        for command in (("deploy",), ("health", "--role", "budget")):
            async with started(tmp_path, *command) as done:
                done.out, _ = await done.process.communicate()
                assert done.process.returncode == 0, command
        assert f"The worker {gates} is alive." in done.out.decode()
        async with Client.connect(tmp_path / ".linestop", as_="operator") as client:
            submitted = await client.submit("hello", "What time is it?")
            outcome = await client.outcome(submitted.run, timeout_s=READY_WITHIN_S)
            run = await client.run(submitted.run)
        assert outcome.status == "completed"
        assert {entry.role for entry in run.entries} == {*ACTORS} - {"approver"}
        assert [await process.end_with() for process in each] == [0, 0, 0]
        for process, name in zip(each, ("planner", "executor", "validator-approver-budget-recorder"), strict=True):
            drains, ended = process.error_text.splitlines()[-2:]
            assert drains == "Shutting down: nothing new starts, running calls may finish."
            assert ended == f"{host_name()}-{name}#1 has ended."
    assert [json.loads(process.out)["roles"] for process in each] == [
        ["planner"],
        ["executor"],
        ["validator", "approver", "budget", "recorder"],
    ]


async def test_staging_describes_effects_instead_of_doing_them(tmp_path: Path) -> None:
    """In the profile ``staging`` a tool above ``read`` is never called."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "agents" / "clerk.toml").write_text('model = "playbook/clerk"\ntools = ["files.write"]')
    (tmp_path / "agents" / "clerk.md").write_text("Write.")
    (tmp_path / "playbooks" / "clerk.toml").write_text(
        'name = "clerk"\n[[step]]\nsay = "x"\ncall = [{ tool = "files.write", args = { path = "a", text = "b" } }]\n'
        '[[step]]\nsay = "done"\n'
    )
    async with started(tmp_path, "--profile", "staging", "dev") as dev:
        await dev.wait_for_words("Ctrl-C ends it")
        async with Client.connect(tmp_path / ".linestop", as_="operator") as client:
            submitted = await client.submit("clerk", "Write a file.")
            await client.outcome(submitted.run, timeout_s=READY_WITHIN_S)
            run = await client.run(submitted.run)
        results = [e.event.result for e in run.entries if isinstance(e.event, Finished)]
        assert len(results) == 1
        assert '"dry_run":true' in results[0]
        assert not list((tmp_path / ".linestop" / "workspaces").rglob("a"))
        assert await dev.end_with() == 0


FLOW = """
def total(messages):
    results = [message.text for message in messages if message.role == "tool"]
    return {"answer": f"It is {results[0]}."} if results else {"calls": [["shop.add", {"a": 40, "b": 2}]]}
"""
TOOL = '''
from linestop import Context, tool

@tool(name="shop.add", tier="read", owner="shop")
async def add(ctx: Context, a: int, b: int) -> int:
    """Add two whole numbers of a customer's order."""
    return a + b
'''


async def test_a_function_of_the_folder_plans_instead_of_a_model(tmp_path: Path) -> None:
    """Modules beside linestop.toml can be named for planners and tools, wherever the program is installed."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "flow.toml").write_text('planner = "python:own_flows.total"\ntools = ["shop.*"]')
    (tmp_path / "agents" / "flow.md").write_text("Add.")
    (tmp_path / "linestop.toml").write_text('tools = ["python:own_tools"]')
    (tmp_path / "own_flows.py").write_text(FLOW)
    (tmp_path / "own_tools.py").write_text(TOOL)
    program = Path(sys.executable).with_name("linestop")
    async with started(tmp_path, "dev", program=[str(program)]) as dev:
        await dev.wait_for_words("Ctrl-C ends it")
        async with Client.connect(tmp_path / ".linestop", as_="operator") as client:
            submitted = await client.submit("flow", "Add.")
            outcome = await client.outcome(submitted.run, timeout_s=READY_WITHIN_S)
        assert (outcome.status, outcome.answer, outcome.cost_micros) == ("completed", "It is 42.", 0)
        assert await dev.end_with() == 0
    (tmp_path / "own_flows.py").write_text("")
    async with started(tmp_path, "dev", program=[str(program)]) as dev:
        await dev.wait_for_words("The agent 'flow', planner: The planner 'python:own_flows.total' cannot be imported")
        assert await dev.process.wait() == 2


SLOW_IMPORT = """
import sys, time
from pathlib import Path
from linestop.cli.main import main
from linestop.cli.serving import assemble_process

def import_slowly(model):
    print("imports", model, file=sys.stderr, flush=True)
    while not Path("go").exists():
        time.sleep(0.01)
    print("has imported", model, file=sys.stderr, flush=True)

assemble_process.import_sdk = import_slowly
main()
"""


async def test_a_process_serves_while_it_imports_the_sdks_of_its_agents(tmp_path: Path) -> None:
    """It is ready before, although the import begins at once, and it ends as soon as it is told to."""
    async with started(tmp_path, "dev", program=[sys.executable, "-c", SLOW_IMPORT]) as dev:
        await dev.wait_for_words("imports playbook/hello")
        await dev.wait_for_words("Ctrl-C ends it")
        assert "has imported" not in dev.error_text
        (tmp_path / "go").touch()
        await dev.wait_for_words("has imported playbook/hello")
        assert await dev.end_with() == 0


async def test_deltas_are_published_under_their_attempt(tmp_path: Path) -> None:
    """An interrupted answer and the complete one are different attempts, which a watcher can tell apart."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "agents" / "teller.toml").write_text('model = "playbook/teller"')
    (tmp_path / "agents" / "teller.md").write_text("Tell.")
    answer = "A sentence that is long enough to be told in pieces, so that it can break off in between."
    (tmp_path / "playbooks" / "teller.toml").write_text(
        f'name = "teller"\n[[step]]\nsay = "{answer}"\nfault = {{ kind = "cut", after_events = 2, times = 1 }}'
    )
    received: dict[tuple[int, int], str] = {}

    async def on_delta(message: Msg) -> None:
        place = parse_delta(message.subject)
        received[place.turn, place.attempt] = received.get((place.turn, place.attempt), "") + message.data.decode()

    async with started(tmp_path, "dev") as dev:
        await dev.wait_for_words("Ctrl-C ends it")
        async with Client.connect(tmp_path / ".linestop", as_="client") as client:
            await client.bus.connection.subscribe("deltas.>", on_delta)
            submitted = await client.submit("teller", "Tell me.")
            outcome = await client.outcome(submitted.run, timeout_s=READY_WITHIN_S)
        assert outcome.answer == answer
        assert sorted(received) == [(1, 1), (1, 2)]
        assert received[1, 2] == answer
        assert answer.startswith(received[1, 1])
        assert 0 < len(received[1, 1]) < len(answer)
        assert await dev.end_with() == 0


def _broker_of(parent: int) -> int:
    """The process id of the nats-server that is a child of ``parent``."""
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            if "nats-server" in Path(f"/proc/{child}/cmdline").read_text():
                return int(child)
    raise AssertionError("it has no broker")


LOGS = """
import logging, structlog
from linestop.cli.serving.logs import configure_logs
configure_logs()
logging.getLogger("linestop.tools").debug("output of tool %s: %s", "look", "'hello'")
structlog.get_logger().warning("in_use", path="a.db", sentence="Another recorder writes it.")
"""


@pytest.mark.parametrize(("level", "tool"), [("debug", 1), ("", 0)])
async def test_output_of_tools_is_logged_at_the_debug_level(level: str, tool: int) -> None:
    """As JSON without a terminal; omitted by default, because logs of tools are not redacted."""
    done = await anyio.run_process([sys.executable, "-c", LOGS], env={**os.environ, "LINESTOP_LOG": level})
    log_lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in log_lines] == ["output of tool look: 'hello'"] * tool + ["in_use"]


async def test_an_unknown_log_level_is_refused() -> None:
    """A slip must not read as if nothing was to be logged."""
    environ = {**os.environ, "LINESTOP_LOG": "loud"}
    done = await anyio.run_process([sys.executable, "-m", "linestop.cli.main", "up"], env=environ, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"LINESTOP_LOG: 'loud' is not a level: write debug, info, warning, error, or leave it out." in done.stderr


async def test_a_warning_with_a_sentence_is_that_sentence_at_a_terminal() -> None:
    """Its fields are for programs."""
    ours, theirs = pty.openpty()
    try:
        await anyio.run_process([sys.executable, "-c", LOGS], stderr=theirs)
        printed = os.read(ours, 4096).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Another recorder writes it." in printed
    assert "a.db" not in printed
    assert len(printed.splitlines()) == 1
