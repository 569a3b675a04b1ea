"""The whole of linestop in one process, for tests: a real server, all six roles, a scripted model, a test agent.

::

    async with stack(tmp_path) as line:
        async with Client.connect(line.directory) as client:
            submitted = await client.submit("desk", "say hello")

The agent ``desk`` does what its task says: ``say hello`` answers at once, ``pay 5`` makes an irreversible
call that needs a person, ``look`` a read, ``hang`` a read that never ends, ``ask`` asks a person, ``colours``
answers with control characters, ``doubt`` makes a call whose outcome is unknown.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import sys
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from linestop.bus.access.credentials import Credential, write_private
from linestop.bus.broker_backend import JetStreamBackend
from linestop.bus.connection import connect
from linestop.bus.jetstream import JetStream
from linestop.bus.server.embedded import EmbeddedServer, ServerOptions
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.stores.signed_checkpoints import load_checkpoint_signer
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import BusLayout, set_up
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES, StreamSizes
from linestop.cli.serving.assemble_process import publish_deltas
from linestop.models.caller import Requester
from linestop.models.playbook import PlaybookServer, parse_playbook
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.intake import Person
from linestop.runtime.process_settings import ProcessSettings, utc_now
from linestop.runtime.role_factory import make_role
from linestop.sandbox.tools.decorator import AnyTool, Context, ToolUnknown, tool
from linestop.sandbox.tools.registry import Registry, load_registry
from linestop.sandbox.tools.tool_runner import RegistryRunner
from linestop.schemas.agents import AgentVersion
from linestop.schemas.defaults import Limits
from linestop.schemas.events import ModelChoice, Policy
from linestop.schemas.model_messages import Price
from linestop.schemas.subjects import ACTORS, RoleName

AGENT = "desk"
NEVER_S = 600.0

PLAYBOOK = r"""
name = "desk"

[[step]]
when = { turn = 1, contains = "say hello" }
say = "Hello."

[[step]]
when = { turn = 1, contains = "colours" }
say = "plain \u001b[31mred\u001b[0m \u009b31m \u202e end"

[[step]]
when = { turn = 1, contains = "pay" }
say = "I have to pay."
call = [{ tool = "pay", args = { amount = 5, note = "\u001b]0;owned\u0007" } }]

[[step]]
when = { turn = 1, contains = "look" }
call = [{ tool = "look", args = { what = "A-17" } }]

[[step]]
when = { turn = 1, contains = "hang" }
call = [{ tool = "hang" }]

[[step]]
when = { turn = 1, contains = "doubt" }
call = [{ tool = "doubtful" }]

[[step]]
when = { turn = 1, contains = "ask" }
call = [{ tool = "ask.person", args = { question = "Which colour?", options = ["red", "blue"] } }]

[[step]]
when = { turn = 1, contains = "await" }
call = [{ tool = "wait.for_event", args = { name = "paid", timeout_s = 600 } }]

[[step]]
when = { tool_result = "ask.person" }
say = "The person said {{last_result}}."

[[step]]
say = "Done: {{last_result}}"
"""


@dataclass
class Effects:
    """The effects of the test tools, for tests to check."""

    paid: list[int] = field(default_factory=list[int])
    hanging: anyio.Event = field(default_factory=anyio.Event)
    """Set as soon as a ``hang`` is under way."""


def desk_tools(effects: Effects) -> tuple[AnyTool, ...]:
    """The tools of the test agent."""

    @tool(tier="irreversible", idempotent=True)
    async def pay(ctx: Context, amount: int, note: str = "") -> dict[str, int]:
        """Pay."""
        del ctx, note
        effects.paid.append(amount)
        return {"paid": amount}

    @tool(tier="read")
    async def look(ctx: Context, what: str) -> dict[str, str]:
        """Look something up."""
        return {"what": what, "run": ctx.run}

    @tool(tier="read", timeout_s=NEVER_S)
    async def hang(ctx: Context) -> str:
        """Never end."""
        del ctx
        effects.hanging.set()
        await anyio.sleep(NEVER_S)
        return "never"

    @tool(tier="reversible", retries_max=0)
    async def doubtful(ctx: Context) -> str:
        """Do something whose outcome is unknown."""
        del ctx
        raise ToolUnknown("the line went dead")

    return (pay, look, hang, doubtful)


def desk_agent(registry: Registry, *, limits: Limits, policy: Policy, base_url: str) -> AgentVersion:
    """The test agent with all tools of ``registry`` that it needs."""
    names = ("pay", "look", "hang", "doubtful", "ask.person", "wait.for_event")
    return AgentVersion(
        name=AGENT,
        prompt="You do what you are told.",
        model=ModelChoice(
            model="playbook/desk",
            price=Price(input=1_000_000, output=5_000_000),
            output_tokens_max=limits.model_output_tokens_max,
        ),
        base_url=base_url,
        tools=tuple(registry.contract(name) for name in names),
        limits=limits,
        policy=policy,
    )


@dataclass
class Stack:
    """The running system. ``host`` is None while no actor runs; ``actors`` starts the roles for a block."""

    directory: Path
    server: EmbeddedServer
    playbook: PlaybookServer
    registry: Registry
    effects: Effects
    people: Mapping[str, Person]
    host: ActorProcess | None = None
    portal: BlockingPortal | None = None
    """The way into its loop, for tests outside of it."""

    @property
    def url(self) -> str:
        """The address of the broker."""
        return self.server.url

    def read_facts(self) -> None:
        """Let the actors of a background stack read kill switches and space now, as they do every two seconds."""
        assert self.host is not None
        assert self.portal is not None
        assert self.portal.call(self.host.facts.refresh, self.host.shell.bindings[0].log)

    async def deploy(self, *, limits: Limits | None = None, policy: Policy | None = None) -> str:
        """Deploy the test agent, perhaps with other limits or policy; return its digest."""
        limits = limits or Limits(approval_expires_s=600, wall_s=600)
        agent = desk_agent(self.registry, limits=limits, policy=policy or Policy(), base_url=self.playbook.url)
        async with await connect(self.server.credential("operator"), name="deploy") as connection:
            store = AgentStore(JetStream(connection).bucket(stream_names.AGENTS_BUCKET))
            return await store.deploy(agent)

    @asynccontextmanager
    async def actors(self) -> AsyncGenerator[ActorProcess]:
        """Run all six roles, each with its own credential, until the block ends."""
        credentials: dict[RoleName, Credential] = {role: self.server.credential(role) for role in ACTORS}
        backend = await JetStreamBackend.open(credentials, name="stack")
        caller = Requester(on_delta=publish_deltas(backend.publisher("planner")))
        runner = RegistryRunner(self.registry, self.directory / "workspaces")
        roles = [make_role(role, requester=caller, runner=runner) for role in ACTORS]
        signer = load_checkpoint_signer(self.directory / "credentials", utc_now)
        worker = f"stack#{random.getrandbits(30)}"
        config = ProcessSettings(worker=worker, people=self.people, drain_s=0.1, signer=signer)
        try:
            async with ActorProcess(backend, roles, config).running() as host:
                self.host = host
                yield host
        finally:
            self.host = None
            await caller.aclose()
            await backend.aclose()


def person_with_key(directory: Path, name: str) -> Person:
    """Write a person's key where the clients of this state directory find it, and return the person to configure."""
    key, folder = Ed25519PrivateKey.generate(), directory / "people"
    folder.mkdir(exist_ok=True)
    write_private(folder / f"{name}.key", key.private_bytes_raw().hex().encode() + b"\n")
    return Person(name=name, public_key=key.public_key().public_bytes_raw().hex())


