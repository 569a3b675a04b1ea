"""One process of linestop as the tests start it: real roles on the real broker, and the tools of a scripted run.

A run whose id is a ``Trigger`` makes the process kill (or freeze) itself, or kill the broker, right before or
right after it publishes one certain event. That is a wrapper around the roles' log port; the roles and the shell
are the real ones.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, cast

import anyio
import msgspec

from linestop.actors import executor, planner
from linestop.bus import layout
from linestop.bus.backend import JetStreamBackend
from linestop.bus.credentials import Credential, credential_path, load_credential
from linestop.bus.host import Host, HostConfig, make_role
from linestop.bus.ports import Append, Log, Meanwhile
from linestop.bus.worker import hold_name, next_incarnation
from linestop.models.caller import Caller
from linestop.sandbox.context import Context
from linestop.sandbox.guard import EgressPolicy
from linestop.sandbox.registry import Registry
from linestop.sandbox.runner import RegistryRunner
from linestop.sandbox.tool import tool
from linestop.schemas.subjects import RoleName

START_WITHIN_S: Final = 0.7
GRACE_S: Final = 0.3
TOOL_TIMEOUT_S: Final = 0.7
DONE_WITHIN_S: Final = START_WITHIN_S + TOOL_TIMEOUT_S + GRACE_S
"""How long a start of these tools stays open after its maker's death: the real figures only make tests longer."""

_TRIGGER = re.compile(r"t[0-9]+-(before|after|freeze)-([a-z]+)-([a-z]+)-([0-9]+)-([a-z]+)")


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What all processes of a test are told. ``world`` is the server that the tools' effects go to.

    ``paths``: ``all`` is production's; ``sweep`` leaves nothing but the doors and the sweep to make a role look
    at a run, ``sweep_only`` not even the doors.
    """

    directory: str
    world: str
    processes: dict[str, tuple[RoleName, ...]]
    paths: dict[str, Literal["all", "sweep", "sweep_only"]] = {}
    sweep_every_s: float = 5.0


class Trigger(msgspec.Struct, frozen=True, kw_only=True):
    """When whom to kill: at the ``count``-th event of this name in the run, counted from 1."""

    when: Literal["before", "after", "freeze"]
    role: str
    event: str
    count: int
    victim: str

    @classmethod
    def of(cls, run: str) -> Trigger | None:
        """The trigger that a run's id stands for, if any."""
        found = _TRIGGER.fullmatch(run)
        if found is None:
            return None
        when = cast("Literal['before', 'after', 'freeze']", found[1])
        return cls(when=when, role=found[2], event=found[3], count=int(found[4]), victim=found[5])

    def run(self, number: int) -> str:
        """The id of the run, the ``number``-th of the test, that sets this off."""
        return f"t{number}-{self.when}-{self.role}-{self.event}-{self.count}-{self.victim}"


@tool(tier="read", owner="e2e", timeout_s=TOOL_TIMEOUT_S)
async def look(ctx: Context, what: str) -> str:
    """Look something up.

    Args:
        what: What to look up.
    """
    del ctx
    return f"found {what}"


@tool(tier="reversible", owner="e2e", timeout_s=TOOL_TIMEOUT_S, idempotent=True)
async def keyed(ctx: Context, what: str) -> str:
    """Do something that is one effect however often it is asked for under one key.

    Args:
        what: What to do.
    """
    return await _post(ctx, "keyed", what)


@tool(tier="reversible", owner="e2e", timeout_s=TOOL_TIMEOUT_S)
async def bare(ctx: Context, what: str) -> str:
    """Do something that happens again each time it is asked for.

    Args:
        what: What to do.
    """
    return await _post(ctx, "bare", what)


async def _post(ctx: Context, name: str, what: str) -> str:
    answer = await ctx.http.post(
        f"{os.environ['E2E_WORLD']}/{name}",
        content=what.encode(),
        headers={"Idempotency-Key": ctx.key, "X-Run": ctx.run, "X-Attempt": str(ctx.attempt)},
    )
    return answer.text


def registry() -> Registry:
    """The tools of these tests."""
    found = Registry()
    for each in (look, keyed, bare):
        found.add(each, "e2e")
    return found


