"""The rules by which an event changes a run: one function an event, and the phase that follows.

Each rule either changes the ``Run`` and returns an empty string, or changes nothing and returns why the event
is ignored. Rules are where the promises live: a start that was not reserved for, or a grant for other
arguments than those asked about, is ignored by everybody who reads the log, whoever wrote it.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, assert_never

import msgspec

from linestop.schemas import fold_calls, fold_gates, fold_money
from linestop.schemas.active import count_start
from linestop.schemas.bounds import bearable, escaping
from linestop.schemas.calls import ITEM_BYTES, Attempt, CallState, ProposalState, Stage, text_bytes
from linestop.schemas.events import (
    Accepted,
    Amended,
    Answered,
    AnyEvent,
    Asked,
    Checked,
    Cleared,
    Compacted,
    Denied,
    Edited,
    EffectStarted,
    Finished,
    Granted,
    Held,
    Judged,
    ModelFailedEvent,
    ModelStarted,
    Opened,
    Paused,
    Proposed,
    Queued,
    Refused,
    Resolved,
    Resumed,
    Returned,
    Sealed,
    Settled,
    Stopped,
    Warned,
)
from linestop.schemas.model import Usage
from linestop.schemas.model_order import down_until, used_up
from linestop.schemas.phases import Phase

if TYPE_CHECKING:
    from linestop.schemas.run import Run

WORK_AHEAD = {Stage.READY, Stage.OPEN, Stage.CHECK}


def apply(run: Run, role: str, n: int, event: AnyEvent) -> str:  # noqa: C901, PLR0912 - one arm an event
    """Apply ``event`` (number ``n``, legal in this phase) to ``run``; return why it is ignored, or ''."""
    match event:
        case Opened() | Refused() | Stopped() | Paused() | Resumed() | Accepted() | Returned():
            return _milestone(run, role, event)
        case Judged():
            return fold_calls.judged(run, n, event)
        case Checked():
            return fold_calls.checked(run, n, event)
        case Cleared():
            return fold_gates.cleared(run, n, event)
        case Asked():
            return fold_gates.asked(run, event)
        case Granted():
            return fold_gates.granted(run, n, event)
        case Denied():
            return fold_gates.denied(run, n, event)
        case Edited() | Answered() | Resolved():
            return fold_gates.word_of_a_person(run, n, event)
        case Held():
            return fold_money.held(run, event)
        case Queued():
            return fold_money.queued(run, event)
        case Settled():
            return fold_money.settled(run, event)
        case Warned():
            run.warned.add(event.limit)
            return ""
        case ModelStarted():
            return _model_started(run, n, event)
        case Proposed():
            return _proposed(run, n, event)
        case ModelFailedEvent():
            return _failed(run, n, event)
        case Compacted():
            return _compacted(run, n, event)
        case EffectStarted():
            return fold_calls.started(run, n, event)
        case Finished():
            return fold_calls.finished(run, n, event)
        case Sealed():
            return _sealed(run, n, event)
        case Amended():
            run.amended = event
            run.facts_after_seal = [fact for fact in run.facts_after_seal if fact not in event.facts]
            return ""
        case _:
            assert_never(event)


def phase_of(run: Run) -> Phase:
    """Where the run stands, derived from its state."""
    if run.sealed:
        return Phase.SEALED
    if run.stopped:
        return Phase.DRAINING
    if run.accepted or run.refused:
        return Phase.SETTLING
    if not run.opened:
        return Phase.NEW
    if run.model_attempt:
        return Phase.THINKING
    proposal = run.proposal
    if proposal and not proposal.answered:
        phase = _phase_of_proposal(proposal)
        return Phase.WAITING if phase is Phase.ACTING and _held_up_by_spending(run, proposal) else phase
    return Phase.WAITING if run.spend_asked else Phase.QUEUED


def _held_up_by_spending(run: Run, proposal: ProposalState) -> bool:
    """Whether calls wait for nothing but the answer about spending."""
    return run.spend_asked is not None and not any(c.stage in {Stage.OPEN, Stage.CHECK} for c in proposal.calls)


def _phase_of_proposal(proposal: ProposalState) -> Phase:
    if proposal.event.final:
        return Phase.ANSWERING
    stages = {call.stage for call in proposal.calls}
    if Stage.PENDING in stages:
        return Phase.JUDGING
    if Stage.GATE in stages:
        return Phase.CLEARING
    if any(call.stage in WORK_AHEAD and not behind_another(proposal, call) for call in proposal.calls):
        return Phase.ACTING
    return Phase.WAITING


def waits_for_model(run: Run) -> bool:
    """Whether the run's model is down and its agent's file says to queue for it: then nothing is worked on.

    From the failure after which the usual retries are used up until an answer, attempts in between included.
    """
    if run.opened is None or run.opened.on_model_down != "queue" or run.phase not in {Phase.QUEUED, Phase.THINKING}:
        return False
    ended = [attempt for attempt in run.turn_attempts if not attempt.open and attempt.begun]
    if not ended or not ended[-1].down:
        return False
    return used_up(run, ended)


def behind_another(proposal: ProposalState | None, call: CallState) -> bool:
    """Whether a call is ready but keeps to an order, and one before it has no answer: then it is not its turn."""
    if proposal is None or call.stage is not Stage.READY or call.grant is None or not call.grant.ordered:
        return False
    return any(other.stage is not Stage.ANSWERED for other in proposal.calls[: call.index])


def open_attempt(run: Run, attempt: Attempt) -> None:
    """Enter a start: from here its reservation counts."""
    run.attempts.setdefault(attempt.n, []).append(attempt)
    run.open_attempts.append(attempt)
    run.reserved_micros += attempt.cost_max_micros


def close_attempt(  # noqa: PLR0913 - what a result says
    run: Run, attempt: Attempt, n: int, *, outcome: str, cost_micros: int, reported: bool
) -> None:
    """Enter an attempt's fate; its real cost replaces the reservation, also long after it was superseded."""
    if attempt.open:
        run.open_attempts.remove(attempt)
        run.reserved_micros -= attempt.cost_max_micros
    else:
        run.spent_micros -= attempt.charged_micros
    attempt.closed_n = n
    attempt.outcome = outcome
    attempt.charged_micros = max(cost_micros, 0)
    attempt.source = "reported" if reported else "reserved"
    run.spent_micros += attempt.charged_micros
    if run.sealed:
        run.facts_after_seal.append(n)


