"""The rules about money held and settled (P4), and about how a run ends: stop, answer, seal."""

from __future__ import annotations

import re
from collections.abc import Iterator

from linestop.schemas.events import Accepted, Amended, Fate, Held, Sealed, Settled, Stopped
from linestop.schemas.run import Run
from linestop.schemas.stops import CAUSE, STATUS
from linestop.schemas.verify.ledger import Ledger
from linestop.schemas.verify.verdict import Rule

Found = Iterator[tuple[Rule, str]]
_REDACTED = re.compile(r"\[redacted:[a-z0-9_]+\]")


def check_held(ledger: Ledger, event: Held) -> Found:
    """What is wrong with a hold: over the run's limit, or over an account's."""
    held, most = ledger.held_micros + event.amount_micros, ledger.limits.cost_max_micros
    if event.amount_micros < 0 or held > most:
        yield "budget", f"The run would hold {held} micro-dollars; its limit is {most}."
    if event.hold in ledger.holds:
        yield "budget", f"The hold '{event.hold}' is there twice."
    for line in event.accounts:
        if line.before_micros + event.amount_micros > line.limit_micros:
            yield "budget", f"The hold does not fit into the account '{line.account}'."


def check_settled(ledger: Ledger, event: Settled) -> Found:
    """What is wrong with an account of the run's money."""
    if ledger.open_starts:
        yield "budget", f"It settles the run while {ledger.open_starts[0].label} is open."
    amounts = {hold: held.amount_micros for hold, held in ledger.holds.items()}
    named = {line.hold: line for line in event.holds}
    if set(named) != set(amounts) or len(named) != len(event.holds):
        yield "budget", "It does not settle exactly the open holds."
    for hold, line in named.items():
        if line.spent_micros < 0 or line.spent_micros + line.released_micros != amounts.get(hold, -1):
            yield "budget", f"What it says is spent and released of the hold '{hold}' is not what was held."
    spent, sums = ledger.spent_micros, sum(line.spent_micros for line in event.holds)
    if sums != min(spent, sum(amounts.values())):
        yield "budget", f"It settles {sums} micro-dollars as spent; by the log it is {spent}."
    lines = sum(line.cost_micros for line in event.by_event)
    if lines != spent:
        yield "budget", f"Its lines add up to {lines} micro-dollars; by the log it is {spent}."


def check_stopped(ledger: Ledger, event: Stopped) -> Found:
    """What is wrong with a stop's receipt: the starts that may still be on the wire."""
    listed = {(line.n, line.attempt) for line in event.open}
    if missing := [start for start in ledger.open_starts if (start.n, start.attempt) not in listed]:
        yield "stop", f"Its receipt does not list {missing[0].label}, which was open."


def check_accepted(ledger: Ledger, event: Accepted) -> Found:
    """What is wrong with a final answer: not what the model said, secrets aside."""
    proposal = ledger.proposals.get(event.proposal_n)
    if proposal is None or not proposal.final:
        yield "answer", f"It accepts event {event.proposal_n}, which is no final answer."
    elif event.answer != proposal.text and not _only_redacted(proposal.text, event.answer):
        yield "answer", "The accepted answer is not the one that the model gave."


def _only_redacted(said: object, accepted: object) -> bool:
    """Whether ``accepted`` is ``said`` with some pieces replaced by ``[redacted:…]`` and nothing else."""
    if not isinstance(said, str) or not isinstance(accepted, str) or _REDACTED.search(accepted) is None:
        return False
    first, *pieces = _REDACTED.split(accepted)
    if not said.startswith(first):
        return False
    at = len(first)
    for piece in pieces[:-1]:
        found = said.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return len(said) - at >= len(pieces[-1]) and said.endswith(pieces[-1])


def check_sealed(ledger: Ledger, run: Run, event: Sealed, *, prev: str) -> Found:
    """What is wrong with a seal. ``run`` is the fold of all before it, ``prev`` the hash of the event before."""
    if not ledger.over_n:
        yield "seal", "It seals a run that is not over."
    if ledger.open_starts:
        yield "seal", f"It seals the run while {ledger.open_starts[0].label} is open."
    if ledger.holds:
        yield "seal", "It seals the run while it still holds money."
    expected = _ending(ledger)
    if (event.status, event.cause) != expected:
        yield (
            "seal",
            f"It says the run ended as {event.status}; by the log it is {expected[0]} ({expected[1] or 'done'}).",
        )
    answer = ledger.accepted.answer if ledger.accepted and expected[0] == "completed" else None
    if event.answer != answer:
        yield "seal", "Its answer is not the accepted one."
    if event.head_sha256 != prev:
        yield "seal", "It names another head than the event before it."
    yield from _check_record(ledger, run, event)


def check_amended(ledger: Ledger, run: Run, event: Amended) -> Found:
    """What is wrong with a receipt that was made anew after late facts."""
    unknown = [n for n in event.facts if n not in ledger.late_facts]
    if unknown:
        yield "seal", f"It names event {unknown[0]} as a late fact, which it is not."
    yield from _check_record(ledger, run, event)


def _ending(ledger: Ledger) -> tuple[str, str]:
    if ledger.stopped:
        return STATUS[ledger.stopped.code], CAUSE[ledger.stopped.code]
    return ("refused", "validation") if ledger.refused else ("completed", "")


def _check_record(ledger: Ledger, run: Run, event: Sealed | Amended) -> Found:
    """Receipt and totals against the log."""
    receipt = {line.call: line for line in event.receipt}
    passed = [call for call in ledger.calls.values() if call.judged and call.judged.verdict == "pass"]
    if len(receipt) != len(event.receipt) or set(receipt) != {call.name for call in passed}:
        yield "seal", "Its receipt does not list exactly the calls that were let pass."
    for call in passed:
        assert call.judged is not None
        state, line = run.calls.get(call.name), receipt.get(call.name)
        if state is None or line is None:
            continue
        due = Fate(
            call=call.name, tool=call.tool, fate=state.fate, attempts=len(call.effects),
            effect_key=call.judged.effect_key,
        )  # fmt: skip
        if line != due:
            yield "seal", f"Its receipt calls '{call.name}' {line.fate} after {line.attempts}; it is {due.fate}."
    totals = event.totals
    calls = sum(1 for call in ledger.calls.values() if call.effects)
    said = (totals.turns, totals.calls, totals.tokens, totals.cost_micros, totals.events)
    if said != (ledger.turn, calls, ledger.tokens, ledger.spent_micros, run.n):
        yield "seal", "Its totals (turns, calls, tokens, cost, events) are not those of the log."
