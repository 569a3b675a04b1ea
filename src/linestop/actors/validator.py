"""Validator: is it well formed, allowed and sane?

It protects the run from what a model or a client makes up. It reads tasks, proposals and final answers, the
pinned agent and its contracts. It appends ``opened`` or ``refused`` for a task, ``judged`` for all calls of a
proposal at once, ``checked`` for a result whose tool declares checks, ``accepted`` or ``returned`` for the
final answer, and ``stopped`` when a limit, a loop or the clock ends the run.
"""

from __future__ import annotations

from datetime import datetime

from linestop.actors.facts import Performing, Space
from linestop.actors.judging import task_acceptance
from linestop.actors.judging.calls import judge
from linestop.actors.judging.calls_written_as_text import narration_errors
from linestop.actors.role_facts import ValidatorFacts
from linestop.schemas.agents import AgentVersion
from linestop.schemas.argument_validation import check_arguments
from linestop.schemas.broker_defaults import SPACE_FOR_STARTS
from linestop.schemas.events import (
    Accepted,
    AnyEvent,
    BlobRef,
    Checked,
    Judged,
    LimitHit,
    Refused,
    Returned,
    Stopped,
)
from linestop.schemas.provenance.argument_origins import RULE
from linestop.schemas.run.call_states import ProposalState, Stage
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.starting.next_start import out_of_time
from linestop.schemas.subjects import RoleName
from linestop.schemas.text.redaction import Redactor
from linestop.schemas.text.visible_text import is_blank
from linestop.schemas.tool_contracts import Contract


class Validator:
    """The validator role."""

    name: RoleName = "validator"
    wakes: frozenset[str] = frozenset(
        {
            "planner.proposed",
            "planner.failed",
            "approver.edited",
            "approver.answered",
            "approver.denied",
            "executor.finished",
            "stopped",
        }
    )
    facts_type = ValidatorFacts

    def decide(self, run: Run, facts: ValidatorFacts, now: datetime) -> AnyEvent | None:
        """Open, judge, check, accept or return; or stop the run at a limit."""
        if run.has_unknown_events:
            return None
        if run.opened is None:
            incoming = facts.incoming
            if incoming is None or run.refused or run.sealed:
                return None
            if run.stopped:
                sentence = task_acceptance.stopped_before_start_message(run.stopped.why, incoming)
                return Refused(
                    code="stopped",
                    sentence=sentence,
                    task_sha256=incoming.sha256,
                    agent=incoming.agent,
                    asked=task_acceptance.asked_for(incoming, now),
                )
            return task_acceptance.open_or_refuse(run, incoming, facts, now)
        if run.done:
            return None
        if limit_stop := _stop_at_limit(run, now, facts.performing):
            return limit_stop
        proposal = run.proposal
        if proposal is None:
            return None
        if run.phase is Phase.JUDGING or run.phase is Phase.ANSWERING:
            return _judge(run, proposal, facts, now)
        return _check_result(proposal, facts)


def _stop_without_space(run: Run, space: Space) -> Stopped | None:
    """Stop a run that wants to do more when the rest of a stream is reserved for the ends of runs.

    Calls that were judged before continue, and so do people's decisions about them.
    """
    if space.used < SPACE_FOR_STARTS:
        return None
    hit = LimitHit(name="space_percent", value=int(space.used * 100), max_value=int(SPACE_FOR_STARTS * 100))
    why = f"The stream {space.stream} is {space.used:.0%} full; the rest is kept for the ends of open runs."
    return stop_event(run, by="validator", why=why, code="limit", limit=hit)


