"""The text of a question to a person, as ``approvals``, ``show``, ``watch`` and the prompt of ``run`` print it.

It is made of the facts that the approver stored (``actors/approver.py``). The sentence of a question about spending
belongs to its digest, so it is worded where that is computed (``open_questions`` in ``client/result_types.py``).
"""

from __future__ import annotations

from typing import Final

from linestop.cli.output.lookalikes import lookalikes
from linestop.cli.output.terminal_escape import escape_controls
from linestop.cli.output.wording import for_tenant, short, time_left
from linestop.client.result_types import OpenQuestion
from linestop.schemas.dollars import rounded_dollars

REASON_CHARS_SHOWN: Final = 600
"""More than is stored of a reason, so that none is cut twice."""
ARGS_HEAD_CHARS: Final = 4_000
ARGS_TAIL_CHARS: Final = 500
"""The characters of long arguments that a question shows: one or two screens, and their end."""


def commands_for(question: OpenQuestion) -> list[str]:
    """The commands that decide a question, ready to be copied."""
    target = f"{question.run} {question.call}".rstrip() + f" --shown {question.shown}"
    tenant = for_tenant(question.tenant)
    match question.kind:
        case "approval" | "spend":
            commands = [f"approve {target}", f"deny {target} --why REASON"]
        case "question":
            commands = [f"answer {target} ANSWER"]
        case "event":
            commands = [f"event {question.run} {question.text} --data JSON"]
        case "doubt":
            commands = [f"resolve {target} --{action}" for action in ("retry", "done", "stop")]
    return [f"linestop {command}{tenant}" for command in commands]


def reason_of_model(question: OpenQuestion) -> str:
    """The model's reason, marked as such and on one line, so that it cannot look like another part of the question."""
    return f"the model says: {short(question.reason, REASON_CHARS_SHOWN)}"


def _shortened_args(question: OpenQuestion) -> str:
    """The arguments in full, or the beginning and the end of long ones with the command that shows the rest."""
    hidden_chars = len(question.args) - ARGS_HEAD_CHARS - ARGS_TAIL_CHARS
    if hidden_chars <= 0:
        return question.args
    hint = f"[{hidden_chars:,} more characters: `linestop show {question.run} --json{for_tenant(question.tenant)}`]"
    return f"{question.args[:ARGS_HEAD_CHARS]} … {hint} … {question.args[-ARGS_TAIL_CHARS:]}"


def question_text(question: OpenQuestion) -> str:
    """A question as a person must see it before deciding: the call with its exact arguments."""
    kind = "the outcome of a call is unknown" if question.kind == "doubt" else question.kind
    remaining = time_left(question.expires_at)
    remaining += " left" if remaining[0].isdigit() else ""
    what = f"an event: {question.text}" if question.kind == "event" else f"a person: {kind}"
    lines = [f"Run {question.run} ({question.agent}) waits for {what}, {remaining}."]
    fields = {
        "task": short(question.task),
        "call": f"{question.call}: {question.tool}({_shortened_args(question)})" if question.tool else "",
        "tier": f"{question.tier} (rule {question.rule})" if question.tier else "",
        "wider": question.wider,
        "key": question.effect_key,
        "cost": f"{rounded_dollars(question.cost_max_micros)} at most" if question.cost_max_micros else "",
        "asks": question.text,
        "options": " | ".join(question.options),
        "reason": reason_of_model(question) if question.reason else "",
    }
    lines += [f"  {label:<7} {escape_controls(text)}" for label, text in fields.items() if text]
    lines += [f"  letters {sentence}" for sentence in lookalikes(f"{question.args} {question.text}")]
    for origin in question.provenance:
        source = f"event {origin.n} {origin.field}".rstrip() if origin.n else "an unknown source"
        lines.append(f"  value   {origin.path} comes from {source}")
    if question.egress:
        lines.append(f"  leaves  the system with this call: {', '.join(question.egress)}")
    if question.quorum > 1:
        lines.append(f"  quorum  {len(question.votes)} of {question.quorum}: {', '.join(question.votes) or 'none yet'}")
    lines += [f"  $ {command}" for command in commands_for(question)]
    return "\n".join(lines)
