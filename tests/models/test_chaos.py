"""Both adapters against `llmock`, a mock server of another author, which does not share our assumptions."""

from __future__ import annotations

import pytest
from llmock.pytest_plugin import LLMock

from linestop.models import open_model
from linestop.schemas.model_messages import FailureClass, Message, ModelFailed, ModelReply, ModelRequest, ToolSpec

pytestmark = [
    pytest.mark.anyio,
    # The deprecation warnings of its web server cannot be fixed here.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
both = pytest.mark.parametrize("provider", ["anthropic", "openai"])
TOOLS = (
    ToolSpec(
        name="weather.now",
        description="The weather of a city.",
        parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    ),
)


async def _ask(llmock: LLMock, provider: str, *, tools: tuple[ToolSpec, ...] = ()) -> ModelReply:
    model = f"{provider}/{'gpt-4o' if provider == 'openai' else 'claude-sonnet-5'}"
    client = open_model(model, base_url=llmock.base_url(provider), tool_mode="native")
    request = ModelRequest(
        model=model, system="", messages=(Message(role="user", text="Weather in Paris?"),), tools=tools
    )
    try:
        return await client.complete(request)
    finally:
        await client.aclose()


@both
async def test_an_answer_is_understood(llmock: LLMock, provider: str) -> None:
    """Text and usage of an independent implementation come through."""
    llmock.reply("It is sunny in Paris.")
    reply = await _ask(llmock, provider)
    assert (reply.text, reply.stop_reason) == ("It is sunny in Paris.", "end")
    assert reply.usage_reported
    assert reply.usage.fresh_in > 0
    assert reply.usage.out > 0


@both
async def test_a_call_is_understood(llmock: LLMock, provider: str) -> None:
    """The offered tool is called under its dotted name."""
    reply = await _ask(llmock, provider, tools=TOOLS)
    assert [call.name for call in reply.calls] == ["weather.now"]
    assert reply.stop_reason == "calls"


@both
@pytest.mark.parametrize("status", [429, 500, 503, 529])
async def test_a_status_is_one_request_and_the_right_class(llmock: LLMock, provider: str, status: int) -> None:
    """The mock counts the requests that arrived: attempts are events, not loops of an SDK."""
    llmock.fail(status, times=None, retry_after=7.0)
    with pytest.raises(ModelFailed) as failed:
        await _ask(llmock, provider)
    assert failed.value.kind == ("rate_limit" if status == 429 else "availability")
    assert (failed.value.status, failed.value.retry_after_s) == (status, 7.0)
    assert len(llmock.requests) == 1
    llmock.assert_resilient()


@both
@pytest.mark.parametrize(
    ("fault", "kind"), [("disconnect", "availability"), ("truncate", "availability"), ("corrupt", "malformed")]
)
async def test_a_broken_stream_is_never_an_answer(
    llmock: LLMock, provider: str, fault: str, kind: FailureClass
) -> None:
    """Cut off, ended early or garbled: both SDKs accept at least one of these as a good answer."""
    llmock.reply("A long answer that takes several chunks to send, word after word after word.")
    getattr(llmock, fault)(after_chunks=3)
    with pytest.raises(ModelFailed) as failed:
        await _ask(llmock, provider)
    assert (failed.value.kind, failed.value.possibly_billed) == (kind, True)


@both
async def test_a_context_overflow_is_permanent(llmock: LLMock, provider: str) -> None:
    """The same prompt will never fit, so it is not tried again."""
    llmock.context_overflow()
    with pytest.raises(ModelFailed, match="context length") as failed:
        await _ask(llmock, provider)
    assert (failed.value.kind, failed.value.status) == ("permanent", 400)


@both
@pytest.mark.parametrize("fault", ["unknown_tool", "malformed_arguments"])
async def test_a_bad_call_is_passed_on_to_the_validator(llmock: LLMock, provider: str, fault: str) -> None:
    """The adapter does not judge whether a call is allowed and its arguments are right."""
    llmock.break_tool_call(fault)
    reply = await _ask(llmock, provider, tools=TOOLS)
    assert len(reply.calls) == 1
    if fault == "unknown_tool":
        assert reply.calls[0].name != "weather.now"
