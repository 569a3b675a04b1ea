"""The W3C trace context of a run: the trace of its events and spans, and their ids.

Everything is derived from the log, so every process continues the same trace without asking another one. If a task
has a ``traceparent``, its run continues that trace: the run's root span is then a child of the sender's span.
Without one the trace id is the digest of tenant and run.

There is a span for the run, for each attempt of a model request and for each attempt of a tool call, and each event
names the span that it belongs to. Source: https://www.w3.org/TR/trace-context (version 00).
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import msgspec

from linestop.schemas.events import (
    AnyEvent,
    Compacted,
    EffectStarted,
    Finished,
    ModelFailedEvent,
    ModelStarted,
    Opened,
    Proposed,
)
from linestop.schemas.run.call_states import Attempt
from linestop.schemas.run.fold import Run

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
_INVALID_VERSION = "ff"


class TraceContext(msgspec.Struct, frozen=True):
    """A trace, its parent span for new spans (0 for none), and whether it is recorded."""

    trace_id: int
    span_id: int
    sampled: bool = True

    def traceparent(self, span_id: int = 0) -> str:
        """Return the header for ``span_id`` of this trace, or for its own span."""
        return f"00-{self.trace_id:032x}-{span_id or self.span_id:016x}-{int(self.sampled):02x}"


def parse_traceparent(text: str) -> TraceContext | None:
    """Read a ``traceparent`` header; None if it is invalid, since the standard says to ignore it then."""
    match = _TRACEPARENT.fullmatch(text.strip())
    if match is None or match[1] == _INVALID_VERSION or (match[1] == "00" and match[5]):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    return TraceContext(trace_id, span_id, bool(int(match[4], 16) & 1)) if trace_id and span_id else None


@lru_cache(maxsize=4_096)
def own_trace(tenant: str, run: str) -> TraceContext:
    """Return the context of a run whose task has none: its own trace, and the id of its root span."""
    digest = hashlib.sha256(f"{tenant}/{run}".encode()).digest()
    return TraceContext(int.from_bytes(digest[:16], "big") or 1, int.from_bytes(digest[16:24], "big") or 1)


def task_trace(run: Run, event: AnyEvent | None = None) -> TraceContext | None:
    """Return the context of the run's task, if it has one.

    ``event`` is the run's next event, if the question is about that: the event that opens a run contains the task's
    context.
    """
    opened = event if isinstance(event, Opened) else run.opened
    return parse_traceparent(opened.task.trace) if opened and opened.task.trace else None


def run_trace(run: Run, event: AnyEvent | None = None) -> TraceContext:
    """Return the trace of a run and the id of its root span; ``event`` as in ``task_trace``."""
    own, sender = own_trace(run.tenant, run.run), task_trace(run, event)
    return own if sender is None else TraceContext(sender.trace_id, own.span_id, sender.sampled)


def attempt_span(run: str, attempt: Attempt) -> int:
    """Return the id of the span of one attempt, of a model request or of a tool call."""
    if attempt.call:
        return _span(f"{run}:tool:{attempt.call}:{attempt.attempt}")
    return _span(f"{run}:model:{attempt.turn}:{attempt.attempt}")


def event_traceparent(run: Run, event: AnyEvent, *, sampled: bool | None = None) -> str:
    """Return the ``traceparent`` of the run's next event: that of its attempt, else that of the run's root span.

    ``sampled``: whether the spans of the run are recorded; None leaves that to the task's sender.
    """
    trace = run_trace(run, event)
    if sampled is not None:
        trace = msgspec.structs.replace(trace, sampled=sampled)
    match event:
        case ModelStarted() | Proposed() | ModelFailedEvent() | Compacted():
            return trace.traceparent(_span(f"{run.run}:model:{event.turn}:{event.attempt}"))
        case Finished() if event.attempt:
            return trace.traceparent(_span(f"{run.run}:tool:{event.call}:{event.attempt}"))
        case EffectStarted() if len(event.calls) == 1:
            return trace.traceparent(_span(f"{run.run}:tool:{event.calls[0].call}:{event.calls[0].attempt}"))
        case _:
            return trace.traceparent()


@lru_cache(maxsize=4_096)
def _span(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") or 1
