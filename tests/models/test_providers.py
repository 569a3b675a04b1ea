"""Both adapters, through the official SDKs, against the playbook server over real HTTP."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from linestop.models import open_model
from linestop.models.playbook import PlaybookServer, parse_playbook
from linestop.schemas.model_messages import (
    FailureClass,
    Message,
    ModelFailed,
    ModelReply,
    ModelRequest,
    StopReason,
    ToolSpec,
    Usage,
)

pytestmark = pytest.mark.anyio

PROVIDERS = ("anthropic", "openai")
TOOLS = (ToolSpec(name="orders.lookup", description="Look up.", parameters={"type": "object"}),)
both = pytest.mark.parametrize("provider", PROVIDERS)


def _request(provider: str, **changes: Any) -> ModelRequest:
    request = ModelRequest(
        model=f"{provider}/m", system="Be brief.", messages=(Message(role="user", text="Refund A1"),), tools=TOOLS
    )
    return msgspec.structs.replace(request, **changes)


async def _ask(server: PlaybookServer, request: ModelRequest, deltas: list[str] | None = None) -> ModelReply:
    provider = request.model.partition("/")[0]
    base_url = server.url + ("/v1" if provider == "openai" else "")
    client = open_model(request.model, base_url=base_url, tool_mode="native")

    async def collect(text: str) -> None:
        if deltas is not None:
            deltas.append(text)

    try:
        return await client.complete(request, collect)
    finally:
        await client.aclose()


def _server(step: str) -> PlaybookServer:
    return PlaybookServer(parse_playbook(f'name = "m"\n[[step]]\n{step}'))


@both
async def test_text_comes_whole_and_in_pieces(provider: str) -> None:
    """The pieces that watchers see add up to the text of the reply."""
    answer = "This answer is longer than one piece of the stream, by far: " + "é" * 50
    deltas: list[str] = []
    async with _server(
        f'say = "{answer}"\nusage = {{input = 100, output = 20, cache_read = 7, cache_write = 5}}'
    ) as server:
        reply = await _ask(server, _request(provider), deltas)
    assert (reply.text, reply.stop_reason, reply.calls) == (answer, "end", ())
    assert "".join(deltas) == answer
    assert len(deltas) > 1
    assert reply.usage == Usage(fresh_in=100, cache_read=7, cache_write=5, out=20)
    assert reply.usage_reported


@both
async def test_calls_come_back_under_their_dotted_names(provider: str) -> None:
    """Parallel calls keep their order, their ids differ, and the next request pairs results with calls."""
    script = """
