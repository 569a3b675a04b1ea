"""JSON-schema mode, and the probe that finds out whether a server needs it."""

from __future__ import annotations

from typing import Any

import anyio
import jsonschema_rs
import msgspec
import pytest

from linestop.models import ToolMode, open_model
from linestop.models.steps import bounded, step_reply, step_request
from linestop.schemas.model import Message, ModelFailed, ModelReply, ModelRequest, ToolCall, ToolSpec, Usage
from linestop.testing.playbook import PlaybookServer, parse_playbook

PARAMETERS = {
    "type": "object",
    "properties": {"order": {"type": "string"}, "unit": {"type": "string", "enum": ["EUR"]}},
    "required": ["order"],
    "additionalProperties": False,
}
TOOLS = (ToolSpec(name="orders.lookup", description="Look up.", parameters=PARAMETERS),)
REQUEST = ModelRequest(
    model="openai/m", system="Be brief.", messages=(Message(role="user", text="Refund A1"),), tools=TOOLS
)
COST = "usage = {input = 100, output = 10}"
SCRIPT = f"""
name = "m"
tools = "MODE"
[[step]]
when = {{contains = "17*23"}}
call = [{{tool = "calculator", args = {{expression = "17*23"}}}}]
{COST}
[[step]]
when = {{turn = 1}}
call = [{{tool = "orders.lookup", args = {{order = "A1"}}}}]
{COST}
[[step]]
say = "Refunded."
{COST}
"""


def _server(tools: str) -> PlaybookServer:
    return PlaybookServer(parse_playbook(SCRIPT.replace("MODE", tools)))


def _spent(calls: int) -> Usage:
    return Usage(fresh_in=100 * calls, out=10 * calls)


def _reply(text: str) -> ModelReply:
    return ModelReply(
        text=text, calls=(), stop_reason="end", usage=Usage(out=3), usage_reported=True, model="m", request_id="r"
    )


@pytest.mark.anyio
@pytest.mark.parametrize(("tools", "mode", "requests"), [("native", "native", 2), ("json_schema", "json_schema", 3)])
async def test_the_probe_finds_the_mode_once_and_is_paid_for(tools: str, mode: str, requests: int) -> None:
    """The first reply carries the probe's tokens, the second one only its own."""
    async with _server(tools) as server:
        client = open_model("openai/m", base_url=f"{server.url}/v1")
        first = await client.complete(REQUEST)
        asked = len(server.requests)
        past = Message(role="assistant", text=first.text, calls=first.calls)
        result = Message(role="tool", call_id=first.calls[0].id, text='{"total": 12}')
        second = await client.complete(msgspec.structs.replace(REQUEST, messages=(*REQUEST.messages, past, result)))
        bodies = [msgspec.json.decode(request.body) for request in server.requests]
        await client.aclose()
    assert (asked, len(bodies)) == (requests, requests + 1)
    assert ("response_format" in bodies[-1]) == (mode == "json_schema") != ("tools" in bodies[-1])
    assert (first.stop_reason, first.calls[0].name) == ("calls", "orders.lookup")
    assert msgspec.json.decode(first.calls[0].args) == {"order": "A1"}
    assert (first.usage, second.usage) == (_spent(requests), _spent(1))
    assert (second.text, second.stop_reason, second.calls) == ("Refunded.", "end", ())


@pytest.mark.anyio
async def test_a_model_that_can_do_neither_is_a_permanent_failure() -> None:
    """It is found out once, says what to do, and reports what finding out cost."""
    async with _server("none") as server:
        client = open_model("openai/m", base_url=f"{server.url}/v1")
        for spent in (_spent(2), None):
            with pytest.raises(ModelFailed, match="neither calls tools nor keeps to a JSON schema") as failed:
                await client.complete(REQUEST)
            assert (failed.value.kind, failed.value.usage) == ("permanent", spent)
        assert len(server.requests) == 2
        await client.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize(("mode", "fields"), [("native", "tools"), ("json_schema", "response_format")])
async def test_a_given_mode_is_not_probed(mode: ToolMode, fields: str) -> None:
    """Whoever knows the server saves the question."""
    async with _server(mode) as server:
        client = open_model("openai/m", base_url=f"{server.url}/v1", tool_mode=mode)
        reply = await client.complete(REQUEST)
        await client.aclose()
        assert [fields in msgspec.json.decode(request.body) for request in server.requests] == [True]
    assert reply.calls[0].name == "orders.lookup"


@pytest.mark.anyio
async def test_a_request_without_tools_is_not_probed() -> None:
    """There is nothing to find out, and nothing to pay for."""
    async with _server("none") as server:
        client = open_model("openai/m", base_url=f"{server.url}/v1")
        await client.complete(msgspec.structs.replace(REQUEST, tools=()))
        await client.aclose()
        assert len(server.requests) == 1


@pytest.mark.anyio
async def test_concurrent_first_requests_probe_once() -> None:
    """The others wait for the one that asks, and only that one pays."""
    usages: list[Usage] = []
    async with _server("native") as server:
        client = open_model("openai/m", base_url=f"{server.url}/v1")

        async def ask() -> None:
            usages.append((await client.complete(REQUEST)).usage)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(ask)
        await client.aclose()
        assert len(server.requests) == 5
    assert sorted(usage.out for usage in usages) == [10, 10, 10, 20]


