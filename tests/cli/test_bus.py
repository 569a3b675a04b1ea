"""``bus init`` on a broker that is somebody else's: what it prints is all that a server needs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync
from tests.cli.test_processes import READY_WITHIN_S, started

from linestop.bus.nkeys import new_seed, public_key
from linestop.bus.process import free_port, server_program
from linestop.cli.main import run
from linestop.client import Client

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.e2e]


@asynccontextmanager
async def nats_server(folder: Path) -> AsyncGenerator[None]:
    """Run the wheel's server in ``folder`` with the ``nats.conf`` there, as an administrator would."""
    server = await asyncio.create_subprocess_exec(
        server_program(), "-c", "nats.conf", cwd=folder, stderr=asyncio.subprocess.PIPE
    )
    assert server.stderr is not None
    try:
        with anyio.fail_after(READY_WITHIN_S):
            while b"Server is ready" not in (line := await server.stderr.readline()):
                assert line, "it did not start"
        yield
    finally:
        server.kill()
        await server.communicate()


async def test_a_server_with_the_printed_configuration_carries_a_task_to_its_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Print, start, set up, run: nothing has to be added to what is printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LINESTOP_NATS", url := f"nats://127.0.0.1:{free_port()}")
    assert await run_sync(run, ["bus", "init"]) == 0
    said = capsys.readouterr()
    assert f"no broker answers at {url}" in said.err
    assert "Then start a server with this configuration, and run this again" in said.err
    assert await run_sync(run, ["bus", "init"]) == 8
    assert capsys.readouterr().out == said.out
    (tmp_path / "nats.conf").write_text(said.out)
    async with nats_server(tmp_path):
        assert await run_sync(run, ["bus", "init"]) == 0
        said = capsys.readouterr()
        assert (said.out, f"{url} is ready." in said.err) == ("", True)
        assert (tmp_path / "jetstream").is_dir()
        async with started(tmp_path, "up") as up, started(tmp_path, "actor", "validator") as actor:
            await up.says("Ctrl-C ends it")
            await actor.says("Ctrl-C ends it")
            assert await run_sync(run, ["doctor"]) == 0
            async with Client.connect(tmp_path / ".linestop") as client:
                submitted = await client.submit("hello", "Hello?")
                outcome = await client.outcome(submitted.run, timeout_s=READY_WITHIN_S)
            assert outcome.status == "completed"
            assert [await actor.ends(), await up.ends()] == [0, 0]


async def test_a_server_that_does_not_know_the_credentials_is_told_apart_from_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one ends with 2 and wants a configuration, the other wants a server; both get the same text."""
    monkeypatch.chdir(tmp_path)
    url = f"nats://localhost:{free_port()}, nats://127.0.0.1:1"
    assert await run_sync(run, ["bus", "init", "--nats", url]) == 0
    text = capsys.readouterr().out
    config = json.loads(text)
    assert config["jetstream"]["sync_interval"] == "always"
    config["accounts"]["LINESTOP_BOOTSTRAP"]["users"][0]["nkey"] = public_key(new_seed())
    (tmp_path / "nats.conf").write_text(json.dumps(config))
    async with nats_server(tmp_path):
        assert await run_sync(run, ["bus", "init", "--nats", url, "--json"]) == 2
    said = capsys.readouterr()
    assert "put its `jetstream` and `accounts` into the one it has; restart it, and run this again" in said.err
    assert json.loads(said.out)["server_config"] == text
