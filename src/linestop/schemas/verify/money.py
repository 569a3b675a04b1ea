"""The rules about holds, settlements, waits for money and budget warnings (P4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from linestop.schemas.account_names import period_end
from linestop.schemas.events import Held, Queued, Settled, SettledHold, Warned
from linestop.schemas.verify.checker_state import Ledger
from linestop.schemas.verify.verdict import Rule

Violations = Iterator[tuple[Rule, str]]
_RESERVED_BEFORE_MAX_S = 600
"""How long before its event a hold may have been taken from the accounts: an hour or day may end in between."""


def check_held(ledger: Ledger, event: Held) -> Violations:
    """Check that a hold fits the run's limit and the limits of the accounts."""
    held, hold_max_micros = ledger.held_micros + event.amount_micros, ledger.limits.cost_max_micros
    if event.amount_micros < 0 or held > hold_max_micros:
        yield "budget", f"The run would hold {held} micro-dollars; its limit is {hold_max_micros}."
    if event.hold in ledger.holds:
        yield "budget", f"The hold '{event.hold}' exists twice."
    for line in event.accounts:
        if line.before_micros < 0 or line.before_micros + event.amount_micros > line.limit_micros:
            yield "budget", f"The hold does not fit into the account '{line.account}'."
    yield from _check_accounts(ledger, event)


def _check_accounts(ledger: Ledger, event: Held) -> Violations:
    """Check a hold's accounts: the system's hour, the tenant's day, and the user's day if the task names a user."""
    hold = f"{ledger.tenant}.{ledger.run}.{ledger.holds_made + 1}"
    if event.hold != hold:
        yield "budget", f"The hold is called '{event.hold}'; the run's next is '{hold}'."
    user = ledger.opened is not None and bool(ledger.opened.task.user)
    due = ["system", f"tenant-{ledger.tenant}", *([f"user-{ledger.tenant}-"] if user else [])]
    named = [line.account for line in event.accounts]
    if len(named) != len(due) or not all(name.startswith(start) for name, start in zip(named, due, strict=True)):
        yield (
            "budget",
            f"It takes money from the accounts {', '.join(named) or 'none'}; it should take it from {', '.join(due)}.",
        )
        return
    moments = (event.at, event.at - timedelta(seconds=_RESERVED_BEFORE_MAX_S))
    for line in event.accounts:
        form = "%Y-%m-%d-%H" if line.account == "system" else "%Y-%m-%d"
        if line.period not in {moment.strftime(form) for moment in moments}:
            yield "budget", f"It is taken from the account '{line.account}' of another time ({line.period})."


def check_settled(ledger: Ledger, event: Settled) -> Violations:
    """Check the settlement of the run's money."""
    if ledger.open_starts:
        yield "budget", f"It settles the run while {ledger.open_starts[0].label} is open."
    yield from _check_lines(ledger, event.holds)
    spent = ledger.spent_micros
    lines = sum(line.cost_micros for line in event.by_event)
    due = Counter((start.closed_n or start.n, start.charged_micros) for start in ledger.starts if start.charged_micros)
    if lines != spent:
        yield "budget", f"Its lines add up to {lines} micro-dollars; by the log it is {spent}."
    elif Counter((line.n, line.cost_micros) for line in event.by_event) != due:
        yield "budget", "Its lines charge other events than those that cost something."


def _check_lines(ledger: Ledger, holds: tuple[SettledHold, ...]) -> Violations:
    """Check the lines of the open holds: each hold is named once, with the amount that was spent of it."""
    amounts = {hold: held.amount_micros for hold, held in ledger.holds.items()}
    named = {line.hold: line for line in holds}
    if set(named) != set(amounts) or len(named) != len(holds):
        yield "budget", "It does not settle exactly the open holds."
    for hold, line in named.items():
        amount = amounts.get(hold, -1)
        if line.spent_micros < 0 or line.released_micros != max(amount - line.spent_micros, 0):
            yield "budget", f"The amounts spent and released of the hold '{hold}' do not add up to the hold."
    spent, sums = ledger.spent_micros - ledger.settled_micros, sum(line.spent_micros for line in holds)
    if sums != (max(spent, 0) if amounts else 0):
        yield "budget", f"It settles {sums} micro-dollars as spent; by the log it is {spent}."


def check_queued(ledger: Ledger, event: Queued) -> Violations:
    """Check a wait for money: the accounts had no room, and exactly the unspent rest is given back."""
    if ledger.open_starts:
        yield "budget", f"It gives the run's money back while {ledger.open_starts[0].label} is open."
    yield from _check_lines(ledger, event.holds)
    if event.need_micros <= 0:
        yield "budget", "It waits for money although the next start needs none."
    line = event.account
    if line is None:
        return
    if not 0 <= line.spent_micros <= line.before_micros or line.spent_micros + event.need_micros > line.limit_micros:
        yield "budget", f"It waits for the account '{line.account}', which can never have room for the next start."
    if event.resets_at != period_end(line.period):
        yield "budget", f"Its reset time is not the end of the period {line.period} of the account '{line.account}'."


def check_warned(ledger: Ledger, event: Warned) -> Violations:
    """Check a warning: each limit has one only, so a false one would suppress the true one."""
    reserved = sum(start.cost_max_micros for start in ledger.open_starts)
    due = {
        "cost_max_micros": (ledger.spent_micros + reserved, ledger.limits.cost_max_micros),
        "tokens_max": (ledger.tokens, ledger.limits.tokens_max),
    }.get(event.limit)
    if due is not None and (event.value, event.max_value) != due:
        yield "budget", f"It warns of {event.value} of {event.max_value}; by the log it is {due[0]} of {due[1]}."
