"""The prices of tools: charged when a call ends, never more than the run may spend, and entered into its accounts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.e2e.one_process import OneProcess, one_process
from tests.e2e.scene import TENANT, agent, log_lines

from linestop.bus.connection import connect
from linestop.bus.jetstream import JetStream
from linestop.bus.streams import stream_names
from linestop.runtime.money.account_state import Account
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import tool
from linestop.sandbox.tools.registry import Registry
from linestop.schemas.defaults import Limits
from linestop.schemas.events import Finished, Held
from linestop.schemas.verify.check_log import verify

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.broker]

PRICE = 200_000
PLAYBOOK = """
name = "clerk"
[[step]]
when = {turn = 1}
call = [{tool = "survey", args = {number = 1}}]
[[step]]
when = {turn = 2}
call = [{tool = "survey", args = {number = 2}}]
[[step]]
when = {turn = 3}
call = [{tool = "survey", args = {number = 3}}]
[[step]]
say = "all done"
"""


async def test_a_call_that_a_run_cannot_pay_for_never_starts(tmp_path: Path) -> None:
    """Two of three calls fit into the limit; their cost is in the totals and in every account."""
    performed: list[int] = []

    @tool(tier="read", owner="e2e", price_micros=PRICE)
    async def survey(ctx: Context, number: int) -> str:
        """Ask somebody who sends a bill.

        Args:
            number: Which question.
        """
        del ctx
        performed.append(number)
        return f"answer {number}"

    registry = Registry()
    registry.add(survey, "e2e")
    async with one_process(tmp_path, (PLAYBOOK,), registry) as one:
        version = agent(one.model_url, tools=registry.contracts(), limits=Limits(cost_max_micros=500_000))
        await one.scene.deploy(version)
        await one.scene.task("paid")
        state = await one.scene.until("paid", lambda run: run.sealed is not None)
        assert performed == [1, 2], log_lines(state)
        assert state.sealed is not None
        assert state.stopped is not None
        assert (state.sealed.status, state.stopped.code) == ("over_budget", "budget")
        paid = [entry.event.cost_micros for entry in state.entries if isinstance(entry.event, Finished)]
        assert paid == [PRICE, PRICE]
        total = state.sealed.totals.cost_micros
        assert 2 * PRICE < total <= 500_000
        holds = [entry.event for entry in state.entries if isinstance(entry.event, Held)]
        for name, period in sorted({(line.account, line.period) for hold in holds for line in hold.accounts}):
            assert await spent(one, f"account.{name}.{period}") == total
        messages = [(m.subject, m.payload, m.seq) for m in await one.scene.log.load(TENANT, state.run)]
        assert verify(TENANT, state.run, messages).status == "consistent"


async def spent(one: OneProcess, key: str) -> int:
    """The sum that an account has spent, now that nothing is held."""
    async with await connect(one.server.credential("budget"), name="test-budget") as connection:
        stored = await JetStream(connection).bucket(stream_names.SHARED_BUCKET).get(key)
    assert stored is not None
    account = msgspec.json.decode(stored.value, type=Account)
    assert not account.holds
    return account.spent
