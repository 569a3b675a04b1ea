"""What the accounts hold is given back however broken one of them is."""

from __future__ import annotations

from datetime import timedelta

import pytest
from structlog.testing import capture_logs
from tests.builders import NOW

from linestop.runtime.money.holds import HoldRequest
from linestop.runtime.money.ledger import AccountLedger
from linestop.runtime.money.orphaned_holds import release_orphaned_holds
from linestop.schemas.defaults import ORPHANED_AFTER_S, AccountLimits
from linestop.testing.memory import MemoryBroker

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("account.system.2026-01-01-00", b"not json"),
        ("account.system.aaa", b"{}"),
        ("account.system.2026-01-01-00", b'{"holds":{"x":[1]}}'),
    ],
)
async def test_an_account_that_cannot_be_read_delays_the_release_of_no_other_hold(key: str, value: bytes) -> None:
    """It is named in the log each time, and the orphaned holds of the other accounts are released."""
    at = [NOW]
    broker = MemoryBroker(lambda: at[0])
    shared = broker.bucket("shared")
    accounts = AccountLedger(shared, AccountLimits(), now=lambda: at[0])
    await accounts.reserve(
        HoldRequest(
            hold="acme.r1.1", amount_min_micros=1_000, amount_micros=1_000, tenant="acme", user="ann", opened_at_ms=0
        )
    )
    await shared.create(key, value)
    at[0] += timedelta(seconds=ORPHANED_AFTER_S)
    with capture_logs() as logs:
        assert await release_orphaned_holds(accounts, broker.log()) == 1
    assert [(line["event"], line["key"]) for line in logs] == [("account_unreadable", key)]
