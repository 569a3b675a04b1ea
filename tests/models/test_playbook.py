"""The playbook server as HTTP clients see it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from linestop.errors import ConfigError
from linestop.models.playbook import PlaybookServer, parse_playbook
from linestop.models.playbook.server import FAULT_COUNTS_MAX, REQUESTS_RECORDED_MAX

pytestmark = pytest.mark.anyio

HELLO = parse_playbook('name = "hello"\n[[step]]\nsay = "Hello, {{task}}."\nrepeat = true')
CALLS = parse_playbook('name = "calls"\n[[step]]\ncall = [{tool = "a.b", args = {x = 1}}]\nthinking = "Hm."')
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
both = pytest.mark.parametrize("wire", ["openai", "anthropic"])


def _body(model: str, text: str = "world", **more: object) -> dict[str, Any]:
    return {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": text}], **more}


async def _post(server: PlaybookServer, path: str, body: object) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False) as client:
        return await client.post(server.url + path, json=body)


async def test_a_whole_answer_has_the_providers_shape() -> None:
    """Without `stream` one JSON body comes back, in the format of the requested path."""
    async with PlaybookServer([HELLO, CALLS]) as server:
        openai = (await _post(server, PATHS["openai"], _body("hello"))).json()
        anthropic = (await _post(server, PATHS["anthropic"], _body("calls"))).json()
        called = (await _post(server, PATHS["openai"], _body("calls"))).json()
    assert openai["choices"][0]["message"]["content"] == "Hello, world."
    assert openai["choices"][0]["finish_reason"] == "stop"
    assert openai["usage"]["total_tokens"] > 0
    assert [block["type"] for block in anthropic["content"]] == ["thinking", "tool_use"]
    assert anthropic["content"][1]["name"] == "a__b"
    assert anthropic["stop_reason"] == "tool_use"
    assert called["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "a__b", "arguments": '{"x":1}'}


@both
async def test_a_request_without_a_matching_step_is_a_clear_400(wire: str) -> None:
    """The error names playbook and turn, in the provider's format."""
    script = parse_playbook('name = "m"\n[[step]]\nwhen = {contains = "refund"}\nsay = "x"')
    async with PlaybookServer(script) as server:
        answer = await _post(server, PATHS[wire], _body("m"))
        assert [(request.step, request.status) for request in server.requests] == [(None, 400)]
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert 'No step of the playbook "m" answers turn 1' in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("/v1/messages", _body("unknown"), 404, 'No playbook is called "unknown"; there is hello.'),
        ("/v1/messages", {"model": "hello"}, 400, "not a request"),
        ("/v1/messages", [], 400, "not a request"),
        ("/v1/responses", _body("hello"), 404, "answers POST /v1/messages and /v1/chat/completions only"),
    ],
)
async def test_a_wrong_request_is_refused_with_a_reason(path: str, body: object, status: int, sentence: str) -> None:
    """Path, model and body are checked before any step."""
    async with PlaybookServer(HELLO) as server:
        answer = await _post(server, path, body)
    assert answer.status_code == status
    assert sentence in answer.json()["error"]["message"]


async def test_two_playbooks_of_one_name_are_refused() -> None:
    """Otherwise it would be undefined which one answers."""
    with pytest.raises(ConfigError, match="each with a unique name"):
        PlaybookServer([HELLO, HELLO])
    with pytest.raises(ConfigError, match="at least one"):
        PlaybookServer([])


async def test_a_connection_serves_many_requests_and_the_journal_is_bounded() -> None:
    """Keep-alive works, and the list of requests is bounded."""
    async with PlaybookServer(HELLO) as server, httpx2.AsyncClient(trust_env=False) as client:
        for number in range(REQUESTS_RECORDED_MAX + 5):
            answer = await client.post(server.url + PATHS["openai"], json=_body("hello", str(number)))
            assert answer.status_code == 200
        assert len(server.requests) == REQUESTS_RECORDED_MAX
        last = server.requests[-1]
        assert (last.model, last.turn, last.step, last.method) == ("hello", 1, 0, "POST")
        assert json.loads(last.body)["messages"][0]["content"] == str(REQUESTS_RECORDED_MAX + 4)


async def test_faults_are_counted_per_conversation() -> None:
    """Each of two conversations gets the fault of a step ``times`` times."""
    script = parse_playbook(
        'name = "m"\n[[step]]\nsay = "x"\nfault = {kind = "status", status = 503, retry_after_s = 0.5, times = 1}'
    )
    async with PlaybookServer(script) as server:
        statuses = [(await _post(server, PATHS["openai"], _body("m", text))).status_code for text in "abab"]
        again = await _post(server, PATHS["openai"], _body("m", "c"))
    assert statuses == [503, 503, 200, 200]
    assert again.headers["retry-after"] == "0.5"


