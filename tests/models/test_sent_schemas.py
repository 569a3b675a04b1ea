"""Every JSON Schema that is sent to a provider, checked by another validator than linestop's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import jsonschema
import msgspec
import pytest
import referencing
import referencing.jsonschema
from tests.models import other_shapes
from tests.models.argument_shapes import SHAPES, Address

from linestop.actors.model_turn.prompt import base_size, system_text, tool_specs
from linestop.models.anthropic import request_body as anthropic_body
from linestop.models.embedded_schemas import embed_schema
from linestop.models.json_mode import FINAL_ANSWER_TOOL, json_mode_request, trial_request
from linestop.models.openai import request_body as openai_body
from linestop.sandbox.tools.decorator import Context, tool
from linestop.schemas.agents import AgentVersion
from linestop.schemas.argument_validation import check_arguments, schema_error
from linestop.schemas.defaults import TOKEN_OVERHEAD
from linestop.schemas.events import ModelChoice
from linestop.schemas.model_messages import Message, ModelRequest, Price, ToolMode, ToolSpec
from linestop.schemas.tool_contracts import Contract

BASE = "https://example.test/tree"
WRITTEN: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "its own root": (
        {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False},
        {"next": {"next": {}}},
        {"next": {"next": {"other": 1}}},
    ),
    "a property": (
        {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/properties/a"}}},
        {"b": 1},
        {"b": "1"},
    ),
    "the older keyword": (
        {
            "type": "object",
            "properties": {"a": {"$ref": "#/definitions/a~1b%20c"}},
            "definitions": {"a/b c": {"type": "integer"}},
        },
        {"a": 1},
        {"a": "1"},
    ),
    "an anchor": (
        {
            "type": "object",
            "properties": {"a": {"$ref": "#money"}},
            "$defs": {"m": {"$anchor": "money", "type": "integer"}},
        },
        {"a": 1},
        {"a": "1"},
    ),
    "an identifier": (
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": BASE,
            "type": "object",
            "properties": {"a": {"$ref": "leaf"}, "b": {"$ref": f"{BASE}#/$defs/leaf"}},
            "$defs": {"leaf": {"$id": "leaf", "$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}},
        },
        {"a": 1, "b": 2},
        {"a": 1, "b": "2"},
    ),
    "a dynamic reference": (
        {
            "type": "object",
            "$dynamicAnchor": "node",
            "required": ["v"],
            "properties": {"v": {"type": "integer"}, "next": {"$dynamicRef": "#node"}},
        },
        {"v": 1, "next": {"v": 2}},
        {"v": 1, "next": {}},
    ),
    "an unknown keyword": (
        {
            "type": "object",
            "properties": {"a": {"$ref": "#/parts/a"}},
            "parts": {"a": {"items": {"$ref": "#/parts/b"}}, "b": {"type": "integer"}},
        },
        {"a": [1]},
        {"a": ["1"]},
    ),
    "names that are keywords": (
        {
            "type": "object",
            "properties": {"$ref": {"$ref": "#/$defs/$ref"}, "$id": {"type": "string"}, "const": {"type": "integer"}},
            "$defs": {"$ref": {"type": "integer"}},
        },
        {"$ref": 1, "$id": "a", "const": 2},
        {"$ref": 1, "const": "2"},
    ),
    "data that looks like a schema": (
        {
            "type": "object",
            "properties": {"a": {"enum": [{"$ref": "#/nowhere", "type": "string"}], "default": {"type": "string"}}},
        },
        {"a": {"$ref": "#/nowhere", "type": "string"}},
        {"a": {"type": "string"}},
    ),
}
"""Name → a schema as an author may write it by hand, a value that fits it, one that does not."""


def _contract(kind: Any, name: str = "shop.place") -> Contract:
    def place(ctx: Context, value: Any) -> None:
        """Place it."""

    place.__annotations__["value"] = kind
    return tool(name=name)(place).contract


def _cases() -> Iterator[tuple[str, dict[str, Any], Any, Any]]:
    for name, (kind, good, bad) in SHAPES.items():
        yield name, _contract(kind).parameters, {"value": good}, {"value": bad}
    for name, (schema, good, bad) in WRITTEN.items():
        yield name, schema, good, bad


CASES = {name: (schema, good, bad) for name, schema, good, bad in _cases()}


def _request(*tools: ToolSpec, output_schema: dict[str, Any] | None = None) -> ModelRequest:
    return ModelRequest(
        model="openai/m",
        system="",
        messages=(Message(role="user", text="Go"),),
        tools=tools,
        output_schema=output_schema,
    )


def _spec(name: str, schema: dict[str, Any]) -> ToolSpec:
    return ToolSpec(name=name, description="It.", parameters=schema)


def _sent(request: ModelRequest) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema that any provider and tool mode sends for a request, with its place."""
    for official in (True, False):
        for mode, asked in (("native", request), ("trial", trial_request(request))):
            body = _on_the_wire(openai_body(asked, official=official))
            for entry in body.get("tools", []):
                yield f"openai {mode}", entry["function"]["parameters"]
            if "response_format" in body:
                yield f"openai {mode} answer", body["response_format"]["json_schema"]["schema"]
    body = _on_the_wire(anthropic_body(request))
    for entry in body.get("tools", []):
        yield "anthropic", entry["input_schema"]
    if "output_config" in body:
        yield "anthropic answer", body["output_config"]["format"]["schema"]
    yield "steps", _steps(request)


