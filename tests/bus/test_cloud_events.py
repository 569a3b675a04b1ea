"""Tasks that arrive as CloudEvents, and the CloudEvents headers of linestop's messages."""

from __future__ import annotations

import base64
import json
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import use_span
from tests.builders import NOW, TASK, Story

from linestop.actors.facts import CurrentAgent, IncomingTask
from linestop.actors.judging.task_acceptance import task_sha256
from linestop.bus.cloud_events import event_headers, unwrap
from linestop.client.sender import message_headers
from linestop.errors import InputError
from linestop.schemas.events import Opened
from linestop.schemas.messages import Task
from linestop.schemas.trace_context import TraceContext, parse_traceparent

THEIRS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TASK_JSON = {"text": "go"}


def structured(**fields: object) -> bytes:
    """An event in structured mode."""
    return json.dumps({"specversion": "1.0", "id": "1", "source": "/x", "type": "t", **fields}).encode()


BASE64 = base64.b64encode(json.dumps(TASK_JSON).encode()).decode()


@pytest.mark.parametrize("name", ["Content-Type", "content-type", "CONTENT-TYPE"])
@pytest.mark.parametrize(
    "media_type",
    [
        "application/cloudevents+json",
        "Application/CloudEvents+JSON",
        "application/cloudevents+json; charset=utf-8",
        "application/cloudevents",
    ],
)
@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(structured(data=TASK_JSON), id="data"),
        pytest.param(structured(data=json.dumps(TASK_JSON)), id="data-as-text"),
        pytest.param(structured(data_base64=BASE64), id="base64"),
    ],
)
def test_a_structured_event_is_unwrapped_however_its_names_are_written(
    name: str, media_type: str, payload: bytes
) -> None:
    """Header names and media types have no case, and the data may be JSON, JSON text or base64."""
    data, _ = unwrap({name: media_type}, payload)
    assert json.loads(data) == TASK_JSON


def test_the_payload_of_any_other_message_is_the_data() -> None:
    """Binary mode, and plain JSON."""
    assert unwrap({"ce-specversion": "1.0", "content-type": "application/json"}, b"{}") == (b"{}", "")
    assert unwrap({}, b"\xff") == (b"\xff", "")


@pytest.mark.parametrize(
    ("media_type", "payload", "sentence"),
    [
        ("application/cloudevents+json", b"{", "is not a CloudEvent in the JSON format"),
        ("application/cloudevents+json", structured(), "without 'data'"),
        ("application/cloudevents+json", structured(data_base64="*"), "is not base64"),
        ("application/cloudevents-batch+json", b"[]", "send 'application/cloudevents\\+json'"),
        ("application/cloudevents+avro", b"x", "send 'application/cloudevents\\+json'"),
    ],
)
def test_an_invalid_structured_event_is_refused(media_type: str, payload: bytes, sentence: str) -> None:
    """The sentence names the mistake."""
    with pytest.raises(InputError, match=sentence):
        unwrap({"Content-Type": media_type}, payload)


@pytest.mark.parametrize(
    ("headers", "payload"),
    [
        ({"traceparent": THEIRS}, b"{}"),
        ({"Traceparent": THEIRS}, b"{}"),
        ({"ce-traceparent": THEIRS}, b"{}"),
        ({"content-type": "application/cloudevents+json"}, structured(data=TASK_JSON, traceparent=THEIRS)),
    ],
)
def test_a_trace_is_found_wherever_its_sender_put_it(headers: dict[str, str], payload: bytes) -> None:
    """As the W3C header, or as the CloudEvents attribute."""
    assert unwrap(headers, payload)[1] == THEIRS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        THEIRS[:-1],
        THEIRS + "-x",
        "ff" + THEIRS[2:],
        THEIRS.upper(),
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        THEIRS + "\n00",
    ],
)
def test_a_traceparent_that_is_not_one_is_ignored(text: str) -> None:
    """As the standard requires."""
    assert parse_traceparent(text) is None


def test_a_traceparent_of_a_later_version_is_read() -> None:
    """A later version may have more fields."""
    assert parse_traceparent("01" + THEIRS[2:] + "-more") == parse_traceparent(THEIRS)
    assert parse_traceparent(THEIRS) == TraceContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)


def opened_with(trace: str) -> Story:
    """A run whose task had this trace."""
    story = Story()
    task = Task(text=TASK, user="ann")
    incoming = IncomingTask(agent=story.version.name, sha256=task_sha256(task), task=task, trace=trace)
    return story.when("validator", incoming, CurrentAgent(version=story.version)).append_decided()


def test_an_opened_run_keeps_its_tasks_trace() -> None:
    """The trace is in the log, so that every reader continues it; an invalid one is left out."""
    assert opened_with(THEIRS).last(Opened).task.trace == THEIRS
    assert not opened_with("nonsense").last(Opened).task.trace


def test_published_headers_name_the_type_the_time_and_the_subject() -> None:
    """No SDK has to guess type, time or subject."""
    at = datetime(2026, 1, 1, 13, 0, 0, 5, tzinfo=timezone(timedelta(hours=1)))
    assert event_headers(THEIRS, event_id="i", role="recorder", kind="outcome", subject="r1", at=at) == {
        "traceparent": THEIRS,
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": "i",
        "ce-source": "/linestop/recorder",
        "ce-type": "io.linestop.outcome",
        "ce-subject": "r1",
        "ce-time": "2026-01-01T12:00:00.000005Z",
        "ce-datacontenttype": "application/json",
    }
    assert NOW.tzinfo is UTC


def test_a_client_sends_the_span_that_its_program_is_in() -> None:
    """And no new trace of its own, because no program would ever export that span."""
    assert "traceparent" not in message_headers("r1", "io.linestop.task")
    span = TracerProvider().get_tracer("their-service").start_span("handle")
    with use_span(span):
        sent = parse_traceparent(message_headers("r1", "io.linestop.task")["traceparent"])
    assert sent is not None
    assert (sent.trace_id, sent.span_id) == (span.get_span_context().trace_id, span.get_span_context().span_id)


def test_a_client_does_not_load_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that has not imported OpenTelemetry is not in a span."""
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    assert "traceparent" not in message_headers("r1", "io.linestop.task")
