"""Address, key, mode and parameters of one model reach no other; checked with real servers that record."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.builders import SPARE, Story, agent

from linestop.actors.planner import Planner
from linestop.config.agent_files import load_agent
from linestop.errors import ConfigError
from linestop.models import anthropic, open_model, openai
from linestop.models.caller import Requester
from linestop.models.providers import key_variable
from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import AnyEvent, ModelFailedEvent, ModelStarted, Proposed
from linestop.schemas.model_messages import ModelFailed, ModelRequest
from linestop.schemas.verify.check_log import verify

pytestmark = pytest.mark.anyio

Canned = tuple[int, dict[str, str], bytes]
Served = tuple[str, list[tuple[dict[str, str], bytes]]]
Serve = Callable[[list[Canned]], AbstractAsyncContextManager[Served]]
SSE = {"content-type": "text/event-stream"}
DOWN: Canned = (503, {}, b"")
ANSWERS: dict[str, list[dict[str, Any]]] = {
    "anthropic": [
        {"type": "message_start", "message": {"id": "msg", "model": "m", "content": [], "usage": {"input_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Done."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ],
    "openai": [
        {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "Done."}, "finish_reason": "stop"}]}
    ],
}
KEYS = {
    "ANTHROPIC_API_KEY": "sk-anthropic-own-0001",
    "OPENAI_API_KEY": "sk-openai-own-0002",
    "MAIN_KEY": "sk-main-0003",
    "SPARE_KEY": "sk-spare-0004",
}
PROVIDERS = ("anthropic", "openai", "playbook")
pairs = pytest.mark.parametrize(("main", "spare"), [(one, other) for one in PROVIDERS for other in PROVIDERS])


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    for name in ("ANTHROPIC", "OPENAI"):
        monkeypatch.setenv(f"{name}_BASE_URL", "http://127.0.0.1:9/v1")


def _answer(provider: str) -> Canned:
    wire = ANSWERS.get(provider, ANSWERS["openai"])
    return 200, SSE, "".join(f"data: {json.dumps(event)}\n\n" for event in wire).encode() + b"data: [DONE]\n\n"


def _file(tmp_path: Path, *lines: str) -> AgentVersion:
    path = tmp_path / "desk.toml"
    path.write_text("\n".join(lines))
    (tmp_path / "desk.md").write_text("Be good.")
    return load_agent(path, [])


def _table(provider: str, url: str, variable: str) -> list[str]:
    key = [] if provider == "playbook" else [f'api_key_env = "{variable}"']
    return [f'model = "{provider}/m"', f'base_url = "{url}"', *key, "price = {input = 1, output = 1}"]


async def _ask(story: Story) -> AnyEvent:
    """Perform the open model request over HTTP; return its outcome."""
    started = story.run.entries[story.open_model() - 1].event
    assert isinstance(started, ModelStarted)
    caller = Requester()
    view = Planner(caller).prepare(story.run, started, story.planner_facts)
    view = msgspec.structs.replace(view, start_by=datetime.now(UTC) + timedelta(seconds=30))
    try:
        (event,) = [event async for event in Planner(caller).perform(view, started)]
    finally:
        await caller.aclose()
    story.given(event).run_until_idle()
    return event


def _two(tmp_path: Path, main: list[str], spare: list[str]) -> Story:
    version = _file(tmp_path, *main, "limits.model_retries_max = 0", "[[fallbacks]]", *spare)
    return Story(version).open_run().run_until_idle()


@pairs
async def test_each_host_gets_its_own_key_and_none_gets_another(
    serve: Serve, tmp_path: Path, main: str, spare: str
) -> None:
    """The main model is down and its fallback answers, with every pair of providers, also twice the same model."""
    async with serve([DOWN]) as (first, to_first), serve([_answer(spare)]) as (second, to_second):
        story = _two(tmp_path, _table(main, first, "MAIN_KEY"), _table(spare, second, "SPARE_KEY"))
        failed, answer = await _ask(story), await _ask(story)
    assert isinstance(failed, ModelFailedEvent)
    assert isinstance(answer, Proposed)
    starts = [entry.event for entry in story.run.entries if isinstance(entry.event, ModelStarted)]
    assert [(start.model, start.base_url) for start in starts] == [(f"{main}/m", first), (f"{spare}/m", second)]
    for provider, received, own in ((main, to_first, "MAIN_KEY"), (spare, to_second, "SPARE_KEY")):
        ((headers, body),) = received
        sent = f"{headers}{body!r}"
        assert [name for name, key in KEYS.items() if key in sent] == ([] if provider == "playbook" else [own])


@pairs
async def test_a_redirect_carries_no_key_to_another_host(serve: Serve, tmp_path: Path, main: str, spare: str) -> None:
    """Neither the server of the main model nor that of the fallback may redirect the request."""
    for status in (301, 302, 303, 307, 308):
        async with serve([]) as (third, to_third):
            away: Canned = (status, {"location": f"{third}/v1/chat/completions"}, b"")
            async with serve([DOWN]) as (first, _), serve([away]) as (second, to_second):
                story = _two(tmp_path, _table(main, first, "MAIN_KEY"), _table(spare, second, "SPARE_KEY"))
                await _ask(story)
                failed = await _ask(story)
            assert isinstance(failed, ModelFailedEvent)
            assert (failed.kind, failed.status, len(to_second), to_third) == ("permanent", status, 1, [])


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
async def test_the_own_variable_of_a_provider_is_sent_to_no_other_host(serve: Serve, provider: str) -> None:
    """Another server needs its own key, or none; a refusal then explains how to name the key."""
    async with serve([(401, {}, b'{"error": {"message": "who are you?"}}')]) as (url, received):
        client = open_model(f"{provider}/m", base_url=url)
        with pytest.raises(ModelFailed, match=r"who are you.*api_key_env") as failed:
            await client.complete(ModelRequest(model=f"{provider}/m", system="", messages=()))
        await client.aclose()
    assert failed.value.kind == "permanent"
    assert not [key for key in KEYS.values() if key in str(received)]


@pytest.mark.parametrize(
    ("model", "url", "variable"),
    [
        ("openai/m", "", "OPENAI_API_KEY"),
        ("openai/m", "https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("openai/m", "https://eu.api.openai.com/v1", "OPENAI_API_KEY"),
        ("openai/m", "http://api.openai.com/v1", ""),
        ("openai/m", "https://api.openai.com.evil.example/v1", ""),
        ("openai/m", "https://evilapi.openai.com", ""),
        ("openai/m", "https://api.anthropic.com", ""),
        ("openai/m", "https://openrouter.ai/api/v1", ""),
        ("openai/m", "http://127.0.0.1:11434/v1", ""),
        ("anthropic/m", "", "ANTHROPIC_API_KEY"),
        ("anthropic/m", "https://api.anthropic.com", "ANTHROPIC_API_KEY"),
        ("anthropic/m", "https://api.openai.com", ""),
        ("playbook/m", "https://api.openai.com", ""),
    ],
)
def test_a_variable_belongs_to_its_providers_own_host(model: str, url: str, variable: str) -> None:
    """Another host gets a key only by the variable that is named beside its address."""
    assert key_variable(model, url) == variable
    assert key_variable(model, url, "MINE") == "MINE"


async def test_a_fallback_by_name_is_asked_at_its_providers_own_address(tmp_path: Path) -> None:
    """Neither the address of the main model nor a variable of the SDKs changes it."""
    version = _file(
        tmp_path,
        'model = "openai/m"',
        'base_url = "http://127.0.0.1:9/v1"',
        "price = {input = 1, output = 1}",
        'tool_mode = "json_schema"',
        "params = {temperature = 0.5}",
        'fallbacks = ["anthropic/claude-sonnet-4-5", "openai/gpt-5-mini"]',
    )
    for choice, own in zip(version.fallbacks, (anthropic.BASE_URL, openai.BASE_URL), strict=True):
        found = version.settings(choice)
        assert (found.base_url, found.tool_mode, found.params) == ("", "auto", {})
        client = open_model(choice.model, base_url=found.base_url or None)
        assert isinstance(client, anthropic.AnthropicClient | openai.OpenAIClient)
        assert str(client._sdk.base_url).rstrip("/") == own  # pyright: ignore[reportPrivateUsage]
        await client.aclose()


async def test_each_model_gets_its_own_parameters_mode_and_limits(serve: Serve, tmp_path: Path) -> None:
    """Another provider would refuse them."""
    async with serve([DOWN]) as (first, to_first), serve([_answer("openai")]) as (second, to_second):
        main = [*_table("anthropic", first, "MAIN_KEY"), 'params = {thinking = {type = "adaptive"}}']
        spare = [*_table("openai", second, "SPARE_KEY"), "params = {temperature = 0.5}", "output_tokens_max = 777"]
        story = _two(tmp_path, [*main, "output_tokens_max = 999"], spare)
        await _ask(story)
        assert isinstance(await _ask(story), Proposed)
    sent = [json.loads(received[0][1]) for received in (to_first, to_second)]
    assert (sent[0]["thinking"], sent[0].get("temperature"), sent[0]["max_tokens"]) == ({"type": "adaptive"}, None, 999)
    assert (sent[1].get("thinking"), sent[1]["temperature"], sent[1]["max_tokens"]) == (None, 0.5, 777)
    assert verify(story.run.tenant, story.run.run, story.messages).status == "consistent"


def test_settings_of_an_older_version_belong_to_its_main_model() -> None:
    """Deployed versions keep their meaning: their address was meant for the model beside it."""
    version = agent(base_url="http://127.0.0.1:9/v1", tool_mode="native", params={"seed": 1}, fallbacks=(SPARE,))
    story = Story(version).open_run().run_until_idle()
    story.open_model()
    assert version.settings(version.model).base_url == "http://127.0.0.1:9/v1"
    assert version.settings(version.model).params == {"seed": 1}
    assert version.settings(SPARE) == SPARE


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (['fallbacks = ["openai/gpt-5-mini", "openai/gpt-5-mini"]'], "fallbacks 2: .*named twice"),
        (['fallbacks = ["openai/gpt-5"]'], "fallbacks 1: .*named twice"),
        (["[[fallbacks]]", 'model = "openai/gpt-5-mini"', 'base_url = "nowhere"'], "fallbacks 1, base_url"),
        (["[[fallbacks]]", 'model = "openai/gpt-5-mini"', 'api_key_env = "sk-abc-123"'], "fallbacks 1, api_key_env"),
        (["[[fallbacks]]", 'model = "playbook/x"', 'api_key_env = "MINE"'], "needs no key"),
        (["[[fallbacks]]", 'model = "anthropic/x"', 'tool_mode = "json_schema"'], "fallbacks 1, tool_mode"),
        (["[[fallbacks]]", 'modle = "anthropic/x"'], "modle"),
        (["[[fallbacks]]", 'base_url = "http://h/v1"'], "fallbacks 1, model"),
        (['api_key_env = "sk abc"'], "api_key_env"),
    ],
)
def test_an_invalid_setting_is_refused_by_its_place(tmp_path: Path, lines: list[str], sentence: str) -> None:
    """The error names the model; a key that was written in the place of its name is not repeated."""
    with pytest.raises(ConfigError, match=sentence) as refused:
        _file(tmp_path, 'model = "openai/gpt-5"', *lines)
    assert "sk" not in str(refused.value).replace("desk", "").replace("ask", "")


def test_an_unusable_key_is_refused_without_being_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line break in the key would come back inside an error of the transport."""
    monkeypatch.setenv("MINE", "sk-abc\nsk-def")
    with pytest.raises(ConfigError, match="MINE does not hold a key") as refused:
        open_model("openai/m", base_url="http://h/v1", api_key_env="MINE")
    assert "sk-" not in str(refused.value)
    monkeypatch.delenv("MINE")
    with pytest.raises(ConfigError, match="set MINE"):
        open_model("openai/m", base_url="http://h/v1", api_key_env="MINE")


async def test_a_start_at_a_server_that_is_not_in_the_opening_is_ignored(tmp_path: Path) -> None:
    """The fold and the checker both identify a model by its name and its server."""
    story = _two(tmp_path, _table("openai", "http://127.0.0.1:9", "MAIN_KEY"), _table("openai", "http://h", "MAIN_KEY"))
    story.given(*story.planner_events(ModelFailed("availability", "down")))
    started = story.when("planner").decided
    assert isinstance(started, ModelStarted)
    assert (started.base_url, started.fallback_of) == ("http://h", "openai/m")
    entry = story.append("planner", msgspec.structs.replace(started, base_url="http://elsewhere"))
    assert "was not opened with the model 'openai/m' at http://elsewhere" in entry.ignored
    found = verify(story.run.tenant, story.run.run, story.messages)
    assert any("which the run was not opened with" in problem.sentence for problem in found.problems)
