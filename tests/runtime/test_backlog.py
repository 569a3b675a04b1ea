"""Far more queued tasks than one process can work on at once: none fails, and what is started gives a result.

Each append takes its milliseconds of CPU here: time passes while nothing else of the process runs, as on a busy loop.
``bench/backlog.py`` does the same with up to 20,000 tasks, a real process and a real broker.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import cast

import anyio
import msgspec
from tests.builders import reply
from tests.run_logs import AGENT, TENANT, InMemory, Tools

from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.schemas.defaults import RUNS_PER_CORE, STARTS_PER_CORE, AccountLimits, WorkerLimits
from linestop.schemas.model_messages import ModelReply, ToolCall, Usage
from linestop.schemas.performer_interfaces import ModelWork
from linestop.schemas.subjects import ACTORS
from linestop.testing.memory import MemoryBroker, NoFaults
from linestop.testing.virtual_time import VirtualLoop, run_virtual, virtual_now

TASKS = 600
APPEND_CPU_S = 0.01
"""What an event costs on a machine that does much else; see ``docs/performance.md`` for one that does not."""

WIRE_S = 0.001
TWO_CORES = WorkerLimits(runs_max=2 * RUNS_PER_CORE, starts_max=2 * STARTS_PER_CORE)
TURNS = 3
FIRST_S, NEXT_S = 20.0, 0.1
"""How long the first model request of a run takes, and the others."""

STARTS_A_RESULT_MAX = 1.05
PLENTY = AccountLimits(user_day_micros=10**12, tenant_day_micros=10**12, system_hour_micros=10**12)


class _Busy(NoFaults):
    """Nothing goes wrong, but every append costs the process some CPU and its acknowledgement a moment."""

    async def before(self, op: str) -> None:
        """Compute, and let no other task of this process run meanwhile."""
        if op == "log.append":
            cast("VirtualLoop", asyncio.get_running_loop()).compute(APPEND_CPU_S)

    async def after(self, op: str) -> None:
        """Let the acknowledgement travel."""
        if op == "log.append":
            await anyio.sleep(WIRE_S)


class _Model:
    """Calls a tool in each turn but the last."""

    async def request(self, work: ModelWork) -> tuple[ModelReply, float]:
        """As ``ModelRequester``."""
        await anyio.sleep(takes_s := FIRST_S if work.turn == 1 else NEXT_S)
        calls = (ToolCall(id=f"c{work.turn}", name="look", args=f'{{"q": "{work.turn}"}}'),) * (work.turn < TURNS)
        return reply(*calls, usage=Usage(fresh_in=10, out=5), model="x"), takes_s


async def _work_off(tasks: int) -> tuple[Counter[str], Counter[str], int]:
    """Queue so many tasks, then start one process.

    Returns how the runs ended, how often each event was appended, and the most runs it worked on at once.
    """
    runs_max = 0
    broker = MemoryBroker(virtual_now, faults=_Busy())
    await AgentStore(broker.bucket(stream_names.AGENTS_BUCKET)).deploy(AGENT)
    for index in range(tasks):
        await broker.publish(f"tasks.{TENANT}.a", msgspec.json.encode({"text": "work", "run": f"r{index}"}))
    config = ProcessSettings(
        worker="w#1", now=virtual_now, random_source=random.Random(1), account_limits=PLENTY, limits=TWO_CORES
    )
    roles = [make_role(role, requester=_Model(), runner=Tools({})) for role in ACTORS]
    runs = broker.stream(stream_names.RUNS)
    async with ActorProcess(InMemory(broker), roles, config).running() as process:
        with anyio.fail_after(3_600):
            while len(runs.matching("runs.*.*.recorder.sealed.*")) < tasks:
                await anyio.sleep(1.0)
                runs_max = max(runs_max, process.shell.capacity.load.runs)
    ends = Counter(msgspec.json.decode(seal.payload)["status"] for seal in runs.matching("runs.*.*.recorder.sealed.*"))
    appended = Counter(".".join(message.subject.split(".")[3:5]) for message in runs.matching("runs.>"))
    return ends, appended, runs_max


def test_of_600_queued_tasks_on_one_process_none_fails_and_hardly_a_start_is_wasted() -> None:
    """All are opened while the first model requests last, and after that all want to continue at once.

    Without a bound on the runs at work, an event comes seconds after the one before it then: starts miss their
    ``start_by``, and are repeated.
    """
    ends, appended, runs_max = run_virtual(lambda: _work_off(TASKS))
    assert ends == {"completed": TASKS}
    starts = appended["planner.started"] + appended["executor.started"]
    assert starts <= STARTS_A_RESULT_MAX * TASKS * (2 * TURNS - 1), appended
    assert runs_max == TWO_CORES.runs_max
