"""Which calls start on their judgement alone, which on the policy's word, and which only if a person agrees.

- A call of tier ``read`` that nothing holds back starts on its judgement (``needs_approver``): no event of the approver
  is needed, and none is accepted.
- For any other call the approver appends ``cleared``, or asks a person (``approval_rule``). A ``cleared`` event for a
  call that needs a person is ignored by every reader, so the approver's credential alone cannot let an irreversible
  call pass.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

import msgspec

from linestop.schemas.events import BlobRef, Opened, Policy
from linestop.schemas.json_values import JsonObject
from linestop.schemas.run.call_states import CallState, Stage
from linestop.schemas.strict_json import decode_strict
from linestop.schemas.tool_contracts import Tier, canonical

if TYPE_CHECKING:
    from linestop.schemas.run.state import RunState


EVENT_WAIT = "wait.for_event"
READS_NEED_NO_APPROVER: Final = 1
"""The ``gate_form`` of a run in which a call that nothing holds back starts without an event of the approver."""

WIDER = "contract:wider"
"""The name of the rule for a call whose tool may do more than was agreed to: a person is asked."""


def may_do_more(tool: str, wider: tuple[str, ...]) -> str:
    """Return the sentence for a person about a contract that allows more than was agreed to; empty if it does not."""
    return f"'{tool}' may do more by now than was agreed to: {'; '.join(wider)}." if wider else ""


def awaited_event(call: CallState) -> str:
    """Return the name of the event that a call waits for; empty if it waits for none."""
    if call.tool != EVENT_WAIT or call.judged is None or isinstance(call.judged.args, BlobRef):
        return ""
    try:
        return str(msgspec.json.decode(call.judged.args, type=JsonObject).get("name") or "")
    except msgspec.DecodeError:
        return ""


def call_waiting_for(run: RunState, event: str) -> CallState | None:
    """Return the first call that now waits for the event of that name."""
    calls = run.proposal.calls if run.proposal else ()
    return next((call for call in calls if call.stage is Stage.ASKED and awaited_event(call) == event), None)


def is_question(call: CallState) -> bool:
    """Whether the call waits for an answer or an event, not for a date."""
    wait = call.grant is not None and call.grant.kind == "wait"
    return wait and (call.judged is None or call.judged.wait_until is None)


def needs_approver(opened: Opened, call: CallState) -> bool:
    """Whether the approver must let a judged call pass before it starts: clear it, or ask a person.

    A pure function of the judgement and the run's opening, so that every reader of a log gets the same result. Not
    needed for a call of tier ``read`` that is not a question, that no person edited, and that neither the policy nor
    the origin of a value holds back. In runs opened before ``gate_form`` every call needs the approver.
    """
    if opened.gate_form < READS_NEED_NO_APPROVER or call.judged is None or call.judged.tier != "read":
        return True
    return call.edited or is_question(call) or approval_rule(opened, call)[1]


def is_by_fallback(run: RunState) -> bool:
    """Whether the calls at the gate come from another model than the run was opened with."""
    return run.opened is not None and run.proposal is not None and not run.opened.model.is_requested_by(run.proposal)


def is_approved_by_edit(policy: Policy, call: CallState) -> bool:
    """Whether a person wrote exactly these arguments and so approved them; never where the policy asks two people."""
    edit = call.edit
    if edit is None or not edit.approves or call.judged is None or policy.quorum > 1:
        return False
    if isinstance(edit.args, BlobRef) or isinstance(call.judged.args, BlobRef):
        return edit.args_sha256 == call.judged.args_sha256
    try:
        return canonical(decode_strict(edit.args)) == call.judged.args.encode()
    except ValueError:
        return False


def approval_rule(opened: Opened, call: CallState, *, fallback: bool = False) -> tuple[str, bool]:
    """Return the rule that decides about a call, and whether the call needs a person.

    ``fallback``: a fallback model proposed the call, so the trust of the policy in the first model does not apply.
    """
    if call.wider:
        return _rule_of_wider(call, dry_run=opened.task.dry_run)
    return _rule(opened.policy, call, dry_run=opened.task.dry_run, fallback=fallback)


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
        # A dry run performs nothing, whatever the tier, so there is nothing to agree to.
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
    """A person must agree to a wider contract, whatever the policy clears; except in a dry run."""
    if dry_run and call.grant is not None and call.grant.tier != "read":
        return "dry-run", False
    return WIDER, True
