"""Budget: what may this run spend?

It protects the accounts and the run's own cost limit. It reads what the run holds, has spent and has
reserved, and the price of the next start. It appends ``held`` before a start that is not covered, ``queued`` when
that must wait for money which other runs hold, ``warned`` once for each limit, ``settled`` when nothing is
open any more, and ``stopped`` when lack of money ends the run.

A start is its own reservation (the fold ignores a start that does not fit), so a budget is a bound and not a
measurement taken afterwards.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from linestop.actors.facts import Reservation
from linestop.actors.role_facts import BudgetFacts
from linestop.schemas.account_names import budget_sentence, owner_of, period_end, setting_of
from linestop.schemas.dollars import dollars
from linestop.schemas.events import (
    AnyEvent,
    CostLine,
    Held,
    LimitHit,
    Queued,
    Settled,
    SettledHold,
    Stopped,
    Warned,
)
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.run.starting.next_start import NextStart, hold_min_micros, hold_target_micros, next_start
from linestop.schemas.subjects import RoleName

ACCOUNTS_UNAVAILABLE = "the accounts cannot be changed now: "
"""Stands before the cause in the reason why a run waits for money."""


class Budget:
    """The budget role."""

    name: RoleName = "budget"
    wakes: frozenset[str] = frozenset(
        {
            "validator.opened",
            "validator.accepted",
            "validator.returned",
            "validator.refused",
            "validator.checked",
            "validator.judged",
            "approver.cleared",
            "approver.granted",
            "approver.denied",
            "approver.resolved",
            "approver.answered",
            "approver.resumed",
            "executor.finished",
            "planner.proposed",
            "planner.failed",
            "planner.compacted",
            "stopped",
        }
    )
    facts_type = BudgetFacts

    def decide(self, run: Run, facts: BudgetFacts, now: datetime) -> AnyEvent | None:
        """Settle a run that is over, hold money for one that is not covered, warn, or stop it."""
        if run.sealed or run.has_unknown_events:
            return None
        if run.done:
            return _settle(run) if run.holds and not run.open_attempts else None
        if run.opened is None or run.is_full:
            return None
        return _warn(run) or _hold_or_wait(run, facts.reservation, now)


def next_hold(run: Run, now: datetime) -> tuple[str, int]:
    """Return the hold that this run wants now: its id and amount in micro-dollars, or ('', 0).

    The id consists of the run and the hold's ordinal, so asking the accounts twice is the same as asking once.
    """
    start = next_start(run, now)
    if not isinstance(start, NextStart) or run.done:
        return "", 0
    amount = hold_target_micros(run, start)
    return (_next_hold_id(run), amount) if amount > 0 else ("", 0)


def next_hold_min_micros(run: Run, now: datetime) -> int:
    """Return the part of the wanted hold that the next start needs at least, in micro-dollars."""
    start = next_start(run, now)
    return hold_min_micros(run, start) if isinstance(start, NextStart) else 0


def _next_hold_id(run: Run) -> str:
    """Return the id of the run's next hold; it names the tenant, since all tenants share the system's account."""
    return f"{run.tenant}.{run.run}.{run.holds_made + 1}"


def _hold_or_wait(run: Run, reservation: Reservation | None, now: datetime) -> Held | Queued | Stopped | None:
    start = next_start(run, now)
    if not isinstance(start, NextStart):
        return None
    amount = hold_target_micros(run, start)
    if amount == 0:
        return None
    if amount < 0:
        return _stop_at_cost_limit(run, start, now)
    if reservation is None or reservation.hold != _next_hold_id(run):
        return None
    if reservation.refused_account or reservation.cause:
        return _wait_or_stop(run, start, reservation)
    return Held(
        hold=reservation.hold,
        amount_micros=reservation.amount_micros,
        accounts=reservation.accounts,
        price_table=start.model.price.table if start.model else "",
        release_after=now + timedelta(seconds=run.limits.run_max_s),
    )


def _stop_at_cost_limit(run: Run, start: NextStart, now: datetime) -> Stopped | None:
    """Stop a run whose next start exceeds its own limit; while open starts may still cost less, the run waits."""
    if any(not attempt.expired(now) for attempt in run.open_attempts):
        return None
    spent = run.spent_micros + run.reserved_micros
    limit = LimitHit(name="cost_max_micros", value=spent + start.cost_max_micros, max_value=run.limits.cost_max_micros)
    why = (
        f"The next step may cost {dollars(start.cost_max_micros)}, but of the run's limit 'cost_max_micros' "
        f"({dollars(run.limits.cost_max_micros)}) only {dollars(run.limits.cost_max_micros - spent)} is left."
    )
    return stop_event(run, by="budget", why=why, code="budget", limit=limit)


def _wait_or_stop(run: Run, start: NextStart, reservation: Reservation) -> Queued | Stopped | None:
    """Let the run wait for money that other runs hold, or stop it if the next start can never be covered."""
    if run.queued and (reservation.may_wait or reservation.cause):
        return None
    if run.open_attempts:
        # An open start may cost less than it reserves; budget decides again when it has ended.
        return None
    need = hold_min_micros(run, start)
    step = f"The next step may cost {dollars(start.cost_max_micros)}"
    if reservation.cause:
        why = f"{step}; {ACCOUNTS_UNAVAILABLE}{reservation.cause}"
        return Queued(need_micros=need, why=why, holds=_settled_holds(run))
    assert run.opened is not None
    line = next(a for a in reservation.accounts if a.account == reservation.refused_account)
    owner = owner_of(line, run.tenant, run.opened.task.user)
    why = f"{step}; {budget_sentence(line, owner)}."
    if reservation.may_wait:
        return Queued(
            need_micros=need,
            why=why,
            owner=owner,
            account=line,
            resets_at=period_end(line.period),
            holds=_settled_holds(run),
        )
    why += f" Submit the task again then, or raise '{setting_of(line)}' under [accounts]."
    hit = LimitHit(
        name=line.account,
        value=line.before_micros + need,
        max_value=line.limit_micros,
        period=line.period,
        spent=line.spent_micros,
    )
    return stop_event(run, by="budget", why=why, code="budget", limit=hit)


def _warn(run: Run) -> Warned | None:
    spent = run.spent_micros + run.reserved_micros
    for limit, value, value_max in (
        ("cost_max_micros", spent, run.limits.cost_max_micros),
        ("tokens_max", run.tokens, run.limits.tokens_max),
    ):
        if limit not in run.warned and value * 100 >= value_max * run.limits.warn_percent:
            return Warned(limit=limit, value=value, max_value=value_max)
    return None


def _settled_holds(run: Run) -> tuple[SettledHold, ...]:
    """Return how much the run has spent of each open hold: the oldest is used up first, the last bears any excess.

    There is an excess only if a provider reported more than it could have used; the accounts are charged like the run.
    """
    left = run.unsettled_micros
    lines: list[SettledHold] = []
    for place, (hold, held) in enumerate(run.holds.items(), start=1):
        spent = left if place == len(run.holds) else min(left, held.amount_micros)
        left -= spent
        lines.append(SettledHold(hold=hold, spent_micros=spent, released_micros=max(held.amount_micros - spent, 0)))
    return tuple(lines)


def _settle(run: Run) -> Settled:
    by_event = tuple(
        CostLine(
            n=attempt.closed_n or attempt.n,
            cost_micros=attempt.charged_micros,
            usage=attempt.usage,
            source=attempt.source,
        )
        for attempts in run.attempts.values()
        for attempt in attempts
        if attempt.charged_micros
    )
    return Settled(holds=_settled_holds(run), by_event=by_event)
