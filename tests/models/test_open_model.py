"""Opening a client: imports, environment variables, refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from linestop.errors import ConfigError
from linestop.models import open_model
from linestop.models.playbook import PlaybookServer, parse_playbook
from linestop.schemas.model_messages import Message, ModelFailed, ModelRequest

Canned = tuple[int, dict[str, str], bytes]
Served = tuple[str, list[tuple[dict[str, str], bytes]]]
Serve = Callable[[list[Canned]], AbstractAsyncContextManager[Served]]

_HEAVY = "anthropic openai httpx2 genai_prices pydantic h11"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import linestop.models", _HEAVY),
        ("import linestop.models.prices", _HEAVY),
        ("from linestop.models import open_model as o; o('openai/m', api_key='k')", "anthropic genai_prices"),
        ("from linestop.models import open_model as o; o('anthropic/m', api_key='k')", "openai genai_prices"),
    ],
)
def test_only_what_is_used_is_imported(code: str, absent: str) -> None:
    """An SDK costs a second of CPU and 40 to 70 MB, which only the planner should pay, and only once."""
    check = f"{code}\nimport sys\nfound = sys.modules.keys() & set('{absent}'.split())\nassert not found, found"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("gemini/pro", "is not known"),
        ("claude-opus-5", "is not known"),
        ("openai/", "is not known"),
        ("anthropic/claude", "set ANTHROPIC_API_KEY"),
        ("openai/gpt", "set OPENAI_API_KEY"),
        ("playbook/support", "needs base_url"),
    ],
)
def test_a_model_that_cannot_be_opened_names_the_remedy(model: str, sentence: str) -> None:
    """One sentence with the model and the remedy, before any request."""
    with pytest.raises(ConfigError, match=sentence) as refused:
        open_model(model)
    assert f'"{model}"' in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://x/",
        "http://",
        "http://[::1",
        "http://h:99999/",
        "http://me:secret@h/v1",
        "http://h/v1/chat/completions",
        "http://h/v1/responses/",
        "http://h/v1/messages",
        "http://h/v1?key=1",
    ],
)
def test_an_invalid_base_url_is_a_configuration_error(url: str) -> None:
    """The URL is checked when the client is opened, not when the first request fails."""
    with pytest.raises(ConfigError, match="base_url") as refused:
        open_model("openai/m", base_url=url)
    assert "secret" not in str(refused.value)


def test_json_schema_mode_is_for_compatible_servers() -> None:
    """Anthropic's own protocol has no such mode here, and ignoring the setting would be worse."""
    with pytest.raises(ConfigError, match="json_schema"):
        open_model("anthropic/m", api_key="k", tool_mode="json_schema")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("provider", "url"), [("anthropic", None), ("openai", None), ("openai", "https://eu.api.openai.com/v1")]
)
async def test_a_key_from_the_environment_opens_a_remote_model(
    provider: str, url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it nothing opens; the variable is read at that moment."""
    with pytest.raises(ConfigError, match="needs a key"):
        open_model(f"{provider}/m", base_url=url)
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", "secret")
    await open_model(f"{provider}/m", base_url=url).aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
async def test_a_playbook_is_opened_by_the_address_of_its_server(path: str) -> None:
    """With or without the version in the path, and without a key."""
    async with PlaybookServer(parse_playbook('name = "m"\n[[step]]\nsay = "Hello."')) as server:
        client = open_model("playbook/m", base_url=server.url + path)
        reply = await client.complete(
            ModelRequest(model="playbook/m", system="", messages=(Message(role="user", text="x"),))
        )
        await client.aclose()
    assert reply.text == "Hello."


@pytest.mark.anyio
@pytest.mark.parametrize("provider", ["anthropic", "openai"])
async def test_environment_variables_of_the_sdk_have_no_effect(
    serve: Serve, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No variable changes the key, the headers, the address or the organisation."""
    for name in ("ANTHROPIC", "OPENAI"):
        monkeypatch.setenv(f"{name}_CUSTOM_HEADERS", "X-Smuggled: yes\nAuthorization: Bearer smuggled")
        monkeypatch.setenv(f"{name}_BASE_URL", "http://127.0.0.1:9")
        monkeypatch.setenv(f"{name}_API_KEY", "smuggled")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "smuggled")
    monkeypatch.setenv("ANTHROPIC_PROFILE", "smuggled")
    for name in ("ORG_ID", "PROJECT_ID", "ADMIN_KEY"):
        monkeypatch.setenv(f"OPENAI_{name}", "smuggled")
    async with serve([(500, {}, b"")]) as (url, received):
        client = open_model(f"{provider}/m", base_url=url, api_key="mine")
        with pytest.raises(ModelFailed):
            await client.complete(
                ModelRequest(model=f"{provider}/m", system="", messages=(Message(role="user", text="x"),))
            )
        await client.aclose()
    headers = received[0][0]
    assert headers.get("x-api-key", headers.get("authorization", "")).removeprefix("Bearer ") == "mine"
    assert "smuggled" not in str(headers)
    assert "x-smuggled" not in headers


@pytest.mark.anyio
async def test_the_sdk_makes_no_spans_and_sends_no_trace(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell emits the spans; a provider does not need a trace id."""
    from opentelemetry import trace  # noqa: PLC0415 - only this test needs it
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: PLC0415

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    async with serve([(500, {}, b"")]) as (url, received):
        client = open_model("anthropic/m", base_url=url)
        with provider.get_tracer("test").start_as_current_span("turn"), pytest.raises(ModelFailed):
            await client.complete(ModelRequest(model="anthropic/m", system="", messages=()))
        await client.aclose()
    assert [span.name for span in exporter.get_finished_spans()] == ["turn"]
    assert "traceparent" not in received[0][0]
