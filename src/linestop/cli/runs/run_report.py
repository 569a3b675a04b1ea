"""One run with its events, calls and cost, and what it waits for, for people and as JSON: ``linestop show``."""

from __future__ import annotations

import msgspec

from linestop.cli import approval_questions
from linestop.cli.output import printing, timeline, wording
from linestop.client.result_types import OpenQuestion, run_line
from linestop.client.what_a_run_waits_for import Wait
from linestop.schemas.dollars import rounded_dollars
from linestop.schemas.json_values import JsonObject
from linestop.schemas.run.call_states import CallState, Stage
from linestop.schemas.run.fold import Run
from linestop.schemas.run.state import Entry


def print_run(state: Run, questions: list[OpenQuestion], waits: list[Wait]) -> None:
    """Print the run for people."""
    summary = run_line(state)
    opened = state.opened
    printing.print_text(f"run      {summary.run} (tenant {summary.tenant})")
    printing.print_text(
        f"agent    {summary.agent}" + (f", version {opened.agent.digest[:12]}, {opened.model.model}" if opened else "")
    )
    printing.print_text(f"status   {summary.status}" + (f": {summary.why}" if summary.why else ""))
    for wait in waits:
        printing.print_text(f"         {wait_text(wait)}", hang=timeline.HANGING_INDENT)
    if opened:
        printing.print_text(
            f"task     {wording.short(summary.text)}" + (f" (for {summary.user})" if summary.user else "")
        )
        printing.print_text(f"opened   {state.opened_at:%Y-%m-%d %H:%M:%S} UTC")
    printing.print_text(
        f"cost     {rounded_dollars(state.spent_micros)} spent, {rounded_dollars(state.reserved_micros)} reserved, "
        f"{rounded_dollars(state.limits.cost_max_micros)} at most; {state.tokens} tokens"
    )
    for hold in state.holds.values():
        printing.print_text(
            f"hold     {hold.hold} {rounded_dollars(hold.amount_micros)}, until {hold.release_after:%Y-%m-%d %H:%M} UTC"
        )
    if state.stopped:
        printing.print_text(f"stopped  by {state.stopped.by} ({state.stopped.code}): {state.stopped.why}")
    printing.print_text("")
    for entry in state.entries:
        printing.print_text(timeline.entry_line(entry, state), hang=timeline.HANGING_INDENT)
    _print_calls(state)
    answer = state.accepted.answer if state.accepted else None
    if isinstance(answer, str):
        printing.print_text(f"\n{answer}", block=True)
    for question in questions:
        printing.print_text("\n" + approval_questions.question_text(question), block=True)


def _print_calls(state: Run) -> None:
    """The calls; since when one without a result runs; for an unknown outcome the key to look the effect up."""
    if not state.calls:
        return
    printing.print_text("")
    rows = [_call_row(call, is_sealed=state.sealed is not None) for call in state.calls.values()]
    printing.print_table(("call", "tool", "stage", "fate", "attempts"), rows)
    for call in state.calls.values():
        attempt = call.open_attempt if state.sealed is None else None
        if attempt is not None:
            probe = "The probe of " if attempt.purpose == "probe" else ""
            printing.print_text(
                f"{probe}{call.tool} ({call.call}) was started at {attempt.started_at:%Y-%m-%d %H:%M:%S} UTC "
                f"(attempt {attempt.attempt}, by {attempt.worker}) and has not reported a result yet"
            )
        elif call.fate == "unknown" and call.judged:
            printing.print_text(
                f"It is unknown whether {call.tool} ({call.call}) took effect; its key is {call.judged.effect_key}"
            )


def _call_row(call: CallState, *, is_sealed: bool) -> tuple[str, ...]:
    """A call for the table. After the seal nothing is under way any more, whatever stage the call had reached."""
    stage = "over" if is_sealed and call.stage is not Stage.ENDED else str(call.stage)
    fate = "no result yet" if call.open_attempt is not None and not is_sealed else call.fate
    return (call.call, call.tool, stage, fate, str(len(call.effects)))


def wait_text(wait: Wait) -> str:
    """A reason why the run waits, since when and until when."""
    until = ""
    if wait.until is not None:
        until = f", until {wait.until:%Y-%m-%d %H:%M:%S} UTC at most ({wording.time_left(wait.until)})"
    return f"{wait.sentence}; since {wording.age(wait.since)}{until}"


def run_document(state: Run, questions: list[OpenQuestion]) -> JsonObject:
    """The run as one JSON document."""
    calls = [
        {
            "call": call.call,
            "tool": call.tool,
            "stage": call.stage,
            "fate": call.fate,
            "args": call.judged.args if call.judged else call.raw_args,
            "args_sha256": call.args_sha256,
            "effect_key": call.judged.effect_key if call.judged else "",
            "attempts": len(call.effects),
            "answer": call.outcome_text,
            "error": call.is_error,
        }
        for call in state.calls.values()
    ]
    return {
        **msgspec.to_builtins(run_line(state)),
        "head_sha256": state.head,
        "reserved_micros": state.reserved_micros,
        "held_micros": state.held_micros,
        "holds": list(state.holds.values()),
        "tokens": state.tokens,
        "stopped": state.stopped,
        "sealed": state.sealed,
        "calls": calls,
        "questions": questions,
        "entries": [entry_document(entry) for entry in state.entries],
    }


def entry_document(entry: Entry) -> JsonObject:
    """One entry as JSON; ``ignored`` only if the entry was ignored."""
    shown: JsonObject = {"n": entry.n, "role": entry.role, "event": entry.name, "seq": entry.seq}
    if entry.ignored:
        shown["ignored"] = entry.ignored
    return {**shown, "data": entry.event}
