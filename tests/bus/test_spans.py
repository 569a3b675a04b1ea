"""Spans of a run, made from its log."""

from __future__ import annotations

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.run_logs import RUN, TENANT, record

from linestop.bus.spans import Spans, trace_ids
from linestop.schemas.run import Run


async def nothing(_bench: object) -> None:
    """Nobody does anything."""


def test_a_run_is_one_trace_with_a_span_a_call() -> None:
    """The run is the root, every model call and tool call a child, all with the trace id of the events."""
    exporter = InMemorySpanExporter()
    spans = Spans(SimpleSpanProcessor(exporter))
    run = Run(TENANT, RUN)
    for message in record([[("look", "a")], [("look", "b")]], nothing):
        entry = run.apply(*message)
        if entry.event is not None and not entry.ignored:
            spans.after(run, entry.event)
    spans.close()
    found = exporter.get_finished_spans()
    trace, root = trace_ids(run)
    assert {span.context.trace_id for span in found if span.context} == {trace}
    roots = [span for span in found if span.parent is None]
    assert [span.name for span in roots] == ["invoke_agent a"]
    children = [span for span in found if span.parent is not None]
    assert {span.parent.span_id for span in children if span.parent} == {root}
    names = [span.name for span in children]
    assert sum(name.startswith("chat ") for name in names) == run.turn
    assert sum(name.startswith("execute_tool ") for name in names) == len([c for c in run.calls.values() if c.effects])
