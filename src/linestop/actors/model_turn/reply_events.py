"""The events that a model's reply becomes: ``proposed``, ``compacted`` or, for a reply that cannot be used, ``failed``.

The texts of a reply are redacted, its size and its calls are checked, and what it cost is worked out.
"""

from __future__ import annotations

import msgspec

from linestop.actors.model_turn.exact_values import exact_values
from linestop.actors.model_turn.unusable_calls import clean_call
from linestop.schemas.defaults import ARGUMENTS_BYTES_MAX, INLINE_BYTES_MAX
from linestop.schemas.events import AnyEvent, Compacted, ModelFailedEvent, Proposed, ProposedCall
from linestop.schemas.json_values import JsonObject
from linestop.schemas.model_messages import ModelFailed, ModelReply, Usage
from linestop.schemas.performer_interfaces import ModelWork
from linestop.schemas.run.starting.observed_tool_mode import JSON_MODE_ID_PREFIX
from linestop.schemas.text.redaction import Redactor
from linestop.schemas.text.visible_text import is_blank
from linestop.schemas.tool_contracts import canonical

CALL_ID_CHARS_MAX = 64
"""Longest id of a provider that is used: it must fit into the framing that a prompt's size bound counts for a call."""

CALLS_MAX = 64
"""A reply with more calls than this is invalid: they would not fit into the event that judges them."""

NAME_CHARS_MAX = 200
"""A name that a provider made up is cut to this length; no tool's name is as long."""

REASON_CHARS_MAX = 500
"""Characters of the model's text that a person is shown beside a call."""

REASON_SOURCE_CHARS_MAX = 4_000
"""Characters of a text, blanks included, that are searched for the reason."""


def _charge_micros(work: ModelWork, usage: Usage | None, *, reported: bool) -> int:
    """Return the cost of the request: by the reported usage, else the whole reservation."""
    if usage is None or not reported:
        return work.cost_max_micros
    return work.price.cost_micros(usage)


def failed_event(work: ModelWork, failed: ModelFailed) -> ModelFailedEvent:
    """Return the failure of a request, with what it is charged: the reported usage, or the whole reservation."""
    known = failed.usage is not None or not failed.possibly_billed
    charged = _charge_micros(work, failed.usage or Usage(), reported=known)
    return ModelFailedEvent(
        turn=work.turn,
        attempt=work.attempt,
        kind=failed.kind,
        message=work.redactor.text(str(failed))[:1_000],
        status=failed.status,
        retry_after_s=failed.retry_after_s,
        usage=failed.usage,
        possibly_billed=failed.possibly_billed and failed.usage is None,
        charged_micros=charged,
        begun=failed.begun,
    )


def _invalid_reply(work: ModelWork, reply: ModelReply, sentence: str) -> ModelFailedEvent:
    """Return the failure of a complete reply that cannot be used; its cost is known if the provider reported usage."""
    usage = reply.usage if reply.usage_reported else None
    return failed_event(work, ModelFailed("malformed", sentence, usage=usage, possibly_billed=usage is None))


def compacted_event(work: ModelWork, reply: ModelReply) -> AnyEvent:
    """Return the summary of the reply, or a failure if it is empty or has more than ``INLINE_BYTES_MAX`` bytes."""
    summary = work.redactor.text(reply.text)
    size = len(summary.encode())
    if is_blank(summary):
        return _invalid_reply(work, reply, "The summary was empty.")
    if size > INLINE_BYTES_MAX:
        return _invalid_reply(work, reply, f"The summary has {size} bytes; at most {INLINE_BYTES_MAX} can be stored.")
    cost = _charge_micros(work, reply.usage, reported=reply.usage_reported)
    return Compacted(
        turn=work.turn,
        attempt=work.attempt,
        covers_from=1,
        covers_to=work.covers_to,
        summary=summary,
        values=exact_values(work.covered_texts),
        usage=reply.usage,
        cost_micros=cost,
    )


