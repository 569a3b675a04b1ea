"""A process with all six roles whose agent calls an HTTP effect and an HTTP read in turn, repeatedly.

The effect is cleared before it starts, the read starts on its judgement. Arguments: state directory, host:port.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio
import structlog

from linestop.bus.access.credentials import credential_path, load_credential
from linestop.bus.broker_backend import JetStreamBackend
from linestop.models.caller import Requester
from linestop.models.planner_function import Plan
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.sandbox.http.egress_guard import EgressPolicy
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import tool
from linestop.sandbox.tools.registry import Registry
from linestop.sandbox.tools.tool_runner import RegistryRunner
from linestop.schemas.agents import AgentVersion
from linestop.schemas.defaults import Limits
from linestop.schemas.events import ModelChoice, Policy
from linestop.schemas.model_messages import Message, Price
from linestop.schemas.subjects import ACTORS

TURNS = 14
"""More turns than a stop can be late by, so that no run is over before its stop."""


@tool(name="world.hit", tier="irreversible", owner="race", timeout_s=5, idempotent=True)
async def hit(ctx: Context, url: str, count: int) -> str:
    """Do something that cannot be undone.

    Args:
        url: The server.
        count: Which time.
    """
    return await _post(ctx, url, count)


@tool(name="world.peek", tier="read", owner="race", timeout_s=5)
async def peek(ctx: Context, url: str, count: int) -> str:
    """Do something that changes nothing.

    Args:
        url: The server.
        count: Which time.
    """
    return await _post(ctx, url, count)


async def _post(ctx: Context, url: str, count: int) -> str:
    headers = {"X-Run": ctx.run, "X-Call": ctx.call, "X-Attempt": str(ctx.attempt), "Idempotency-Key": ctx.key}
    response = await ctx.http.post(url, headers=headers, content=str(count).encode())
    return response.text


def plan(messages: tuple[Message, ...]) -> Plan:
    """Call the tools in turn, ``TURNS`` times in all, then answer. The task's text is the server's address."""
    hits = sum(1 for message in messages if message.role == "tool")
    if hits >= TURNS:
        return Plan(answer="done")
    name = "world.peek" if hits % 2 else "world.hit"
    return Plan(calls=((name, {"url": messages[0].text, "count": hits}),))


def registry() -> Registry:
    """The registry of the two tools."""
    registry = Registry()
    registry.add(hit, "race")
    registry.add(peek, "race")
    return registry


def agent() -> AgentVersion:
    """An agent whose planner is the function above and whose effects need no approval."""
    price = Price(input=0, output=0, table="race")
    return AgentVersion(
        name="race",
        prompt="",
        model=ModelChoice(model="playbook/none", price=price),
        tools=registry().contracts(),
        policy=Policy(clear=("world.*",), provenance=False),
        limits=Limits(wall_s=600, calls_per_tool_max=TURNS),
        planner="python:worker.plan",
    )


async def main(directory: Path, host_port: str) -> None:
    """Serve until standard input closes."""
    credentials: Any = {role: load_credential(credential_path(directory, role)) for role in ACTORS}
    backend = await JetStreamBackend.open(credentials, name="race")
    runner = RegistryRunner(registry(), directory / "workspaces", egress=EgressPolicy(allow=(host_port,)))
    roles = [make_role(role, requester=Requester(), runner=runner) for role in ACTORS]
    async with ActorProcess(backend, roles, ProcessSettings(worker="race#1")).running():
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
    await backend.aclose()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    sys.path.insert(0, str(Path(__file__).parent))
    anyio.run(main, Path(sys.argv[1]), sys.argv[2])
