"""OpenTelemetry spans, made from the log: one trace a run, with the same ids whichever process makes them.

A span is emitted by the process that appends the event that ends it, with the times of the log. Names and
attributes follow the GenAI conventions (open-telemetry/semantic-conventions-genai, in development): the run
is ``invoke_agent``, a model request ``chat``, a tool call ``execute_tool``. Prompts, arguments and results are
not recorded. Without an exporter nothing is imported and no span is emitted.
"""

from __future__ import annotations

import os
from datetime import datetime
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision
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
from linestop.models.providers import PROVIDERS
from linestop.schemas.events import (
    AnyEvent,
    Compacted,
    EffectStarted,
    Finished,
    ModelFailedEvent,
    ModelStarted,
    Proposed,
    Sealed,
)
from linestop.schemas.run.call_states import Attempt
from linestop.schemas.run.fold import Run
from linestop.schemas.trace_context import TraceContext, attempt_span, run_trace, task_trace

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""The variables of the OpenTelemetry specification that name where spans are sent."""

SUPERSEDED = "superseded"
"""The ``error.type`` of an attempt that was not reported and that another attempt took over."""

NAME = "linestop"
PORTS = {"https": 443, "http": 80}


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
    """Emits spans to ``processor``. One instance a process.

    The sampler that the environment names (``OTEL_TRACES_SAMPLER``) decides which runs are recorded. It is asked only
    about the root span; the children follow, so that no span is sent without its root.
    """

    def __init__(self, processor: SpanProcessor) -> None:
        self._ids = _Ids()
        resource = Resource.create()
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": NAME}))
        self._provider = TracerProvider(id_generator=self._ids, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(NAME, version("linestop"))

    def emit_ended(self, run: Run, event: AnyEvent) -> None:
        """Emit the spans that ``event``, the last of ``run``, ends; most events end none.

        An attempt ends with its result, with the start that takes it over, or with the seal.
        """
        if isinstance(event, _ENDING_EVENTS) and self.sampled(run):
            for attempt in _ended(run, event):
                if attempt.call:
                    self._emit_tool_span(run, attempt, event)
                else:
                    self._emit_model_span(run, attempt, event)
            if isinstance(event, Sealed):
                self._emit_run_span(run, event)

    def sampled(self, run: Run, event: AnyEvent | None = None) -> bool:
        """Whether the run is recorded; ``event`` is its next event, if that is the one that opens it."""
        trace = run_trace(run, event)
        root = self._provider.sampler.should_sample(_parent(run, event), trace.trace_id, NAME, SpanKind.INTERNAL)
        return root.decision is not Decision.DROP

    def close(self) -> None:
        """Send the remaining spans."""
        self._provider.shutdown()

    def _emit_model_span(self, run: Run, attempt: Attempt, event: AnyEvent) -> None:
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            **_model_attributes(attempt.model),
            **_server_attributes(attempt.model, attempt.base_url),
            **_conversation_attributes(run),
            "gen_ai.request.max_tokens": attempt.output_tokens_max,
            "linestop.turn": attempt.turn,
            "linestop.attempt": attempt.attempt,
            "linestop.cost_micros": attempt.charged_micros,
        }
        usage, failed = attempt.usage, ""
        if isinstance(event, Proposed):
            attributes |= {
                "gen_ai.response.model": event.model,
                "gen_ai.response.id": event.request_id,
                "gen_ai.response.finish_reasons": [event.stop_reason] if event.stop_reason else (),
            }
            attributes = {name: value for name, value in attributes.items() if value or value == 0}
        elif isinstance(event, ModelFailedEvent):
            failed, attributes["error.type"] = event.message, event.kind
        elif not isinstance(event, Compacted):
            failed = attributes["error.type"] = SUPERSEDED
        if usage is not None:
            attributes["gen_ai.usage.input_tokens"] = usage.total - usage.out
            attributes["gen_ai.usage.output_tokens"] = usage.out
        _, _, model = attempt.model.partition("/")
        span = attempt_span(run.run, attempt)
        self._emit(run, f"chat {model}", span, attributes, (attempt.started_at, event.at), failed=failed, client=True)

    def _emit_tool_span(self, run: Run, attempt: Attempt, event: AnyEvent) -> None:
        tool = run.calls[attempt.call].tool
        outcome = event.outcome if isinstance(event, Finished) else "unknown"
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": tool,
            "gen_ai.tool.type": "function",
            "gen_ai.tool.call.id": attempt.call,
            "linestop.attempt": attempt.attempt,
            "linestop.outcome": outcome,
        }
        failed = "" if outcome == "succeeded" else outcome
        if not isinstance(event, Finished):
            attributes["error.type"] = SUPERSEDED
        elif failed:
            attributes["error.type"] = event.error.type if event.error else outcome
        span = attempt_span(run.run, attempt)
        self._emit(run, f"execute_tool {tool}", span, attributes, (attempt.started_at, event.at), failed=failed)

    def _emit_run_span(self, run: Run, event: Sealed) -> None:
        agent = run.opened.agent.name if run.opened else "none"
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": agent,
            **_conversation_attributes(run),
            **(_model_attributes(run.opened.model.model) if run.opened else {}),
            "linestop.run": run.run,
            "linestop.tenant": run.tenant,
            "linestop.status": event.status,
            "linestop.cost_micros": event.totals.cost_micros,
        }
        began = run.opened_at if run.opened else event.at
        failed = "" if event.status == "completed" else event.why or event.status
        if failed:
            attributes["error.type"] = event.status
        self._emit(run, f"invoke_agent {agent}", 0, attributes, (began, event.at), failed=failed)

    def _emit(  # noqa: PLR0913 - the fields of a span
        self,
        run: Run,
        name: str,
        span_id: int,
        attributes: dict[str, Any],
        times: tuple[datetime, datetime],
        *,
        failed: str = "",
        client: bool = False,
    ) -> None:
        """Emit one span; ``span_id`` 0 stands for the run's own span, the root."""
        trace = run_trace(run)
        self._ids.trace_id = trace.trace_id
        self._ids.span_id = span_id or trace.span_id
        context = _child_of(trace) if span_id else _parent(run)
        kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
        span = self._tracer.start_span(
            name, context=context, kind=kind, attributes=attributes, start_time=_nanoseconds(times[0])
        )
        if failed:
            span.set_status(Status(StatusCode.ERROR, failed[:200]))
        span.end(_nanoseconds(times[1]))


