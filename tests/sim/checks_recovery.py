"""The recovery of work that a worker left: its outcome is reported in time, and no success is lost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from tests.sim.evidence import Evidence, LoggedEvent, RunEvidence

from linestop.schemas.defaults import FALLBACK_FIRST_S, NOT_BEGUN_MAX
from linestop.schemas.events import ToolGrant

TAKEOVER_WITHIN_S: Final = 10.0
"""Three missed heartbeats and a round, or the next start of the same name."""

SPACE_KNOWN_AFTER_S: Final = 20.0
"""How long a worker may take to notice how full the log is, with lost replies and replies nine seconds late."""

RETRIES_MAX: Final = ToolGrant(name="", contract_digest="", schema_digest="", tier="read").retries_max
TAKEOVER_PREFIX: Final = "The worker that started this call"
"""How an executor's message begins when it reports for the attempt of another worker."""


def recovery(evidence: Evidence) -> list[str]:
    """All problems of the recovery, as sentences."""
    wrong: list[str] = []
    for run in evidence.runs:
        wrong += not_too_early(evidence, run)
        wrong += not_abandoned(run)
        wrong += nothing_done_is_lost(run)
        wrong += in_time(evidence, run)
        wrong += no_work_while_away(run)
        wrong += events_count(run)
        wrong += not_begun_costs_nothing(run)
        wrong += stays_with_the_fallback(run)
    return wrong + no_room_no_run(evidence)


def _lines(run: RunEvidence) -> dict[tuple[str, int], tuple[LoggedEvent, dict[str, Any]]]:
    """The starts of effects: (call, attempt) → the event and its line."""
    return {
        (line["call"], line["attempt"]): (entry, line)
        for entry in run.events("executor.started")
        if entry.event.get("purpose", "effect") == "effect"
        for line in entry.event["calls"]
    }


def _tools(run: RunEvidence) -> dict[str, dict[str, Any]]:
    judged = [line for entry in run.events("validator.judged") for line in entry.event["calls"] if line.get("tool")]
    return {line["call"]: run.tool(line["tool"]) for line in judged if line["verdict"] == "pass"}


def _is_safe_to_repeat(tool: dict[str, Any]) -> bool:
    return bool(tool["tier"] == "read" or tool.get("idempotent"))


def not_too_early(evidence: Evidence, run: RunEvidence) -> list[str]:
    """P3: an effect of a dead worker is not reported as unknown before it must be over, unless it may be repeated."""
    wrong: list[str] = []
    lines, tools = _lines(run), _tools(run)
    for entry in run.events("executor.finished"):
        start = lines.get((entry.event["call"], entry.event["attempt"]))
        if start is None or entry.event["outcome"] != "unknown" or _is_safe_to_repeat(tools[entry.event["call"]]):
            continue
        died_s = evidence.wire_record.died.get(start[0].event["worker"], float("inf"))
        if entry.stored_s > died_s and entry.event["at"] < start[1]["done_by"]:
            wrong.append(f"P3: {entry} of {run.name} reports a dead worker's '{entry.event['call']}' before its end")
    return wrong


def not_abandoned(run: RunEvidence) -> list[str]:
    """A call that is safe to repeat, free, not done and has a try left is taken over, not reported as unknown."""
    wrong: list[str] = []
    lines, tools, paused = _lines(run), _tools(run), False
    begun: dict[str, int] = {}
    done: set[str] = set()
    for entry in run.entries:
        if entry.role_and_event == "executor.started":
            for line in entry.event["calls"]:
                begun[line["call"]] = begun.get(line["call"], 0) + 1
        paused = entry.name == "paused" or (paused and entry.name != "resumed")
        stopped = run.stop is not None and entry.n > run.stop.n
        if entry.role_and_event != "executor.finished" or entry.ignored or paused or stopped:
            continue
        call: str = entry.event["call"]
        if entry.event["outcome"] == "succeeded":
            done.add(call)
        error: dict[str, Any] = entry.event.get("error") or {}
        start = lines.get((call, entry.event["attempt"]))
        if start is None or call in done or not str(error.get("message", "")).startswith(TAKEOVER_PREFIX):
            continue
        tool = tools[call]
        if (
            _is_safe_to_repeat(tool)
            and not tool.get("price_micros")
            and begun[call] <= tool.get("retries_max", RETRIES_MAX)
        ):
            wrong.append(f"P2: {entry} of {run.name} gives '{call}' up, which is safe to repeat and has a try left")
    return wrong


