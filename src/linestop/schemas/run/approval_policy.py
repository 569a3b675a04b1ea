"""Whether a person must agree to a call: the one rule by which the approver clears and by which the fold believes it.

A ``cleared`` event for a call that needs a person is ignored by every reader, so that the approver's credential
alone lets nothing irreversible pass.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import msgspec

from linestop.schemas.argument_validation import decode_strict
from linestop.schemas.events import BlobRef, Policy
from linestop.schemas.run.call_states import CallState, Stage
from linestop.schemas.tool_contracts import Tier, canonical

if TYPE_CHECKING:
    from linestop.schemas.run.state import Run


EVENT_WAIT = "wait.for_event"
WIDER = "contract:wider"
"""The rule by which a person is asked about a call whose tool may do more than was agreed to."""


def may_do_more(tool: str, wider: tuple[str, ...]) -> str:
    """What a person is told of a contract that allows more than was agreed to; nothing where it does not."""
    return f"'{tool}' may do more by now than was agreed to: {'; '.join(wider)}." if wider else ""


def awaited_event(call: CallState) -> str:
    """The name of the event that a call waits for, or nothing."""
    if call.tool != EVENT_WAIT or call.judged is None or isinstance(call.judged.args, BlobRef):
        return ""
    try:
        return str(msgspec.json.decode(call.judged.args, type=dict[str, Any]).get("name") or "")
    except msgspec.DecodeError:
        return ""


def call_waiting_for(run: Run, event: str) -> CallState | None:
    """The first call that waits for the event of that name now."""
    calls = run.proposal.calls if run.proposal else ()
    return next((call for call in calls if call.stage is Stage.ASKED and awaited_event(call) == event), None)


def is_by_fallback(run: Run) -> bool:
    """Whether the calls at the gate come from another model than the one the run was opened with."""
    return run.opened is not None and run.proposal is not None and not run.opened.model.is_requested_by(run.proposal)


def is_approved_by_edit(policy: Policy, call: CallState) -> bool:
    """Whether a person wrote these very arguments and approved them by it; not where the policy asks for two people."""
    edit = call.edit
    if edit is None or not edit.approves or call.judged is None or policy.quorum > 1:
        return False
    if isinstance(edit.args, BlobRef) or isinstance(call.judged.args, BlobRef):
        return edit.args_sha256 == call.judged.args_sha256
    try:
        return canonical(decode_strict(edit.args)) == call.judged.args.encode()
    except ValueError:
        return False


def approval_rule(policy: Policy, call: CallState, *, dry_run: bool, fallback: bool = False) -> tuple[str, bool]:
    """The rule that decides about a call, and whether it needs a person.

    ``fallback``: a model that stood in for the run's own proposed it, so what policy trusts the first model
    with does not hold.
    """
    if call.wider:
        return _rule_of_wider(call, dry_run=dry_run)
    return _rule(policy, call, dry_run=dry_run, fallback=fallback)


def _rule(policy: Policy, call: CallState, *, dry_run: bool, fallback: bool) -> tuple[str, bool]:
    tier: Tier = call.judged.tier if call.judged else "destructive"
    if is_approved_by_edit(policy, call):
        return "edited", False
    if tier == "destructive" and not dry_run:
        return "tier:destructive", True
    if any(fnmatchcase(call.tool, pattern) for pattern in policy.ask):
        return "policy:ask", True
    if call.edited:
        return "edited", True
    if dry_run and tier != "read":
        # Nothing is done, whatever the tier: there is nothing that a person could agree to.
        return (f"tier:{tier}", False) if tier == "reversible" else ("dry-run", False)
    if policy.provenance and call.judged and "untrusted-value" in call.judged.flags:
        return "provenance", True
    if tier in {"read", "reversible"}:
        return f"tier:{tier}", False
    if fallback:
        return "fallback", True
    if any(fnmatchcase(call.tool, pattern) for pattern in policy.clear):
        return "policy:clear", False
    return "tier:irreversible", True


def _rule_of_wider(call: CallState, *, dry_run: bool) -> tuple[str, bool]:
    """A person agrees to a contract that allows more, whatever the policy clears; but not where nothing is done."""
    if dry_run and call.grant is not None and call.grant.tier != "read":
        return "dry-run", False
    return WIDER, True
