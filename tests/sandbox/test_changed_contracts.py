"""A run keeps the contract that it was opened with while the tool changes, unless the tool may do more now."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from tests.builders import at_work, call

from linestop.actors.judging.task_acceptance import tool_grant
from linestop.bus.run_outcomes_and_alerts import event_alerts
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import AnyTool, ToolOptions, tool
from linestop.sandbox.tools.registry import Registry
from linestop.sandbox.tools.tool_runner import RegistryRunner
from linestop.schemas.events import NEVER, Finished
from linestop.schemas.performer_interfaces import CallWork
from linestop.schemas.tool_contracts import ToolError, ToolResult

pytestmark = pytest.mark.anyio

BEFORE: ToolOptions = {
    "name": "pay",
    "tier": "irreversible",
    "timeout_s": 5.0,
    "scopes": ["money.pay"],
    "egress": ["to"],
    "price_micros": 7,
}


async def pay(ctx: Context, to: str, cents: int = 1) -> str:
    """Pay."""
    del ctx
    return f"{to} has {cents}"


def pay_in_thread(ctx: Context, to: str, cents: int = 1) -> str:
    """Pay, in a thread."""
    del ctx
    return f"{to} has {cents}"


async def pay_whom(ctx: Context, whom: str) -> str:
    """Pay."""
    del ctx
    return f"paid {whom}"


async def raises(ctx: Context, to: str, cents: int = 1) -> str:
    """Pay."""
    del ctx, cents
    raise ValueError(to)


async def happened(ctx: Context, to: str, cents: int = 1) -> bool | None:
    """Say that it was paid."""
    del ctx, to, cents
    return True


async def perform_under(directory: Path, was: AnyTool, now: AnyTool, *, probe: bool = False) -> ToolResult:
    """The result of a call whose run was opened with one tool, while another one is deployed."""
    registry, given = Registry(), b'{"to":"ann"}'
    registry.add(now, "tests")
    work = CallWork(
        tenant="acme",
        run="run-1",
        call="c1",
        attempt=1,
        tool="pay",
        grant=tool_grant(was.contract),
        args=given,
        key=hashlib.sha256(given).hexdigest(),
        user="ann",
        tier=was.contract.tier,
        probe=probe,
        start_by=datetime.now(UTC) + timedelta(seconds=30),
        timeout_s=was.contract.timeout_s,
        result_bytes_max=16_384,
        cost_max_micros=was.contract.price_micros,
    )
    (result,) = [result async for _, result, _ in RegistryRunner(registry, directory).run((work,))]
    return result


def changed(fn: Any = pay, **options: Any) -> AnyTool:
    """The tool after a change."""
    given = BEFORE.copy()
    given.update(cast("ToolOptions", options))
    return tool(**given)(fn)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_s": 9.0},
        {"retries_max": 0},
        {"calls_max": 1},
        {"tier": "reversible"},
        {"scopes": []},
        {"egress": []},
        {"owner": "somebody"},
        {"kind": "thread"},
        {"price_micros": 0},
        {"idempotent": True},
    ],
)
async def test_a_contract_that_is_not_wider_still_performs(tmp_path: Path, options: dict[str, Any]) -> None:
    """The owner may correct a docstring or a timeout while a call waits for a person."""
    fn = pay_in_thread if options.get("kind") == "thread" else pay
    result = await perform_under(tmp_path, changed(), changed(fn, **options))
    assert (result.outcome, result.value) == ("succeeded", "ann has 1")
    assert result.cost_micros == 7


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tier": "destructive"}, "its tier is 'destructive', no longer 'irreversible'"),
        ({"scopes": ["money.pay", "money.all"]}, "its scopes have 'money.all' in addition"),
        ({"egress": ["to", "cents"]}, "its egress have 'cents' in addition"),
    ],
)
async def test_a_tool_that_may_do_more_is_not_called(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    """No person agreed to that; the model gets one sentence, and the call cost nothing."""
    result = await perform_under(tmp_path, changed(), changed(**options))
    assert result.error is not None
    assert sentence in result.error.message
    assert (result.outcome, result.cost_micros, result.error.widened) == ("failed", 0, True)
    assert (result.error.known_by, result.error.retry_safe) == ("not_begun", False)


async def test_dropping_raises_before_effect_widens_the_contract(tmp_path: Path) -> None:
    """A run that repeats a call that used to be safe to repeat would have its effect twice."""
    result = await perform_under(tmp_path, changed(idempotent=True), changed())
    assert result.error is not None
    assert "it is no longer safe to repeat" in result.error.message


async def test_raises_before_effect_added_later_does_not_count(tmp_path: Path) -> None:
    """A failure counts as known only if the pinned and the current contract both have ``raises_before_effect``."""
    for was, now in [(False, True), (True, False)]:
        before, after = changed(raises_before_effect=was), changed(raises, raises_before_effect=now)
        assert (await perform_under(tmp_path, before, after)).outcome == "unknown"
    promised = changed(raises, raises_before_effect=True, timeout_s=6.0)
    assert (await perform_under(tmp_path, changed(raises_before_effect=True), promised)).outcome == "failed"


async def test_arguments_that_the_tool_no_longer_takes_are_reported_to_the_model(tmp_path: Path) -> None:
    """They are checked before anything begins."""
    result = await perform_under(tmp_path, changed(), changed(pay_whom, egress=[]))
    assert result.error is not None
    assert (result.outcome, result.error.type, result.error.widened) == ("failed", "invalid", False)
    assert "was changed since this run was opened and does not take these arguments: " in result.error.message
    assert "whom" in result.error.message


async def test_an_unknown_call_is_probed_even_if_the_contract_changed(tmp_path: Path) -> None:
    """The probe changes nothing; if the tool has no probe any more, a person decides about the call."""
    probed = changed(probe=happened)
    assert (await perform_under(tmp_path, probed, changed(probe=happened, tier="destructive"), probe=True)).outcome == (
        "succeeded"
    )
    gone = await perform_under(tmp_path, probed, changed(), probe=True)
    assert gone.error is not None
    assert (gone.outcome, gone.error.message) == ("unknown", "The tool 'pay' has no probe any more.")


async def test_scopes_of_an_older_log_are_not_known() -> None:
    """So a changed tool that needs a scope counts as wider, and one that needs none does not."""
    old = msgspec.structs.replace(tool_grant(changed().contract), scopes=None)
    assert old.widened_by(changed().contract) == ()
    assert old.widened_by(changed(timeout_s=6.0).contract) == ("its scopes have 'money.pay' in addition",)
    assert old.widened_by(changed(scopes=[]).contract) == ()


async def test_a_tool_that_may_do_more_raises_an_alert() -> None:
    """The alert carries the event, whose error names the difference."""
    for widened in (True, False):
        story = at_work(call("look", "{}"))
        error = ToolError(type="permanent", message="No.", known_by="not_begun", widened=widened)
        story.finish_tools(look=ToolResult(outcome="failed", error=error))
        assert story.last(Finished).error == error
        kinds = [alert.kind for alert in event_alerts(story.run, since=NEVER)]
        assert kinds == (["wider-contract"] if widened else [])
