"""What the executor says of tools that may do more by now than was agreed to: a person agrees before a call begins.

The process that would call a tool knows its contract as it is; the run pinned the one it was opened with.
"""

from __future__ import annotations

from linestop.actors.facts import Texts, ToolHere, ToolsHere
from linestop.actors.task_opening import clamp_grant
from linestop.schemas.argument_validation import check_arguments
from linestop.schemas.events import BlobRef, ToolGrant, Widened, WidenedCall
from linestop.schemas.run.call_states import Attempt, CallState
from linestop.schemas.run.next_action import NextStart
from linestop.schemas.run.state import Run
from linestop.schemas.run.widened_contract_rules import may_be_widened


def widened(run: Run, tools: ToolsHere, texts: Texts, *, worker: str) -> Widened | None:
    """The calls whose tools may do more than was agreed to, and which have not begun."""
    if run.proposal is None or run.opened is None or run.events_left <= 0:
        return None
    lines: list[WidenedCall] = []
    for call in run.proposal.calls:
        here = tools.by_name.get(call.tool)
        if here is None or not may_be_widened(call) or _nothing_is_done(run, call):
            continue
        if not _allows_more(call, here.grant) or not _takes(here, call, texts):
            continue
        lines.append(WidenedCall(call=call.call, grant=clamp_grant(here.grant, run.limits)))
    return Widened(calls=tuple(lines), worker=worker) if lines else None


def left_open(run: Run, start: NextStart, tools: ToolsHere) -> Attempt | None:
    """An attempt that another worker left open, and that must not be made again before a person agrees."""
    for name in start.calls if start.kind == "effect" else ():
        call = run.calls[name]
        here = tools.by_name.get(call.tool)
        if call.open_attempt is None or here is None or _nothing_is_done(run, call):
            continue
        if _allows_more(call, here.grant):
            return call.open_attempt
    return None


def _allows_more(call: CallState, here: ToolGrant) -> bool:
    return call.grant is not None and bool(call.grant.widened_by(here))


def _nothing_is_done(run: Run, call: CallState) -> bool:
    """Whether the call is only described, so that there is nothing to agree to."""
    dry_run = run.opened is not None and run.opened.task.dry_run
    return dry_run and call.grant is not None and call.grant.tier != "read"


def _takes(here: ToolHere, call: CallState, texts: Texts) -> bool:
    """Whether the tool as it is takes these arguments; one that does not is not called, and nobody is asked in vain."""
    args = call.judged.args if call.judged is not None else ""
    data = texts.by_sha256.get(args.sha256) if isinstance(args, BlobRef) else args.encode()
    return here.contract is None or data is None or not check_arguments(data, here.contract).errors
