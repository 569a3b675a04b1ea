"""P1, P3 and P5 outside: the effects in the world, how often they happened, and whether people agreed to them."""

from __future__ import annotations

from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from tests.sim.evidence import Evidence, LoggedEvent, RunEvidence
from tests.sim.outside import Request

PROMPT_S = 0.1
"""An acknowledgement proves the head if the started work begins within this time after the append was sent."""

TICK_S = 0.00001
"""Times in the log are cut to microseconds."""

CANCELLED_S = 16.0
"""A living worker that reaches the broker notices a stop within this time, and cancels (three head checks)."""

DEFINITE = {"failed", "never_started"}


def effects(evidence: Evidence, run: RunEvidence) -> list[str]:
    """P3: an effect is attempted again only where repeating is safe, or the earlier attempt did nothing."""
    history = _EffectHistory(run)
    for entry in run.entries:
        if not entry.ignored:
            history.add(entry)
    wrong = history.wrong
    for (tool, args_sha256), attempts in history.attempts.items():
        grant = run.tool(tool)
        times_done = evidence.outside.effects.get((run.tenant, run.run, tool, args_sha256), 0)
        effects_max = 1 + sum(history.retries.get(call, 0) for call in {call for call, _ in attempts})
        if grant["tier"] != "read" and not grant.get("repeatable") and times_done > effects_max:
            wrong.append(f"P3: '{tool}' of {run.name} took effect {times_done} times with the same arguments")
    return wrong


Effect = tuple[str, str]
"""The identity of an effect without its key: tool and digest of the arguments."""


class _EffectHistory:
    """Walks the log of one run and tracks the outcome of every attempt at every effect."""

    def __init__(self, run: RunEvidence) -> None:
        self.wrong: list[str] = []
        self.attempts: dict[Effect, list[tuple[str, int]]] = {}
        self.retries: dict[str, int] = {}
        self._run = run
        self._fates: dict[tuple[str, int], str] = {}
        self._tools: dict[str, str] = {}

    def add(self, entry: LoggedEvent) -> None:
        """Add the next event of the run that counts."""
        match entry.role_and_event:
            case "validator.judged":
                self._tools |= {line["call"]: line.get("tool", "") for line in entry.event["calls"]}
            case "executor.started" if entry.event.get("purpose", "effect") == "effect":
                for line in entry.event["calls"]:
                    self._start(entry, line)
            case "executor.finished":
                _add_result(entry.event, self._fates)
            case "approver.resolved" if entry.event["action"] == "retry":
                call = entry.event["call"]
                self.retries[call] = self.retries.get(call, 0) + 1
                for attempt in self._fates:
                    if attempt[0] == call:
                        self._fates[attempt] = "never_started"
            case _:
                pass

    def _start(self, entry: LoggedEvent, line: dict[str, Any]) -> None:
        name, attempt = self._tools[line["call"]], (line["call"], line["attempt"])
        tool = self._run.tool(name)
        before = self.attempts.setdefault((name, line["args_sha256"]), [])
        for other in before if tool["tier"] != "read" and not tool.get("repeatable") else ():
            fate = self._fates[other]
            if fate == "succeeded":
                self.wrong.append(f"P2: {entry} of {self._run.name} repeats '{name}', which {other} completed")
            elif fate not in DEFINITE and not tool.get("idempotent"):
                self.wrong.append(f"P3: {entry} of {self._run.name} repeats '{name}' although {other} is {fate}")
        before.append(attempt)
        self._fates[attempt] = "open"


def _add_result(event: dict[str, Any], fates: dict[tuple[str, int], str]) -> None:
    """Add a result; the result of a probe decides the outcome of the effects before it."""
    attempt = (event["call"], event["attempt"])
    if attempt in fates:
        fates[attempt] = event["outcome"]
    elif event["outcome"] in {"succeeded", "never_started"}:
        outcomes = {
            other: event["outcome"]
            for other, fate in fates.items()
            if other[0] == event["call"] and fate not in DEFINITE
        }
        fates.update(outcomes)


def probes(evidence: Evidence, run: RunEvidence) -> list[str]:
    """P3: every result of a probe comes from a real request."""
    begun = {
        (request.call, request.attempt)
        for request in evidence.outside.requests
        if request.kind == "probe" and (request.tenant, request.run) == (run.tenant, run.run)
    }
    attempts = {
        (line["call"], line["attempt"])
        for entry in run.events("executor.started")
        if entry.event.get("purpose") == "probe"
        for line in entry.event["calls"]
    }
    return [
        f"P3: {entry} of {run.name} gives the result '{entry.event['outcome']}' of a probe that was never made"
        for entry in run.events("executor.finished")
        if (entry.event["call"], entry.event["attempt"]) in attempts - begun
        and entry.event["outcome"] in {"succeeded", "never_started"}
    ]


