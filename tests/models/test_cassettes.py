"""Recorded traffic of real providers, replayed in order from loopback through the SDKs.

What the adapters make of it is compared with what a few plain lines here read out of the same recording. The
recordings lie beside the repository, not in it; without them these tests are skipped.
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

from linestop.errors import Refused
from linestop.models import open_model
from linestop.models.prices import price_of
from linestop.schemas.model import Message, ModelFailed, ModelReply, ModelRequest, ToolCall, ToolSpec, Usage

Canned = tuple[int, dict[str, str], bytes]
Served = tuple[str, list[tuple[dict[str, str], bytes]]]
Serve = Callable[[list[Canned]], AbstractAsyncContextManager[Served]]
Raw = dict[str, Any]

FOLDER = Path(__file__).parents[3] / "shared" / "cassettes"
FILES = sorted(FOLDER.glob("*.json"))
WIRES = {"/v1/messages": "anthropic", "/v1/chat/completions": "openai"}

pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the recordings are not beside the repository"),
    # The recordings use models that the SDK warns about by date.
    pytest.mark.filterwarnings("ignore:The model:DeprecationWarning"),
]

OUT = {
    "/v1/responses": "linestop speaks Chat Completions, not the Responses API",
    "/v1/files": "uploads are not part of a model call",
    "/mcp": "an MCP server's traffic, not a model's",
}
"""What is not replayed, and why."""

ALL_OUT = {
    "pydantic-ai__test_model_name_suggestions_test_model_name_suggestion_openai_responses",
    "pydantic-ai__test_openai_responses_test_openai_responses_requires_function_call_status_none",
    "pydantic-ai__test_tool_choice_matrix_test_tool_choice_matrix_required_openai_responses",
    "pydantic-ai__test_tool_search_test_openai_hosted_tool_search_stateless_continuation_without_item_ids",
    "pydantic-ai__test_tool_search_test_openai_native_tool_search_round_trip",
}
_CODE = "pydantic-ai__test_code_execution_files_vcr_test_anthropic_code_execution_files_cache_prefix_stable"
PARTLY_OUT = {
    f"{_CODE}_automatic_sonnet_5": 2,
    f"{_CODE}_messages_sonnet_4_6": 2,
    "pydantic-ai__test_temporal_test_mcptoolset_in_temporal_workflow": 7,
    "pydantic-ai__test_tool_search_test_live_tool_search_handoff_anthropic_openai_anthropic": 2,
    "pydantic-ai__test_tool_search_test_live_tool_search_handoff_openai_to_anthropic": 2,
}
REFUSED = {
    "pydantic-ai__test_model_name_suggestions_test_model_name_suggestion_anthropic": ("permanent", 404),
    "pydantic-ai__test_model_name_suggestions_test_model_name_suggestion_openai_chat": ("permanent", 404),
    "pydantic-ai__test_openai_test_openai_o1_mini_system_role_developer": ("permanent", 400),
}
UNPRICED = {"openai/moonshotai/kimi-k2"}


def _interactions(file: Path) -> tuple[list[Raw], list[str]]:
    """The model calls of a recording, and the paths of what is left out."""
    inside: list[Raw] = []
    outside: list[str] = []
    for interaction in json.loads(file.read_text())["interactions"]:
        path = interaction["path"].partition("?")[0]
        if path in WIRES:
            inside.append(interaction | {"wire": WIRES[path]})
        else:
            outside.append(path)
    return inside, outside


def test_what_is_left_out_is_exactly_what_is_listed() -> None:
    """A recording that is not replayed needs a reason here; the list cannot grow by itself."""
    all_out: set[str] = set()
    partly: dict[str, int] = {}
    for file in FILES:
        inside, outside = _interactions(file)
        assert all(any(path.startswith(known) for known in OUT) for path in outside), outside
        if not inside:
            all_out.add(file.stem)
        elif outside:
            partly[file.stem] = len(outside)
    assert all_out == ALL_OUT
    assert partly == PARTLY_OUT
    assert len(FILES) - len(all_out) >= 28


@pytest.mark.anyio
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem[:90])
async def test_a_recorded_conversation_is_understood_or_refused_clearly(serve: Serve, file: Path) -> None:
    """Text, calls, usage and cost are the recorded ones; errors keep class and status."""
    interactions, _ = _interactions(file)
    ours, theirs = Counter[str](), Counter[str]()
    for interaction in interactions:
        request = _request(interaction)
        answer, sent = await _replay(serve, interaction, request)
        if isinstance(answer, ModelFailed):
            assert (answer.kind, answer.status) == REFUSED[file.stem]
            assert interaction["response"]["error"]["message"][:40] in str(answer)
            continue
        assert interaction["status"] == 200
        expected = _EXPECTED[interaction["wire"]](interaction["response"])
        assert answer.text == expected["text"]
        assert [(call.name, json.loads(call.args)) for call in answer.calls] == expected["calls"]
        assert answer.stop_reason == ("calls" if expected["calls"] else "end")
        assert answer.usage_reported
        ours.update(_counts(answer.usage))
        theirs.update(expected["usage"])
        _check_past(interaction, sent)
        _check_cost(f"{interaction['wire']}/{expected['model']}", answer.usage)
    assert ours == theirs
    assert bool(ours.total()) != (file.stem in REFUSED or file.stem in ALL_OUT)


async def _replay(serve: Serve, interaction: Raw, request: ModelRequest) -> tuple[ModelReply | ModelFailed, Raw]:
    """Serve one recorded answer and ask for it."""
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


def _request(interaction: Raw) -> ModelRequest:
    """The recorded request in linestop's words; server-side tools are left out."""
    recorded = interaction["request"]
    wire = interaction["wire"]
    tools: list[ToolSpec] = []
    for tool in recorded.get("tools", []):
        body = tool.get("function", tool)
        schema = body.get("input_schema") or body.get("parameters")
        if schema is not None:
            tools.append(ToolSpec(name=body["name"], description=body.get("description", ""), parameters=schema))
    read = _anthropic_message if wire == "anthropic" else _openai_message
    messages = [message for entry in recorded["messages"] for message in read(entry)]
    return ModelRequest(model=f"{wire}/{recorded['model']}", system="", messages=tuple(messages), tools=tuple(tools))


