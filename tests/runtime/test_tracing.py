"""Spans of a run, made from its log."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.builders import OK, Story, agent, at_work, call, reply
from tests.bus.test_cloud_events import THEIRS, opened_with
from tests.run_logs import RUN, TENANT, record

from linestop.errors import ConfigError
from linestop.runtime.tracing import Spans, spans_from_environment
from linestop.schemas.events import Stopped
from linestop.schemas.run.fold import Run
from linestop.schemas.trace_context import event_traceparent, parse_traceparent, run_trace


@pytest.fixture(autouse=True)
def _no_telemetry_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables of the environment in which the tests run."""
    for name in ("SERVICE_NAME", "RESOURCE_ATTRIBUTES", "TRACES_SAMPLER", "TRACES_SAMPLER_ARG", "SDK_DISABLED"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER"):
        monkeypatch.delenv(name, raising=False)


async def nothing(_bench: object) -> None:
    """No person intervenes."""


def spans_of(messages: Sequence[tuple[str, bytes, int]], tenant: str = TENANT, run_id: str = RUN) -> list[ReadableSpan]:
    """The spans that the writers of the log send."""
    exporter = InMemorySpanExporter()
    spans = Spans(SimpleSpanProcessor(exporter))
    run = Run(tenant, run_id)  # type: ignore[arg-type] # plain text in tests
    for message in messages:
        entry = run.apply(*message)
        if entry.event is not None and not entry.ignored:
            spans.emit_ended(run, entry.event)
    spans.close()
    return list(exporter.get_finished_spans())


def of_story(story: Story) -> list[ReadableSpan]:
    """The spans of a story's log."""
    return spans_of(story.messages, story.run.tenant, story.run.run)


def refunded() -> Story:
    """A run, up to its end, with a call whose first executor did not report."""
    story = at_work(call("look"))
    story.advance_s(12).run_until_idle().finish_tools(look=OK)
    return story.finish_model(reply(text="done"))


def test_a_run_is_one_trace_with_a_span_a_call() -> None:
    """The run is the root, every model request and tool call a child, all with the trace id of the events."""
    messages = record([[("look", "a")], [("look", "b")]], nothing)
    found = spans_of(messages)
    run = Run(TENANT, RUN)
    for message in messages:
        run.apply(*message)
    trace = run_trace(run)
    assert {span.context.trace_id for span in found if span.context} == {trace.trace_id}
    roots = [span for span in found if span.parent is None]
    assert [span.name for span in roots] == ["invoke_agent a"]
    children = [span for span in found if span.parent is not None]
    assert {span.parent.span_id for span in children if span.parent} == {trace.span_id}
    names = [span.name for span in children]
    assert sum(name.startswith("chat ") for name in names) == run.turn
    assert sum(name.startswith("execute_tool ") for name in names) == len([c for c in run.calls.values() if c.effects])


def test_every_event_names_a_span_that_is_sent() -> None:
    """A reader of a message's ``traceparent`` can find it."""
    story = refunded()
    sent = {span.context.span_id for span in of_story(story) if span.context}
    again = Run(story.run.tenant, story.run.run)
    for (subject, payload, seq), entry in zip(story.messages, story.run.entries, strict=True):
        assert entry.event is not None
        named = parse_traceparent(event_traceparent(again, entry.event))
        again.apply(subject, payload, seq)
        assert named is not None
        assert named.span_id in sent, f"{entry.role}.{entry.name}"
    assert again.sealed


def test_an_attempt_without_a_report_has_its_span() -> None:
    """It ends when it is taken over, and its span shows that."""
    tools = [span for span in of_story(refunded()) if span.name.startswith("execute_tool")]
    assert [span.status.is_ok for span in tools] == [False, True]
    lost = tools[0]
    assert lost.attributes
    assert lost.attributes["error.type"] == "superseded"
    assert lost.start_time
    assert lost.end_time
    assert (lost.end_time - lost.start_time) / 1e9 == pytest.approx(12, abs=0.01)


def test_a_model_request_without_a_report_has_its_span() -> None:
    """The same for a model."""
    story = Story(agent(limits={"wall_s": 1_000})).open_run().run_until_idle().advance_s(200).run_until_idle()
    chats = [span for span in of_story(story) if span.name.startswith("chat")]
    assert [(span.attributes or {})["error.type"] for span in chats] == ["superseded"]


def test_a_stopped_run_sends_each_open_span_once() -> None:
    """The process that reports a killed attempt ends its span; no id is sent twice."""
    story = at_work(call("look")).given(Stopped(by="ann", why="enough"), by="operator").advance_s(200).run_until_idle()
    assert story.run.sealed
    ids = [span.context.span_id for span in of_story(story) if span.context]
    assert len(ids) == len(set(ids)) == 3


def test_a_run_continues_the_trace_of_its_task() -> None:
    """The sender's trace, with the sender's span as the parent of the run's."""
    story = opened_with(THEIRS).run_until_idle().finish_model(reply(text="done"))
    found = of_story(story)
    theirs = parse_traceparent(THEIRS)
    assert theirs is not None
    assert {span.context.trace_id for span in found if span.context} == {theirs.trace_id}
    [root] = [span for span in found if span.name.startswith("invoke_agent")]
    assert root.parent is not None
    assert root.parent.span_id == theirs.span_id
    assert all(
        entry.event and theirs.traceparent()[:36] in event_traceparent(story.run, entry.event)
        for entry in story.run.entries
    )


@pytest.mark.parametrize(
    ("sampler", "argument", "trace", "sent"),
    [
        ("parentbased_traceidratio", "0", "", 0),
        ("parentbased_traceidratio", "1", "", 3),
        ("traceidratio", "0", THEIRS, 0),
        ("parentbased_traceidratio", "0", THEIRS, 3),
        ("parentbased_always_on", "", THEIRS[:-1] + "0", 0),
        ("always_off", "", "", 0),
    ],
)
def test_a_run_is_sent_whole_or_not_at_all(
    sampler: str, argument: str, trace: str, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the sampler decides of the root holds for all of its spans, and stands in the events' flags."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    story = (
        opened_with(trace)
        .run_until_idle()
        .finish_model(reply(call("look")))
        .given(Stopped(by="ann", why="enough"), by="operator")
        .advance_s(200)
        .run_until_idle()
    )
    assert len(of_story(story)) == sent
    spans = Spans(SimpleSpanProcessor(InMemorySpanExporter()))
    first = story.run.entries[0].event
    assert first is not None
    assert spans.sampled(Run(story.run.tenant, story.run.run), first) is bool(sent)
    spans.close()


def test_spans_have_the_attributes_of_the_conventions() -> None:
    """The model asked, the model that replied, the reason of the end, and the version of the library."""
    found = of_story(refunded())
    chat = next(span for span in found if span.name.startswith("chat"))
    root = next(span for span in found if span.name.startswith("invoke_agent"))
    assert chat.attributes
    assert root.attributes
    for span in (chat.attributes, root.attributes):
        assert (span["gen_ai.provider.name"], span["gen_ai.request.model"]) == ("playbook", "large")
    assert chat.attributes["gen_ai.response.model"] == "large"
    assert chat.attributes["gen_ai.response.finish_reasons"] == ("calls",)
    assert chat.instrumentation_scope
    assert chat.instrumentation_scope.version


@pytest.mark.parametrize(
    ("model", "base_url", "server"),
    [
        ("anthropic/large", "", ("api.anthropic.com", 443)),
        ("openai/large", "", ("api.openai.com", 443)),
        ("openai/large", "http://10.1.2.3:8080/v1", ("10.1.2.3", 8080)),
        ("openai/large", "https://[2001:db8::1]/v1", ("2001:db8::1", 443)),
        ("openai/large", "http://models.example", ("models.example", 80)),
        ("openai/large", "http://models.example:port", (None, None)),
        ("playbook/large", "", (None, None)),
    ],
)
def test_a_model_request_names_the_server_that_was_asked(
    model: str, base_url: str, server: tuple[str | None, int | None]
) -> None:
    """That of its own provider, or the configured one; none if the log names none."""
    version = agent()
    choice = msgspec.structs.replace(version.model, model=model, base_url=base_url)
    story = (
        Story(msgspec.structs.replace(version, model=choice))
        .open_run()
        .run_until_idle()
        .finish_model(reply(text="done"))
        .run_until_idle()
    )
    [chat] = [span for span in of_story(story) if span.name.startswith("chat")]
    assert chat.attributes
    assert (chat.attributes.get("server.address"), chat.attributes.get("server.port")) == server
    assert chat.attributes["gen_ai.request.max_tokens"] == choice.output_tokens_max


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own name is used only if the environment sets none."""
    [span, *_] = of_story(refunded())
    assert span.resource.attributes["service.name"] == "linestop"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop-agents")
    [span, *_] = of_story(refunded())
    assert span.resource.attributes["service.name"] == "shop-agents"


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_either_endpoint_switches_spans_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one for everything, and the one for traces; the switches for telemetry still turn them off."""
    assert spans_from_environment() is None
    monkeypatch.setenv(name, "http://127.0.0.1:9/v1/traces")
    spans = spans_from_environment()
    assert spans is not None
    spans.close()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert spans_from_environment() is None
    monkeypatch.delenv("OTEL_TRACES_EXPORTER")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert spans_from_environment() is None


def test_a_missing_exporter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variable that needs it, and the extra that contains it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT.*linestop\[otlp\]"):
        spans_from_environment()