def grants(evidence: Evidence, run: RunEvidence) -> list[str]:  # noqa: C901 - one arm an event
    """P5: a started call was judged, and passed its gate: cleared, or granted by enough people in time.

    A read is its own gate (``_read_on_judgement``) unless something holds it back.
    """
    wrong: list[str] = []
    judged: dict[str, dict[str, Any]] = {}
    asked: dict[str, dict[str, Any]] = {}
    gates: dict[int, dict[str, dict[str, Any]]] = {}
    votes: dict[str, set[str]] = {}
    edits: dict[str, dict[str, Any]] = {}
    for entry in run.entries:
        if entry.ignored:
            continue
        event = entry.event
        match entry.role_and_event:
            case "validator.judged":
                judged |= {line["call"]: line for line in event["calls"]}
                gates[entry.n] = {line["call"]: line for line in event["calls"] if _read_on_judgement(run, line, edits)}
            case "approver.cleared":
                gates[entry.n] = {line["call"]: _with_edit(line, edits) for line in event["calls"]}
                wrong += _agreed_by_one(run, entry)
            case "approver.edited":
                wrong += _in_time(run, entry, asked[event["call"]], "shown_sha256") + _edit_as_sent(
                    evidence, run, entry
                )
                edits[event["call"]] = event
            case "approver.asked":
                asked |= {line["call"]: line for line in event.get("calls", [])}
                votes |= {line["call"]: set() for line in event.get("calls", [])}
            case "approver.granted" if event["call"]:
                wrong += _in_time(run, entry, asked[event["call"]]) + _grant_as_sent(evidence, run, entry)
                votes[event["call"]].add(event["by"])
                if len(votes[event["call"]]) >= asked[event["call"]].get("quorum", 1):
                    gates[entry.n] = {event["call"]: event}
            case "executor.started" if event.get("purpose", "effect") == "effect":
                for line in event["calls"]:
                    wrong += _was_granted(run, entry, line, judged=judged[line["call"]], gates=gates)
            case _:
                pass
    return wrong


def _read_on_judgement(run: RunEvidence, line: dict[str, Any], edits: dict[str, dict[str, Any]]) -> bool:
    """Whether a call needs no approver: a read that no person edited and that neither policy nor origin holds back."""
    assert run.opened is not None
    policy = run.opened["policy"]
    is_held_back = (
        any(fnmatchcase(line.get("tool", ""), pattern) for pattern in policy["ask"])
        or (policy["provenance"] and "untrusted-value" in line.get("flags", ()))
        or line["call"] in edits
    )
    return line["verdict"] == "pass" and line.get("tier", "destructive") == "read" and not is_held_back


def _in_time(run: RunEvidence, entry: LoggedEvent, question: dict[str, Any], shown: str = "args_sha256") -> list[str]:
    wrong: list[str] = []
    if datetime.fromisoformat(entry.event["at"]) >= datetime.fromisoformat(question["expires_at"]):
        wrong.append(f"P5: {entry} of {run.name} came after the question had expired")
    if (entry.event[shown], entry.event["contract_digest"]) != (question["args_sha256"], question["contract_digest"]):
        wrong.append(f"P5: {entry} of {run.name} does not match its question")
    return wrong


def _agreed_by_one(run: RunEvidence, entry: LoggedEvent) -> list[str]:
    """An edit is the decision of one person, so it clears nothing where two must agree."""
    quorum = run.opened["policy"].get("quorum", 1) if run.opened else 1
    by_edit = any(line["rule"] == "edited" for line in entry.event["calls"])
    return [f"P5: {entry} of {run.name} lets one person agree; {quorum} must"] if by_edit and quorum > 1 else []


