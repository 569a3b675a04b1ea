"""The holds of a killed budget worker are released as soon as it is known to be dead."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest
from tests.bus.test_deadlines_on_time import virtually
from tests.virtual_processes import EACH, Processes, ScriptedModel, agent, calls, processes

from linestop.bus.streams import stream_names
from linestop.runtime.money.account_state import Account

WITHIN_S = 9.0
"""Three missed heartbeats, a round, and the writes."""


def _holds(p: Processes) -> dict[str, Any]:
    """The open holds of each account."""
    stored = p.broker.stream(stream_names.bucket_stream(stream_names.SHARED_BUCKET)).matching("$KV.shared.account.>")
    accounts = {m.subject: msgspec.json.decode(m.payload, type=Account) for m in stored}
    return {subject: account.holds for subject, account in accounts.items() if account.holds}


@pytest.mark.parametrize("spare", [True, False], ids=["another works on", "it is started again"])
def test_the_holds_of_a_dead_worker_are_released_soon(spare: bool) -> None:
    """It appended ``settled`` and died before it changed the accounts: they change within seconds, not minutes."""

    async def main() -> None:
        async with processes(EACH, ScriptedModel([calls(("mail", {"q": 1}))]), version=agent()) as p:
            if spare:
                await p.start(("budget",), "spare#1")
            settled = anyio.Event()

            def stored(message: Any) -> None:
                if ".budget.settled." in message.subject:
                    p.faults.dead.add(p.faults.current_process())
                    settled.set()

            p.broker.stream(stream_names.RUNS).listeners.append(stored)
            with anyio.fail_after(60):
                await settled.wait()
            assert _holds(p)
            died = next(iter(p.faults.dead))
            await p.end(died)
            if not spare:
                await p.start(("budget",), "budget#2")
            await anyio.sleep(WITHIN_S)
            assert _holds(p) == {}

    virtually(main)
