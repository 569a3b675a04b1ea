"""CloudEvents 1.0: the headers of the messages that linestop publishes, and reading tasks sent as CloudEvents.

Sources: the specification's bindings for NATS (`nats-protocol-binding.md`, binary and structured mode) and HTTP, whose
headers the SDKs read, and its JSON format (`json-format.md`: `data`, `data_base64`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from linestop.errors import InputError
from linestop.schemas.subjects import RoleName
from linestop.schemas.trace_context import own_trace

TYPE_PREFIX = "io.linestop"
JSON_TYPE = "application/json"
STRUCTURED = "application/cloudevents"
STRUCTURED_JSON = "application/cloudevents+json"
HEADER_NAMES = (
    "traceparent",
    "Content-Type",
    "ce-specversion",
    "ce-id",
    "ce-source",
    "ce-type",
    "ce-subject",
    "ce-time",
    "ce-datacontenttype",
)
"""The headers of events, outcomes, alerts and dead letters."""


class _Structured(msgspec.Struct, frozen=True):
    """The fields of an event in structured mode that a task needs."""

    data: msgspec.Raw = msgspec.Raw()
    data_base64: str | None = None
    traceparent: Any = None


def event_headers(  # noqa: PLR0913 - the attributes of an event
    trace: str, *, event_id: str, role: str, kind: str, subject: str, at: datetime
) -> dict[str, str]:
    """Build the headers of a published message: the trace context ``trace`` and the attributes of an event.

    ``kind`` is the last part of the type, ``subject`` the event's own subject, ``at`` the time of the event. The
    binding for NATS names the type of the data ``ce-datacontenttype``, the one for HTTP ``Content-Type``.
    """
    return {
        "traceparent": trace,
        "Content-Type": JSON_TYPE,
        "ce-specversion": "1.0",
        "ce-id": event_id,
        "ce-source": f"/linestop/{role}",
        "ce-type": f"{TYPE_PREFIX}.{kind}",
        "ce-subject": subject,
        "ce-time": timestamp(at),
        "ce-datacontenttype": JSON_TYPE,
    }


def timestamp(at: datetime) -> str:
    """Format a time as RFC 3339 in UTC."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def dead_letter_headers(role: RoleName, tenant: str, run: str, payload: bytes, *, at: datetime) -> dict[str, str]:
    """Build the headers of a dead letter; the same dead letter always has the same message id."""
    digest = hashlib.sha256(f"{role}.{tenant}.{run}".encode() + b"\0" + payload).hexdigest()
    trace = own_trace(tenant, run).traceparent()
    headers = event_headers(trace, event_id=digest, role=role, kind="dead", subject=run, at=at)
    return {**headers, "Nats-Msg-Id": digest}


def unwrap(headers: Mapping[str, str], payload: bytes) -> tuple[bytes, str]:
    """Return the data of a message and its ``traceparent``, for an event in structured mode or any other message.

    Header names and media types are compared without regard to case. In binary mode the payload is the data.

    Raises:
        InputError: its content type names an event in structured mode, but the payload cannot be read as one.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    trace = lowered.get("traceparent") or lowered.get("ce-traceparent", "")
    media_type = lowered.get("content-type", "").partition(";")[0].strip().lower()
    if not media_type.startswith(STRUCTURED):
        return payload, trace
    if media_type not in {STRUCTURED, STRUCTURED_JSON}:
        raise InputError(f"its content type '{media_type[:80]}' is not understood; send '{STRUCTURED_JSON}'")
    try:
        event = msgspec.json.decode(payload, type=_Structured)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InputError(f"it is not a CloudEvent in the JSON format: {error}") from None
    event_trace = event.traceparent if isinstance(event.traceparent, str) else ""
    return _data(event), trace or event_trace


def _data(event: _Structured) -> bytes:
    """Return the data of an event in structured mode: JSON, JSON in a string, or bytes in base64."""
    if event.data_base64 is not None:
        try:
            return base64.b64decode(event.data_base64, validate=True)
        except (binascii.Error, ValueError):
            raise InputError("its 'data_base64' is not base64") from None
    if not event.data:
        raise InputError("it is a CloudEvent without 'data'; put the task there")
    value = msgspec.json.decode(event.data)
    # An SDK that received text instead of an object sends a JSON string with the object in it.
    return value.encode() if isinstance(value, str) else bytes(event.data)
