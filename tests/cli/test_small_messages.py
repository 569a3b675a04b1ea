"""A broker whose ``max_payload`` is too small, and an agent that is too large: one sentence at the start."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from anyio.to_thread import run_sync
from tests.cli.test_processes import READY_WITHIN_S, started

from linestop.bus.access.credentials import ensure_credentials, logins_by_credential
from linestop.bus.broker_backend import JetStreamBackend
from linestop.bus.server.nats_accounts import accounts_section
from linestop.bus.server.nats_config import Listen, server_config
from linestop.bus.server.outside_broker import bus_init
from linestop.bus.server.process import NatsProcess, free_port
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES
from linestop.cli.main import run
from linestop.cli.serving.assemble_process import prepare
from linestop.client import Client
from linestop.config.agent_files import AGENT_BYTES_MAX
from linestop.errors import ConfigError

pytestmark = [pytest.mark.anyio, pytest.mark.broker]
SMALL = 64 * 1024
SENTENCE = "takes messages of at most 65,536 bytes, and linestop needs 270,336: set `max_payload: 1MB`"


@asynccontextmanager
async def small_broker(directory: Path) -> AsyncGenerator[str]:
    """Run a server that takes messages of 64 KiB; yields its address."""
    port = free_port()
    url = f"nats://127.0.0.1:{port}"
    section = accounts_section(logins_by_credential(ensure_credentials(directory, url)))
    listen = Listen(port=port, store_dir=directory / "jetstream", file_store_bytes_max=DEFAULT_SIZES.total)
    config = {**json.loads(server_config(listen, section)), "max_payload": SMALL}
    (directory / "nats.conf").write_text(json.dumps(config))
    server = NatsProcess(directory / "nats.conf", directory / "nats.log", port=port)
    await server.start()
    try:
        yield url
    finally:
        await server.stop()


async def test_a_broker_that_takes_small_messages_only_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the set-up, by each worker and by ``doctor``: later a result would be lost."""
    monkeypatch.chdir(tmp_path)
    state = tmp_path / ".linestop"
    async with small_broker(state) as url:
        credentials = ensure_credentials(state, url)
        with pytest.raises(ConfigError, match=SENTENCE):
            await prepare(credentials["bootstrap"])
        with pytest.raises(ConfigError, match=SENTENCE):
            await bus_init(url, state)
        with pytest.raises(ConfigError, match=SENTENCE):
            await JetStreamBackend.open({"planner": credentials["planner"]}, name="test")
        assert await run_sync(run, ["doctor", "--json"]) == 1
        found = {each["check"]: each for each in json.loads(capsys.readouterr().out)}
        assert (found["messages"]["level"], SENTENCE in found["messages"]["sentence"]) == ("error", True)


@pytest.mark.e2e
@pytest.mark.parametrize("size", [300_000, 2_000_000])
async def test_an_agent_that_is_too_large_does_not_keep_the_others_from_starting(tmp_path: Path, size: int) -> None:
    """Its file, its size, the limit and the remedy are named."""
    folder = tmp_path / "agents"
    folder.mkdir()
    for name in ("large", "small"):
        (folder / f"{name}.toml").write_text('model = "playbook/hello"\ntools = ["clock.now"]')
        (folder / f"{name}.md").write_text("Help.")
    (folder / "large.md").write_text("x" * size)
    async with started(tmp_path, "dev") as dev:
        await dev.wait_for_words("Ctrl-C ends it")
        printed = " ".join(dev.error_text.split())
        assert "The agent 'large' is left out: " in printed
        assert f"large.md has {size:,} bytes; at most {AGENT_BYTES_MAX:,} can be stored: shorten it" in printed
        async with Client.connect(tmp_path / ".linestop") as client:
            submitted = await client.submit("small", "Hello?")
            assert (await client.outcome(submitted.run, timeout_s=READY_WITHIN_S)).status == "completed"
        async with started(tmp_path, "deploy") as deploy:
            await deploy.wait_for_words("large.md has")
            assert await deploy.process.wait() == 2
        async with started(tmp_path, "deploy", "small") as deploy:
            await deploy.wait_for_words("New runs use these versions")
            assert await deploy.process.wait() == 0
        assert await dev.end_with() == 0
