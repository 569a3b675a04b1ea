"""The rules by which an event changes a run: one function an event, and the phase that follows.

Each rule either changes the ``Run`` and returns an empty string, or changes nothing and returns why the event is
ignored. The rules enforce the promises: a start without a reservation, or a grant for other arguments than those asked
about, is ignored by every reader of the log, whichever process wrote it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import msgspec

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
    Widened,
)
from linestop.schemas.run import approval_rules, call_rules, model_rules, money_rules, widened_contract_rules
from linestop.schemas.run.call_states import ITEM, Attempt, CallState, ProposalState, Stage, text_size
from linestop.schemas.run.clamped_limits import clamp_limits
from linestop.schemas.run.model_order import has_no_try_left
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.prompt_size import base_size
from linestop.schemas.text_size import total

if TYPE_CHECKING:
    from linestop.schemas.run.state import Run

ACTING_STAGES = {Stage.READY, Stage.OPEN, Stage.CHECK}


def apply(run: Run, role: str, n: int, event: AnyEvent) -> str:  # noqa: C901, PLR0912 - one arm an event
    """Apply ``event`` (number ``n``, legal in this phase) to ``run``; return why it is ignored, or ''."""
    match event:
        case Opened() | Refused() | Stopped() | Paused() | Resumed() | Accepted() | Returned():
            return _milestone(run, role, event)
        case Judged():
            return call_rules.apply_judged(run, n, event)
        case Checked():
            return call_rules.apply_checked(run, n, event)
        case Cleared():
            return approval_rules.apply_cleared(run, n, event)
        case Asked():
            return approval_rules.apply_asked(run, event)
        case Granted():
            return approval_rules.apply_granted(run, n, event)
        case Denied():
            return approval_rules.apply_denied(run, n, event)
        case Edited() | Answered() | Resolved():
            return approval_rules.apply_person_input(run, n, event)
        case Held():
            return money_rules.apply_held(run, event)
        case Queued():
            return money_rules.apply_queued(run, event)
        case Settled():
            return money_rules.apply_settled(run, event)
        case Warned():
            run.warned.add(event.limit)
            return ""
        case ModelStarted():
            return model_rules.apply_model_started(run, n, event)
        case Proposed():
            return model_rules.apply_proposed(run, n, event)
        case ModelFailedEvent():
            return model_rules.apply_failed(run, n, event)
        case Compacted():
            return model_rules.apply_compacted(run, n, event)
        case EffectStarted():
            return call_rules.apply_started(run, n, event)
        case Finished():
            return call_rules.apply_finished(run, n, event)
        case Widened():
            return widened_contract_rules.widened(run, event)
        case Sealed():
            return _seal(run, n, event)
        case Amended():
            run.amended = event
            run.late_results = [fact for fact in run.late_results if fact not in event.facts]
            return ""
        case _:
            assert_never(event)


def phase_of(run: Run) -> Phase:
    """Return the phase of the run, derived from its state."""
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
    if proposal and not proposal.is_complete:
        phase = _phase_of_proposal(proposal)
        return Phase.WAITING if phase is Phase.ACTING and _waits_for_spending_decision(run, proposal) else phase
    return Phase.WAITING if run.spend_asked else Phase.QUEUED


def _waits_for_spending_decision(run: Run, proposal: ProposalState) -> bool:
    """Whether calls wait only for the decision about spending."""
    return run.spend_asked is not None and not any(c.stage in {Stage.OPEN, Stage.CHECK} for c in proposal.calls)


def _phase_of_proposal(proposal: ProposalState) -> Phase:
    if proposal.event.final:
        return Phase.ANSWERING
    stages = {call.stage for call in proposal.calls}
    if Stage.PENDING in stages:
        return Phase.JUDGING
    if Stage.GATE in stages:
        return Phase.CLEARING
    if any(call.stage in ACTING_STAGES and not waits_for_earlier_call(proposal, call) for call in proposal.calls):
        return Phase.ACTING
    return Phase.WAITING


def waits_for_model(run: Run) -> bool:
    """Whether the run's model is down and its agent's file says ``queue``: that time is not active.

    It lasts from the failure that used up the usual retries until an answer, attempts in between included.
    """
    if run.opened is None or run.opened.on_model_down != "queue" or run.phase not in {Phase.QUEUED, Phase.THINKING}:
        return False
    ended = [attempt for attempt in run.turn_attempts if not attempt.open and attempt.begun]
    if not ended or not ended[-1].down:
        return False
    return has_no_try_left(run, ended)


def waits_for_earlier_call(proposal: ProposalState | None, call: CallState) -> bool:
    """Whether a call is ready but ordered, and an earlier one has no outcome: then it must wait."""
    if proposal is None or call.stage is not Stage.READY or call.grant is None or not call.grant.ordered:
        return False
    return any(other.stage is not Stage.ENDED for other in proposal.calls[: call.index])


def open_attempt(run: Run, attempt: Attempt) -> None:
    """Record a start: from here its reservation counts."""
    run.attempts.setdefault(attempt.n, []).append(attempt)
    run.open_attempts.append(attempt)
    run.reserved_micros += attempt.cost_max_micros


def close_attempt(  # noqa: PLR0913 - the fields of a result
    run: Run, attempt: Attempt, n: int, *, outcome: str, cost_micros: int, reported: bool
) -> None:
    """Record an attempt's outcome; its real cost replaces the reservation, also long after it was superseded."""
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
        run.late_results.append(n)


