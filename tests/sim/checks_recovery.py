"""What becomes of what a worker left: by whom it is spoken for, how soon, and that nothing done is lost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from tests.sim.evidence import Evidence, RunEvidence, Said

from linestop.schemas.defaults import FALLBACK_KEPT_S, NOT_BEGUN_MAX
from linestop.schemas.events import ToolGrant

TAKEN_OVER_S: Final = 10.0
"""Three missed beats and a round, or the next start of its name."""

KNOWN_S: Final = 20.0
"""How long a worker may take to see how full the log is, with answers that are lost and nine seconds late."""

RETRIES_MAX: Final = ToolGrant(name="", contract_digest="", schema_digest="", tier="read").retries_max
NOBODY: Final = "Whoever started this call"
"""How an executor begins to speak for an attempt that is not its own."""


def recovery(evidence: Evidence) -> list[str]:
    """All that is wrong with it."""
    wrong: list[str] = []
    for run in evidence.runs:
        wrong += not_too_early(evidence, run)
        wrong += not_given_up(run)
        wrong += nothing_done_is_lost(run)
        wrong += in_time(evidence, run)
        wrong += no_work_while_away(run)
        wrong += events_count(run)
        wrong += not_begun_costs_nothing(run)
        wrong += stays_with_the_fallback(run)
    return wrong + no_room_no_run(evidence)


def _lines(run: RunEvidence) -> dict[tuple[str, int], tuple[Said, dict[str, Any]]]:
    """The starts of effects: (call, attempt) → the event and its line."""
    return {
        (line["call"], line["attempt"]): (said, line)
        for said in run.events("executor.started")
        if said.event.get("purpose", "effect") == "effect"
        for line in said.event["calls"]
    }


def _tools(run: RunEvidence) -> dict[str, dict[str, Any]]:
    judged = [line for said in run.events("validator.judged") for line in said.event["calls"] if line.get("tool")]
    return {line["call"]: run.tool(line["tool"]) for line in judged if line["verdict"] == "pass"}


def _safe(tool: dict[str, Any]) -> bool:
    return bool(tool["tier"] == "read" or tool.get("idempotent"))


def not_too_early(evidence: Evidence, run: RunEvidence) -> list[str]:
    """P3: nobody calls an effect of a dead worker unknown before it must be over, unless it may be repeated."""
    wrong: list[str] = []
    lines, tools = _lines(run), _tools(run)
    for said in run.events("executor.finished"):
        start = lines.get((said.event["call"], said.event["attempt"]))
        if start is None or said.event["outcome"] != "unknown" or _safe(tools[said.event["call"]]):
            continue
        died_s = evidence.diary.died.get(start[0].event["worker"], float("inf"))
        if said.stored_s > died_s and said.event["at"] < start[1]["done_by"]:
            wrong.append(f"P3: {said} of {run.name} speaks for a dead worker's '{said.event['call']}' before its end")
    return wrong


def not_given_up(run: RunEvidence) -> list[str]:
    """What is safe to repeat, costs nothing, has a try left and was not done is taken over, not called unknown."""
    wrong: list[str] = []
    lines, tools, paused = _lines(run), _tools(run), False
    begun: dict[str, int] = {}
    done: set[str] = set()
    for said in run.said:
        if said.what == "executor.started":
            for line in said.event["calls"]:
                begun[line["call"]] = begun.get(line["call"], 0) + 1
        paused = said.name == "paused" or (paused and said.name != "resumed")
        stopped = run.stop is not None and said.n > run.stop.n
        if said.what != "executor.finished" or said.ignored or paused or stopped:
            continue
        call: str = said.event["call"]
        if said.event["outcome"] == "succeeded":
            done.add(call)
        error: dict[str, Any] = said.event.get("error") or {}
        start = lines.get((call, said.event["attempt"]))
        if start is None or call in done or not str(error.get("message", "")).startswith(NOBODY):
            continue
        tool = tools[call]
        if _safe(tool) and not tool.get("price_micros") and begun[call] <= tool.get("retries_max", RETRIES_MAX):
            wrong.append(f"P2: {said} of {run.name} gives '{call}' up, which is safe to repeat and has a try left")
    return wrong


def nothing_done_is_lost(run: RunEvidence) -> list[str]:
    """P2: what succeeded, by whichever attempt, is what the model is told, unless it had its answer before."""
    wrong: list[str] = []
    failed: dict[str, int] = {}
    answered: set[str] = set()
    lines, bad = _lines(run), {said.event["finished_n"] for said in run.events("validator.checked")}
    for said in run.events("executor.finished"):
        call = run.fold.calls.get(said.event["call"])
        if said.event["outcome"] != "succeeded":
            failed[said.event["call"]] = max(failed.get(said.event["call"], 0), said.event["attempt"])
        elif failed.get(said.event["call"], 0) > said.event["attempt"]:
            continue
        over = run.stop is not None and said.n > run.stop.n
        if call is None or over or said.event["outcome"] != "succeeded":
            continue
        # Of two attempts that succeeded the first is the answer, also if the validator rejects it.
        second = call.call in answered
        answered.add(call.call)
        # Nobody may say of a call without a try left, before its end, that its fate is unknown: see the check before.
        if second or said.n in bad or 0 < call.answer_n < said.n:
            continue
        if (call.call, said.event["attempt"]) in lines and (call.answer_is_error or _started_again(run, said)):
            wrong.append(f"P2: {said} of {run.name} did '{call.call}', and the run goes on as if nobody had")
    return wrong


def _started_again(run: RunEvidence, done: Said) -> bool:
    again = (said for said in run.events("executor.started") if said.n > done.n)
    return any(line["call"] == done.event["call"] for said in again for line in said.event["calls"])


def in_time(evidence: Evidence, run: RunEvidence) -> list[str]:
    """What a dead worker left, and is safe to repeat, is taken over soon by another that is well."""
    if evidence.hardship.kind != "worker lost":
        return []
    wrong: list[str] = []
    tools = _tools(run)
    for start in run.events("executor.started", "planner.started"):
        died_s = evidence.diary.died.get(start.event["worker"], float("inf"))
        due_s = max(died_s, start.stored_s) + TAKEN_OVER_S
        after = next((said for said in run.said if said.n > start.n), None)
        after_s = after.stored_s if after is not None else float("inf")
        safe = start.role == "planner" or all(_safe(tools[line["call"]]) for line in start.event["calls"])
        if after_s > due_s and died_s < after_s and safe and start.event.get("purpose") != "probe":
            wrong.append(f"late: {start} of {run.name}, left by a dead worker at {died_s:.3f} s, was not taken over")
    return wrong


def no_work_while_away(run: RunEvidence) -> list[str]:
    """A run that is stopped for having worked too long has worked: a start was open so long."""
    stop = run.stop
    if stop is None or not str(stop.event.get("why", "")).startswith("The run worked for") or run.opened is None:
        return []
    spans: list[tuple[float, float]] = [(said.stored_s, said.stored_s + 1.0) for said in run.said if said.n < stop.n]
    for start in run.events("executor.started", "planner.started"):
        parts = {line["call"] for line in start.event.get("calls", ())}
        ends = [s.stored_s for s in run.said if s.n > start.n and (_ends(s, start, parts) or s.n == stop.n)]
        spans.append((start.stored_s, max(ends, default=stop.stored_s)))
    worked_s, until_s = 0.0, float("-inf")
    for begin, end in sorted(spans):
        worked_s += max(min(end, stop.stored_s) - max(begin, until_s), 0.0)
        until_s = max(until_s, min(end, stop.stored_s))
    wall_s = run.opened["limits"].get("wall_s", 0)
    if wall_s and worked_s < wall_s - 1.0:
        return [f"wall: {run.name} was stopped for having worked {wall_s} s, and can have worked {worked_s:.1f} s"]
    return []


def _ends(said: Said, start: Said, calls: set[str]) -> bool:
    if said.what == "executor.finished":
        return said.event["call"] in calls
    turn = (start.event.get("turn"), start.event.get("attempt"))
    return said.role == "planner" and (said.event.get("turn"), said.event.get("attempt")) == turn


def events_count(run: RunEvidence) -> list[str]:
    """An event that was reported before anybody waited for it counts: nobody is asked for it again."""
    wrong: list[str] = []
    kept: list[str] = []
    waits = {
        call["call"]: str(call["args"]) for s in run.events("planner.proposed") for call in s.event.get("calls", ())
    }
    for said in run.events("approver.answered", "approver.asked"):
        event, question = said.event, said.event.get("question")
        if event.get("event") and not event["call"]:
            kept.append(event["event"])
        elif event.get("reported_n") and event["event"] in kept:
            kept.remove(event["event"])
        elif question and (name := next((name for name in kept if f'"{name}"' in waits[question["call"]]), "")):
            wrong.append(f"events: {said} of {run.name} waits for '{name}', which was reported before")
    return wrong


def no_room_no_run(evidence: Evidence) -> list[str]:
    """No run is opened while there is room only for those that are open."""
    hardship = evidence.hardship
    if hardship.kind != "runs full":
        return []
    since_s = hardship.from_s + KNOWN_S
    cuts = [*evidence.weather.outages, *((begin, end) for _, begin, end in evidence.diary.out if end != float("inf"))]
    return [
        f"room: {said} of {run.name} opens a run although the log is nearly full"
        for run in evidence.runs
        for said in run.events("validator.opened")
        if since_s < said.stored_s < hardship.until_s
        and not any(begin < said.stored_s and end > said.stored_s - KNOWN_S for begin, end in cuts)
    ]


def not_begun_costs_nothing(run: RunEvidence) -> list[str]:
    """A call is not given up for attempts that never began, unless there were very many."""
    wrong: list[str] = []
    asked: dict[str, list[bool]] = {}
    tools = _tools(run)
    for said in run.events("executor.finished"):
        call, unbegun = (
            said.event["call"],
            said.event["outcome"] == "never_started" and said.event.get("begun") is False,
        )
        asked.setdefault(call, []).append(unbegun)
        state = run.fold.calls.get(call)
        over = state is not None and state.answer_n == said.n and unbegun
        tries = sum(not each for each in asked[call])
        if over and tries <= tools[call].get("retries_max", RETRIES_MAX) and len(asked[call]) <= NOT_BEGUN_MAX:
            wrong.append(f"begun: {said} of {run.name} gives '{call}' up, whose attempts had not begun")
    return wrong


def stays_with_the_fallback(run: RunEvidence) -> list[str]:
    """While a model is known to be down, the next turn begins with the fallback that answered."""
    wrong: list[str] = []
    down: dict[str, datetime] = {}
    started, answered = "", ""
    for said in run.said:
        at = datetime.fromisoformat(said.event["at"])
        if said.what == "planner.started" and not said.ignored:
            started = said.event["model"]
            first = said.event["attempt"] == 1 and said.event.get("purpose", "turn") == "turn"
            if first and answered and started != answered and at < down.get(started, at):
                wrong.append(f"fallback: {said} of {run.name} asks {started} first, which is known to be down")
        elif said.what == "planner.failed" and said.event["kind"] in {"availability", "rate_limit"}:
            down[started] = at + timedelta(seconds=FALLBACK_KEPT_S)
        elif said.what == "planner.proposed":
            answered = started
            down.pop(started, None)
    return wrong