@pytest.mark.anyio
async def test_a_probe_that_says_nothing_about_the_model_is_not_remembered() -> None:
    """An overloaded server is asked again next time."""
    script = SCRIPT.replace("MODE", "native").replace(
        COST, f'{COST}\nfault = {{kind = "status", status = 529, times = 1}}', 1
    )
    async with PlaybookServer(parse_playbook(script)) as server:
        client = open_model("openai/m", base_url=f"{server.url}/v1")
        with pytest.raises(ModelFailed) as failed:
            await client.complete(REQUEST)
        reply = await client.complete(REQUEST)
        await client.aclose()
    assert failed.value.kind == "availability"
    assert reply.calls


@pytest.mark.anyio
async def test_what_the_probe_cost_is_reported_when_the_request_then_fails() -> None:
    """A failed request that is not billed itself still has the probe's tokens to pay."""
    script = SCRIPT.replace("MODE", "native").replace(
        "[[step]]\nsay", "[[step]]\nfault = {kind = 'status', status = 429}\nsay"
    )
    script = script.replace("when = {turn = 1}", "when = {turn = 9}")
    async with PlaybookServer(parse_playbook(script)) as server:
        client = open_model("openai/m", base_url=f"{server.url}/v1")
        with pytest.raises(ModelFailed) as failed:
            await client.complete(REQUEST)
        await client.aclose()
    assert (failed.value.kind, failed.value.usage) == ("rate_limit", _spent(1))


def _schema() -> dict[str, Any]:
    _, response_format = step_request(REQUEST)
    schema: dict[str, Any] = response_format["json_schema"]["schema"]
    return schema


@pytest.mark.parametrize(
    ("step", "valid"),
    [
        ({"tool": "orders__lookup", "args": {"order": "A1"}}, True),
        ({"tool": "final_answer", "args": {"answer": "Done."}}, True),
        ({"tool": "orders__lookup", "args": {}}, False),
        ({"tool": "orders__lookup", "args": {"order": "x" * 2_001}}, False),
        ({"tool": "final_answer", "args": {"answer": "x" * 2_001}}, False),
        ({"tool": "no.such.tool", "args": {}}, False),
        ({"tool": "final_answer"}, False),
    ],
)
def test_the_schema_allows_the_tools_and_an_answer_only(step: dict[str, Any], *, valid: bool) -> None:
    """Every alternative is one tool with its own arguments, and every free string has an end."""
    assert jsonschema_rs.is_valid(_schema(), step) is valid


def test_strings_that_are_bounded_already_stay_as_they_are() -> None:
    """Only free strings get a limit, wherever they are."""
    schema = {"items": [{"type": "string"}, {"type": "string", "maxLength": 3}, {"type": "string", "enum": ["a"]}]}
    bound = {"items": [{"type": "string", "maxLength": 2_000}, *schema["items"][1:]]}
    assert bounded(schema) == bound


def test_a_conversation_becomes_plain_text() -> None:
    """Calls are the objects that the model wrote, results are what a user says; nothing needs tool roles."""
    past = (
        *REQUEST.messages,
        Message(role="assistant", calls=(ToolCall(id="1", name="orders.lookup", args='{"order": "A1"}'),)),
        Message(role="tool", call_id="1", text="no such order", is_error=True),
        Message(role="assistant", text="None."),
    )
    written, _ = step_request(msgspec.structs.replace(REQUEST, messages=past))
    assert [message.role for message in written.messages] == ["user", "assistant", "user", "assistant"]
    assert written.messages[1].text == '{"tool": "orders__lookup", "args": {"order": "A1"}}'
    assert written.messages[2].text == "The tool failed:\nno such order"
    assert msgspec.json.decode(written.messages[3].text) == {"tool": "final_answer", "args": {"answer": "None."}}
    assert written.tools == ()
    assert "orders__lookup: Look up." in written.system


def test_an_answer_with_a_schema_comes_back_as_its_json() -> None:
    """A structured answer is the text of the reply, word for word."""
    reply = step_reply(_reply('{"tool": "final_answer", "args": {"answer": {"n": 1}}}'), "openai/m")
    assert (reply.text, reply.calls) == ('{"n": 1}', ())


@pytest.mark.parametrize(
    "text", ["I would call it.", "", "{}", '{"tool": "x"}', '{"tool": "final_answer", "args": {}}']
)
def test_text_that_is_no_step_is_malformed_and_charged(text: str) -> None:
    """The tokens were used, whatever they say."""
    with pytest.raises(ModelFailed, match="did not keep to the JSON schema") as failed:
        step_reply(_reply(text), "openai/m")
    assert (failed.value.kind, failed.value.usage) == ("malformed", Usage(out=3))


def test_a_tool_may_not_be_called_like_the_final_answer() -> None:
    """Otherwise nobody could tell the call from the answer."""
    tools = (ToolSpec(name="final_answer", description="", parameters={}),)
    with pytest.raises(ModelFailed, match="rename the tool"):
        step_request(msgspec.structs.replace(REQUEST, tools=tools))
