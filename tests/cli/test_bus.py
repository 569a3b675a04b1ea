"""``bus init`` on an outside broker: the printed configuration is complete."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync
from tests.cli.test_processes import READY_WITHIN_S, started

from linestop.bus.access.nkeys import new_seed, public_key
from linestop.bus.disk_space import GIB
from linestop.bus.server.process import free_port, server_program
from linestop.bus.streams import stream_sizes
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES, StreamSizes
from linestop.bus.streams.stream_sizes import sizes_for, store_sizes
from linestop.cli.bus_setup import set_up as cli_bus
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


def test_the_configuration_is_not_poured_out_at_a_terminal(tmp_path: Path) -> None:
    """A few lines say how to write it to a file and what to do next, the first time and later."""
    environment = {**os.environ, "LINESTOP_NATS": f"nats://127.0.0.1:{free_port()}"}
    for code in (0, 8):
        controller, terminal = pty.openpty()
        with os.fdopen(controller, "rb"), os.fdopen(terminal, "wb"):
            ended = subprocess.run(
                [sys.executable, "-m", "linestop.cli.main", "bus", "init"],
                cwd=tmp_path,
                env=environment,
                stdout=terminal,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert ended.returncode == code, ended.stderr
        assert "`linestop bus init > nats.conf` writes them to a file" in ended.stderr
        assert "start nats-server there with this configuration, and run this again" in ended.stderr
        assert ended.stderr.count("\n") < 10


async def test_a_server_with_the_printed_configuration_carries_a_task_to_its_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Print, start, set up, run: nothing has to be added to the printed configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LINESTOP_NATS", url := f"nats://127.0.0.1:{free_port()}")
    assert await run_sync(run, ["bus", "init"]) == 0
    captured = capsys.readouterr()
    assert f"no broker answers at {url}" in captured.err
    assert "start nats-server there with this configuration, and run this again" in captured.err
    assert await run_sync(run, ["bus", "init"]) == 8
    assert capsys.readouterr().out == captured.out
    (tmp_path / "nats.conf").write_text(captured.out)
    async with nats_server(tmp_path):
        assert await run_sync(run, ["bus", "init"]) == 0
        captured = capsys.readouterr()
        assert (captured.out, f"{url} is ready." in captured.err) == ("", True)
        assert (tmp_path / "jetstream").is_dir()
        async with started(tmp_path, "up") as up, started(tmp_path, "actor", "validator") as actor:
            await up.wait_for_words("Ctrl-C ends it")
            await actor.wait_for_words("Ctrl-C ends it")
            assert await run_sync(run, ["doctor"]) == 0
            async with Client.connect(tmp_path / ".linestop") as client:
                submitted = await client.submit("hello", "Hello?")
                outcome = await client.outcome(submitted.run, timeout_s=READY_WITHIN_S)
            assert outcome.status == "completed"
            assert [await actor.end_with(), await up.end_with()] == [0, 0]


async def test_a_server_without_the_credentials_is_distinguished_from_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one ends with 2 and wants a configuration, the other wants a server; both get the same text."""
    monkeypatch.chdir(tmp_path)
    url = f"nats://localhost:{free_port()}, nats://127.0.0.1:1"
    assert await run_sync(run, ["bus", "init", "--nats", url]) == 0
    text, error_text = capsys.readouterr()
    assert f"Next: no broker answers at {url}: start nats-server there with this configuration" in error_text
    assert await run_sync(run, ["bus", "init", "--nats", url]) == 8
    out, error_text = capsys.readouterr()
    assert (out, "linestop dev" in error_text) == (text, False)
    config = json.loads(text)
    assert config["jetstream"]["sync_interval"] == "always"
    config["accounts"]["LINESTOP_BOOTSTRAP"]["users"][0]["nkey"] = public_key(new_seed())
    (tmp_path / "nats.conf").write_text(json.dumps(config))
    async with nats_server(tmp_path):
        assert await run_sync(run, ["bus", "init", "--nats", url, "--json"]) == 2
    refused = capsys.readouterr()
    assert "put its `jetstream` and `accounts` into the one it has; restart it, and run this again" in refused.err
    assert json.loads(refused.out)["server_config"] == text


def test_a_plan_says_what_is_needed_and_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For the sizes that were chosen, or those of a named disk; it asks no broker."""
    monkeypatch.chdir(tmp_path)
    store_sizes(tmp_path / ".linestop", StreamSizes())
    words = ["bus", "plan", "--runs-per-day", "5000", "--turns", "6"]
    assert run(words) == 0
    printed = capsys.readouterr().out
    runs = next(line.split() for line in printed.splitlines() if line.startswith("RUNS"))
    assert (runs[-1], runs[-2]) == ("no", "6")
    assert f"the sizes that were chosen for {tmp_path / '.linestop'}" in printed
    disk = printed.partition("bus init --disk ")[2].partition("`")[0]
    assert run([*words, "--disk", disk]) == 0
    printed = capsys.readouterr().out
    assert {line.split()[-1] for line in printed.splitlines() if line.startswith(("RUNS", "OUTCOMES", "KV_ids"))} == {
        "yes"
    }
    assert "remedy" not in printed
    assert run([*words, "--disk", "a lot"]) == 2
    assert "'a lot' is not a size: write it as 200GiB" in capsys.readouterr().err


def test_sizes_come_from_the_named_disk_or_from_this_one_if_the_broker_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And stay so; of a broker elsewhere nothing is assumed."""
    monkeypatch.chdir(tmp_path)
    free = [20 * GIB]

    def free_bytes(_folder: Path) -> int:
        return free[0]

    def no_broker_here(_url: str) -> bool:
        return False

    monkeypatch.setattr(stream_sizes, "free_bytes", free_bytes)
    monkeypatch.setattr(stream_sizes, "machine_bytes", lambda: 0)

    def allowed(*words: str, folder: str, nats: str) -> int:
        monkeypatch.setenv("LINESTOP_DIR", str(tmp_path / folder))
        file = tmp_path / f"{folder}.conf"
        assert run(["bus", "init", "--nats", nats, *words]) in {0, 8}
        file.write_text(capsys.readouterr().out)
        return int(json.loads(file.read_text())["jetstream"]["max_file_store"])

    here = f"nats://127.0.0.1:{free_port()}"
    chosen = allowed(folder="here", nats=here)
    assert chosen == sizes_for(20 * GIB).total
    free[0] = GIB
    assert allowed(folder="here", nats=here) == chosen
    monkeypatch.setattr(cli_bus, "is_loopback", no_broker_here)
    assert allowed(folder="there", nats=here) == DEFAULT_SIZES.total
    assert allowed("--disk", "300GB", folder="far", nats=here) == sizes_for(300 * 1000**3).total