def _anthropic_message(entry: Raw) -> list[Message]:
    content = entry["content"]
    blocks: list[Raw] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if entry["role"] == "assistant":
        return [Message(role="assistant", blocks=tuple(blocks), blocks_of="anthropic")]
    messages: list[Message] = []
    for block in blocks:
        if block["type"] == "tool_result":
            text = json.dumps(block.get("content", ""))
            messages.append(Message(role="tool", call_id=block["tool_use_id"], text=text))
        else:
            messages.append(Message(role="user", text=str(block.get("text", block["type"]))))
    return messages


def _openai_message(entry: Raw) -> list[Message]:
    text = entry.get("content") or ""
    text = text if isinstance(text, str) else json.dumps(text)
    if entry["role"] == "assistant":
        calls = tuple(
            ToolCall(id=call["id"], name=call["function"]["name"], args=call["function"]["arguments"])
            for call in _rows(entry.get("tool_calls"))
        )
        return [Message(role="assistant", text=text, calls=calls)]
    if entry["role"] == "tool":
        return [Message(role="tool", call_id=entry["tool_call_id"], text=text)]
    return [Message(role="user", text=text)]


def _check_past(interaction: Raw, sent: Raw) -> None:
    """What the provider said before goes back unmodified: thinking and its signatures above all."""
    recorded = interaction["request"]["messages"]
    if interaction["wire"] == "anthropic":
        said = [block for entry in recorded if entry["role"] == "assistant" for block in _blocks(entry)]
        again = [block for entry in sent["messages"] if entry["role"] == "assistant" for block in _blocks(entry)]
        assert again == said
    else:
        said = [call for entry in recorded for call in _rows(entry.get("tool_calls"))]
        again = [call for entry in sent["messages"] for call in _rows(entry.get("tool_calls"))]
        assert again == said


