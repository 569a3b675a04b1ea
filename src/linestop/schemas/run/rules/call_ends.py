"""The text and outcome that the model receives for a call, from the event that ended it. See ``calls``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from linestop.schemas.events import Checked, Finished, JudgedCall
from linestop.schemas.run.call_outcome import (
    DRY_RUN,
    EDITED,
    FROM_RECORD,
    STRUCTURED,
    TOOK_EFFECT,
    CallOutcome,
    bare_text,
    outcome_json,
    structured_outcome,
)
from linestop.schemas.run.call_states import ITEM, CallState, Stage, text_size
from linestop.schemas.text.text_size import Size
from linestop.schemas.tool_contracts import ToolError

if TYPE_CHECKING:
    from linestop.schemas.run.state import RunState


def end_call(run: RunState, call: CallState, n: int, *, text: str, outcome: CallOutcome) -> None:
    """End ``call`` with the text and outcome that the model receives."""
    edited_by = call.edit.by if call.edit is not None and call.edit.approves is not None else ""
    call.structured = _is_structured(run)
    if call.structured:
        outcome = structured_outcome(outcome, text, edited_by=edited_by)
        call.answer_size = Size.of(outcome_json(outcome, text))
    else:
        text = bare_text(outcome, text, edited_by=edited_by)
        call.answer_size = text_size(text)
    call.stage = Stage.ENDED
    call.outcome_n, call.outcome_text, call.outcome = n, text, outcome
    run.context += call.answer_size + ITEM


def _is_structured(run: RunState) -> bool:
    return run.opened is not None and run.opened.result_form >= STRUCTURED


def end_with_result(run: RunState, n: int, call: CallState, event: Finished) -> None:
    """End a call with its result, and the notes that keep the model from trusting it blindly or repeating the call."""
    cut = event.result_bytes if event.result_bytes > len(event.result.encode()) else 0
    dry = _is_dry_run(run, call)
    notes = (*((TOOK_EFFECT,) if event.findings else ()), *((DRY_RUN,) if dry else ()))
    outcome = CallOutcome(
        status="succeeded",
        untrusted=event.untrusted,
        result_bytes=cut,
        dry_run=dry,
        findings=event.findings,
        notes=notes,
    )
    end_call(run, call, n, text=event.result, outcome=outcome)


def end_from_record(run: RunState, n: int, call: CallState, recorded: CallState) -> None:
    """End a call with the outcome that the same call had before."""
    before = recorded.outcome or CallOutcome(status="succeeded")
    if _is_structured(run):
        notes = tuple(note for note in before.notes if note != EDITED)
        outcome = msgspec.structs.replace(before, notes=(*notes, FROM_RECORD))
    else:
        # The recorded text contains the findings already.
        outcome = msgspec.structs.replace(before, findings=())
    end_call(run, call, n, text=recorded.outcome_text, outcome=outcome)


def end_rejected(run: RunState, n: int, call: CallState, verdict: JudgedCall) -> None:
    """End a call that the validator rejected, with the reasons."""
    text = "\n".join(verdict.errors) or "The call was rejected."
    end_call(run, call, n, text=text, outcome=_rejection_outcome(call, verdict))


def _rejection_outcome(call: CallState, verdict: JudgedCall) -> CallOutcome:
    """Return the outcome of a rejected call; a corrected one may pass."""
    if verdict.verdict == "loop":
        return CallOutcome(status="rejected", error_type="loop")
    if call.grant is None:
        return CallOutcome(status="rejected", error_type="unknown_tool", retry_safe=True)
    if verdict.limit is not None:
        return CallOutcome(status="rejected", error_type="limit")
    if verdict.effect_key:
        return CallOutcome(status="rejected", error_type="repeated")
    return CallOutcome(status="rejected", error_type="invalid", retry_safe=True)


def end_with_failed_checks(run: RunState, n: int, call: CallState, event: Checked) -> None:
    """End a call whose result failed its checks; the effect may have happened all the same."""
    is_retry_safe = call.grant is not None and call.grant.safe_to_repeat
    notes = () if is_retry_safe or _is_dry_run(run, call) else (TOOK_EFFECT,)
    outcome = CallOutcome(status="failed", error_type="checks_failed", retry_safe=is_retry_safe, notes=notes)
    end_call(run, call, n, text="The result failed its checks: " + "; ".join(event.findings), outcome=outcome)


def end_failed(run: RunState, n: int, call: CallState, event: Finished) -> None:
    """End a failed call, with the reason."""
    error = event.error or ToolError(type="permanent", message="The call failed.")
    outcome = CallOutcome(
        status="failed", error_type=error.type, retry_safe=error.retry_safe, untrusted=event.untrusted
    )
    end_call(run, call, n, text=error.message, outcome=outcome)


def _is_dry_run(run: RunState, call: CallState) -> bool:
    """Whether the call was only described, not performed."""
    dry = run.opened is not None and run.opened.task.dry_run
    return dry and call.grant is not None and call.grant.tier != "read" and call.grant.kind != "wait"
