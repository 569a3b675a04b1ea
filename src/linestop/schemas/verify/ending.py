"""The rules about how a run ends: stop, answer, seal."""

from __future__ import annotations

import re
from collections.abc import Iterator

from linestop.schemas.events import Accepted, Amended, Fate, Returned, Sealed, Stopped
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import CAUSE, RECEIPT_BYTES_MAX, STATUS, receipt_bytes
from linestop.schemas.run.starting.closing_summary import partial_answer
from linestop.schemas.verify.checker_state import Ledger
from linestop.schemas.verify.verdict import Rule

Violations = Iterator[tuple[Rule, str]]
_REDACTED = re.compile(r"\[redacted:[a-z0-9_]+\]")


def check_stopped(ledger: Ledger, event: Stopped) -> Violations:
    """Check a stop's receipt: the starts that may still be on the wire."""
    listed = {(line.n, line.attempt) for line in event.open}
    if missing := [start for start in ledger.open_starts if (start.n, start.attempt) not in listed]:
        yield "stop", f"Its receipt does not list {missing[0].label}, which was open."


def check_accepted(ledger: Ledger, run: Run, event: Accepted) -> Violations:
    """Check a final answer: it is the model's own, apart from redacted secrets."""
    proposal = ledger.proposals.get(event.proposal_n)
    if proposal is None or not proposal.final:
        yield "answer", f"It accepts event {event.proposal_n}, which is not a final answer."
    elif event.answer != proposal.text and not _differs_by_redaction_only(proposal.text, event.answer):
        yield "answer", "The accepted answer is not the one that the model gave."
    material = ledger.opened.task.material if ledger.opened else ""
    untrusted = any(call.finished is not None and call.finished.untrusted for call in run.calls.values())
    if (untrusted or material) and not event.derived_from_untrusted:
        yield "answer", "It is marked as based on trusted text alone, but untrusted text came before it."


def check_returned(ledger: Ledger, event: Returned) -> Violations:
    """Check an answer that was sent back: it is a final answer, and was not sent back too often."""
    proposal = ledger.proposals.get(event.proposal_n)
    if proposal is None or not proposal.final:
        yield "answer", f"It returns event {event.proposal_n}, which is not a final answer."
    in_a_row = ledger.returned_in_a_row + 1
    if event.returned_in_a_row != in_a_row or in_a_row > ledger.limits.returned_max:
        yield (
            "answer",
            f"It is answer {in_a_row} in a row that is sent back; at most {ledger.limits.returned_max} are allowed.",
        )


def _differs_by_redaction_only(proposed: object, accepted: object) -> bool:
    """Whether ``accepted`` is ``proposed`` with some pieces replaced by ``[redacted:…]`` and nothing else."""
    if not isinstance(proposed, str) or not isinstance(accepted, str) or _REDACTED.search(accepted) is None:
        return False
    first, *pieces = _REDACTED.split(accepted)
    if not proposed.startswith(first):
        return False
    at = len(first)
    for piece in pieces[:-1]:
        piece_at = proposed.find(piece, at)
        if piece_at < 0:
            return False
        at = piece_at + len(piece)
    return len(proposed) - at >= len(pieces[-1]) and proposed.endswith(pieces[-1])


def check_sealed(ledger: Ledger, run: Run, event: Sealed, *, prev: str) -> Violations:
    """Check a seal. ``run`` is the fold of all events before it, ``prev`` the hash of the event before."""
    if not ledger.ended_n:
        yield "seal", "It seals a run that is not over."
    if ledger.open_starts:
        yield "seal", f"It seals the run while {ledger.open_starts[0].label} is open."
    if ledger.holds:
        yield "seal", "It seals the run while it still holds money."
    expected = _expected_ending(ledger)
    if (event.status, event.cause) != expected:
        yield (
            "seal",
            f"It reports the run as {event.status}; by the log it is {expected[0]} ({expected[1] or 'done'}).",
        )
    answer = ledger.accepted.answer if ledger.accepted and expected[0] == "completed" else None
    if event.answer != answer:
        yield "seal", "Its answer is not the accepted one."
    why = ledger.stopped.why if ledger.stopped else ledger.refused.sentence if ledger.refused else ""
    if event.why != why:
        yield "seal", "It gives another reason than the event that ended the run."
    yield from _check_partial(ledger, run, event)
    if event.head_sha256 != prev:
        yield "seal", "It names another head than the event before it."
    yield from _check_record(ledger, run, event)


def _check_partial(ledger: Ledger, run: Run, event: Sealed) -> Violations:
    """Check the partial answer of a run that did not complete."""
    if event.partial_is and (event.partial, event.partial_is) != partial_answer(run):
        yield "seal", f"The run's {event.partial_is} that it gives is not in the log."
    texts = [proposal.text for proposal in ledger.proposals.values() if isinstance(proposal.text, str)]
    if event.partial and not event.partial_is and not any(text.startswith(event.partial) for text in texts):
        yield "seal", "The partial answer that it gives is not a text of the model."


def check_amended(ledger: Ledger, run: Run, event: Amended) -> Violations:
    """Check a receipt that was made again after late results."""
    unknown = [n for n in event.facts if n not in ledger.late_results]
    if unknown:
        yield "seal", f"It names event {unknown[0]} as a late result, which it is not."
    if missing := [n for n in run.late_results if n not in event.facts]:
        yield "seal", f"It leaves out event {missing[0]}, which came after the seal."
    yield from _check_record(ledger, run, event)


def _expected_ending(ledger: Ledger) -> tuple[str, str]:
    if ledger.stopped:
        return STATUS[ledger.stopped.code], CAUSE[ledger.stopped.code]
    return ("refused", "validation") if ledger.refused else ("completed", "")


def _check_record(ledger: Ledger, run: Run, event: Sealed | Amended) -> Violations:
    """Compare receipt and totals with the log."""
    receipt = {line.call: line for line in event.receipt}
    due = {
        call.name: Fate(
            call=call.name,
            tool=call.tool,
            fate=run.calls[call.name].fate,
            attempts=len(call.effects),
            effect_key=call.judged.effect_key,
        )
        for call in ledger.calls.values()
        if call.judged and call.judged.verdict == "pass" and call.name in run.calls
    }
    listed = len(receipt) == len(event.receipt) and set(receipt) <= set(due)
    # Only a receipt that is too long may leave calls out, and it says how many.
    fits = receipt_bytes(due.values()) <= RECEIPT_BYTES_MAX
    if not listed or len(due) - len(receipt) != event.receipt_omits or (event.receipt_omits and fits):
        yield "seal", "Its receipt does not list exactly the calls that passed."
    for name, line in receipt.items():
        if name in due and line != due[name]:
            yield "seal", f"Its receipt calls '{name}' {line.fate} after {line.attempts}; it is {due[name].fate}."
    totals = event.totals
    calls = sum(1 for call in ledger.calls.values() if call.effects)
    counts = (totals.turns, totals.calls, totals.tokens, totals.cost_micros, totals.events)
    if counts != (ledger.turn, calls, ledger.tokens, ledger.spent_micros, run.n) or totals.wait_s != round(
        run.wait_s, 3
    ):
        yield "seal", "Its totals (turns, calls, tokens, cost, waits, events) are not those of the log."
