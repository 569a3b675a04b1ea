"""Recorded traffic of real providers, replayed in order from loopback through the SDKs.

What the adapters make of it is compared with what the plain lines of ``recordings`` read out of the same recording:
every answer is understood, or refused with a clear reason. The recordings lie beside the repository, not in it;
without them the tests that need them are skipped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.models.recordings import ExpectedFailure, ExpectedReply, Raw, blocks_of, expected, items, request_of, wire_of

from linestop.errors import Refused
from linestop.models import open_model
from linestop.models.prices import price_of
from linestop.models.wire_names import wire_id
from linestop.schemas.model_messages import FailureClass, ModelFailed, ModelReply, ModelRequest, Usage

Canned = tuple[int, dict[str, str], bytes]
Served = tuple[str, list[tuple[dict[str, str], bytes]]]
Serve = Callable[[list[Canned]], AbstractAsyncContextManager[Served]]

FOLDER = Path(__file__).parents[3] / "shared" / "cassettes"
FILES = sorted(FOLDER.glob("*.json"))

FLOOR = {
    "llm__test_tools_streaming_test_tools_streaming_variant_a",
    "pydantic-ai__test_anthropic_test_anthropic_memory_tool",
    "pydantic-ai__test_openai_test_openai_native_output_multiple",
    "pydantic-ai__test_temporal_test_complex_agent_run_in_workflow",
    "pydantic-ai__test_tool_choice_matrix_test_tool_choice_matrix_required_anthropic",
    "pydantic-ai__test_tool_search_test_anthropic_native_tool_search_streaming",
}
"""Both protocols, whole and streamed: whatever is read out of these recordings, they must be understood."""

pytestmark = [
    pytest.mark.anyio,
    # The recordings use models that the SDK warns about by date.
    pytest.mark.filterwarnings("ignore:The model:DeprecationWarning"),
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem[:90])
async def test_a_recorded_conversation_is_understood_or_refused_clearly(serve: Serve, file: Path) -> None:
    """Text, calls, usage and cost are the recorded ones; any other answer fails with its reason."""
    outcomes = [await replayed(serve, each) for each in interactions(file)]
    assert outcomes
    if file.stem in FLOOR:
        assert all(isinstance(outcome, ExpectedReply) for outcome in outcomes)


def interactions(file: Path) -> list[Raw]:
    """The exchanges of a recording, in their order."""
    found: list[Raw] = json.loads(file.read_text(encoding="utf-8"))["interactions"]
    return found


def recorded(response: object, *, path: str = "/v1/chat/completions", status: int = 200, **request: object) -> Raw:
    """An invented exchange."""
    kind = "text/event-stream" if isinstance(response, str) else "application/json"
    asked = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hello"}], **request}
    return {
        "method": "POST",
        "host": "h",
        "path": path,
        "status": status,
        "headers": {"content-type": kind},
        "request": asked,
        "response": response,
    }


def whole_answer(finish: str, **message: object) -> Raw:
    """A whole answer of Chat Completions without usage."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}
    return {"id": "c1", "object": "chat.completion", "model": "gpt-5-mini", "choices": [choice]}


def streamed(*events: object) -> str:
    """Events as they come over the wire."""
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events)


CALL = {"id": "call_12345678", "type": "function", "function": {"name": "files__read", "arguments": "{not json"}}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
INVENTED_RECORDINGS: dict[str, tuple[Raw, FailureClass | None, str]] = {
    "a call with arguments that are not JSON": (recorded(whole_answer("tool_calls", tool_calls=[CALL])), None, ""),
    "an answer that was cut": (recorded(whole_answer("length", content="half")), "truncated", "output_tokens_max"),
    "an answer that was withheld": (recorded(whole_answer("content_filter")), "refusal", "content filter"),
    "a refusal": (recorded(whole_answer("stop", refusal="No.")), "refusal", "No."),
    "an unknown reason": (recorded(whole_answer("tired", content="x")), "malformed", "tired"),
    "too many requests": (
        recorded({"error": {"message": "Slow down"}}, status=429),
        "rate_limit",
        "Slow down",
    ),
    "a proxy that is broken": (recorded("<html>", status=502), "availability", "502"),
    "an overloaded provider": (recorded(OVERLOADED, path="/v1/messages", status=529), "availability", "Overloaded"),
    "a streamed answer of the Responses API": (
        recorded(streamed({"type": "response.created", "response": {}}), path="/v1/responses"),
        "malformed",
        "Responses API; base_url must lead to Chat Completions",
    ),
    "an answer of the Responses API": (
        recorded({"object": "response", "output": []}, path="/v1/responses"),
        "malformed",
        "Responses API",
    ),
    "another protocol": (
        recorded({"candidates": ["hello"]}, path="/v1beta/models/gemini:generateContent"),
        "malformed",
        "not its protocol",
    ),
    "a page": (recorded({"data": []}, path="/v1/models") | {"method": "GET", "request": None}, "malformed", "protocol"),
}


