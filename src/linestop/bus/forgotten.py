"""Forgotten holds: what the accounts still hold although no run needs it any more.

A worker may die after it reserved a hold and before its ``held`` event, or after ``settled`` and before the
accounts knew. The run's log says which: what it does not hold is given back, what it settled is charged. And a worker
may be overtaken while it reserves: what it reserved after the hold had ended is given back as well.
"""

from __future__ import annotations

from linestop.bus.ports import Log
from linestop.bus.spending import Accounts
from linestop.schemas.events import Held, Queued, Settled
from linestop.schemas.run import Run, fold_messages
from linestop.schemas.subjects import RunId, TenantId

FORGOTTEN_AFTER_S = 120.0
"""How old a hold is before its run's log is read: most end sooner by themselves."""


async def release_forgotten(accounts: Accounts, log: Log, *, older_than_s: float = FORGOTTEN_AFTER_S) -> int:
    """End every forgotten hold, in all its accounts; return how many there were."""
    ended: set[str] = set()
    runs: dict[tuple[str, str], Run] = {}
    for hold in await accounts.held(older_than_s):
        tenant, name, ordinal = hold.hold.split(".")
        if (tenant, name) not in runs:
            messages = await log.load(TenantId(tenant), RunId(name))
            found = [(m.subject, m.payload, m.seq) for m in messages]
            runs[tenant, name] = fold_messages(TenantId(tenant), RunId(name), found)
        run = runs[tenant, name]
        user = run.opened.task.user if run.opened else ""
        # The system's account is the last: while the hold is there, whatever is left elsewhere is found again.
        lines = reversed(accounts.lines(tenant, user, hold.hour))
        for account, period, _ in lines:
            spent = spent_of(run, hold.hold, (account, period), ordinal=int(ordinal))
            if spent is not None:
                await accounts.end(hold.hold, account, period, spent_micros=spent)
                ended.add(hold.hold)
    for stray in await accounts.strays(older_than_s):
        await accounts.give_back(stray)
        ended.add(stray.hold)
    return len(ended)


def spent_of(run: Run, hold: str, account: tuple[str, str], *, ordinal: int) -> int | None:
    """What of ``hold`` was spent, in micro-dollars; None while the run needs it, or may still come to say so.

    ``account`` is the name and period of the account that has it.
    """
    events = [entry.event for entry in run.entries if not entry.ignored]
    held = next((event for event in events if isinstance(event, Held) and event.hold == hold), None)
    if held is None:
        return 0 if run.done or run.n == 0 or run.holds_made >= ordinal else None
    if not any((line.account, line.period) == account for line in held.accounts):
        # It was reserved in an earlier period too, by an attempt that never came to its event.
        return 0
    lines = (line for event in events if isinstance(event, Settled | Queued) for line in event.holds)
    return next((line.spent_micros for line in lines if line.hold == hold), None)
