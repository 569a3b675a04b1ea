"""The wire form of all stored and sent messages."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
from tests.schemas.golden.make import HERE, WIRE, example, files

from linestop.schemas.events import (
    EVENT_NAMES,
    EVENTS,
    BlobRef,
    Cleared,
    Event,
    Proposed,
    StopMode,
    Stopped,
    decode,
    decode_envelope,
    encode,
    is_known,
)
from linestop.schemas.subjects import ACTORS

FREE = {"labels", "params", "parameters", "returns", "output_schema", "args", "answer", "result", "limits"}
"""Fields that hold any JSON or a table: a key more is a value more there."""


def strange(value: object, name: str = "") -> object:
    """Return the value with an unknown field in every object of a fixed form."""
    if isinstance(value, list):
        return [strange(item, name) for item in cast("list[object]", value)]
    if not isinstance(value, dict) or (name in FREE and "turns_max" not in value):
        return value  # pyright: ignore[reportUnknownVariableType]
    fields = cast("dict[str, object]", value)
    return {"heard_of_later": {"x": [1]}} | {key: strange(item, key) for key, item in fields.items()}


@pytest.mark.parametrize("name", sorted(files()))
def test_this_version_writes_the_golden_forms(name: str) -> None:
    """Byte for byte; a difference is a decision (``python -m tests.schemas.golden.make``)."""
    assert (HERE / name).read_bytes() == files()[name]


def test_no_golden_form_is_left_of_a_removed_struct() -> None:
    """A removed event would leave logs that no version can read."""
    assert {path.name for path in HERE.glob("*.json")} == set(files())


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", sorted(WIRE))
def test_a_golden_form_decodes_to_the_value_that_was_encoded(name: str, *, full: bool) -> None:
    """Decoding is the inverse of encoding."""
    data = (HERE / f"{name}{'' if full else '.least'}.json").read_bytes()
    assert msgspec.json.decode(data, type=WIRE[name]) == example(WIRE[name], full=full)


@pytest.mark.parametrize("name", sorted(WIRE))
def test_fields_of_a_later_version_are_ignored(name: str) -> None:
    """This holds for every object of a message, at any depth."""
    data = msgspec.json.encode(strange(msgspec.json.decode((HERE / f"{name}.json").read_bytes())))
    assert msgspec.json.decode(data, type=WIRE[name]) == example(WIRE[name], full=True)


@pytest.mark.parametrize(("role", "name"), sorted(EVENTS))
def test_an_event_is_read_by_its_role_and_name(role: Any, name: str) -> None:
    """The pair in the subject determines the type of the payload."""
    event = example(EVENTS[role, name], full=True)
    assert decode(role, name, encode(event)) == event
    assert EVENT_NAMES[type(event)] == name
    assert is_known(role, name)


def test_a_text_may_be_a_reference_to_a_blob() -> None:
    """The JSON type distinguishes the two."""
    event = decode("planner", "proposed", (HERE / "planner.proposed.blob.json").read_bytes())
    assert isinstance(event, Proposed)
    assert isinstance(event.text, BlobRef)
    assert isinstance(event.calls[0].args, BlobRef)


@pytest.mark.parametrize("role", [*ACTORS, "operator"])
def test_every_role_may_append_a_stop(role: Any) -> None:
    """The struct is the same for every role."""
    assert is_known(role, "stopped")
    assert isinstance(decode(role, "stopped", b'{"by":"x","why":"y"}'), Stopped)


def test_an_event_of_another_role_is_unknown() -> None:
    """A planner cannot append an approval."""
    assert not is_known("planner", "granted")
    with pytest.raises(KeyError):
        decode("planner", "granted", b"{}")


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{}", b'{"calls":1}', b"\xff", b'{"calls":[],"at":"2026-01-01T00:00:00"}', b"[" * 9_999]
)
def test_a_payload_of_another_form_is_not_read(payload: bytes) -> None:
    """It is not JSON, lacks a field, has one of another type, or a moment without a zone."""
    with pytest.raises((msgspec.DecodeError, RecursionError)):
        decode("approver", "cleared", payload)


def test_the_envelope_is_read_without_the_rest() -> None:
    """This lets a reader follow a chain through events of later versions."""
    found = decode_envelope(b'{"id":"a","prev":"b","later":{"x":1}}')
    assert (found.id, found.prev) == ("a", "b")


def test_every_event_is_frozen_and_carries_the_envelope() -> None:
    """A stored fact does not change."""
    for kind in (*EVENTS.values(), Stopped):
        assert issubclass(kind, Event)
        assert kind.__struct_config__.frozen
    with pytest.raises(AttributeError):
        Cleared(calls=()).calls = ()  # type: ignore[misc]


@pytest.mark.parametrize("mode", ["kill", "fence", "of a later version", ""])
def test_a_stop_in_any_mode_is_a_stop(mode: str) -> None:
    """``kill`` was a mode with the effect of ``fence``; an unknown mode cancels too."""
    stop = msgspec.json.decode(msgspec.json.encode({"by": "ann", "why": "x", "mode": mode}), type=Stopped)
    assert stop.mode is StopMode.FENCE
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"by":"ann","why":"x","mode":5}', type=Stopped)
