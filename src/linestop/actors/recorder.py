"""Recorder: what is the permanent record?

It protects the record. It reads runs that are over: answered, stopped or refused, with nothing open and
nothing held. It appends ``sealed`` (status, answer, receipt, totals), and ``amended`` when a late result arrives.
The outcome and the archive follow from the sealed log.
"""

from __future__ import annotations

from datetime import datetime

from linestop.actors.role_facts import RecorderFacts
from linestop.schemas.events import Amended, AnyEvent, Fate, Sealed, SealStatus, Totals
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import CAUSE, STATUS, fit_receipt
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.starting.closing_summary import NO_PARTIAL, partial_answer
from linestop.schemas.subjects import RoleName


class Recorder:
    """The recorder role."""

    name: RoleName = "recorder"
    wakes: frozenset[str] = frozenset(
        {
            "validator.refused",
            "validator.accepted",
            "budget.settled",
            "planner.proposed",
            "planner.failed",
            "planner.compacted",
            "executor.finished",
            "recorder.sealed",
            "stopped",
        }
    )
    facts_type = RecorderFacts

    def decide(self, run: Run, facts: RecorderFacts, now: datetime) -> AnyEvent | None:
        """Seal a run that is over; amend a sealed one that got late results."""
        del facts, now
        if run.has_unknown_events:
            return None
        if run.sealed:
            if not run.late_results:
                return None
            fates = receipt(run)
            listed = fit_receipt(fates)
            return Amended(
                facts=tuple(run.late_results),
                receipt=listed,
                receipt_omits=len(fates) - len(listed),
                totals=totals(run),
            )
        if run.phase not in {Phase.SETTLING, Phase.DRAINING} or run.open_attempts or run.holds:
            return None
        return sealed_event(run)


def sealed_event(run: Run) -> Sealed:
    """Return the event that closes the record of a run that is over."""
    status, cause, why = ending(run)
    answer = run.accepted.answer if run.accepted and status == "completed" else None
    partial_text, partial_is = partial_answer(run) if answer is None else NO_PARTIAL
    fates = receipt(run)
    listed = fit_receipt(fates)
    return Sealed(
        status=status,
        cause=cause,
        why=why,
        answer=answer,
        partial=partial_text,
        partial_is=partial_is,
        receipt=listed,
        receipt_omits=len(fates) - len(listed),
        totals=totals(run),
        head_sha256=run.head,
    )


def ending(run: Run) -> tuple[SealStatus, str, str]:
    """Return how the run ended: status, cause class, and the reason in one sentence."""
    if run.stopped:
        return STATUS[run.stopped.code], CAUSE[run.stopped.code], run.stopped.why
    if run.refused:
        return "refused", "validation", run.refused.sentence
    return "completed", "", ""


def receipt(run: Run) -> tuple[Fate, ...]:
    """Return the fate of every call that passed the validator, started or not."""
    return tuple(
        Fate(
            call=call.call,
            tool=call.tool,
            fate=call.fate,
            attempts=len(call.effects),
            effect_key=call.judged.effect_key if call.judged else "",
        )
        for call in run.calls.values()
        if call.has_passed
    )


def totals(run: Run) -> Totals:
    """Return what the run used: turns, calls, tokens, cost, waiting time and events."""
    return Totals(
        turns=run.turn,
        calls=sum(1 for call in run.calls.values() if call.effects),
        tokens=run.tokens,
        cost_micros=run.spent_micros,
        wait_s=round(run.wait_s, 3),
        events=run.n,
    )