def _stop_at_limit(run: Run, now: datetime, performing: Performing) -> Stopped | None:
    """Stop a run that has exceeded one of its limits or its time."""
    limits = run.limits
    assert run.opened is not None
    if now >= run.opened.deadline_at:
        why = f"The run did not end within {limits.run_max_s / 86_400:.0f} days."
        if run.queued:
            return stop_event(run, by="validator", why=f"{why} It waited for money: {run.queued.why}", code="budget")
        return stop_event(run, by="validator", why=why, code="deadline")
    if run.phase is not Phase.WAITING and run.active_s(now, performing.running) >= limits.wall_s:
        end = out_of_time(run)
        return stop_event(run, by="validator", why=end.why, code=end.code)
    looped = [c for c in run.proposal.calls if c.judged and c.judged.verdict == "loop"] if run.proposal else []
    if looped:
        hit = LimitHit(name="equal_calls_max", value=limits.equal_calls_max + 1, max_value=limits.equal_calls_max)
        why = f"The model called '{looped[0].tool}' again and again with the same arguments and the same result."
        return stop_event(run, by="validator", why=why, code="loop", limit=hit)
    return None


def _judge(run: Run, proposal: ProposalState, facts: ValidatorFacts, now: datetime) -> AnyEvent | None:
    """Judge the proposed calls, or the final answer, by the agent's version that the run was opened with."""
    if run.phase is Phase.JUDGING and (stop := _stop_without_space(run, facts.space)):
        return stop
    if facts.pinned_agent is None:
        return None
    agent = facts.pinned_agent.version
    if agent is None:
        return stop_event(run, by="validator", why="The agent's version is not in the store.", code="defect")
    if run.phase is Phase.JUDGING:
        return _judge_calls(run, proposal, agent, facts, now=now)
    return _judge_answer(run, proposal, agent, facts, now=now)


def _judge_calls(
    run: Run, proposal: ProposalState, agent: AgentVersion, facts: ValidatorFacts, *, now: datetime
) -> Judged:
    calls = judge(run, proposal, agent, facts.texts.by_sha256, now=now)
    rejected = all(verdict.verdict == "reject" for verdict in calls)
    in_a_row = run.rejections_in_a_row + 1 if rejected else 0
    return Judged(proposal_n=proposal.n, calls=calls, rejections_in_a_row=in_a_row, rule=RULE)


def _judge_answer(
    run: Run, proposal: ProposalState, agent: AgentVersion, facts: ValidatorFacts, *, now: datetime
) -> Accepted | Returned | Stopped:
    text = proposal.event.text
    errors = _answer_errors(text, agent.output_schema) or narration_errors(run, proposal, agent, now)
    if not errors:
        answer = Redactor(facts.secrets.values).text(text) if isinstance(text, str) else text
        read = any(call.finished is not None and call.finished.untrusted for call in run.calls.values())
        derived = read or (run.opened is not None and bool(run.opened.task.material))
        return Accepted(proposal_n=proposal.n, answer=answer, derived_from_untrusted=derived)
    if run.returned_in_a_row >= run.limits.returned_max:
        hit = LimitHit(name="returned_max", value=run.returned_in_a_row + 1, max_value=run.limits.returned_max)
        why = f"The model's answer was returned {run.returned_in_a_row} times; the last reason: {errors[0]}"
        return stop_event(run, by="validator", why=why, code="limit", limit=hit)
    return Returned(proposal_n=proposal.n, errors=errors, returned_in_a_row=run.returned_in_a_row + 1)


def _answer_errors(text: str | BlobRef, schema: dict[str, object] | None) -> tuple[str, ...]:
    """Return the errors of a final answer; empty if it is accepted."""
    if isinstance(text, BlobRef):
        return (f"The answer has {text.bytes} bytes; give a shorter one.",)
    if is_blank(text):
        return ("The answer is empty; give one, or say what is missing.",)
    if schema is None:
        return ()
    checked = check_arguments(text, Contract(name="answer", description="", parameters=dict(schema)))
    return checked.errors


def _check_result(proposal: ProposalState, facts: ValidatorFacts) -> Checked | None:
    findings = facts.check_findings.by_event
    for call in proposal.calls:
        if call.stage is Stage.CHECK and call.finished_n in findings:
            sentences = findings[call.finished_n]
            return Checked(finished_n=call.finished_n, verdict="reject" if sentences else "pass", findings=sentences)
    return None
