"""Budget: what may this run spend?

It protects the accounts and the run's own cost limit. It reads what the run holds, has spent and has
reserved, and the price of the next start. It says ``held`` before a start that is not covered, ``warned``
once a limit, ``settled`` when nothing is open any more, and ``stopped`` when money is what ends the run.

A start is its own reservation (the fold ignores a start that does not fit), so a budget is a bound and not a
measurement taken afterwards.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from linestop.actors.facts import Facts, Reservation
from linestop.schemas.events import (
    AnyEvent,
    CostLine,
    Cue,
    Held,
    LimitHit,
    Settled,
    SettledHold,
    Stopped,
    Warned,
)
from linestop.schemas.next_start import NextStart, hold_wanted_micros, next_start
from linestop.schemas.run import Run
from linestop.schemas.stops import stopped
from linestop.schemas.subjects import RoleName


class Budget:
    """The budget role."""

    name: RoleName = "budget"
    wakes: frozenset[str] = frozenset({
        "validator.opened", "validator.accepted", "validator.returned", "validator.refused", "validator.checked",
        "validator.judged", "approver.cleared", "approver.granted", "approver.denied", "approver.resolved",
        "approver.answered", "approver.resumed", "executor.finished", "planner.proposed", "planner.failed",
        "planner.compacted", "stopped",
    })  # fmt: skip
    needs: tuple[type[Any], ...] = (Reservation,)

    def decide(self, run: Run, cue: Cue, facts: Facts, now: datetime) -> AnyEvent | None:
        """Settle a run that is over, hold for one that is not covered, warn, or stop it."""
        del cue
        if run.sealed or run.blind:
            return None
        if run.done:
            return _settle(run) if run.holds and not run.open_attempts else None
        if run.opened is None or run.full:
            return None
        return _warn(run) or _hold(run, facts.get(Reservation), now)


def wanted(run: Run, now: datetime) -> tuple[str, int]:
    """The hold this run wants now: its id and amount in micro-dollars, or ('', 0).

    The id is made from the run and the hold's ordinal, so asking the accounts twice is asking once.
    """
    start = next_start(run, now)
    if not isinstance(start, NextStart) or run.done:
        return "", 0
    amount = hold_wanted_micros(run, start)
    return (_next_hold(run), amount) if amount > 0 else ("", 0)


def _next_hold(run: Run) -> str:
    """The id of the run's next hold; with the tenant, since all tenants' holds share the system's account."""
    return f"{run.tenant}.{run.run}.{run.holds_made + 1}"


def _hold(run: Run, reservation: Reservation | None, now: datetime) -> Held | Stopped | None:
    start = next_start(run, now)
    if not isinstance(start, NextStart):
        return None
    amount = hold_wanted_micros(run, start)
    if amount == 0:
        return None
    if amount < 0:
        spent = run.spent_micros + run.reserved_micros
        limit = LimitHit(
            name="cost_max_micros", value=spent + start.cost_max_micros, max_value=run.limits.cost_max_micros
        )
        why = f"The next step may cost ${start.cost_max_micros / 1e6:.4f}, which no longer fits into the run's budget."
        return stopped(run, by="budget", why=why, code="budget", limit=limit)
    if reservation is None or reservation.hold != _next_hold(run):
        return None
    if reservation.refused_account:
        line = next((a for a in reservation.accounts if a.account == reservation.refused_account), None)
        hit = LimitHit(
            name=reservation.refused_account,
            value=line.before_micros + amount if line else 0,
            max_value=line.limit_micros if line else 0,
        )
        why = f"The account '{reservation.refused_account}' has no room for ${amount / 1e6:.4f} more."
        return stopped(run, by="budget", why=why, code="budget", limit=hit)
    return Held(
        hold=reservation.hold,
        amount_micros=reservation.amount_micros,
        accounts=reservation.accounts,
        price_table=start.model.price.table if start.model else "",
        release_after=now + timedelta(seconds=run.limits.run_max_s),
    )


def _warn(run: Run) -> Warned | None:
    spent = run.spent_micros + run.reserved_micros
    for limit, value, most in (
        ("cost_max_micros", spent, run.limits.cost_max_micros),
        ("tokens_max", run.tokens, run.limits.tokens_max),
    ):
        if limit not in run.warned and value * 100 >= most * run.limits.warn_percent:
            return Warned(limit=limit, value=value, max_value=most)
    return None


def _settle(run: Run) -> Settled:
    left = run.spent_micros
    lines: list[SettledHold] = []
    for hold, held in run.holds.items():
        spent = min(left, held.amount_micros)
        left -= spent
        lines.append(SettledHold(hold=hold, spent_micros=spent, released_micros=held.amount_micros - spent))
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
    return Settled(holds=tuple(lines), by_event=by_event)