def _steps(request: ModelRequest) -> dict[str, Any]:
    schema: dict[str, Any] = _on_the_wire(json_mode_request(request)[1])["json_schema"]["schema"]
    return schema


def _on_the_wire(body: dict[str, Any]) -> dict[str, Any]:
    return msgspec.json.decode(msgspec.json.encode(body), type=dict[str, Any])


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        yield from (ref for key in ("$ref", "$dynamicRef") if isinstance(ref := fields.get(key), str))
        mapping = cast("dict[str, Any]", fields.get("discriminator", {})).get("mapping", {})
        yield from (ref for ref in mapping.values() if isinstance(ref, str))
        for key, part in fields.items():
            if key not in {"enum", "const", "default", "examples"}:
                yield from _references(part)
    elif isinstance(value, list):
        for part in cast("list[object]", value):
            yield from _references(part)


def _compiled(schema: dict[str, Any]) -> Callable[[object], bool]:
    """Return a check of values, after checking that the schema is valid and all its references resolve."""
    jsonschema.Draft202012Validator.check_schema(schema)
    resource = referencing.jsonschema.DRAFT202012.create_resource(schema)
    resolver = referencing.Registry[Any]().resolver_with_root(resource)
    if "$id" not in schema:
        for reference in _references(schema):
            resolver.lookup(reference)
    validator: Any = jsonschema.Draft202012Validator(schema)
    return cast("Callable[[object], bool]", validator.is_valid)


@pytest.mark.parametrize("name", CASES)
def test_every_sent_schema_allows_the_values_of_the_contract(name: str) -> None:
    """In every mode and for every provider it compiles, its references resolve, and it allows the same values."""
    schema, good, bad = CASES[name]
    contract = Contract(name="shop.place", description="It.", parameters=schema)
    assert schema_error(schema) is None
    assert check_arguments(msgspec.json.encode(good), contract).args
    assert not check_arguments(msgspec.json.encode(bad), contract).args
    places: set[str] = set()
    for place, sent in _sent(_request(_spec("shop.place", schema), output_schema=schema)):
        places.add(place)
        fits = _compiled(sent)
        if place == "steps":
            for step in ({"tool": "shop__place", "args": good}, {"tool": FINAL_ANSWER_TOOL, "args": {"answer": good}}):
                assert fits(step), step
            for step in ({"tool": "shop__place", "args": bad}, {"tool": FINAL_ANSWER_TOOL, "args": {"answer": bad}}):
                assert not fits(step), step
        elif sent == schema:
            assert (fits(good), fits(bad)) == (True, False)
    assert len(places) == 7