async def test_the_table_of_faults_drops_the_oldest() -> None:
    """A long benchmark must not fill the memory."""
    script = parse_playbook('name = "m"\n[[step]]\nsay = "x"\nfault = {kind = "status", status = 503, times = 1}')
    server = PlaybookServer(script)
    bodies = [json.dumps(_body("m", str(number))).encode() for number in range(FAULT_COUNTS_MAX + 1)]
    for body in bodies:
        assert server.reply_to("POST", PATHS["openai"], {}, body).status == 503
    assert server.reply_to("POST", PATHS["openai"], {}, bodies[-1]).status == 200
    assert server.reply_to("POST", PATHS["openai"], {}, bodies[0]).status == 503


@both
async def test_a_delayed_answer_is_still_the_answer(wire: str) -> None:
    """Delay and pace change the time of an answer, not its content."""
    steps = 'say = "x"\nfault = {kind = "delay", delay_s = 0.001}\nrepeat = true'
    paced = 'say = "A text of more than one piece, which is more than forty letters."\npace_s = 0.001\nrepeat = true'
    books = [parse_playbook(f'name = "{name}"\n[[step]]\n{step}') for name, step in (("d", steps), ("p", paced))]
    async with PlaybookServer(books) as server:
        delayed = await _post(server, PATHS[wire], _body("d"))
        streamed = await _post(server, PATHS[wire], _body("p", stream=True))
    assert delayed.status_code == 200
    assert streamed.text.count("data: ") > 4


@pytest.mark.parametrize("fault", ["malformed", "no_terminal"])
@both
async def test_a_fault_of_streams_breaks_a_whole_body_too(wire: str, fault: str) -> None:
    """Without `stream`, half a body replaces a broken or missing event."""
    script = parse_playbook(f'name = "m"\n[[step]]\nsay = "x"\nfault = {{kind = "{fault}"}}')
    async with PlaybookServer(script) as server:
        answer = await _post(server, PATHS[wire], _body("m"))
    with pytest.raises(json.JSONDecodeError):
        answer.json()


async def test_a_cut_body_breaks_the_connection() -> None:
    """The body is shorter than its announced length."""
    script = parse_playbook('name = "m"\n[[step]]\nsay = "x"\nfault = {kind = "cut", after_bytes = 10}')
    async with PlaybookServer(script) as server:
        with pytest.raises(httpx2.RemoteProtocolError):
            await _post(server, PATHS["openai"], _body("m"))


async def test_clients_that_do_not_speak_http_do_no_harm() -> None:
    """Garbage and a hang-up end only their own connection."""
    async with PlaybookServer(HELLO) as server:
        port = int(server.url.rpartition(":")[2])
        for sent in (b"\x00\xff garbage\r\n\r\n", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf", b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            writer.write_eof()
            assert not (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()
            await writer.wait_closed()
        assert (await _post(server, PATHS["openai"], _body("hello"))).status_code == 200


async def test_closing_the_server_ends_every_connection() -> None:
    """A request that never gets an answer does not keep the server alive."""
    script = parse_playbook('name = "m"\n[[step]]\nfault = {kind = "never"}')
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        async with PlaybookServer(script) as server:
            waiting = asyncio.create_task(client.post(server.url + PATHS["openai"], json=_body("m")))
            await server.arrived(1)
        with pytest.raises(httpx2.HTTPError):
            await waiting


async def test_it_listens_on_loopback_only() -> None:
    """Other machines cannot reach a scripted model."""
    async with PlaybookServer(HELLO) as server:
        assert server.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_interrupted(tmp_path: Path, end: signal.Signals) -> None:
    """The address is the first line; both signals end it cleanly, also in the background of a shell script."""
    file = tmp_path / "hello.toml"
    file.write_text('name = "hello"\n[[step]]\nsay = "Hello."')
    ignoring = ["env", "--ignore-signal=INT", sys.executable, "-m", "linestop.models.playbook", str(file)]
    with subprocess.Popen(ignoring, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        answer = httpx2.post(url + PATHS["openai"], json=_body("hello"), trust_env=False)
        process.send_signal(end)
        try:
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
    assert answer.json()["choices"][0]["message"]["content"] == "Hello."


@pytest.mark.parametrize(("text", "code"), [('name = "x"', 2), ('name = "x"\n[[step]]\nsay = "y"', 1)])
def test_the_command_reports_in_one_line_why_it_does_not_start(tmp_path: Path, text: str, code: int) -> None:
    """A bad script is a usage error; a port in use is not."""
    file = tmp_path / "x.toml"
    file.write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "linestop.models.playbook", str(file), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 1
