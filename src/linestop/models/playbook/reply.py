"""Builds the HTTP reply of a step, with or without its fault. Pure: the server does the waiting and cutting."""

from __future__ import annotations

from typing import Literal

import msgspec

from linestop.models.playbook import script
from linestop.models.playbook.answer import compose_reply, truncate_reply
from linestop.models.playbook.conversation import Conversation
from linestop.models.playbook.script import Playbook, Step
from linestop.models.playbook.wire import (
    BROKEN_EVENT,
    TERMINAL_EVENTS,
    error_body,
    stream_events,
    whole_body,
)


class HttpReply(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP reply, and how it ends. A ``cut`` reply breaks off; ``never`` sends nothing at all."""

    status: int = 200
    media: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    pieces: tuple[bytes, ...] = ()
    delay_s: float = 0.0
    pace_s: float = 0.0
    ending: Literal["end", "cut", "never"] = "end"


def plain_reply(book: Playbook, step: Step, conversation: Conversation, *, truncated: bool = False) -> HttpReply:
    """The reply of a step without a fault; ``truncated`` cuts it off as a token limit does.

    Raises:
        NoScriptedReply: when a placeholder cannot be filled in.
    """
    scripted = compose_reply(book, step, conversation)
    if truncated:
        scripted = truncate_reply(scripted)
    if not conversation.stream:
        return HttpReply(pieces=(whole_body(scripted, conversation),))
    pieces = tuple(stream_events(scripted, conversation))
    return HttpReply(media="text/event-stream", pieces=pieces, pace_s=step.pace_s)


def faulty_reply(book: Playbook, step: Step, conversation: Conversation) -> HttpReply:
    """The reply of a step whose fault is active.

    Raises:
        NoScriptedReply: when a placeholder cannot be filled in.
    """
    match step.fault:
        case script.Status(status=status, retry_after_s=wait, message=message):
            headers = () if wait is None else (("retry-after", f"{wait:g}"),)
            body = error_body(conversation.wire, status, message)
            return HttpReply(status=status, headers=headers, pieces=(body,))
        case script.Html():
            return HttpReply(media="text/html", pieces=(b"<html><body>Please log in.</body></html>",))
        case script.Empty():
            return HttpReply(media="text/event-stream" if conversation.stream else "application/json")
        case script.Never():
            return HttpReply(ending="never")
        case script.Truncated():
            return plain_reply(book, step, conversation, truncated=True)
        case _:
            return _with_fault(plain_reply(book, step, conversation), step, conversation)


def _with_fault(reply: HttpReply, step: Step, conversation: Conversation) -> HttpReply:
    """A correct reply, delivered with a fault."""
    pieces, whole = reply.pieces, b"".join(reply.pieces)
    match step.fault:
        case script.Delay(delay_s=delay_s):
            return msgspec.structs.replace(reply, delay_s=delay_s)
        case script.Cut(after_bytes=None, after_events=events):
            pieces_sent = pieces[:events] if conversation.stream else ()
            return msgspec.structs.replace(reply, pieces=pieces_sent, ending="cut")
        case script.Cut(after_bytes=count):
            return msgspec.structs.replace(reply, pieces=(whole[:count],), ending="cut")
        case script.Malformed() if conversation.stream:
            return msgspec.structs.replace(reply, pieces=(pieces[0], BROKEN_EVENT, *pieces[1:]))
        case script.NoTerminal() if conversation.stream:
            return msgspec.structs.replace(reply, pieces=pieces[: -TERMINAL_EVENTS[conversation.wire]])
        case _:
            # The fault that breaks a stream cuts an unstreamed body in half.
            return msgspec.structs.replace(reply, pieces=(whole[: len(whole) // 2],))
