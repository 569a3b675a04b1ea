"""OpenTelemetry spans, made from the log: one trace a run, the same ids whoever makes them.

A span is emitted by the process that appends the event that ends it, with the times the log has. Names and
attributes follow the GenAI conventions (open-telemetry/semantic-conventions-genai, in development): the run
is ``invoke_agent``, a model call ``chat``, a tool call ``execute_tool``. Prompts, arguments and results are
not recorded. Without an exporter nothing is imported and nothing is done.
"""

from __future__ import annotations

import hashlib
import os
from datetime import datetime
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from linestop.errors import ConfigError
from linestop.schemas.calls import Attempt
from linestop.schemas.events import AnyEvent, Finished, ModelFailedEvent, Proposed, Sealed
from linestop.schemas.run import Run

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
NAME = "linestop"


class _Ids(IdGenerator):
    """Hands out the ids that were set last: spans are started synchronously, one after the other."""

    def __init__(self) -> None:
        self.trace_id = 1
        self.span_id = 1

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class Spans:
    """Emits spans to ``processor``. One instance a process."""

    def __init__(self, processor: SpanProcessor) -> None:
        self._ids = _Ids()
        self._provider = TracerProvider(
            id_generator=self._ids, resource=Resource.create({"service.name": NAME}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(NAME)

    def after(self, run: Run, event: AnyEvent) -> None:
        """Emit the span that ``event``, the last of ``run``, ends; most events end none."""
        match event:
            case Proposed() | ModelFailedEvent():
                self._model(run, event)
            case Finished() if event.attempt:
                self._tool(run, event)
            case Sealed():
                self._run(run, event)
            case _:
                return

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _model(self, run: Run, event: Proposed | ModelFailedEvent) -> None:
        attempt = _attempt(run, "", event.turn, event.attempt)
        if attempt is None:
            return
        provider, _, model = attempt.model.partition("/")
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": model,
            "linestop.turn": event.turn,
            "linestop.attempt": event.attempt,
            "linestop.cost_micros": attempt.charged_micros,
        }
        if event.usage is not None:
            attributes["gen_ai.usage.input_tokens"] = event.usage.total - event.usage.out
            attributes["gen_ai.usage.output_tokens"] = event.usage.out
        failed = event.message if isinstance(event, ModelFailedEvent) else ""
        key = f"{run.run}:model:{event.turn}:{event.attempt}"
        self._emit(run, f"chat {model}", key, attributes, (attempt.started_at, event.at), failed=failed, client=True)

    def _tool(self, run: Run, event: Finished) -> None:
        attempt = _attempt(run, event.call, 0, event.attempt)
        if attempt is None:
            return
        tool = run.calls[event.call].tool
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": tool,
            "gen_ai.tool.call.id": event.call,
            "linestop.attempt": event.attempt,
            "linestop.outcome": event.outcome,
        }
        failed = "" if event.outcome == "succeeded" else event.outcome
        key = f"{run.run}:tool:{event.call}:{event.attempt}"
        self._emit(run, f"execute_tool {tool}", key, attributes, (attempt.started_at, event.at), failed=failed)

    def _run(self, run: Run, event: Sealed) -> None:
        agent = run.opened.agent.name if run.opened else "none"
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": agent,
            "linestop.run": run.run,
            "linestop.tenant": run.tenant,
            "linestop.status": event.status,
            "linestop.cost_micros": event.totals.cost_micros,
        }
        began = run.opened_at if run.opened else event.at
        failed = "" if event.status == "completed" else event.why or event.status
        self._emit(run, f"invoke_agent {agent}", "", attributes, (began, event.at), failed=failed)

    def _emit(  # noqa: PLR0913 - what a span is
        self,
        run: Run,
        name: str,
        key: str,
        attributes: dict[str, Any],
        times: tuple[datetime, datetime],
        *,
        failed: str = "",
        client: bool = False,
    ) -> None:
        """Emit one span; ``key`` names it within the run, an empty one is the run's own, the root."""
        trace, root = trace_ids(run)
        self._ids.trace_id = trace
        self._ids.span_id = root if not key else int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") or 1
        context = None
        if key:
            parent = SpanContext(trace, root, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
            context = set_span_in_context(NonRecordingSpan(parent))
        kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
        span = self._tracer.start_span(
            name, context=context, kind=kind, attributes=attributes, start_time=_nanoseconds(times[0])
        )
        if failed:
            span.set_status(Status(StatusCode.ERROR, failed[:200]))
        span.end(_nanoseconds(times[1]))


def trace_ids(run: Run) -> tuple[int, int]:
    """Trace id (that of the events' ``traceparent``) and root span id of a run."""
    digest = hashlib.sha256(f"{run.tenant}/{run.run}".encode()).digest()
    return int.from_bytes(digest[:16], "big") or 1, int.from_bytes(digest[16:24], "big") or 1


def spans_from_environment() -> Spans | None:
    """Spans to the OTLP endpoint that the environment names, or None if it names none.

    Raises:
        ConfigError: the extra ``otlp`` is not installed.
    """
    if not os.environ.get(ENDPOINT):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(f"{ENDPOINT} is set, but the exporter is missing: pip install 'linestop[otlp]'.") from error
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - only with an exporter

    return Spans(BatchSpanProcessor(OTLPSpanExporter()))


def _attempt(run: Run, call: str, turn: int, attempt: int) -> Attempt | None:
    for entered in (a for attempts in run.attempts.values() for a in attempts):
        if entered.call == call and entered.attempt == attempt and (call or entered.turn == turn):
            return entered
    return None


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1_000


__all__ = ["Spans", "spans_from_environment", "trace_ids"]
