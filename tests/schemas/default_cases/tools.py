"""What the defaults of tools and models do."""

# ruff: noqa: PLC0415 - each run has its own import of linestop

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.lowlevel
from tests.schemas.default_cases import Cases, failure

CASES = Cases()
case = CASES.case


@case("TOOL_THREADS_MAX", "1")
def two_calls_of_a_thread_tool() -> object:
    """Whether the second begins."""
    from linestop.sandbox.tools.threads import run_in_thread

    release = threading.Event()

    async def main() -> str:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_in_thread, release.wait)
            await anyio.lowlevel.checkpoint()
            try:
                await run_in_thread(lambda: None)
            except Exception as error:  # noqa: BLE001 - which one is what is seen
                return type(error).__name__
            finally:
                release.set()
        return "begun"

    return asyncio.run(main())


@case("TOOL_OUTPUT_BYTES_MAX", "5")
def the_output_of_a_tool_in_its_own_process() -> object:
    """What is shown of ten bytes."""
    from linestop.sandbox.tools import process_tool

    async def output() -> AsyncIterator[bytes]:
        yield b"0123456789"

    shown: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: shown.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("linestop.tools")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        asyncio.run(process_tool._drain(cast("Any", SimpleNamespace(stdout=output())), "t"))  # pyright: ignore[reportPrivateUsage]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return shown


@case("HTTP_TEXT_CHARS_MAX", "5")
def a_page_of_ten_characters() -> object:
    """What the model reads of it."""
    from linestop.sandbox.tools.builtin import http_get

    async def get(url: str) -> object:
        return SimpleNamespace(
            headers={}, content=b"0123456789", text="0123456789", status_code=200, request=SimpleNamespace(url=url)
        )

    async def main() -> str:
        context = cast("Any", SimpleNamespace(http=SimpleNamespace(get=get)))
        return (await http_get(context, "https://example.com")).text

    return asyncio.run(main())


@case("HTTP_GET_TIMEOUT_S", "9")
def the_contract_of_http_get() -> object:
    """How long a call of it may take."""
    from linestop.sandbox.tools.builtin import http_get

    return http_get.contract.timeout_s


@case("EGRESS_REQUESTS_MAX", "1")
@case("EGRESS_REDIRECTS_MAX", "0")
@case("EGRESS_RESPONSE_BYTES_MAX", "5")
@case("EGRESS_REQUEST_MAX_S", "0.0")
def a_redirect_to_ten_bytes() -> object:
    """What a tool gets of it."""
    from linestop import clock
    from linestop.sandbox.http.egress_client import EgressClient, EgressPolicy

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if request.startswith(b"GET / "):
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: /page\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n0123456789")
        writer.close()

    async def main() -> str:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            deadline = clock.now() + timedelta(seconds=60)
            async with EgressClient(EgressPolicy(allow=(address,)), deadline=deadline) as http:
                try:
                    return (await http.get(f"http://{address}/")).text
                except Exception as error:  # noqa: BLE001 - which one is what is seen
                    return type(error).__name__

    return asyncio.run(main())


@case("WORKSPACE_BYTES_MAX", "15")
@case("WORKSPACE_FILE_BYTES_MAX", "5")
@case("WORKSPACE_ENTRIES_MAX", "1")
@case("WORKSPACE_PATH_CHARS_MAX", "3")
def two_files_of_ten_bytes() -> object:
    """Whether they are written."""
    from linestop.sandbox.files.workspace import Workspace

    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.create(Path(folder), "acme", "r1")
        return [failure(lambda name=name: workspace.write(name, b"0123456789")) for name in ("a.md", "b.md")]  # type: ignore[misc]


@case("WINDOW_TOKENS", "10_000")
def an_agent_whose_file_names_no_window() -> object:
    """The window that is reckoned with."""
    from linestop.config.agent_files import load_agent

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "desk.md").write_text("Be kind.")
        (Path(folder) / "desk.toml").write_text("model = 'playbook/a'")
        return load_agent(Path(folder) / "desk.toml", ()).model.window_tokens


@case("MODEL_CONNECT_TIMEOUT_S", "1.0")
def a_request_to_a_provider() -> object:
    """How long connecting may take, with each of them."""
    from linestop.models.anthropic import AnthropicClient
    from linestop.models.openai import OpenAIClient

    seen: list[object] = []

    @asynccontextmanager
    async def create(**options: Any) -> AsyncGenerator[None]:
        seen.append(options["timeout"].connect)
        yield

    endpoint = SimpleNamespace(with_streaming_response=SimpleNamespace(create=create))
    client = SimpleNamespace(_sdk=SimpleNamespace(chat=SimpleNamespace(completions=endpoint), messages=endpoint))

    async def main() -> list[object]:
        for provider in (AnthropicClient, OpenAIClient):
            async with provider._open(cast("Any", client), {"model": "m", "messages": [], "max_tokens": 1}, 60.0):  # pyright: ignore[reportPrivateUsage]
                pass
        return seen

    return asyncio.run(main())


@case("SECRET_CHARS_MIN", "5")
def a_short_secret() -> object:
    """Whether it is removed from a result, and a key from what a provider answers."""
    from linestop.models.transport import with_deadline
    from linestop.schemas.model_messages import ModelFailed, ModelReply, ModelRequest
    from linestop.schemas.text.redaction import Redactor

    async def send() -> ModelReply:
        raise ModelFailed("permanent", "secret is refused")

    async def main() -> str:
        try:
            await with_deadline(ModelRequest(model="m", system="", messages=()), "secret", send)
        except ModelFailed as failed:
            return str(failed)
        return ""

    return Redactor(["secret"]).text("the secret"), asyncio.run(main())