def test_all_shapes_at_once_keep_their_definitions_apart() -> None:
    """The values of each tool fit only its alternative, those of the answer fit the answer, even with shared names."""
    tools = [_spec(f"shop.t{index}", schema) for index, (schema, _, _) in enumerate(CASES.values())]
    answer, answer_good, answer_bad = CASES["nested dataclasses"]
    fits = _compiled(_steps(_request(*tools, output_schema=answer)))
    for index, (_, good, bad) in enumerate(CASES.values()):
        assert fits({"tool": f"shop__t{index}", "args": good})
        assert not fits({"tool": f"shop__t{index}", "args": bad})
    assert fits({"tool": FINAL_ANSWER_TOOL, "args": {"answer": answer_good}})
    assert not fits({"tool": FINAL_ANSWER_TOOL, "args": {"answer": answer_bad}})


def test_definitions_of_one_name_do_not_clash() -> None:
    """Two tools and the answer have an ``Address`` each, and each keeps its own."""
    ours, others = _contract(Address).parameters, _contract(other_shapes.Address).parameters
    answer = {"$ref": "#/$defs/Address", "$defs": {"Address": {"type": "boolean"}}}
    request = _request(_spec("shop.here", ours), _spec("shop.there", others), output_schema=answer)
    schema = _steps(request)
    assert sorted(schema["$defs"]) == ["final_answer.Address", "shop__here.Address", "shop__there.Address"]
    fits = _compiled(schema)
    values: dict[str, Any] = {"shop__here": {"value": {"street": "a"}}, "shop__there": {"value": {"zip_code": 1}}}
    for name in values:
        for of, value in values.items():
            assert fits({"tool": name, "args": value}) is (name == of)
    assert fits({"tool": FINAL_ANSWER_TOOL, "args": {"answer": True}})


def test_definitions_whose_names_become_equal_do_not_clash() -> None:
    """Characters that no reference can carry are removed, so two names may become equal: the second gets a number."""
    schema = {
        "properties": {"a": {"$ref": "#/$defs/gr%C3%BCn"}, "b": {"$ref": "#/$defs/gr%C3%B6n"}},
        "$defs": {"grün": {"type": "integer"}, "grön": {"type": "boolean"}},
    }
    definitions: dict[str, Any] = {}
    part = embed_schema(schema, "t", definitions)
    assert part["properties"] == {"a": {"$ref": "#/$defs/t.gr_n"}, "b": {"$ref": "#/$defs/t.gr_n_2"}}
    assert definitions == {"t.gr_n": {"type": "integer"}, "t.gr_n_2": {"type": "boolean"}}


def test_embedding_does_not_change_the_schema() -> None:
    """A contract is pinned by its digest, so its schema must not change."""
    for schema, _, _ in CASES.values():
        before = msgspec.json.encode(schema)
        json_mode_request(_request(_spec("shop.place", schema), output_schema=schema))
        assert msgspec.json.encode(schema) == before


@pytest.mark.parametrize("mode", ["json_schema", "auto"])
@pytest.mark.parametrize("name", [*CASES, "all of them"])
def test_a_reservation_covers_the_request_in_every_mode(name: str, mode: ToolMode) -> None:
    """In JSON-schema mode the schemas are sent twice: in the prompt, and as the schema of the object."""
    cases = CASES if name == "all of them" else {name: CASES[name]}
    tools = [
        Contract(name=f"shop.{'t' * 40}{index}", description="It.", parameters=schema)
        for index, (schema, _, _) in enumerate(cases.values())
    ]
    choice = ModelChoice(
        model="openai/m", price=Price(input=1, output=1), base_url="http://127.0.0.1:1/v1", tool_mode=mode
    )
    version = AgentVersion(
        name="a", prompt="Go.", model=choice, tools=tuple(tools), output_schema=next(iter(cases.values()))[0]
    )
    names = tuple(tool.name for tool in tools)
    asked = msgspec.structs.replace(
        _request(*tool_specs(version, names), output_schema=version.output_schema),
        system=system_text(version, form=True),
    )
    written, form = json_mode_request(asked)
    reserved = base_size(version, names).bytes + TOKEN_OVERHEAD
    assert len(written.system.encode()) + len(msgspec.json.encode(form)) <= reserved
    trial = trial_request(asked)
    assert len(trial.system.encode()) + sum(len(msgspec.json.encode(tool)) for tool in trial.tools) <= reserved