def _with_edit(line: dict[str, Any], edits: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A cleared line; if a person wrote and approved these arguments, with the contract that the person saw."""
    edit = edits.get(line["call"])
    is_edited = edit is not None and edit.get("approves") and edit["args_sha256"] == line["args_sha256"]
    return line | {"contract_digest": edit["contract_digest"]} if edit is not None and is_edited else line


def _edit_as_sent(evidence: Evidence, run: RunEvidence, entry: LoggedEvent) -> list[str]:
    """An edit matches the message of the person."""
    seq = int(str(entry.event["cue"].get("id", "")).partition(":")[2] or 0)
    stored = evidence.broker.stream("CONTROL").at(seq)
    args = msgspec.json.decode(stored.payload).get("args") if stored is not None else None
    if args != msgspec.json.decode(entry.event["args"]):
        return [f"P5: {entry} of {run.name} is not what a person wrote"]
    return []


def _grant_as_sent(evidence: Evidence, run: RunEvidence, entry: LoggedEvent) -> list[str]:
    """A grant matches the message of the person."""
    kind, _, seq = str(entry.event["cue"].get("id", "")).partition(":")
    stored = evidence.broker.stream("CONTROL").at(int(seq)) if kind == "control" else None
    if stored is None:
        return [f"P5: {entry} of {run.name} does not come from the message of a person"]
    control: dict[str, Any] = msgspec.json.decode(stored.payload)
    if any(control.get(field) != entry.event[field] for field in ("call", "by", "args_sha256", "contract_digest")):
        return [f"P5: {entry} of {run.name} is not what {control.get('by')} agreed to"]
    return []


def _was_granted(
    run: RunEvidence,
    entry: LoggedEvent,
    line: dict[str, Any],
    *,
    judged: dict[str, Any],
    gates: dict[int, dict[str, dict[str, Any]]],
) -> list[str]:
    wrong: list[str] = []
    gate = gates.get(line["gate_n"], {}).get(line["call"])
    if gate is None or gate["args_sha256"] != line["args_sha256"]:
        wrong.append(f"P5: {entry} of {run.name} starts '{judged['tool']}' without its gate")
    if (line["args_sha256"], line["effect_key"]) != (judged["args_sha256"], judged["effect_key"]):
        wrong.append(f"P5: {entry} of {run.name} starts '{judged['tool']}' with other arguments than were judged")
    tool = run.tool(judged["tool"])
    contract = _contract_of(run, line, tool["name"])
    if contract != tool["contract_digest"] and (gate is None or gate.get("contract_digest") != contract):
        wrong.append(f"P5: {entry} of {run.name} starts '{tool['name']}' under a contract that was never agreed to")
    if tool["tier"] == "destructive" and (gate is None or "contract_digest" not in gate):
        wrong.append(f"P5: {entry} of {run.name} starts the destructive '{tool['name']}' without a person")
    return wrong


def _contract_of(run: RunEvidence, line: dict[str, Any], tool: str) -> str:
    """The contract under which a call is started: the one of the run, unless its start names another."""
    return str(line.get("contract_digest") or run.tool(tool)["contract_digest"])


def outside(evidence: Evidence) -> list[str]:
    """P1 and P5 for every request that reached the world."""
    wrong: list[str] = []
    performed: set[tuple[str, str, str, str, int]] = set()
    runs: dict[tuple[str, str], RunEvidence] = {(run.tenant, run.run): run for run in evidence.runs}
    for request in evidence.outside.requests:
        run = runs.get((request.tenant, request.run))
        start = _start_of(run, request) if run is not None else None
        description = (
            f"{request.kind} {request.tool} {request.call}/{request.attempt} of {request.tenant}/{request.run}"
        )
        if run is None or start is None:
            wrong.append(f"P1: {description} was made without a start in the log")
            continue
        attempt = (request.kind, request.tenant, request.run, request.call, request.attempt)
        if attempt in performed:
            wrong.append(f"P3: {description} was made twice on one start")
        performed.add(attempt)
        wrong += _as_started(description, request, start, run)
        if request.sent_at is not None and request.sent_at >= request.started_by:
            wrong.append(f"P1: {description} was sent at {request.sent_at}, after its start_by {request.started_by}")
        stop = run.stop
        if stop is not None:
            wrong += _fenced(evidence, description, request, stop.stored_s)
    return wrong


def _start_of(run: RunEvidence, request: Request) -> LoggedEvent | None:
    for entry in run.events("planner.started", "executor.started"):
        attempts = [(str(entry.event.get("turn")), entry.event.get("attempt"))]
        if entry.role == "executor":
            attempts = [(line["call"], line["attempt"]) for line in entry.event["calls"]]
        if (entry.role == "planner") == (request.kind == "model") and (request.call, request.attempt) in attempts:
            return entry
    return None


def _as_started(description: str, request: Request, start: LoggedEvent, run: RunEvidence) -> list[str]:
    """The request matches its start: worker, arguments, key, contract."""
    wrong: list[str] = []
    if start.event["worker"] != request.process:
        wrong.append(f"P1: {description} was made by {request.process}, started by {start.event['worker']}")
    if request.kind == "model":
        return wrong
    line = next(line for line in start.event["calls"] if line["call"] == request.call)
    if (line["args_sha256"], line["effect_key"]) != (request.args_sha256, request.key):
        wrong.append(f"P5: {description} was made with other arguments than started")
    if _contract_of(run, line, request.tool) != request.contract_digest:
        wrong.append(f"P5: {description} was made under another contract than started")
    if request.wider and request.kind == "effect":
        made = "made by" if request.sent_at is not None else "started, without a question, for"
        wrong.append(f"P5: {description} was {made} a tool that may do more than was agreed to: {request.wider[0]}")
    return wrong


def _fenced(evidence: Evidence, description: str, request: Request, stop_s: float) -> list[str]:
    """P1: nothing begins on a proof that is older than the stop, and running requests are cancelled soon."""
    if request.begun_s > stop_s + TICK_S:
        sent_s, asked_s = request.proof
        # A request that was cancelled at the moment it began sent nothing.
        nothing_left = request.sent_at is None and request.ended_s == request.begun_s
        stop_was_seen = asked_s > stop_s + TICK_S and not nothing_left
        head_was_proven = asked_s > sent_s or request.begun_s - sent_s <= PROMPT_S + 0.001
        if stop_was_seen or not head_was_proven:
            return [f"P1: {description} began at {request.begun_s:.3f} s, after the stop at {stop_s:.3f} s"]
    due_s = stop_s + CANCELLED_S
    end_s = request.ended_s if request.ended_s is not None else float("inf")
    if request.begun_s < stop_s and end_s > due_s and evidence.was_connected(request.process, stop_s, due_s):
        return [f"P1: {description} went on until {end_s:.3f} s although the run was stopped at {stop_s:.3f} s"]
    return []