def supersede(run: Run, attempt: Attempt, n: int) -> None:
    """Take over from an attempt that is past its deadline: it is charged at its reservation until it speaks."""
    run.open_attempts.remove(attempt)
    run.reserved_micros -= attempt.cost_max_micros
    run.spent_micros += attempt.cost_max_micros
    attempt.charged_micros = attempt.cost_max_micros
    attempt.superseded_n = n


def fits(run: Run, cost_max_micros: int) -> bool:
    """Whether a start of this cost fits into what the run holds (a takeover frees nothing: it is charged)."""
    return 0 <= cost_max_micros <= run.available_micros


def _milestone(run: Run, role: str, event: Opened | Refused | Stopped | Paused | Resumed | Accepted | Returned) -> str:
    match event:
        case Opened():
            run.opened, run.opened_at = bearable(event), event.at
            run.context_bytes = event.base_bytes + event.task.text_bytes + ITEM_BYTES
        case Refused():
            if run.opened or run.refused:
                return "the task was opened or refused before"
            run.refused = event
        case Stopped():
            if run.stopped is None:
                run.stopped, run.stopped_role = event, role
            elif event.outdoes(run.stopped):
                run.stopped = msgspec.structs.replace(run.stopped, mode=event.mode)
        case Paused():
            run.paused = event
        case Resumed():
            run.paused = None
        case Accepted() | Returned():
            return _answered(run, event)
        case _:
            assert_never(event)
    return ""


def _answered(run: Run, event: Accepted | Returned) -> str:
    proposal = run.proposal
    if proposal is None or proposal.n != event.proposal_n or not proposal.event.final:
        return f"event {event.proposal_n} is not the final answer under judgement"
    if isinstance(event, Accepted):
        proposal.accepted, run.accepted = True, event
        return ""
    if run.returned_in_a_row >= run.limits.returned_max:
        return "the answer was returned as often in a row as the run's limits allow"
    proposal.returned = event
    run.returned_in_a_row += 1
    run.context_bytes += sum(text_bytes(error) for error in event.errors) + ITEM_BYTES
    return ""


def _model_started(run: Run, n: int, event: ModelStarted) -> str:
    if run.paused:
        return "the run is paused"
    if reason := escaping(run, event):
        return reason
    before = run.model_attempt
    proposal = run.proposal
    if before and not before.expired(event.at, event.worker, event.dead_workers):
        return f"attempt {before.attempt} of turn {run.turn} is still open"
    same_turn = before is not None or (bool(run.turn_attempts) and run.turn_attempts[-1].outcome != "proposed")
    turn = run.turn if same_turn else run.turn + 1
    attempt = run.turn_attempts[-1].attempt + 1 if same_turn else 1
    if turn > run.limits.turns_max:
        return f"the run has had its {run.limits.turns_max} turns"
    if (event.turn, event.attempt) != (turn, attempt):
        return f"the next model call is attempt {attempt} of turn {turn}"
    if proposal is not None and not proposal.answered:
        return "the calls of the last proposal are not all answered"
    if not fits(run, event.cost_max_micros):
        return "its cost does not fit into what the run holds"
    if before:
        supersede(run, before, n)
    if not same_turn:
        run.turn, run.turn_attempts = turn, []
    entered = Attempt(
        n=n, attempt=attempt, purpose=event.purpose, worker=event.worker, started_at=event.at,
        start_by=event.start_by, done_by=event.done_by, cost_max_micros=event.cost_max_micros,
        model=event.model, base_url=event.base_url, turn=turn, active=not waits_for_model(run),
    )  # fmt: skip
    run.turn_attempts.append(entered)
    open_attempt(run, entered)
    return ""