name = "m"
[[step]]
say = "Looking."
call = [{tool = "orders.lookup", args = {order = "A1"}}, {tool = "orders.lookup", args = {order = "B2"}}]
[[step]]
when = {tool_result = "orders.lookup"}
say = "{{result.total}} is due"
"""
    async with PlaybookServer(parse_playbook(script)) as server:
        first = await _ask(server, _request(provider))
        asked = Message(role="assistant", text=first.text, calls=first.calls)
        results = [Message(role="tool", call_id=call.id, text='{"total": 12}') for call in first.calls]
        messages = (*_request(provider).messages, asked, *results)
        second = await _ask(server, _request(provider, messages=messages))
    assert [(call.name, call.args) for call in first.calls] == [
        ("orders.lookup", '{"order":"A1"}'),
        ("orders.lookup", '{"order":"B2"}'),
    ]
    assert first.stop_reason == "calls"
    assert len({call.id for call in first.calls}) == 2
    assert second.text == "12 is due"


@both
async def test_arguments_that_are_not_json_are_passed_on_as_text(provider: str) -> None:
    """The validator tells the model what is wrong with them; the adapter does not guess."""
    async with _server("""call = [{tool = "orders.lookup", raw_args = '{"order": }'}]""") as server:
        reply = await _ask(server, _request(provider))
    assert reply.calls[0].args == '{"order": }'


@pytest.mark.parametrize(
    ("provider", "stop", "reason"),
    [
        ("anthropic", "end_turn", "end"),
        ("anthropic", "stop_sequence", "stop_sequence"),
        ("openai", "stop", "end"),
    ],
)
async def test_a_stop_reason_is_normalised(provider: str, stop: str, reason: StopReason) -> None:
    """Every reason that ends an answer well has its name in linestop."""
    async with _server(f'say = "Done."\nstop = "{stop}"') as server:
        reply = await _ask(server, _request(provider))
    assert (reply.stop_reason, reply.text) == (reason, "Done.")


@pytest.mark.parametrize(
    ("provider", "stop", "kind", "sentence"),
    [
        ("anthropic", "max_tokens", "truncated", "output_tokens_max"),
        ("anthropic", "model_context_window_exceeded", "truncated", "context window"),
        ("anthropic", "refusal", "refusal", "refused"),
        ("anthropic", "pause_turn", "truncated", "paused in the middle"),
        ("anthropic", "from_the_future", "malformed", "unknown reason"),
        ("anthropic", "", "malformed", "unknown reason"),
        ("openai", "length", "truncated", "output_tokens_max"),
        ("openai", "content_filter", "refusal", "content filter"),
        ("openai", "function_call", "malformed", "legacy"),
        ("openai", "from_the_future", "malformed", "unknown reason"),
        ("openai", "", "malformed", "without saying why"),
    ],
)
async def test_an_answer_that_did_not_end_well_fails_with_its_usage(
    provider: str, stop: str, kind: FailureClass, sentence: str
) -> None:
    """The usage is known, so it is charged exactly and not at the reservation."""
    async with _server(f'say = "Half an ans"\nstop = "{stop}"\nusage = {{input = 9, output = 3}}') as server:
        with pytest.raises(ModelFailed, match=sentence) as failed:
            await _ask(server, _request(provider))
    assert failed.value.kind == kind
    assert failed.value.usage == Usage(fresh_in=9, out=3)
    assert not failed.value.possibly_billed


@pytest.mark.parametrize(
    ("provider", "stop"),
    [
        ("anthropic", "stop_sequence"),
        ("anthropic", "pause_turn"),
        ("anthropic", "max_tokens"),
        ("openai", "length"),
        ("openai", "stop_sequence"),
    ],
)
async def test_a_call_counts_only_with_the_stop_reason_of_a_call(provider: str, stop: str) -> None:
    """A plausible call in an answer that ended for another reason is never acted on."""
    step = f'call = [{{tool = "orders.lookup", args = {{order = "A1"}}}}]\nstop = "{stop}"'
    async with _server(step) as server:
        with pytest.raises(ModelFailed) as failed:
            await _ask(server, _request(provider))
    assert failed.value.kind == ("malformed" if stop == "stop_sequence" else "truncated")


@pytest.mark.parametrize(("provider", "stop"), [("anthropic", "tool_use"), ("openai", "tool_calls")])
async def test_a_stop_for_calls_without_calls_is_malformed(provider: str, stop: str) -> None:
    """The answer contradicts itself, so a part of it may be missing."""
    async with _server(f'say = "I will call."\nstop = "{stop}"') as server:
        with pytest.raises(ModelFailed, match="made 0 tool calls") as failed:
            await _ask(server, _request(provider))
    assert failed.value.kind == "malformed"


@both
@pytest.mark.parametrize("step", ['say = "A long answer."', 'call = [{tool = "orders.lookup", args = {a = "bcd"}}]'])
async def test_a_truncated_answer_never_becomes_a_reply(provider: str, step: str) -> None:
    """Neither half a text nor half the arguments of a call get through."""
    async with _server(f'{step}\nfault = {{kind = "truncated"}}') as server:
        with pytest.raises(ModelFailed) as failed:
            await _ask(server, _request(provider))
    assert failed.value.kind == "truncated"


@pytest.mark.parametrize(
    ("fault", "kind", "status", "billed"),
    [
        ('kind = "status", status = 429, retry_after_s = 3600', "rate_limit", 429, False),
        ('kind = "status", status = 529', "availability", 529, False),
        ('kind = "status", status = 503', "availability", 503, False),
        ('kind = "status", status = 500', "availability", 500, True),
        ('kind = "status", status = 408', "availability", 408, True),
        ('kind = "status", status = 409', "availability", 409, False),
        ('kind = "status", status = 307', "permanent", 307, False),
        *((f'kind = "status", status = {code}', "permanent", code, False) for code in (400, 401, 403, 404, 413, 422)),
        ('kind = "cut", after_events = 2', "availability", None, True),
        ('kind = "cut", after_events = 0', "availability", None, True),
        ('kind = "cut", after_bytes = 30', "availability", None, True),
        ('kind = "malformed"', "malformed", None, True),
        ('kind = "html"', "malformed", None, True),
        ('kind = "empty"', "availability", None, True),
        ('kind = "no_terminal"', "availability", None, True),
    ],
)
@both
async def test_a_fault_is_one_failure_and_one_request(
    provider: str, fault: str, kind: FailureClass, status: int | None, billed: bool
) -> None:
    """Each fault has its class; the SDK never retries by itself."""
    async with _server(f'say = "An answer of several pieces, so that it can be cut."\nfault = {{{fault}}}') as server:
        with pytest.raises(ModelFailed) as failed:
            await _ask(server, _request(provider))
        assert len(server.requests) == 1
    assert (failed.value.kind, failed.value.status, failed.value.possibly_billed) == (kind, status, billed)
    assert failed.value.retry_after_s == (3600 if "3600" in fault else None)
    assert f"{provider}/m" in str(failed.value)


@both
async def test_a_fault_ends_after_its_times(provider: str) -> None:
    """The same request succeeds on the third attempt, and each attempt was one request."""
    async with _server('say = "At last."\nfault = {kind = "status", status = 529, times = 2}') as server:
        for _ in range(2):
            with pytest.raises(ModelFailed):
                await _ask(server, _request(provider))
        reply = await _ask(server, _request(provider))
        assert [request.fault for request in server.requests] == ["status", "status", ""]
    assert reply.text == "At last."


@both
@pytest.mark.parametrize(
    "step", ['fault = {kind = "never"}', 'say = "x"\nfault = {kind = "delay", delay_s = 60}', 'say = "x"\npace_s = 60']
)
async def test_the_deadline_bounds_the_whole_call(provider: str, step: str) -> None:
    """Silence, delay and a stream that drips without end are ended by the deadline, possibly billed."""
    async with _server(step) as server:
        with anyio.fail_after(20), pytest.raises(ModelFailed, match=r"within 0\.2 s") as failed:
            await _ask(server, _request(provider, deadline_s=0.2))
    assert (failed.value.kind, failed.value.possibly_billed) == ("availability", True)


@both
async def test_cancellation_passes_through(provider: str) -> None:
    """A stop cancels the request; the cancellation must not come back as a failure."""
    outcome: list[str] = []

    async def call(server: PlaybookServer) -> None:
        try:
            await _ask(server, _request(provider))
        except ModelFailed:
            outcome.append("failed")
        except anyio.get_cancelled_exc_class():
            outcome.append("cancelled")
            raise

    async with _server('fault = {kind = "never"}') as server, anyio.create_task_group() as tasks:
        tasks.start_soon(call, server)
        await server.arrived(1)
        tasks.cancel_scope.cancel()
    assert outcome == ["cancelled"]


@both
async def test_a_failing_watcher_does_not_lose_the_answer(provider: str) -> None:
    """Deltas may be lost: an error of a watcher changes nothing."""

    async def fail(text: str) -> None:
        raise RuntimeError(text)

    async with _server('say = "Fine."') as server:
        client = open_model(f"{provider}/m", base_url=server.url + ("/v1" if provider == "openai" else ""))
        reply = await client.complete(_request(provider, tools=()), fail)
        await client.aclose()
    assert reply.text == "Fine."


@both
async def test_a_missing_server_is_unavailable_and_not_billed(provider: str) -> None:
    """Nothing was sent, so the reservation is released."""
    async with _server('say = "x"') as server:
        gone = server.url
    client = open_model(f"{provider}/m", base_url=gone, tool_mode="native")
    with pytest.raises(ModelFailed, match="cannot be reached") as failed:
        await client.complete(_request(provider))
    await client.aclose()
    assert (failed.value.kind, failed.value.possibly_billed) == ("availability", False)
    assert not server.requests


async def test_thinking_goes_back_exactly_as_it_came() -> None:
    """The provider signs its thinking and refuses a changed or missing block."""
    script = """
