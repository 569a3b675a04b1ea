"""Orphaned holds: money that the accounts still hold although no run needs it any more.

A worker may die after it reserved a hold and before its ``held`` event, or after ``settled`` and before the
accounts were changed. The run's log shows which: a hold that the run does not have is given back, one that it settled
is charged. And a worker may be overtaken while it reserves: a hold that it made after the hold had ended is given back.

Orphaned accounts are those that an older linestop left without a time to live: nothing else would ever remove them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import anyio
import structlog

from linestop.bus.interfaces import Bucket, Log
from linestop.errors import Conflict, LinestopError, Refused
from linestop.runtime.money.ledger import ACCOUNT_RETENTION, AccountLedger, read_account
from linestop.runtime.money.own_holds import spent_of
from linestop.schemas.account_names import period_end
from linestop.schemas.defaults import ORPHANED_AFTER_S, RELEASE_HOLDS_EVERY_S
from linestop.schemas.run.fold import Run, fold_messages
from linestop.schemas.subjects import RunId, TenantId

LOG = structlog.get_logger("linestop.money")
DEAD_WORKER_HOLD_AFTER_S = 0.0
"""Age from which a hold may be orphaned by a dead worker. A live one loses nothing: the run's log shows its holds."""

RETENTION_MARGIN = timedelta(hours=1)
"""Margin within which an account with a time to live expires by itself before it is looked for here."""

REMOVED_PER_CALL_MAX = 1_000


class OrphanedHolds:
    """Releases orphaned holds: at the start, every ``RELEASE_HOLDS_EVERY_S``, and when a worker of budget has died."""

    def __init__(
        self,
        ledger: AccountLedger,
        log: Log,
        *,
        shared: Bucket,
        now: Callable[[], datetime],
        may_decide: Callable[[], bool],
    ) -> None:
        self._ledger = ledger
        self._log = log
        self._shared = shared
        self._now = now
        self._may_decide = may_decide
        self._budget_died = anyio.Event()

    def on_budget_died(self) -> None:
        """Release the holds of the dead worker at once."""
        self._budget_died.set()

    async def run_for_ever(self) -> None:
        """Release again and again; no failure ends it."""
        accounts_removed, older_than_s = False, DEAD_WORKER_HOLD_AFTER_S
        while True:
            try:
                if self._may_decide():
                    await release_orphaned_holds(self._ledger, self._log, older_than_s=older_than_s)
                    accounts_removed = accounts_removed or await remove_ended_accounts(self._shared, self._now())
            except LinestopError as error:
                LOG.warning("release_failed", error=str(error))
            except Exception:
                # An unreadable value of the accounts never ends the process.
                LOG.exception("release_failed")
            self._budget_died, older_than_s = anyio.Event(), ORPHANED_AFTER_S
            with anyio.move_on_after(RELEASE_HOLDS_EVERY_S):
                await self._budget_died.wait()
                older_than_s = DEAD_WORKER_HOLD_AFTER_S


async def release_orphaned_holds(ledger: AccountLedger, log: Log, *, older_than_s: float = ORPHANED_AFTER_S) -> int:
    """End every orphaned hold in all its accounts; return how many there were."""
    ended: set[str] = set()
    runs: dict[tuple[str, str], Run] = {}
    for hold in await ledger.open_holds(older_than_s):
        tenant, name, ordinal = hold.hold.split(".")
        if (tenant, name) not in runs:
            # A replica that lags might not have the run of a young hold yet.
            messages = await log.load(TenantId(tenant), RunId(name), leader=True)
            log_messages = [(m.subject, m.payload, m.seq) for m in messages]
            runs[tenant, name] = fold_messages(TenantId(tenant), RunId(name), log_messages)
        run = runs[tenant, name]
        user = run.opened.task.user if run.opened else ""
        # The system's account comes last: as long as the hold is there, the rest of it is found again.
        lines = reversed(ledger.accounts_of(tenant, user, hold.hour))
        for account, period, _ in lines:
            spent = spent_of(run, hold.hold, (account, period), ordinal=int(ordinal))
            if spent is not None:
                await ledger.end_hold(hold.hold, account, period, spent_micros=spent)
                ended.add(hold.hold)
    # A young stray may be a hold that is just being made or ended, so it is left alone.
    for stray in await ledger.stray_holds(max(older_than_s, ORPHANED_AFTER_S)):
        await ledger.release_stray(stray)
        ended.add(stray.hold)
    return len(ended)


async def remove_ended_accounts(shared: Bucket, now: datetime) -> bool:
    """Remove accounts past their retention, at most ``REMOVED_PER_CALL_MAX``; return whether all are gone."""
    removed = 0
    for key in await shared.keys("account."):
        if not _is_over(key, now):
            continue
        if removed == REMOVED_PER_CALL_MAX:
            return False
        try:
            account, revision = await read_account(shared, key)
            if not account.holds:
                await shared.delete(key, revision=revision)
                removed += 1
        except (Conflict, Refused):
            # The account is in use after all, or cannot be read; the others are removed all the same.
            continue
    return True


def _is_over(key: str, now: datetime) -> bool:
    try:
        return period_end(key.rpartition(".")[2]) + ACCOUNT_RETENTION + RETENTION_MARGIN < now
    except ValueError:
        return False