def _use(run: Run, attempt: Attempt, usage: Usage) -> None:
    """Enter the tokens of an attempt; a report below zero gives none back."""
    attempt.usage = usage
    run.tokens += max(usage.total, 0)


def _find(run: Run, turn: int, attempt: int) -> Attempt | None:
    """The model attempt of that turn: one of the present turn, or an older one that speaks late."""
    older = (entered for attempts in run.attempts.values() for entered in attempts if not entered.call)
    return next((a for a in chain(run.turn_attempts, older) if (a.turn, a.attempt) == (turn, attempt)), None)


def _proposed(run: Run, n: int, event: Proposed) -> str:
    attempt = _find(run, event.turn, event.attempt)
    if attempt is None or attempt.closed_n:
        return f"attempt {event.attempt} of turn {event.turn} was not started, or has its result"
    counts = attempt.open and not run.done and attempt.purpose == "turn"
    ids = [call.call for call in event.calls]
    if counts and (len(set(ids)) != len(ids) or any(call in run.calls for call in ids)):
        return "two of its calls have the same id, or an id is used before"
    _use(run, attempt, event.usage)
    count_start(run, attempt, event)
    close_attempt(
        run,
        attempt,
        n,
        outcome="proposed",
        cost_micros=event.cost_micros,
        reported=event.usage_source == "reported",
    )
    if not counts:
        return ""
    calls = [
        CallState(
            call=c.call, tool=c.tool, proposal_n=n, index=i, raw_args=c.args, grant=fold_calls.grant_of(run, c.tool)
        )
        for i, c in enumerate(event.calls)
    ]  # fmt: skip
    run.down_until.pop((attempt.model, attempt.base_url), None)
    run.last_usage = (event.usage.total - event.usage.out, run.context_bytes)
    if not event.final:
        run.returned_in_a_row = 0
    run.proposals.append(ProposalState(n=n, event=event, calls=calls, model=attempt.model, base_url=attempt.base_url))
    run.calls.update((call.call, call) for call in calls)
    said = text_bytes(event.text) + sum(text_bytes(c.args) + text_bytes(c.tool) + ITEM_BYTES for c in event.calls)
    run.context_bytes += max(said, text_bytes(event.blocks)) + ITEM_BYTES
    return ""


def _failed(run: Run, n: int, event: ModelFailedEvent) -> str:
    attempt = _find(run, event.turn, event.attempt)
    if attempt is None or attempt.closed_n:
        return f"attempt {event.attempt} of turn {event.turn} was not started, or has its result"
    if event.usage:
        _use(run, attempt, event.usage)
    attempt.failure = event
    attempt.begun = event.begun or event.possibly_billed or event.charged_micros > 0 or event.usage is not None
    count_start(run, attempt, event)
    if attempt.down:
        run.down_until[attempt.model, attempt.base_url] = down_until(event.at, event)
    reported = not event.possibly_billed
    close_attempt(run, attempt, n, outcome="failed", cost_micros=event.charged_micros, reported=reported)
    return ""


def _compacted(run: Run, n: int, event: Compacted) -> str:
    attempt = _find(run, event.turn, event.attempt)
    if attempt is None or attempt.closed_n or attempt.purpose != "compact":
        return "no compaction was under way"
    if event.covers_to >= n:
        return "it covers events that are not there yet"
    counts = attempt.open and not run.done
    _use(run, attempt, event.usage)
    count_start(run, attempt, event)
    close_attempt(run, attempt, n, outcome="compacted", cost_micros=event.cost_micros, reported=True)
    if not counts:
        return ""
    run.compactions.append(event)
    kept = text_bytes(event.summary) + sum(text_bytes(value.value) + ITEM_BYTES for value in event.values)
    base = run.opened.base_bytes + run.opened.task.text_bytes if run.opened else 0
    after = sum(proposal_bytes(p) for p in run.proposals if p.n > event.covers_to)
    run.context_bytes = base + kept + after + 3 * ITEM_BYTES
    return ""


def proposal_bytes(proposal: ProposalState) -> int:
    """What one proposal and the answers to it take in a prompt, at most."""
    event = proposal.event
    said = text_bytes(event.text) + sum(text_bytes(c.args) + text_bytes(c.tool) + ITEM_BYTES for c in event.calls)
    answers = sum(text_bytes(call.answer) + ITEM_BYTES for call in proposal.calls)
    returned = sum(text_bytes(error) for error in proposal.returned.errors) if proposal.returned else 0
    edits = sum(text_bytes(call.edit.args) for call in proposal.calls if call.edit and call.edit.approves is not None)
    return max(said, text_bytes(event.blocks)) + answers + returned + edits + 2 * ITEM_BYTES


def _sealed(run: Run, n: int, event: Sealed) -> str:
    if run.open_attempts:
        return "a start is still open"
    if run.holds:
        return "a hold is still open"
    run.sealed, run.sealed_n = event, n
    return ""