name = "m"
[[step]]
thinking = "The order first."
say = "Looking."
call = [{tool = "orders.lookup", args = {order = "A1"}}]
[[step]]
say = "Done."
"""
    async with PlaybookServer(parse_playbook(script)) as server:
        first = await _ask(server, _request("anthropic"))
        asked = Message(
            role="assistant", text=first.text, calls=first.calls, blocks=first.blocks, blocks_of="anthropic"
        )
        result = Message(role="tool", call_id=first.calls[0].id, text="none", is_error=True)
        more = Message(role="user", text="And hurry.")
        messages = (*_request("anthropic").messages, asked, result, more)
        await _ask(server, _request("anthropic", messages=messages))
        sent = msgspec.json.decode(server.requests[-1].body)["messages"]
        await _ask(server, _request("openai", messages=messages))
        other = msgspec.json.decode(server.requests[-1].body)["messages"]
    assert [block["type"] for block in first.blocks] == ["thinking", "text", "tool_use"]
    assert first.blocks[0]["thinking"] == "The order first."
    assert first.blocks[0]["signature"].startswith("signed-")
    assert sent[1]["content"] == list(first.blocks)
    assert sent[2]["role"] == "user"
    assert [block["type"] for block in sent[2]["content"]] == ["tool_result", "text"]
    assert sent[2]["content"][0]["is_error"] is True
    assert other[2]["content"] == "Looking."
    assert other[2]["tool_calls"][0]["id"] == other[3]["tool_call_id"] == first.calls[0].id


async def test_an_unusual_history_can_still_be_sent() -> None:
    """Empty answers, invented tools and broken arguments must not make every later request fail."""
    calls = msgspec.json.decode(b'[{"id": "a b", "name": "no such tool!", "args": "{broken"}]')
    past = Message(role="assistant")
    odd = msgspec.convert({"role": "assistant", "calls": calls}, Message)
    messages = (Message(role="user", text="Go"), past, Message(role="user", text="on"), odd)
    async with _server('say = "x"\nrepeat = true') as server:
        for provider in PROVIDERS:
            await _ask(server, _request(provider, messages=messages))
        first, second = (msgspec.json.decode(request.body) for request in server.requests)
    assert first["messages"][1]["content"] == [{"type": "text", "text": "(nothing)"}]
    assert first["messages"][3]["content"][0]["input"] == {"not_an_object": "{broken"}
    assert second["messages"][4]["tool_calls"][0]["function"]["arguments"] == "{broken"
    assert first["messages"][3]["content"][0]["name"] == "no_such_tool_"