def nothing_done_is_lost(run: RunEvidence) -> list[str]:
    """P2: the model gets the success of any attempt, unless the call was answered before."""
    wrong: list[str] = []
    failed: dict[str, int] = {}
    answered: set[str] = set()
    lines, bad = _lines(run), {entry.event["finished_n"] for entry in run.events("validator.checked")}
    for entry in run.events("executor.finished"):
        call = run.fold.calls.get(entry.event["call"])
        if entry.event["outcome"] != "succeeded":
            failed[entry.event["call"]] = max(failed.get(entry.event["call"], 0), entry.event["attempt"])
        elif failed.get(entry.event["call"], 0) > entry.event["attempt"]:
            continue
        over = run.stop is not None and entry.n > run.stop.n
        if call is None or over or entry.event["outcome"] != "succeeded":
            continue
        # Of two successful attempts the first gives the result, also if the validator rejects it.
        second = call.call in answered
        answered.add(call.call)
        # A call without a try left may not be reported as unknown before its end: see the check before.
        if second or entry.n in bad or 0 < call.outcome_n < entry.n:
            continue
        if (call.call, entry.event["attempt"]) in lines and (call.is_error or _started_again(run, entry)):
            wrong.append(f"P2: {entry} of {run.name} did '{call.call}', and the run continues without its result")
    return wrong


def _started_again(run: RunEvidence, done: LoggedEvent) -> bool:
    again = (entry for entry in run.events("executor.started") if entry.n > done.n)
    return any(line["call"] == done.event["call"] for entry in again for line in entry.event["calls"])


def in_time(evidence: Evidence, run: RunEvidence) -> list[str]:
    """Work of a dead worker that is safe to repeat is soon taken over by another healthy worker."""
    if evidence.hardship.kind != "worker lost":
        return []
    wrong: list[str] = []
    tools = _tools(run)
    for start in run.events("executor.started", "planner.started"):
        died_s = evidence.wire_record.died.get(start.event["worker"], float("inf"))
        due_s = max(died_s, start.stored_s) + TAKEOVER_WITHIN_S
        after = next((entry for entry in run.entries if entry.n > start.n), None)
        after_s = after.stored_s if after is not None else float("inf")
        is_safe = start.role == "planner" or all(
            _is_safe_to_repeat(tools[line["call"]]) for line in start.event["calls"]
        )
        if after_s > due_s and died_s < after_s and is_safe and start.event.get("purpose") != "probe":
            wrong.append(f"late: {start} of {run.name}, left by a dead worker at {died_s:.3f} s, was not taken over")
    return wrong


def no_work_while_away(run: RunEvidence) -> list[str]:
    """A run that was stopped for its working time has worked: its starts were open that long."""
    stop = run.stop
    if stop is None or not str(stop.event.get("why", "")).startswith("The run worked for") or run.opened is None:
        return []
    spans: list[tuple[float, float]] = [
        (entry.stored_s, entry.stored_s + 1.0) for entry in run.entries if entry.n < stop.n
    ]
    for start in run.events("executor.started", "planner.started"):
        parts = {line["call"] for line in start.event.get("calls", ())}
        ends = [s.stored_s for s in run.entries if s.n > start.n and (_ends(s, start, parts) or s.n == stop.n)]
        spans.append((start.stored_s, max(ends, default=stop.stored_s)))
    active_s, until_s = 0.0, float("-inf")
    for begin, end in sorted(spans):
        active_s += max(min(end, stop.stored_s) - max(begin, until_s), 0.0)
        until_s = max(until_s, min(end, stop.stored_s))
    wall_s = run.opened["limits"].get("wall_s", 0)
    if wall_s and active_s < wall_s - 1.0:
        return [f"wall: {run.name} was stopped for having worked {wall_s} s, but can only have worked {active_s:.1f} s"]
    return []


