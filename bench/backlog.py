"""Many queued tasks on one process: none may fail, and hardly any start may be wasted.

A typical project folder, a real broker, a real ``linestop up``: a scripted model over HTTP, a tool, the default bounds
and sizes. All tasks are queued first. Prints one JSON line; exit code 1 if a run did not complete or there are more
than ``STARTS_A_RESULT_MAX`` starts for each result.

    .venv/bin/python bench/backlog.py --tasks 20000
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.abc
import msgspec
import stage

from linestop.bus import jetstream_api
from linestop.bus.jetstream import JetStream
from linestop.bus.streams import stream_names
from linestop.schemas.subjects import parse_run_event

STARTS_A_RESULT_MAX: Final = 1.05
PROGRESS_EVERY_S: Final = 5.0
IN_FLIGHT_MAX: Final = 64
USERS: Final = 50

FILES: Final = {
    "linestop.toml": 'tools = ["tools.py"]\n',
    "tools.py": '''"""The tools of the agent."""

from linestop import Context, tool


@tool(tier="read")
async def look(ctx: Context, what: str) -> str:
    """Look something up."""
    del ctx
    return f"{what}: seen"
''',
    "agents/desk.md": "Look it up.",
    "agents/desk.toml": 'model = "playbook/desk"\nprompt = "desk.md"\ntools = ["look"]\n',
    "playbooks/desk.toml": """name = "desk"

[[step]]
when = { turn = 1 }
call = [{ tool = "look", args = { what = "A-17" } }]

[[step]]
say = "Done."
""",
}


async def queue(system: stage.BenchSystem, tasks: int) -> float:
    """Queue the tasks; return the seconds it took."""
    began = time.perf_counter()
    limiter = anyio.Semaphore(IN_FLIGHT_MAX)

    async def one(index: int) -> None:
        body = msgspec.json.encode({"text": "Look up A-17.", "run": f"r-{index:06}", "user": f"user-{index % USERS}"})
        await system.operator.wire.request("tasks.default.desk", body)
        limiter.release()

    async with anyio.create_task_group() as group:
        for index in range(tasks):
            await limiter.acquire()
            group.start_soon(one, index)
    return time.perf_counter() - began


async def messages(bus: JetStream, stream: str) -> int:
    """How many messages a stream has."""
    info: Any = await bus.wire.connection.api_request(jetstream_api.stream_info(stream))
    return int(info["state"]["messages"])


async def until_over(system: stage.BenchSystem, tasks: int, process: anyio.abc.Process) -> None:
    """Wait for the outcome of every task."""
    while (done := await messages(system.operator, stream_names.OUTCOMES)) < tasks:
        if process.returncode is not None:
            raise SystemExit(f"`linestop up` ended with {process.returncode}.")
        print(f"{done} of {tasks} are over, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        await anyio.sleep(PROGRESS_EVERY_S)


async def count(system: stage.BenchSystem) -> tuple[Counter[str], Counter[str]]:
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


async def measure(tasks: int, folder: Path) -> dict[str, Any]:
    """Queue the tasks, wait for their outcomes, and count the events."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text)
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(stage.bench_system("1s"))
        queued_s = await queue(system, tasks)
        environment = os.environ | {"LINESTOP_DIR": str(system.directory)}
        command = [sys.executable, "-m", "linestop.cli.main", "--project", str(folder), "up"]
        began = time.perf_counter()
        log = stack.enter_context((folder / "up.log").open("wb"))
        async with await anyio.open_process(command, env=environment, stdout=log, stderr=log) as process:
            try:
                await until_over(system, tasks, process)
                took_s = time.perf_counter() - began
            except SystemExit:
                print((folder / "up.log").read_text()[-2_000:], file=sys.stderr)
                raise
            finally:
                if process.returncode is None:
                    process.terminate()
        ends, events = await count(system)
        starts = events["planner.started"] + events["executor.started"]
        results = events["planner.proposed"] + events["executor.finished succeeded"]
        return {
            "tasks": tasks, "ends": dict(ends), "starts": starts, "results": results,
            "starts_a_result": round(starts / max(results, 1), 4), "events": events.total(),
            "dead_letters": await messages(system.operator, stream_names.DEAD), "queued_s": round(queued_s, 1),
            "took_s": round(took_s, 1), "runs_s": round(tasks / took_s, 1), "cores": os.cpu_count(),
            "load": round(os.getloadavg()[1], 1),
        }  # fmt: skip


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tasks", type=int, default=20_000)
    tasks = parser.parse_args().tasks
    with tempfile.TemporaryDirectory(prefix="linestop-backlog-") as folder:
        result = anyio.run(measure, tasks, Path(folder), backend_options={"use_uvloop": True})
    print(json.dumps(result))
    none_failed = result["ends"] == {"completed": tasks} and result["dead_letters"] == 0
    return 0 if none_failed and result["starts_a_result"] <= STARTS_A_RESULT_MAX else 1


if __name__ == "__main__":
    raise SystemExit(main())
