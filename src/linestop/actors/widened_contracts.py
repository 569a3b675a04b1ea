"""Tools that may do more by now than was agreed to: a person must agree before such a tool is called.

The process that would call a tool knows its present contract; the run pinned the contract it was opened with.
"""

from __future__ import annotations

from linestop.actors.facts import Texts, ToolHere, ToolsHere
from linestop.actors.judging.task_acceptance import clamp_grant
from linestop.schemas.argument_validation import check_arguments
from linestop.schemas.events import BlobRef, ToolGrant, Widened, WidenedCall
from linestop.schemas.run.call_states import Attempt, CallState
from linestop.schemas.run.fold import Run
from linestop.schemas.run.rules.widened_contracts import may_be_widened
from linestop.schemas.run.starting.next_start import NextStart


def widened(run: Run, tools: ToolsHere, texts: Texts, *, worker: str) -> Widened | None:
    """Return the calls that have not begun and whose tools may do more than was agreed to."""
    if run.proposal is None or run.opened is None or run.events_left <= 0:
        return None
    lines: list[WidenedCall] = []
    for call in run.proposal.calls:
        here = tools.by_name.get(call.tool)
        if here is None or not may_be_widened(call) or _is_only_described(run, call):
            continue
        if not _allows_more(call, here.grant) or not _accepts_arguments(here, call, texts):
            continue
        lines.append(WidenedCall(call=call.call, grant=clamp_grant(here.grant, run.limits)))
    return Widened(calls=tuple(lines), worker=worker) if lines else None


def attempt_left_open(run: Run, start: NextStart, tools: ToolsHere) -> Attempt | None:
    """Return an attempt that another worker left open and that must not be repeated before a person agrees."""
    for name in start.calls if start.kind == "effect" else ():
        call = run.calls[name]
        here = tools.by_name.get(call.tool)
        if call.open_attempt is None or here is None or _is_only_described(run, call):
            continue
        if _allows_more(call, here.grant):
            return call.open_attempt
    return None


def _allows_more(call: CallState, here: ToolGrant) -> bool:
    return call.grant is not None and bool(call.grant.widened_by(here))


def _is_only_described(run: Run, call: CallState) -> bool:
    """Whether the call is part of a dry run and only described, so that there is nothing to agree to."""
    dry_run = run.opened is not None and run.opened.task.dry_run
    return dry_run and call.grant is not None and call.grant.tier != "read"


def _accepts_arguments(here: ToolHere, call: CallState, texts: Texts) -> bool:
    """Whether the present tool accepts these arguments; if not, it is not called, and no person is asked in vain."""
    args = call.judged.args if call.judged is not None else ""
    data = texts.by_sha256.get(args.sha256) if isinstance(args, BlobRef) else args.encode()
    return here.contract is None or data is None or not check_arguments(data, here.contract).errors