def _blocks(entry: Raw) -> list[Raw]:
    content = entry["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _row(value: Any) -> Raw:  # noqa: ANN401 - a recorded value, which may be null
    row: Raw = value or {}
    return row


def _rows(value: Any) -> list[Raw]:  # noqa: ANN401 - as above
    rows: list[Raw] = value or []
    return rows


def _events(stream: str) -> list[Raw]:
    lines = [line.removeprefix("data:").strip() for line in stream.splitlines() if line.startswith("data:")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def _anthropic_expected(response: Any) -> Raw:  # noqa: ANN401 - a recorded answer
    if isinstance(response, str):
        response = _anthropic_folded(_events(response))
    blocks, usage = response["content"], response["usage"]
    return {
        "model": response["model"],
        "text": "".join(block["text"] for block in blocks if block["type"] == "text"),
        "calls": [(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"],
        "usage": {
            "fresh_in": usage["input_tokens"],
            "cache_read": usage.get("cache_read_input_tokens") or 0,
            "cache_write": usage.get("cache_creation_input_tokens") or 0,
            "out": usage["output_tokens"],
            "reasoning": _row(usage.get("output_tokens_details")).get("thinking_tokens", 0),
        },
    }


def _anthropic_folded(events: list[Raw]) -> Raw:
    message: Raw = {}
    parts: dict[int, list[str]] = {}
    for event in events:
        if event["type"] == "message_start":
            message = event["message"]
        elif event["type"] == "content_block_start":
            message["content"].append(event["content_block"])
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            parts.setdefault(event["index"], []).append(delta.get("text", delta.get("partial_json", "")))
        elif event["type"] == "message_delta":
            message["usage"] |= event["usage"]
    for index, block in enumerate(message["content"]):
        joined = "".join(parts.get(index, []))
        if block["type"] == "text":
            block["text"] = joined
        elif block["type"] == "tool_use":
            block["input"] = json.loads(joined)
    return message


def _openai_expected(response: Any) -> Raw:  # noqa: ANN401 - a recorded answer
    if isinstance(response, str):
        response = _openai_folded(_events(response))
    message, usage = response["choices"][0]["message"], response["usage"]
    details = _row(usage.get("prompt_tokens_details"))
    cached = details.get("cached_tokens") or 0
    written = details.get("cache_write_tokens") or 0
    calls = [call["function"] for call in _rows(message.get("tool_calls"))]
    return {
        "model": response["model"],
        "text": message.get("content") or "",
        "calls": [(call["name"], json.loads(call["arguments"])) for call in calls],
        "usage": {
            "fresh_in": usage["prompt_tokens"] - cached - written,
            "cache_read": cached,
            "cache_write": written,
            "out": usage["completion_tokens"],
            "reasoning": _row(usage.get("completion_tokens_details")).get("reasoning_tokens") or 0,
        },
    }


def _openai_folded(chunks: list[Raw]) -> Raw:
    message: Raw = {"content": "", "tool_calls": []}
    usage: Raw = {}
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            message["content"] += choice["delta"].get("content") or ""
            for call in _rows(choice["delta"].get("tool_calls")):
                if call["index"] == len(message["tool_calls"]):
                    message["tool_calls"].append({"function": dict(call["function"])})
                else:
                    message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    return {"model": chunks[0]["model"], "choices": [{"message": message}], "usage": usage}


_EXPECTED: dict[str, Callable[[Any], Raw]] = {"anthropic": _anthropic_expected, "openai": _openai_expected}


def _counts(usage: Usage) -> dict[str, int]:
    return {field: getattr(usage, field) for field in usage.__struct_fields__}


def _check_cost(model: str, usage: Usage) -> None:
    """The cost is what genai-prices itself works out, rounded up; above it only where tiers make ours a bound."""
    import genai_prices  # noqa: PLC0415 - heavy, and only needed here

    if model in UNPRICED:
        with pytest.raises(Refused):
            price_of(model)
        return
    provider, _, name = model.partition("/")
    used = genai_prices.Usage(
        input_tokens=usage.fresh_in + usage.cache_read + usage.cache_write,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write,
        output_tokens=usage.out,
    )
    calculated = genai_prices.calc_price(used, name, provider_id=provider)
    exact = int((calculated.total_price * 1_000_000).to_integral_value(ROUND_CEILING))
    price = price_of(model)
    tiered = any(not isinstance(rate, Decimal) for rate in vars(calculated.model_price).values() if rate is not None)
    assert price.cost_micros(usage) == exact or (tiered and price.cost_micros(usage) > exact)