@pytest.mark.parametrize("case", INVENTED_RECORDINGS)
async def test_an_invented_recording_is_judged_by_its_content(serve: Serve, case: str) -> None:
    """New recordings in the folder need not be listed anywhere."""
    interaction, kind, words = INVENTED_RECORDINGS[case]
    outcome = await replayed(serve, interaction)
    if kind is None:
        assert isinstance(outcome, ExpectedReply)
        return
    assert isinstance(outcome, ModelFailed)
    assert outcome.kind == kind
    assert words in str(outcome)


async def replayed(serve: Serve, interaction: Raw) -> ExpectedReply | ModelFailed:
    """Replay one recorded answer, and check that its outcome is the expected one."""
    expected_outcome, request = expected(interaction), request_of(interaction)
    answer, sent = await _asked(serve, interaction, request)
    if isinstance(expected_outcome, ExpectedFailure):
        assert isinstance(answer, ModelFailed), answer
        # The sentence of a broken stream varies; only its class is checked.
        assert expected_outcome.kind in {answer.kind, "unknown"}
        assert answer.status == expected_outcome.status or expected_outcome.status is None
        assert expected_outcome.words in str(answer)
        assert str(answer).startswith(request.model)
        assert len(str(answer)) > len(request.model) + len(expected_outcome.words)
        return answer
    assert isinstance(answer, ModelReply), answer
    assert (answer.text, answer.stop_reason) == (expected_outcome.text, expected_outcome.stop_reason)
    assert [(call.name, _args(call.args)) for call in answer.calls] == [
        (n, _args(args)) for n, args in expected_outcome.calls
    ]
    assert answer.usage_reported == bool(expected_outcome.usage)
    if expected_outcome.usage:
        assert Counter(_counts(answer.usage)) == Counter(expected_outcome.usage)
        _check_cost(f"{wire_of(interaction)}/{expected_outcome.model}", answer.usage)
    _check_past(interaction, sent)
    return expected_outcome


async def _asked(serve: Serve, interaction: Raw, request: ModelRequest) -> tuple[ModelReply | ModelFailed, Raw]:
    """Serve one recorded answer and request it."""
    response = interaction["response"]
    body = response.encode() if isinstance(response, str) else json.dumps(response).encode()
    kind = interaction["headers"].get("content-type", "application/json")
    async with serve([(interaction["status"], {"content-type": kind}, body)]) as (url, received):
        client = open_model(request.model, base_url=url, tool_mode="native")
        try:
            answer: ModelReply | ModelFailed = await client.complete(request)
        except ModelFailed as failed:
            answer = failed
        await client.aclose()
    sent: Raw = json.loads(received[0][1])
    return answer, sent


def _args(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check_past(interaction: Raw, sent: Raw) -> None:
    """Earlier answers of the provider are sent back unmodified, above all thinking and its signatures."""
    before = interaction["request"]["messages"]
    if wire_of(interaction) == "anthropic":
        was = [block for entry in before if entry["role"] == "assistant" for block in blocks_of(entry)]
        again = [block for entry in sent["messages"] if entry["role"] == "assistant" for block in blocks_of(entry)]
        assert again == was
    else:
        assert _made(sent["messages"]) == [(wire_id(id_), *rest) for id_, *rest in _made(before)]


def _made(messages: list[Raw]) -> list[tuple[str, ...]]:
    """The calls in recorded messages: id, name, arguments."""
    calls = [call for entry in messages for call in items(entry.get("tool_calls")) if "function" in call]
    return [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls]


def _counts(usage: Usage) -> dict[str, int]:
    return {field: getattr(usage, field) for field in usage.__struct_fields__}


def _check_cost(model: str, usage: Usage) -> None:
    """The cost is the one of genai-prices, rounded up; it is higher only where tiers make it an upper bound."""
    import genai_prices  # noqa: PLC0415 - heavy, and only needed here

    provider, _, name = model.partition("/")
    used = genai_prices.Usage(
        input_tokens=usage.fresh_in + usage.cache_read + usage.cache_write,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write,
        output_tokens=usage.out,
    )
    try:
        calculated = genai_prices.calc_price(used, name, provider_id=provider)
    except LookupError:
        # A model that genai-prices does not know has no price here either.
        with pytest.raises(Refused):
            price_of(model)
        return
    exact = int((calculated.total_price * 1_000_000).to_integral_value(ROUND_CEILING))
    price = price_of(model)
    tiered = any(not isinstance(rate, Decimal) for rate in vars(calculated.model_price).values() if rate is not None)
    assert price.cost_micros(usage) == exact or (tiered and price.cost_micros(usage) > exact)
