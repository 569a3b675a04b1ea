"""Executor: do it, once.

It protects the world outside from effects that happen twice. It reads cleared and granted calls. It appends
``started`` (with reservation and deadlines) for all calls that may start, performs them, and appends ``finished`` for
each. An attempt that is still open past its end is repeated under the same key where that is safe; where it is not,
its outcome is ``unknown``, and a probe or a person settles it. If a tool may do more by now than was agreed to, the
executor appends ``widened`` and starts nothing before a person has agreed to that.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Literal

import msgspec

from linestop.actors.facts import KillSwitches, Texts, kill_switch_message
from linestop.actors.performing_role import PerformingRole, has_unreported_result
from linestop.actors.role_facts import ExecutorFacts
from linestop.actors.widened_contracts import attempt_left_open, widened
from linestop.off_loop import off_loop
from linestop.schemas.defaults import START_WITHIN_S, TOOL_GRACE_S
from linestop.schemas.events import AnyEvent, BlobRef, EffectStarted, Finished, StartedCall
from linestop.schemas.performer_interfaces import CallWork, LongResult, ToolRunner
from linestop.schemas.run.call_states import Attempt, CallState, Stage, dead_workers_relied_on
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.run.starting.next_start import NextStart, next_start
from linestop.schemas.subjects import RoleName
from linestop.schemas.tool_contracts import Tier, ToolError, ToolResult, canonical


class Executor(PerformingRole[ExecutorFacts]):
    """The executor role. ``runner`` performs tools; it is handed in, so that this module imports none."""

    name: RoleName = "executor"
    wakes: frozenset[str] = frozenset(
        {
            "approver.cleared",
            "approver.granted",
            "approver.denied",
            "approver.answered",
            "approver.resolved",
            "approver.resumed",
            "budget.held",
            "validator.checked",
            "validator.judged",
            "executor.finished",
            "stopped",
        }
    )
    facts_type = ExecutorFacts

    def __init__(self, runner: ToolRunner | None = None) -> None:
        self._runner = runner

    # --- deciding ----------------------------------------------------------------------------------------

    def _report_unacknowledged(self, attempt: Attempt) -> Finished:
        """Report that a start of this process never began: its acknowledgement was lost, so it is not performed."""
        if attempt.purpose == "probe":
            return _report_unknown(
                attempt.call, attempt.attempt, read=False, cost_micros=attempt.cost_max_micros, error=_CANCELLED
            )
        return Finished(call=attempt.call, attempt=attempt.attempt, outcome="never_started", error=_CANCELLED)

    def _report_abandoned(self, run: Run, facts: ExecutorFacts, now: datetime) -> Finished | None:
        """Report an open attempt that is past its end and may not be repeated."""
        worker, dead = facts.worker.id, facts.dead_workers.workers
        for attempt in _without_result(run, facts):
            if attempt.call and _is_abandoned(run, attempt, now, worker=worker, dead=dead):
                return _report_abandoned(run, attempt, now, worker=worker, dead=dead)
        return None

    def _next_event(self, run: Run, facts: ExecutorFacts, now: datetime) -> AnyEvent | None:
        """Start the calls that may start, end waits that are over, and report attempts that no other worker will."""
        worker_id, dead = facts.worker.id, facts.dead_workers.workers
        if ended_wait := _end_wait(run, now):
            return ended_wait
        if wider := widened(run, facts.tools_here, facts.texts, worker=worker_id):
            return wider
        start = next_start(run, now, worker_id, dead)
        if isinstance(start, NextStart) and _is_due(run, start, now, _without_result(run, facts)):
            if attempt := attempt_left_open(run, start, facts.tools_here):
                return _report_abandoned(run, attempt, now, worker=worker_id, dead=dead)
            if event := _start(run, start, facts.kill_switches, now, worker=worker_id, dead=dead):
                return event
        return self._report_abandoned(run, facts, now)

    # --- performing --------------------------------------------------------------------------------------

    def prepare(self, run: Run, started: AnyEvent, facts: ExecutorFacts) -> tuple[CallWork, ...]:
        """Collect what the calls of ``started`` need."""
        assert isinstance(started, EffectStarted)
        assert run.opened is not None
        return tuple(_call_work(run, line, started, facts.texts) for line in started.calls)

    async def perform(self, work: tuple[CallWork, ...], started: AnyEvent) -> AsyncIterator[Finished | LongResult]:
        """Perform all calls at once and yield each result as it comes; one that had to be cut, with its full text."""
        assert self._runner is not None
        async for call_work, result, duration_s in self._runner.run(work):
            yield await off_loop(result.bytes, partial(_report_result, call_work, result, duration_s))
        del started

    def report_cancelled(
        self, work: tuple[CallWork, ...], done: frozenset[tuple[str, int]], *, begun: bool
    ) -> list[AnyEvent]:
        """Return the events for calls that were cancelled before they had a result."""
        return [
            _report_cancelled(call_work, begun=begun)
            for call_work in work
            if (call_work.call, call_work.attempt) not in done
        ]


_CANCELLED = ToolError(type="transient", message="The call was cancelled before its result was known.")
_NOT_BEGUN = ToolError(type="transient", message="The call was not begun; nothing was done.", retry_safe=True)
_NOT_REPORTED = ToolError(type="transient", message="The worker that started this call did not report its outcome.")


def _report_cancelled(work: CallWork, *, begun: bool) -> Finished:
    # A probe's ``never_started`` is its finding about the effect, so a probe that did not begin is ``unknown``.
    if not begun and not work.probe:
        return _report_not_begun(work)
    return _report_unknown(
        work.call,
        work.attempt,
        read=work.tier == "read" and not work.probe,
        cost_micros=work.cost_max_micros,
        error=_CANCELLED,
    )


def _report_not_begun(work: CallWork) -> Finished:
    return Finished(call=work.call, attempt=work.attempt, outcome="never_started", error=_NOT_BEGUN, begun=False)


def _report_unknown(call: str, attempt: int, *, read: bool, cost_micros: int, error: ToolError) -> Finished:
    """Report an unknown outcome. A read had no effect, so it counts as failed and may be repeated at once."""
    if read:
        error = msgspec.structs.replace(error, retry_safe=True, retry_after_s=0.0)
    outcome: Literal["failed", "unknown"] = "failed" if read else "unknown"
    return Finished(call=call, attempt=attempt, outcome=outcome, error=error, cost_micros=cost_micros)


def _report_result(work: CallWork, result: ToolResult, duration_s: float) -> Finished | LongResult:
    """Report a result; one that had to be cut goes together with its full text."""
    event = finished_event(work, result, duration_s)
    if event.result_bytes <= work.result_bytes_max:
        return event
    kind = "text/plain" if isinstance(result.value, str) else "application/json"
    return LongResult(event=event, full_text=_as_text(result.value), type=kind)


def finished_event(work: CallWork, result: ToolResult, duration_s: float) -> Finished:
    """Return the event that reports ``result`` of ``work``, cut to the size that the model may read."""
    if not result.begun:
        return _report_not_begun(work)
    text = "" if result.outcome != "succeeded" else _as_text(result.value)
    capped, size = truncate(text, work.result_bytes_max)
    return Finished(
        call=work.call,
        attempt=work.attempt,
        outcome=result.outcome,
        result=capped,
        result_bytes=size,
        result_sha256=hashlib.sha256(text.encode()).hexdigest() if result.outcome == "succeeded" else "",
        error=result.error,
        egress=result.egress,
        cost_micros=min(result.cost_micros, work.cost_max_micros),
        duration_s=round(duration_s, 6),
        untrusted=work.untrusted,
        findings=result.findings,
        ended=result.ended and result.outcome == "unknown",
    )


def truncate(text: str, bytes_max: int) -> tuple[str, int]:
    """Return ``text`` cut to ``bytes_max`` UTF-8 bytes, with a note that it was cut, and its full size in bytes."""
    data = text.encode()
    if len(data) <= bytes_max:
        return text, len(data)
    note = f"\n[cut: {len(data)} bytes in all]"
    return data[: max(bytes_max - len(note), 0)].decode(errors="ignore") + note, len(data)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else canonical(value).decode()


def _end_wait(run: Run, now: datetime) -> Finished | None:
    for call in run.proposal.calls if run.proposal else ():
        if call.stage is Stage.WAITING and call.ready_at is not None and call.ready_at <= now:
            text = canonical({"now": now.isoformat()}).decode()
            return Finished(call=call.call, attempt=0, outcome="succeeded", result=text, untrusted=False)
    return None


def _is_due(run: Run, start: NextStart, now: datetime, unreported: Sequence[Attempt]) -> bool:
    """Whether calls are to be started now and none of them has an earlier attempt whose result is about to come."""
    before = [attempt for name in start.calls if (attempt := run.calls[name].open_attempt) is not None]
    return start.kind != "model" and start.at <= now and all(attempt in unreported for attempt in before)


def _without_result(run: Run, facts: ExecutorFacts) -> list[Attempt]:
    """Return the open attempts of which this process has no result that it is about to store."""
    return [attempt for attempt in run.open_attempts if not has_unreported_result(attempt, facts.performing)]


def _report_abandoned(run: Run, attempt: Attempt, now: datetime, *, worker: str, dead: frozenset[str]) -> Finished:
    """Report that the outcome of an attempt is unknown."""
    grant = run.calls[attempt.call].grant
    # While the run continues, the fold tells the model that a read was tried often enough.
    read = run.done and grant is not None and grant.tier == "read" and attempt.purpose == "effect"
    report = _report_unknown(
        attempt.call, attempt.attempt, read=read, cost_micros=attempt.cost_max_micros, error=_NOT_REPORTED
    )
    return msgspec.structs.replace(
        report, dead_workers=dead_workers_relied_on([attempt], now, worker=worker, dead=dead)
    )


def _is_abandoned(run: Run, attempt: Attempt, now: datetime, *, worker: str, dead: frozenset[str]) -> bool:
    call = run.calls[attempt.call]
    if attempt.purpose == "probe":
        return attempt.expired(now, worker, dead)
    if call.grant is None or not call.grant.safe_to_repeat:
        return attempt.expired(now)
    # A worker that seems dead may still report a success; with no try left, that would come after the model's answer.
    last = call.tries > call.grant.retries_max
    return attempt.expired(now, worker) if last else attempt.expired(now, worker, dead)


def _start(  # noqa: PLR0913 - what a start rests on
    run: Run, start: NextStart, kill_switches: KillSwitches, now: datetime, *, worker: str, dead: frozenset[str]
) -> AnyEvent | None:
    """Start these calls, unless a kill switch is closed or the run does not hold what they may cost."""
    if closed := kill_switches.first_closed_for(run, *(run.calls[name].tool for name in start.calls)):
        return stop_event(run, by="executor", why=kill_switch_message(closed), code="policy")
    if start.cost_max_micros > run.available_micros:
        return None
    started = _started_event(run, start, worker, kill_switches.revision, now=now)
    return msgspec.structs.replace(started, dead_workers=_dead_owners(run, start, worker, dead, now=now))


def _started_event(
    run: Run, start: NextStart, worker: str, kill_switches_revision: int, *, now: datetime
) -> EffectStarted:
    lines = tuple(_started_call(run, run.calls[name], start, now) for name in start.calls)
    purpose: Literal["effect", "probe"] = "probe" if start.kind == "probe" else "effect"
    return EffectStarted(calls=lines, worker=worker, purpose=purpose, doors_revision=kill_switches_revision)


def _dead_owners(run: Run, start: NextStart, worker: str, dead: frozenset[str], *, now: datetime) -> tuple[str, ...]:
    before = [attempt for name in start.calls if (attempt := run.calls[name].open_attempt) is not None]
    return dead_workers_relied_on(before, now, worker=worker, dead=dead)


def _started_call(run: Run, call: CallState, start: NextStart, now: datetime) -> StartedCall:
    assert call.grant is not None
    assert call.judged is not None
    start_by = now + timedelta(seconds=START_WITHIN_S)
    return StartedCall(
        call=call.call,
        attempt=len(call.attempts) + 1,
        effect_key=call.judged.effect_key,
        args_sha256=call.args_sha256,
        gate_n=call.gate_n,
        start_by=start_by,
        done_by=start_by + timedelta(seconds=call.grant.timeout_s + TOOL_GRACE_S),
        cost_max_micros=call.grant.price_micros if start.kind == "effect" else 0,
        contract_digest=call.grant.contract_digest if call.grant != run.grant_of(call.tool) else "",
    )


def _call_work(run: Run, line: StartedCall, started: EffectStarted, texts: Texts) -> CallWork:
    call = run.calls[line.call]
    assert call.grant is not None
    assert call.judged is not None
    assert run.opened is not None
    args = call.judged.args
    data = texts.by_sha256.get(args.sha256, b"") if isinstance(args, BlobRef) else args.encode()
    tier: Tier = call.grant.tier
    return CallWork(
        tenant=run.tenant,
        run=run.run,
        call=line.call,
        attempt=line.attempt,
        tool=call.tool,
        grant=call.grant,
        args=data,
        key=line.effect_key,
        user=run.opened.task.user,
        probe=started.purpose == "probe",
        dry_run=run.opened.task.dry_run and tier != "read",
        tier=tier,
        start_by=line.start_by,
        timeout_s=call.grant.timeout_s,
        result_bytes_max=run.limits.result_bytes_max,
        cost_max_micros=line.cost_max_micros,
    )
