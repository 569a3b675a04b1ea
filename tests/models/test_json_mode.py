"""JSON-schema mode, and how the first answers show whether a server needs it."""

from __future__ import annotations

from typing import Any

import anyio
import jsonschema_rs
import msgspec
import pytest

from linestop.models import open_model
from linestop.models.json_mode import bound_strings, json_mode_reply, json_mode_request, trial_reply
from linestop.models.playbook import PlaybookServer, parse_playbook
from linestop.schemas.model_messages import (
    Message,
    ModelClient,
    ModelFailed,
    ModelReply,
    ModelRequest,
    ToolCall,
    ToolMode,
    ToolSpec,
    Usage,
)

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
call = [{{tool = "orders.lookup", args = {{order = "A1"}}}}]
{COST}
[[step]]
say = "Refunded."
{COST}
"""


def _server(tools: str) -> PlaybookServer:
    return PlaybookServer(parse_playbook(SCRIPT.replace("MODE", tools)))


USAGE_IN_TESTS = Usage(fresh_in=100, out=10)


def _reply(text: str) -> ModelReply:
    return ModelReply(
        text=text, calls=(), stop_reason="end", usage=Usage(out=3), usage_reported=True, model="m", request_id="r"
    )


async def _failure_of(client: ModelClient, request: ModelRequest = REQUEST) -> ModelReply | ModelFailed:
    try:
        return await client.complete(request)
    except ModelFailed as failed:
        return failed


def _with_result(reply: ModelReply) -> ModelRequest:
    past = Message(role="assistant", text=reply.text, calls=reply.calls)
    result = Message(role="tool", call_id=reply.calls[0].id, text='{"total": 12}')
    return msgspec.structs.replace(REQUEST, messages=(*REQUEST.messages, past, result))


@pytest.mark.anyio
async def test_a_first_call_shows_that_tools_are_understood() -> None:
    """The first real request is the test: no other is sent, and the next ones have no trial tool."""
    async with _server("native") as server:
        client = open_model("openai/m", base_url=f"{server.url}/v1")
        first = await client.complete(REQUEST)
        second = await client.complete(_with_result(first))
        bodies = [msgspec.json.decode(request.body) for request in server.requests]
        await client.aclose()
    assert [[tool["function"]["name"] for tool in body["tools"]] for body in bodies] == [
        ["orders__lookup", "final_answer"],
        ["orders__lookup"],
    ]
    assert (first.stop_reason, first.calls[0].name, first.usage) == ("calls", "orders.lookup", USAGE_IN_TESTS)
    assert (second.text, second.stop_reason, second.usage) == ("Refunded.", "end", USAGE_IN_TESTS)


@pytest.mark.anyio
async def test_a_model_that_does_not_call_is_asked_for_an_object_in_the_next_attempt() -> None:
    """Each request has its own outcome and usage, so each can be reserved for and charged."""
    async with _server("json_schema") as server:
        client = open_model("openai/m", base_url=f"{server.url}/v1")
        first = await _failure_of(client)
        assert len(server.requests) == 1
        second = await client.complete(REQUEST)
        third = await client.complete(_with_result(second))
        bodies = [msgspec.json.decode(request.body) for request in server.requests]
        await client.aclose()
    assert isinstance(first, ModelFailed)
    assert (first.kind, first.usage, first.possibly_billed) == ("malformed", USAGE_IN_TESTS, False)
    assert "answered without calling a tool" in str(first)
    assert ["response_format" in body for body in bodies] == [False, True, True]
    assert (second.calls[0].name, second.usage) == ("orders.lookup", USAGE_IN_TESTS)
    assert (third.text, third.calls, third.usage) == ("Refunded.", (), USAGE_IN_TESTS)


@pytest.mark.anyio
async def test_a_model_that_can_do_neither_is_a_permanent_failure() -> None:
    """Two requests, two outcomes; a later run tries again, because the server may have another model by then."""
    async with _server("none") as server:
        client = open_model("openai/m", base_url=f"{server.url}/v1")
        for requests in (2, 4):
            failures = [await _failure_of(client) for _ in range(2)]
            assert [isinstance(one, ModelFailed) and one.kind for one in failures] == ["malformed", "permanent"]
            assert "did not call a tool when it was offered tools" in str(failures[1])
            assert len(server.requests) == requests
        await client.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize(("status", "kinds"), [(400, ["malformed", "permanent"]), (404, ["permanent", "permanent"])])
async def test_a_server_that_refuses_tools_is_asked_for_an_object(status: int, kinds: list[str]) -> None:
    """Some servers answer 400 to any tool; another status decides nothing."""
    script = SCRIPT.replace("MODE", "native").replace(COST, f'fault = {{kind = "status", status = {status}}}', 1)
    async with PlaybookServer(parse_playbook(script)) as server:
        client = open_model("openai/m", base_url=f"{server.url}/v1")
        failures = [await _failure_of(client) for _ in range(2)]
        bodies = [msgspec.json.decode(request.body) for request in server.requests]
        await client.aclose()
    assert [isinstance(one, ModelFailed) and (one.kind, one.status, one.possibly_billed) for one in failures] == [
        (kind, status, False) for kind in kinds
    ]
    assert ["response_format" in body for body in bodies] == [False, kinds[0] == "malformed"]


@pytest.mark.anyio
async def test_the_final_answer_of_a_first_request_may_be_a_call() -> None:
    """A model that needs no tool still shows that it could call one."""
    script = """
