"""The lines that ``dev`` prints while it runs: when a run begins, waits or ends, and when a file changes."""

from __future__ import annotations

import contextlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import anyio
import structlog
from nats.aio.msg import Msg

from linestop.bus.connection import Connection
from linestop.bus.interfaces import Log
from linestop.bus.jetstream import JetStream
from linestop.cli.output import wording
from linestop.config.project_file import AGENTS_FOLDER, Project
from linestop.errors import LinestopError
from linestop.schemas.dollars import rounded_dollars
from linestop.schemas.events import AnyEvent, Asked, Opened, Queued, Refused, Sealed, decode
from linestop.schemas.run.approval_policy import EVENT_WAIT
from linestop.schemas.run.fold import Run, fold_messages
from linestop.schemas.subjects import RunSubject, parse_run_event, stored_subject

LOG = structlog.get_logger("linestop.dev")
EVENTS_SHOWN: Final = ("validator.opened", "validator.refused", "approver.asked", "budget.queued", "recorder.sealed")
"""The events that get a line; a stop gets one when the run is sealed."""

RUNS_KNOWN_MAX: Final = 1_000
"""Runs whose agent is cached for their later lines."""

FILES_POLL_S: Final = 2.0
FILES_MAX: Final = 5_000
TEXT_CHARS_SHOWN: Final = 60


class RunLines:
    """Prints the progress of each run, from the events as the server republishes them."""

    def __init__(self, write_line: Callable[[str], None]) -> None:
        self._write_line = write_line
        self._agents: OrderedDict[str, str] = OrderedDict()
        self._log: Log | None = None

    async def listen(self, connection: Connection) -> None:
        """Print from now on, as long as the connection is open."""
        self._log = JetStream(connection).log()
        for name in EVENTS_SHOWN:
            role, _, event = name.partition(".")
            await connection.subscribe(f"live.runs.*.*.{role}.{event}.*", self._on_event)

    async def _on_event(self, message: Msg) -> None:
        try:
            subject = parse_run_event(stored_subject(message.subject))
            event = decode(subject.role, subject.event, message.data)
        except Exception:
            # The lines are a courtesy: an error in one must not end the process.
            LOG.exception("event_not_shown", subject=message.subject)
            return
        if isinstance(event, Opened):
            self._remember_agent(subject.run, event.agent.name)
        elif isinstance(event, Refused) and event.agent:
            self._remember_agent(subject.run, event.agent)
        text = await self._waits_for_event(subject, event) or describe(event)
        if text:
            agent = await self._agent_of(subject)
            self._write_line(f"{event.at:%H:%M:%S}  {subject.run}  {agent:<12} {text}")

    async def _agent_of(self, subject: RunSubject) -> str:
        """The run's agent, read from its log if the run began before this process; empty if it was never opened."""
        if subject.run not in self._agents and self._log is not None:
            run = await self._load_run(subject)
            self._remember_agent(subject.run, run.opened.agent.name if run and run.opened else "")
        return self._agents.get(subject.run, "")

    async def _waits_for_event(self, subject: RunSubject, event: AnyEvent) -> str:
        """The line for a run that waits for an event of a service; empty if a person is asked."""
        if not isinstance(event, Asked) or event.question is None:
            return ""
        run = await self._load_run(subject)
        call = run.calls.get(event.question.call) if run else None
        if call is None or call.tool != EVENT_WAIT:
            return ""
        name = wording.short(event.question.text, TEXT_CHARS_SHOWN)
        return f"waits for the event '{name}' (`linestop event {subject.run} {name}` reports it)"

    async def _load_run(self, subject: RunSubject) -> Run | None:
        """The run from its log, None if the broker cannot be read."""
        with contextlib.suppress(LinestopError):
            if self._log is not None:
                found = await self._log.load(subject.tenant, subject.run)
                return fold_messages(
                    subject.tenant, subject.run, [(each.subject, each.payload, each.seq) for each in found]
                )
        return None

    def _remember_agent(self, run: str, agent: str) -> None:
        self._agents[run] = agent
        if len(self._agents) > RUNS_KNOWN_MAX:
            self._agents.popitem(last=False)


