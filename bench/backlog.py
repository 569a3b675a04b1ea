"""Many queued tasks on one process: none may fail, and hardly any start may be wasted.

All tasks are queued before the process starts, which has the default bounds. Fails if a run did not complete, or if
there are more than ``STARTS_A_RESULT_MAX`` starts for each result.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

import anyio
import msgspec
from bench.report import Report
from bench.system.linestop_processes import ONE
from bench.system.project_folder import working_agent
from bench.system.running_system import RunningSystem, running_system

from linestop.bus.streams import stream_names
from linestop.schemas.subjects import parse_run_event

STARTS_A_RESULT_MAX: Final = 1.05
TASKS: Final = 2_000
TASKS_FULL: Final = 20_000
TWO_TURNS: Final = working_agent(2)
OVER_WITHIN_S: Final = 3_600.0


class BacklogFailed(Exception):
    """Raised when a run failed, a message was given up or too many starts were wasted."""


async def measure(report: Report, *, full: bool) -> None:
    """2,000 tasks; ``full``: 20,000."""
    tasks = TASKS_FULL if full else TASKS
    async with running_system([TWO_TURNS], None) as system:
        await system.submit_many(TWO_TURNS, tasks)
        began = time.perf_counter()
        await system.start(ONE)
        with anyio.fail_after(OVER_WITHIN_S):
            while await messages(system, stream_names.OUTCOMES) < tasks:
                await anyio.sleep(0.5)
        took_s = time.perf_counter() - began
        ends, events = await count(system)
        dead = await messages(system, stream_names.DEAD)
    starts = events["planner.started"] + events["executor.started"]
    results = events["planner.proposed"] + events["executor.finished succeeded"]
    configuration = f"one process, {tasks:,} queued tasks"
    report.add("backlog", configuration, "runs", tasks / took_s, "/s", better="higher")
    report.add("backlog", configuration, "starts a result", starts / max(results, 1))
    if ends != {"completed": tasks} or dead or starts > STARTS_A_RESULT_MAX * results:
        raise BacklogFailed(f"ends {dict(ends)}, {dead} dead letters, {starts} starts for {results} results")


async def messages(system: RunningSystem, stream: str) -> int:
    """How many messages a stream has."""
    return int((await system.stream_state(stream))["messages"])


async def count(system: RunningSystem) -> tuple[Counter[str], Counter[str]]:
    """How the runs ended, and how often each event is in the log; ``executor.finished`` is counted by outcome."""
    ends: Counter[str] = Counter()
    events: Counter[str] = Counter()
    log, after = system.operator.log(), 0
    while page := await log.page(after_seq=after):
        after = page[-1].seq
        for message in page:
            subject = parse_run_event(message.subject)
            event = f"{subject.role}.{subject.event}"
            if event == "recorder.sealed":
                ends[msgspec.json.decode(message.payload)["status"]] += 1
            elif event == "executor.finished":
                event += f" {msgspec.json.decode(message.payload)['outcome']}"
            events[event] += 1
    return ends, events