def supersede(run: Run, attempt: Attempt, n: int) -> None:
    """Take over from an attempt that is past its deadline: it is charged at its reservation until its result comes."""
    run.open_attempts.remove(attempt)
    run.reserved_micros -= attempt.cost_max_micros
    run.spent_micros += attempt.cost_max_micros
    attempt.charged_micros = attempt.cost_max_micros
    attempt.superseded_n = n
    if attempt.charges_tokens:
        attempt.tokens = attempt.input_tokens_max + attempt.output_tokens_max
        run.tokens += attempt.tokens


def fits(run: Run, cost_max_micros: int) -> bool:
    """Whether a start of this cost fits into the run's hold (a takeover frees nothing: it is charged)."""
    return 0 <= cost_max_micros <= run.available_micros


def _milestone(run: Run, role: str, event: Opened | Refused | Stopped | Paused | Resumed | Accepted | Returned) -> str:
    match event:
        case Opened():
            run.opened, run.opened_at = clamp_limits(event), event.at
            run.context = base_size(event) + ITEM
        case Refused():
            if run.opened or run.refused:
                return "the task was opened or refused before"
            run.refused = event
        case Stopped():
            if run.stopped is None:
                run.stopped, run.stopped_role = event, role
            elif event.overrides(run.stopped):
                run.stopped = msgspec.structs.replace(run.stopped, mode=event.mode)
        case Paused():
            run.paused = event
        case Resumed():
            run.paused = None
        case Accepted() | Returned():
            return _accept_or_return(run, event)
        case _:
            assert_never(event)
    return ""


def _accept_or_return(run: Run, event: Accepted | Returned) -> str:
    proposal = run.proposal
    if proposal is None or proposal.n != event.proposal_n or not proposal.event.final:
        return f"event {event.proposal_n} is not the final answer under judgement"
    if isinstance(event, Accepted):
        proposal.accepted, run.accepted = True, event
        return ""
    if run.returned_in_a_row >= run.limits.returned_max:
        return "the answer was already returned as often in a row as the run's limits allow"
    proposal.returned = event
    run.returned_in_a_row += 1
    run.context += total(map(text_size, event.errors)) + ITEM
    return ""


def _seal(run: Run, n: int, event: Sealed) -> str:
    if run.open_attempts:
        return "a start is still open"
    if run.holds:
        return "a hold is still open"
    run.sealed, run.sealed_n = event, n
    return ""
