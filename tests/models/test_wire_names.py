"""Tool names and call ids on the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linestop.models.wire_names import check_names, from_wire, json_mode_call_id, to_wire, unique_id, wire_id
from linestop.schemas.model_messages import ModelFailed, ToolSpec
from linestop.schemas.run.starting.observed_tool_mode import JSON_MODE_ID_PREFIX, NATIVE_ID_PREFIX


def _tool(name: str) -> ToolSpec:
    return ToolSpec(name=name, description="", parameters={"type": "object"})


@pytest.mark.parametrize("name", ["files.read", "a", "a.b.c", "get_weather", "x-y"])
def test_a_tool_name_comes_back_as_it_was(name: str) -> None:
    """Dots are sent as two underscores and come back as dots."""
    check_names([_tool(name)])
    assert from_wire(to_wire(name)) == name


@pytest.mark.parametrize("name", ["a__b", "a_.b", "", "a b", "é", "x" * 65, "a." * 25 + "a" * 20])
def test_a_name_that_would_not_come_back_is_refused(name: str) -> None:
    """The name is refused before anything is sent, and the sentence contains it."""
    with pytest.raises(ModelFailed, match="cannot be sent") as failed:
        check_names([_tool(name)])
    assert failed.value.kind == "permanent"


@given(st.text())
def test_any_name_a_model_invented_can_be_sent_back(name: str) -> None:
    """The provider must not refuse a conversation with a hallucinated tool in its past."""
    wire = to_wire(name)
    assert 1 <= len(wire) <= 64
    assert all(letter.isascii() and (letter.isalnum() or letter in "_-") for letter in wire)


def test_a_call_id_that_is_not_unique_gets_one_that_is() -> None:
    """Some servers number calls from zero in each reply."""
    assert unique_id("0", "reply-1") != unique_id("0", "reply-2")
    assert unique_id("call_abcdefgh", "reply-1") == "call_abcdefgh"
    assert wire_id("0") == "0"
    assert wire_id("x" * 100) == wire_id("x" * 100) != "x" * 100


def test_the_id_of_a_call_tells_how_it_was_made() -> None:
    """As a JSON object, or as a tool call to which the server gave no usable id."""
    assert json_mode_call_id("reply-1").startswith(JSON_MODE_ID_PREFIX)
    assert unique_id("0", "reply-1").startswith(NATIVE_ID_PREFIX)
    assert json_mode_call_id("reply-1") != json_mode_call_id("reply-2")