@asynccontextmanager
async def stack(
    directory: Path,
    *,
    actors: bool = True,
    people: Mapping[str, Person] | None = None,
    tools: Sequence[AnyTool] = (),
    playbook: str = PLAYBOOK,
    space: StreamSizes = DEFAULT_SIZES,
) -> AsyncGenerator[Stack]:
    """Start everything below ``directory``, the state directory a client is given.

    Args:
        directory: Where server, credentials and workspaces go.
        actors: Whether the roles run; without them, ``Stack.actors`` starts them.
        people: The people who may decide; if given, decisions must be signed.
        tools: More tools, for the test's own agent.
        playbook: The scripted model.
        space: How large the streams are.
    """
    effects = Effects()
    registry = load_registry()
    for each in (*desk_tools(effects), *tools):
        registry.add(each, "tests")
    async with AsyncExitStack() as cleanup:
        server = await cleanup.enter_async_context(EmbeddedServer(directory, ServerOptions(sizes=space)))
        async with await connect(server.credential("bootstrap"), name="stack") as connection:
            (await set_up(connection, BusLayout(sizes=space))).require_no_differences()
        script = await cleanup.enter_async_context(PlaybookServer(parse_playbook(playbook)))
        made = Stack(
            directory=directory,
            server=server,
            playbook=script,
            registry=registry,
            effects=effects,
            people=people or {},
        )
        await made.deploy()
        if actors:
            await cleanup.enter_async_context(made.actors())
        yield made


@contextmanager
def background_stack(directory: Path, **options: Any) -> Generator[Stack]:
    """The same in a separate thread, for tests of blocking code, such as commands."""
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(stack(directory, **options)) as made,
    ):
        made.portal = portal
        yield made


@dataclass(frozen=True)
class CommandResult:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The output as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


def command(directory: Path, *args: str, stdin: str | bytes | None = "") -> CommandResult:
    """Run one command of the command line in this process, on a state folder; with ``stdin`` None it is closed."""
    # Imported here: most users of this file run no commands.
    from linestop.cli.main import run  # noqa: PLC0415

    out, err = io.StringIO(), io.StringIO()
    stdin_bytes = stdin.encode() if isinstance(stdin, str) else stdin
    saved_stdin = sys.stdin
    # Python leaves None where the descriptor is closed.
    sys.stdin = None if stdin_bytes is None else io.TextIOWrapper(io.BytesIO(stdin_bytes))
    saved_environment = dict(os.environ)
    os.environ["LINESTOP_DIR"] = str(directory)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(args)
    finally:
        sys.stdin = saved_stdin
        os.environ.clear()
        os.environ.update(saved_environment)
    return CommandResult(code, out.getvalue(), err.getvalue())


def cli(system: Stack, *args: str, stdin: str | bytes | None = "") -> CommandResult:
    """Run one command of the command line on the running system."""
    return command(system.directory, *args, stdin=stdin)


def shown_option(directory: Path, run: str) -> tuple[str, str]:
    """The option with the shown digest of the only question of ``run``, as ``approvals`` prints it."""
    questions = command(directory, "approvals", "--json").json
    return "--shown", next(str(question["shown"]) for question in questions if question["run"] == run)


__all__ = ["AGENT", "CommandResult", "Effects", "Stack", "background_stack", "cli", "command", "stack"]
