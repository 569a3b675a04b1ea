"""One process of linestop as the tests start it: real roles on the real broker, and the tools of a scripted run.

A run whose id is a ``Trigger`` makes the process kill (or freeze) itself, or kill the broker, at one given moment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, cast

import anyio
import msgspec
from tests.e2e.triggers import Trigger, TriggeredBackend

from linestop.actors import executor, planner
from linestop.bus.access.credentials import Credential, credential_path, load_credential
from linestop.bus.streams import stream_names
from linestop.models.caller import Requester
from linestop.runtime import deadline_alarms
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.runtime.workers.worker_names import lock_name, next_incarnation
from linestop.sandbox.http.egress_guard import EgressPolicy
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import tool
from linestop.sandbox.tools.registry import Registry
from linestop.sandbox.tools.tool_runner import RegistryRunner
from linestop.schemas.broker_defaults import TIMER_IN_PROCESS_MAX_S
from linestop.schemas.subjects import RoleName

START_WITHIN_S: Final = 0.7
GRACE_S: Final = 0.3
TOOL_TIMEOUT_S: Final = 0.7
DONE_WITHIN_S: Final = START_WITHIN_S + TOOL_TIMEOUT_S + GRACE_S
"""How long a start of these tools stays open after its worker's death; the real figures only make tests longer."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of all processes of a test. ``world`` is the address of the server for the tools' effects.

    ``paths``: ``all`` as in production; with ``sweep`` only the intake of tasks and control and the sweep make a role
    advance a run, with ``sweep_only`` only the sweep. ``timer_near_s``: deadlines nearer than this are timers in the
    process.
    """

    directory: str
    world: str
    processes: dict[str, tuple[RoleName, ...]]
    paths: dict[str, Literal["all", "sweep", "sweep_only"]] = {}
    sweep_every_s: float = 5.0
    timer_near_s: float = TIMER_IN_PROCESS_MAX_S


@tool(tier="read", owner="e2e", timeout_s=TOOL_TIMEOUT_S)
async def lookup(ctx: Context, what: str) -> str:
    """Look something up.

    Args:
        what: What to look up.
    """
    del ctx
    return f"found {what}"


@tool(tier="reversible", owner="e2e", timeout_s=TOOL_TIMEOUT_S, idempotent=True)
async def keyed(ctx: Context, what: str) -> str:
    """Do something that is one effect, however often it is requested under one key.

    Args:
        what: What to do.
    """
    return await _post(ctx, "keyed", what)


@tool(tier="reversible", owner="e2e", timeout_s=TOOL_TIMEOUT_S)
async def bare(ctx: Context, what: str) -> str:
    """Do something that happens again with each request.

    Args:
        what: What to do.
    """
    return await _post(ctx, "bare", what)


async def _post(ctx: Context, name: str, what: str) -> str:
    trigger = Trigger.of(ctx.run)
    if trigger is not None and (trigger.when, trigger.event, trigger.count) == ("sending", name, ctx.attempt):
        trigger.fire(ctx.run, Path(os.environ["E2E_DIRECTORY"]))
    response = await ctx.http.post(
        f"{os.environ['E2E_WORLD']}/{name}",
        content=what.encode(),
        headers={"Idempotency-Key": ctx.key, "X-Run": ctx.run, "X-Attempt": str(ctx.attempt)},
    )
    return response.text


def registry() -> Registry:
    """The tools of these tests."""
    tools = Registry()
    for each in (lookup, keyed, bare):
        tools.add(each, "e2e")
    return tools


class SweepingProcess(ActorProcess):
    """A process in which only the sweep, and the intake of tasks and control if enabled, makes a role advance a run."""

    takes_tasks_and_control = True

    def _start_pumps(self, pumps: anyio.abc.TaskGroup) -> None:
        """Start no listener, no consumer of events and no alarm."""
        if self.takes_tasks_and_control:
            super()._start_pumps(_OnlyThese(pumps))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        else:
            pumps.start_soon(self._sweep)
        self.shell._alarms.set = _no_alarms  # type: ignore[method-assign] # pyright: ignore[reportPrivateUsage]


class _OnlyThese:
    """A task group that starts the pumps of tasks and control and the sweep, and nothing else."""

    def __init__(self, pumps: anyio.abc.TaskGroup) -> None:
        self._pumps = pumps

    def start_soon(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Start the function if it is the sweep or a pump of tasks or control."""
        name = getattr(function, "__name__", "")
        consumer = getattr(arguments[1], "name", "") if name == "pull" else ""
        if name == "_sweep" or consumer == stream_names.TASKS_CONSUMER or consumer.startswith("control_"):
            self._pumps.start_soon(function, *arguments)


async def _no_alarms(entry: object) -> None:
    """Set no alarm."""
    del entry


async def serve(setup: Setup, name: str, ready: Callable[[str], None]) -> None:
    """Serve as ``name`` until killed; call ``ready`` with the worker's name when the process is ready."""
    for module, changed in (
        (executor, {"START_WITHIN_S": START_WITHIN_S, "TOOL_GRACE_S": GRACE_S}),
        (planner, {"START_WITHIN_S": START_WITHIN_S, "MODEL_GRACE_S": GRACE_S}),
        (deadline_alarms, {"TIMER_IN_PROCESS_MAX_S": setup.timer_near_s}),
    ):
        assert changed.keys() <= vars(module).keys(), "the figures have other names now"
        vars(module).update(changed)
    directory = Path(setup.directory)
    os.environ.update(E2E_WORLD=setup.world, E2E_DIRECTORY=setup.directory)
    roles: Sequence[RoleName] = setup.processes[name]
    credentials: dict[RoleName, Credential] = {
        role: load_credential(credential_path(directory, role)) for role in roles
    }
    with lock_name(directory, name):
        backend = await TriggeredBackend.open(credentials, name=name)
        cast("TriggeredBackend", backend).directory = directory
        workers, older = (
            backend.bucket(roles[0], each) for each in (stream_names.WORKERS_BUCKET, stream_names.SHARED_BUCKET)
        )
        worker = await next_incarnation(workers, name, older=older)
        policy = EgressPolicy(allow=(setup.world.removeprefix("http://"),))
        runner = RegistryRunner(registry(), directory / "workspaces", egress=policy)
        actors = [make_role(role, requester=Requester(), runner=runner) for role in roles]
        settings = ProcessSettings(worker=worker, sweep_every_s=setup.sweep_every_s)
        paths = setup.paths.get(name, "all")
        process = (
            ActorProcess(backend, actors, settings) if paths == "all" else SweepingProcess(backend, actors, settings)
        )
        if isinstance(process, SweepingProcess):
            process.takes_tasks_and_control = paths == "sweep"
        async with process.running():
            ready(worker)
            await anyio.sleep_forever()