def _ends(entry: LoggedEvent, start: LoggedEvent, calls: set[str]) -> bool:
    if entry.role_and_event == "executor.finished":
        return entry.event["call"] in calls
    turn = (start.event.get("turn"), start.event.get("attempt"))
    return entry.role == "planner" and (entry.event.get("turn"), entry.event.get("attempt")) == turn


def events_count(run: RunEvidence) -> list[str]:
    """An event that was reported before the wait for it counts: the run does not wait for it again."""
    wrong: list[str] = []
    reported: list[str] = []
    waits = {
        call["call"]: str(call["args"]) for s in run.events("planner.proposed") for call in s.event.get("calls", ())
    }
    for entry in run.events("approver.answered", "approver.asked"):
        event, question = entry.event, entry.event.get("question")
        if event.get("event") and not event["call"]:
            reported.append(event["event"])
        elif event.get("reported_n") and event["event"] in reported:
            reported.remove(event["event"])
        elif question and (name := next((name for name in reported if f'"{name}"' in waits[question["call"]]), "")):
            wrong.append(f"events: {entry} of {run.name} waits for '{name}', which was reported before")
    return wrong


def no_room_no_run(evidence: Evidence) -> list[str]:
    """No run is opened while the log has space only for the open runs."""
    hardship = evidence.hardship
    if hardship.kind != "runs full":
        return []
    since_s = hardship.from_s + SPACE_KNOWN_AFTER_S
    disconnections = [
        *evidence.fault_plan.outages,
        *((begin, end) for _, begin, end in evidence.wire_record.disconnections if end != float("inf")),
    ]
    return [
        f"room: {entry} of {run.name} opens a run although the log is nearly full"
        for run in evidence.runs
        for entry in run.events("validator.opened")
        if since_s < entry.stored_s < hardship.until_s
        and not any(
            begin < entry.stored_s and end > entry.stored_s - SPACE_KNOWN_AFTER_S for begin, end in disconnections
        )
    ]


def not_begun_costs_nothing(run: RunEvidence) -> list[str]:
    """A call does not fail because of attempts that never began, unless there were very many."""
    wrong: list[str] = []
    asked: dict[str, list[bool]] = {}
    tools = _tools(run)
    for entry in run.events("executor.finished"):
        call, unbegun = (
            entry.event["call"],
            entry.event["outcome"] == "never_started" and entry.event.get("begun") is False,
        )
        asked.setdefault(call, []).append(unbegun)
        state = run.fold.calls.get(call)
        over = state is not None and state.outcome_n == entry.n and unbegun
        tries = sum(not each for each in asked[call])
        if over and tries <= tools[call].get("retries_max", RETRIES_MAX) and len(asked[call]) <= NOT_BEGUN_MAX:
            wrong.append(f"begun: {entry} of {run.name} gives '{call}' up, whose attempts had not begun")
    return wrong


def stays_with_the_fallback(run: RunEvidence) -> list[str]:
    """While a model is known to be down, the next turn begins with the fallback that answered."""
    wrong: list[str] = []
    down: dict[str, datetime] = {}
    started, answered = "", ""
    for entry in run.entries:
        at = datetime.fromisoformat(entry.event["at"])
        if entry.role_and_event == "planner.started" and not entry.ignored:
            started = entry.event["model"]
            first = entry.event["attempt"] == 1 and entry.event.get("purpose", "turn") == "turn"
            if first and answered and started != answered and at < down.get(started, at):
                wrong.append(f"fallback: {entry} of {run.name} asks {started} first, which is known to be down")
        elif entry.role_and_event == "planner.failed" and entry.event["kind"] in {"availability", "rate_limit"}:
            down[started] = at + timedelta(seconds=FALLBACK_FIRST_S)
        elif entry.role_and_event == "planner.proposed":
            answered = started
            down.pop(started, None)
    return wrong