def proposed_event(work: ModelWork, reply: ModelReply, duration_s: float) -> AnyEvent:
    """Return the proposal of the reply, or a failure if it makes too many calls or its arguments are too large."""
    if len(reply.calls) > CALLS_MAX:
        sentence = f"The reply makes {len(reply.calls)} calls; at most {CALLS_MAX} can be judged at once."
        return _invalid_reply(work, reply, sentence)
    if (size := sum(len(call.args.encode(errors="replace")) for call in reply.calls)) > ARGUMENTS_BYTES_MAX:
        return _invalid_reply(
            work, reply, f"Its calls have {size} bytes of arguments; at most {ARGUMENTS_BYTES_MAX} are read."
        )
    names = unique_ids([call.id for call in reply.calls], work)
    renamed = {call.id: name for call, name in zip(reply.calls, names, strict=True) if call.id != name}
    usable = work.contracts if len(reply.calls) <= work.calls_max else ()
    cleaned_calls = tuple(clean_call(call, usable, work.redactor) for call in reply.calls)
    calls = tuple(
        ProposedCall(call=name, tool=call.name[:NAME_CHARS_MAX], args=call.args)
        for name, call in zip(names, cleaned_calls, strict=True)
    )
    text = work.redactor.text(reply.text)
    # A provider's blocks hold the calls, too, exactly as the model wrote them.
    own = bool(reply.blocks) and not renamed and cleaned_calls == reply.calls
    blocks = "" if not own else canonical(_redacted_blocks(reply.blocks, work.redactor)).decode()
    return Proposed(
        turn=work.turn,
        attempt=work.attempt,
        text=text,
        calls=calls,
        final=not calls,
        reason=_reason_line(text) if calls else "",
        stop_reason=reply.stop_reason,
        blocks=blocks,
        blocks_of=work.request.model.split("/", 1)[0] if blocks else "",
        usage=reply.usage,
        usage_source="reported" if reply.usage_reported else "reserved",
        cost_micros=_charge_micros(work, reply.usage, reported=reply.usage_reported),
        model=reply.model[:NAME_CHARS_MAX],
        request_id=reply.request_id[:NAME_CHARS_MAX],
        duration_s=round(duration_s, 6),
    )


def closing_event(work: ModelWork, reply: ModelReply, duration_s: float) -> AnyEvent:
    """Return the closing answer, which is its text alone: no tool was offered, so calls in it do not count."""
    if is_blank(reply.text):
        return _invalid_reply(work, reply, "The closing answer was empty.")
    return proposed_event(work, msgspec.structs.replace(reply, calls=(), blocks=()), duration_s)


def _redacted_blocks(blocks: tuple[JsonObject, ...], redactor: Redactor) -> list[JsonObject]:
    """Return the provider's blocks with texts redacted; other blocks are signed or checked by the provider itself."""
    return [
        block | {"text": redactor.text(block["text"])}
        if block.get("type") == "text" and isinstance(block.get("text"), str)
        else block
        for block in blocks
    ]


def _reason_line(text: str) -> str:
    """Return the model's text beside its calls, on one line and cut at a word, for the person who must decide."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[:REASON_SOURCE_CHARS_MAX]).split())
    if len(line) <= REASON_CHARS_MAX:
        return line
    head, _, rest = line[:REASON_CHARS_MAX].rpartition(" ")
    # Not every language puts spaces between words.
    return (head if len(rest) < len(head) else head + " " + rest).strip() + " …"


def unique_ids(ids: list[str], work: ModelWork) -> list[str]:
    """Return call ids that are unique in the run: the provider's own, or one of ours where it repeats or lacks one."""
    taken = set(work.used_ids)
    names: list[str] = []
    for index, provider_id in enumerate(ids):
        usable = provider_id and len(provider_id) <= CALL_ID_CHARS_MAX and provider_id not in taken
        prefix = JSON_MODE_ID_PREFIX if provider_id.startswith(JSON_MODE_ID_PREFIX) else "call-"
        name = provider_id if usable else f"{prefix}{work.turn}-{work.attempt}-{index + 1}"
        taken.add(name)
        names.append(name)
    return names