name = "m"
[[step]]
call = [{tool = "final_answer", args = {answer = "No need."}}]
[[step]]
say = "Really."
"""
    async with PlaybookServer(parse_playbook(script)) as server:
        client = open_model("openai/m", base_url=f"{server.url}/v1")
        first = await client.complete(REQUEST)
        past = (Message(role="assistant", text=first.text), Message(role="user", text="Really?"))
        second = await client.complete(msgspec.structs.replace(REQUEST, messages=(*REQUEST.messages, *past)))
        await client.aclose()
    assert (first.text, first.calls, first.stop_reason) == ("No need.", (), "end")
    assert second.text == "Really."


@pytest.mark.anyio
@pytest.mark.parametrize(("mode", "fields"), [("native", "tools"), ("json_schema", "response_format")])
async def test_a_configured_mode_is_used_without_a_trial(mode: ToolMode, fields: str) -> None:
    """An operator who knows the server saves an attempt, and the final answer is not sent as a tool."""
    async with _server(mode) as server:
        client = open_model("openai/m", base_url=f"{server.url}/v1", tool_mode=mode)
        reply = await client.complete(REQUEST)
        await client.aclose()
        assert [fields in msgspec.json.decode(request.body) for request in server.requests] == [True]
        assert b'"final_answer"' not in server.requests[0].body or mode == "json_schema"
    assert reply.calls[0].name == "orders.lookup"


@pytest.mark.anyio
async def test_a_request_without_tools_decides_nothing() -> None:
    """There is nothing to find out, and nothing to pay."""
    async with _server("none") as server:
        client = open_model("openai/m", base_url=f"{server.url}/v1")
        await client.complete(msgspec.structs.replace(REQUEST, tools=()))
        await client.aclose()
        assert len(server.requests) == 1


@pytest.mark.anyio
async def test_concurrent_first_requests_are_one_request_each() -> None:
    """No request waits for the result of another, and none pays for another."""
    usages: list[Usage] = []
    async with _server("native") as server:
        client = open_model("openai/m", base_url=f"{server.url}/v1")

        async def ask() -> None:
            usages.append((await client.complete(REQUEST)).usage)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(ask)
        await client.aclose()
        assert len(server.requests) == 4
    assert usages == [USAGE_IN_TESTS] * 4


@pytest.mark.anyio
async def test_a_failure_unrelated_to_the_model_decides_nothing() -> None:
    """An overloaded server gets the same kind of request next time."""
    script = SCRIPT.replace("MODE", "native").replace(
        COST, f'{COST}\nfault = {{kind = "status", status = 529, times = 1}}', 1
    )
    async with PlaybookServer(parse_playbook(script)) as server:
        client = open_model("openai/m", base_url=f"{server.url}/v1")
        failed, reply = await _failure_of(client), await _failure_of(client)
        await client.aclose()
    assert isinstance(failed, ModelFailed)
    assert failed.kind == "availability"
    assert isinstance(reply, ModelReply)
    assert reply.calls


@pytest.mark.parametrize(
    ("calls", "names"),
    [(("orders.lookup", "final_answer"), ["orders.lookup"]), (("orders.lookup",), ["orders.lookup"])],
)
def test_a_final_answer_beside_other_calls_came_too_early(calls: tuple[str, ...], names: list[str]) -> None:
    """The results of the other calls may change the answer, so the model is asked again."""
    made = tuple(ToolCall(id=name, name=name, args='{"answer": "Done."}') for name in calls)
    reply = trial_reply(msgspec.structs.replace(_reply(""), calls=made, stop_reason="calls"), "openai/m")
    assert [call.name for call in reply.calls] == names
    assert reply.text == ""


def test_a_final_answer_call_without_an_answer_is_malformed_and_charged() -> None:
    """A call of the final answer with other arguments holds no usable answer."""
    made = (ToolCall(id="1", name="final_answer", args='{"text": "Done."}'),)
    with pytest.raises(ModelFailed, match="called final_answer without an answer") as failed:
        trial_reply(msgspec.structs.replace(_reply(""), calls=made, stop_reason="calls"), "openai/m")
    assert (failed.value.kind, failed.value.usage) == ("malformed", Usage(out=3))


def _schema() -> dict[str, Any]:
    _, response_format = json_mode_request(REQUEST)
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
    """Every alternative is one tool with its own arguments, and every string is bounded."""
    assert jsonschema_rs.is_valid(_schema(), step) is valid


def test_strings_that_are_bounded_already_stay_as_they_are() -> None:
    """Only unbounded strings get a limit, wherever they are."""
    schema = {"items": [{"type": "string"}, {"type": "string", "maxLength": 3}, {"type": "string", "enum": ["a"]}]}
    bound = {"items": [{"type": "string", "maxLength": 2_000}, *schema["items"][1:]]}
    assert bound_strings(schema) == bound


def test_a_conversation_becomes_plain_text() -> None:
    """Calls are the objects that the model wrote, results are user messages; nothing needs tool roles."""
    past = (
        *REQUEST.messages,
        Message(role="assistant", calls=(ToolCall(id="1", name="orders.lookup", args='{"order": "A1"}'),)),
        Message(role="tool", call_id="1", text="no such order", is_error=True),
        Message(role="assistant", text="None."),
    )
    written, _ = json_mode_request(msgspec.structs.replace(REQUEST, messages=past))
    assert [message.role for message in written.messages] == ["user", "assistant", "user", "assistant"]
    assert written.messages[1].text == '{"tool": "orders__lookup", "args": {"order": "A1"}}'
    assert written.messages[2].text == "The tool failed:\nno such order"
    assert msgspec.json.decode(written.messages[3].text) == {"tool": "final_answer", "args": {"answer": "None."}}
    assert written.tools == ()
    assert "orders__lookup: Look up." in written.system


def test_an_answer_with_a_schema_comes_back_as_its_json() -> None:
    """A structured answer is the exact text of the reply."""
    reply = json_mode_reply(_reply('{"tool": "final_answer", "args": {"answer": {"n": 1}}}'), "openai/m")
    assert (reply.text, reply.calls) == ('{"n": 1}', ())


@pytest.mark.parametrize(
    "text", ["I would call it.", "", "{}", '{"tool": "x"}', '{"tool": "final_answer", "args": {}}']
)
def test_text_that_is_not_a_json_turn_is_malformed_and_charged(text: str) -> None:
    """The tokens were used all the same."""
    with pytest.raises(ModelFailed, match="did not keep to the JSON schema") as failed:
        json_mode_reply(_reply(text), "openai/m")
    assert (failed.value.kind, failed.value.usage) == ("malformed", Usage(out=3))


def test_a_tool_may_not_be_called_like_the_final_answer() -> None:
    """Otherwise the call and the answer could not be distinguished."""
    tools = (ToolSpec(name="final_answer", description="", parameters={}),)
    with pytest.raises(ModelFailed, match="rename the tool"):
        json_mode_request(msgspec.structs.replace(REQUEST, tools=tools))