_ENDING_EVENTS = (Proposed, ModelFailedEvent, Compacted, Finished, ModelStarted, EffectStarted, Sealed)
"""The events that can end an attempt, or the run."""


def _ended(run: Run, event: AnyEvent) -> list[Attempt]:
    """Return the attempts that the run's last event ended. A takeover ends the attempt, whatever comes later."""
    if isinstance(event, Finished) and event.late:
        return []
    ended = [a for a in run.ended_attempts.get(run.n, []) if (a.superseded_n or a.closed_n) == run.n]
    return [*ended, *run.open_attempts] if isinstance(event, Sealed) else ended


def _model_attributes(model: str) -> dict[str, str]:
    """Return provider and model under the names of the conventions."""
    provider, _, name = model.partition("/")
    return {"gen_ai.provider.name": provider, "gen_ai.request.model": name}


def _server_attributes(model: str, base_url: str) -> dict[str, Any]:
    """Return the server of the model, as far as the log names it: a playbook's own server is not in it."""
    if not base_url:
        provider = PROVIDERS.get(model.partition("/")[0])
        return {"server.address": provider.host, "server.port": PORTS["https"]} if provider and provider.host else {}
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port or PORTS.get(parts.scheme)
    except ValueError:
        # The text in the log may not be a valid address.
        return {}
    return {"server.address": host, **({"server.port": port} if port else {})} if host else {}


def _conversation_attributes(run: Run) -> dict[str, str]:
    """Return the thread that the task named, if it named one."""
    thread = run.opened.task.thread if run.opened else ""
    return {"gen_ai.conversation.id": thread} if thread else {}


def _parent(run: Run, event: AnyEvent | None = None) -> Context | None:
    """Return the context of the run's root span: that of the task's sender, if there was one."""
    sender = task_trace(run, event)
    return None if sender is None else _child_of(sender)


def _child_of(trace: TraceContext) -> Context:
    flags = TraceFlags(TraceFlags.SAMPLED if trace.sampled else TraceFlags.DEFAULT)
    parent = SpanContext(trace.trace_id, trace.span_id, is_remote=True, trace_flags=flags)
    # A new context: the span that this process may be in is unrelated.
    return set_span_in_context(NonRecordingSpan(parent), Context())


def spans_enabled() -> bool:
    """Whether the environment names an OTLP endpoint for spans and does not switch them off."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return False
    return any(os.environ.get(name) for name in ENDPOINTS)


def spans_from_environment() -> Spans | None:
    """Return spans for the OTLP endpoint that the environment names, or None if it names none.

    Raises:
        ConfigError: the extra ``otlp`` is not installed.
    """
    if not spans_enabled():
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
    except ImportError as error:
        named = next(name for name in ENDPOINTS if os.environ.get(name))
        raise ConfigError(f"{named} is set, but the exporter is missing: pip install 'linestop[otlp]'.") from error
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - only with an exporter

    return Spans(BatchSpanProcessor(OTLPSpanExporter()))


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1_000


__all__ = ["Spans", "spans_enabled", "spans_from_environment"]
