"""The rules of the fold about contracts that allow more than was agreed to: a person agrees, or the call is not made.

They apply to calls that have not begun, and to calls that must be made once more. Earlier clearings, questions and
grants are bound to the narrower contract, so they no longer let a call pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from linestop.schemas.defaults import WIDENED_MAX
from linestop.schemas.events import StartedCall, ToolGrant, Widened
from linestop.schemas.run.call_states import Attempt, CallState, Stage

if TYPE_CHECKING:
    from linestop.schemas.run.state import RunState

UNBEGUN = frozenset({Stage.GATE, Stage.ASKED, Stage.READY})
"""Stages of a call without an open attempt."""


def may_be_widened(call: CallState) -> bool:
    """Whether a wider contract of its tool concerns this call now: it must still be made, and is not a wait."""
    if call.grant is None or call.grant.kind == "wait" or call.widenings >= WIDENED_MAX:
        return False
    return call.stage in UNBEGUN and not call.asked_about_outcome


def widened(run: RunState, event: Widened) -> str:
    """``executor.widened``: a person is asked about these calls under the present contracts."""
    if len({line.call for line in event.calls}) != len(event.calls):
        return "it names a call twice"
    for line in event.calls:
        call = run.calls.get(line.call)
        if call is None or not may_be_widened(call):
            return f"call '{line.call}' need not be made, or its tool was changed too often"
        if (line.grant.name, line.grant.kind == "wait") != (call.tool, False):
            return f"it names the contract of another tool than call '{line.call}' has"
        if not _base(call).widened_by(line.grant):
            return f"the contract of call '{line.call}' allows no more than was agreed to"
    for line in event.calls:
        call = run.calls[line.call]
        agreed = _base(call)
        call.agreed, call.grant, call.widenings = agreed, line.grant, call.widenings + 1
        call.gate_n, call.asked, call.ready_at = 0, None, None
        call.votes = set()
        is_outcome_unknown = not line.grant.safe_to_repeat and any(_may_have_acted(a, agreed) for a in call.effects)
        call.stage = Stage.UNKNOWN_OUTCOME if is_outcome_unknown else Stage.GATE
    return ""


def _base(call: CallState) -> ToolGrant:
    """Return the contract that was agreed to for this call, by the opening of its run or by a person."""
    base = call.agreed or call.grant
    assert base is not None, "a call that may be widened has a contract"
    return base


def _may_have_acted(attempt: Attempt, under: ToolGrant) -> bool:
    """Whether making the call again, which is no longer safe, may repeat the effect of an earlier attempt."""
    if attempt.outcome != "failed" or attempt.error is None or not attempt.error.retry_safe:
        return attempt.outcome != "never_started"
    return under.tier != "read" and not attempt.error.known_by


def ready(call: CallState) -> Stage:
    """Return the next stage of a call that must be made: its start, or first a person's agreement to its contract."""
    return Stage.READY if call.agreed is None else Stage.GATE


def under_contract(run: RunState, grant: ToolGrant, line: StartedCall) -> bool:
    """Whether a start names the contract that was agreed to; a start without one means the run's own contract."""
    own = run.grant_of(grant.name)
    return (line.contract_digest or (own.contract_digest if own else "")) == grant.contract_digest