def describe(event: AnyEvent) -> str:
    """The event in words for a person at a terminal; empty if it gets no line."""
    match event:
        case Opened():
            text = event.task.text if isinstance(event.task.text, str) else ""
            return f"opened: {wording.short(text, TEXT_CHARS_SHOWN)}"
        case Refused():
            return f"refused: {wording.short(event.sentence, 2 * TEXT_CHARS_SHOWN)}"
        case Asked():
            waits_for = [call.tool for call in event.calls]
            waits_for += [wording.short(event.question.text, TEXT_CHARS_SHOWN)] if event.question else []
            waits_for += ["spending"] if event.spend else []
            return f"waits for a person: {', '.join(waits_for)} (`linestop approvals`)"
        case Queued():
            return f"waits for money: {wording.short(event.why, 2 * TEXT_CHARS_SHOWN)}"
        case Sealed(status="refused"):
            # Its refusal already has a line.
            return ""
        case Sealed():
            why = f": {wording.short(event.why, 2 * TEXT_CHARS_SHOWN)}" if event.why else ""
            cost = rounded_dollars(event.totals.cost_micros)
            return f"{event.status}{why} ({wording.counted(event.totals.turns, 'turn')}, {cost})"
        case _:
            return ""


async def report_changed_files(project: Project, write_line: Callable[[str], None]) -> None:
    """Print once for each file of the project that it changed since it was loaded; check every 2 s."""
    times_before = dict(_modification_times(project))
    while True:
        await anyio.sleep(FILES_POLL_S)
        times_now = await anyio.to_thread.run_sync(lambda: dict(_modification_times(project)))
        imported = {path for path, _ in _with_modification_times(project, _imported_files(project))}
        # A module that was imported since is new, but is used as it is.
        imported_late = imported - times_before.keys()
        changed = sorted(
            path
            for path in {*times_before, *times_now} - imported_late
            if times_before.get(path) != times_now.get(path)
        )
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            write_line(
                f"{changed[0]}{more} changed since it was loaded: end `linestop dev` with Ctrl-C and start it again."
            )
        times_before = times_now


def _modification_times(project: Project) -> Iterator[tuple[str, int]]:
    """The files that agents consist of, each with its time of modification."""
    yield from _with_modification_times(project, _project_files(project))
    yield from _with_modification_times(project, _imported_files(project))


def _with_modification_times(project: Project, paths: Iterable[Path]) -> Iterator[tuple[str, int]]:
    for path in paths:
        try:
            yield str(path.relative_to(project.root)), path.stat().st_mtime_ns
        except (OSError, ValueError):
            continue


def _imported_files(project: Project) -> list[Path]:
    """The project's own files that this process imported: tools, planner functions, their imports."""
    root, found = project.root.resolve(), list[Path]()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        path = Path(file) if isinstance(file, str) else None
        if path is not None and path.is_relative_to(root) and "site-packages" not in path.parts:
            found.append(project.root / path.relative_to(root))
    return found[:FILES_MAX]


def _project_files(project: Project) -> Iterator[Path]:
    if project.file is not None:
        yield project.file
    yield from _first_files((project.root / AGENTS_FOLDER).rglob("*"))
    for pattern in project.config.playbooks:
        yield from _first_files(project.root.glob(pattern))
    for tools in project.config.tools:
        if tools.endswith(".py"):
            yield project.root / tools
        elif (folder := project.root / tools).is_dir():
            yield from _first_files(folder.rglob("*.py"))


def _first_files(paths: Iterator[Path]) -> Iterator[Path]:
    for number, path in enumerate(paths):
        if number >= FILES_MAX:
            return
        if path.is_file():
            yield path