class TriggeredLog:
    """A log that goes off where its run's id says so, once a run."""

    def __init__(self, inner: Log, directory: Path) -> None:
        self._inner = inner
        self._directory = directory

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the port has
        return getattr(self._inner, name)

    async def append(self, append: Append, *, meanwhile: Meanwhile | None = None) -> int:
        """Append, with the trigger's crash before or after."""
        trigger = Trigger.of(append.run)
        if trigger is None or not await self._armed(trigger, append):
            return await self._inner.append(append, meanwhile=meanwhile)
        if trigger.when == "after":
            seq = await self._inner.append(append, meanwhile=meanwhile)
            self._fire(trigger, append.run)
            return seq
        if trigger.victim != "broker":
            self._fire(trigger, append.run)
            return await self._inner.append(append, meanwhile=meanwhile)
        appending = asyncio.ensure_future(self._inner.append(append, meanwhile=meanwhile))
        # One turn of the loop, so that the request is written and not yet answered.
        await asyncio.sleep(0)
        self._fire(trigger, append.run)
        return await appending

    async def _armed(self, trigger: Trigger, append: Append) -> bool:
        if (append.role, append.event) != (trigger.role, trigger.event) or self._mark(append.run).exists():
            return False
        there = await self._inner.load(append.tenant, append.run)
        same = f".{append.role}.{append.event}."
        return sum(same in message.subject for message in there) == trigger.count - 1

    def _fire(self, trigger: Trigger, run: str) -> None:
        """Kill the victim; the mark proves that it happened, and keeps it from happening again."""
        victim = os.getpid()
        if trigger.victim == "broker":
            victim = int((self._directory / "broker.pid").read_text())
        draft = self._mark(run).with_name(f"{run}.{os.getpid()}")
        draft.write_text(str(victim))
        try:
            # A link appears whole or not at all: whoever reads the mark reads an id.
            os.link(draft, self._mark(run))
        except FileExistsError:
            return
        os.kill(victim, signal.SIGSTOP if trigger.when == "freeze" else signal.SIGKILL)

    def _mark(self, run: str) -> Path:
        return self._directory / "fired" / run


class TriggeredBackend(JetStreamBackend):
    """The real backend with triggered logs."""

    directory = Path()

    def log(self, role: RoleName) -> Log:
        """The run log as ``role`` sees it."""
        return cast("Log", TriggeredLog(super().log(role), self.directory))


class SweepingHost(Host):
    """A process in which nothing but the sweep, and the doors if they are open, makes a role look at a run."""

    doors = True

    def _start(self, pumps: anyio.abc.TaskGroup) -> None:
        """Start no listening, no consumer of events and no alarm."""
        if self.doors:
            super()._start(_OnlyThese(pumps))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        else:
            pumps.start_soon(partial(self._sweep, every=True))
        self.shell._alarms.set = _no_alarms  # type: ignore[method-assign] # pyright: ignore[reportPrivateUsage]


class _OnlyThese:
    """A task group that starts the pumps of tasks and control and the sweep, and nothing else."""

    def __init__(self, pumps: anyio.abc.TaskGroup) -> None:
        self._pumps = pumps

    def start_soon(self, function: Callable[..., Any], *arguments: Any) -> None:  # noqa: ANN401 - as the group's
        """Start it if it is one of those."""
        name = function.__name__
        consumer = getattr(arguments[1], "name", "") if name == "_pump" else ""
        if name == "_sweep" or consumer == layout.TASKS_CONSUMER or consumer.startswith("control_"):
            self._pumps.start_soon(function, *arguments)


async def _no_alarms(entry: object) -> None:
    """Set none."""
    del entry


async def serve(setup: Setup, name: str, ready: Callable[[str], None]) -> None:
    """Serve as ``name`` for ever; calls ``ready`` with the worker's id when it works."""
    for module in (executor, planner):
        vars(module).update(START_WITHIN_S=START_WITHIN_S, GRACE_S=GRACE_S)
    os.environ["E2E_WORLD"] = setup.world
    directory = Path(setup.directory)
    roles: Sequence[RoleName] = setup.processes[name]
    credentials: dict[RoleName, Credential] = {
        role: load_credential(credential_path(directory, role)) for role in roles
    }
    with hold_name(directory, name):
        backend = await TriggeredBackend.open(credentials, name=name)
        cast("TriggeredBackend", backend).directory = directory
        shared = backend.shared(roles[0], layout.SHARED_BUCKET)
        worker = await next_incarnation(shared, name)
        policy = EgressPolicy(allow=(setup.world.removeprefix("http://"),))
        runner = RegistryRunner(registry(), directory / "workspaces", egress=policy)
        actors = [make_role(role, caller=Caller(), runner=runner) for role in roles]
        config = HostConfig(worker=worker, sweep_every_s=setup.sweep_every_s)
        paths = setup.paths.get(name, "all")
        host = Host(backend, actors, config) if paths == "all" else SweepingHost(backend, actors, config)
        if isinstance(host, SweepingHost):
            host.doors = paths == "sweep"
        async with host.running():
            ready(worker)
            await anyio.sleep_forever()
