"""The embedded server: it survives its own crashes, and neither its data nor its port is lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import TypeVar, cast

import psutil  # type: ignore[import-untyped] # its stubs are a separate package
import pytest

from linestop.bus import jetstream_api
from linestop.bus.access.credentials import load_credential
from linestop.bus.connection import Connection, connect
from linestop.bus.server import embedded as server_module
from linestop.bus.server import process
from linestop.bus.server.embedded import EmbeddedServer, ServerEvent, ServerOptions
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import BusLayout, set_up
from linestop.bus.streams.stream_definitions import StreamSizes
from linestop.errors import ConfigError, Unreachable
from linestop.testing.cluster import Cluster

T = TypeVar("T")
pytestmark = [pytest.mark.anyio, pytest.mark.broker]

SUBJECT = "runs.acme.run-1.planner.proposed.1"


class Events:
    """The server's events; a test can wait for one."""

    def __init__(self) -> None:
        self.all: list[ServerEvent] = []
        self._new = asyncio.Event()

    def __call__(self, event: ServerEvent) -> None:
        self.all.append(event)
        self._new.set()

    async def wait_for(self, kind: str, times: int = 1) -> None:
        """Return after ``times`` events of that kind."""
        while sum(event.kind == kind for event in self.all) < times:
            self._new.clear()
            await asyncio.wait_for(self._new.wait(), 20)


async def bootstrap_of(server: EmbeddedServer) -> Connection:
    """Connect as ``bootstrap``."""
    return await connect(server.credential("bootstrap"), name="test")


async def test_a_killed_server_comes_back_with_its_port_and_data(tmp_path: Path) -> None:
    """SIGKILL loses nothing that was acknowledged, and no file has to be written again."""
    events = Events()
    async with EmbeddedServer(tmp_path, on_event=events) as server:
        async with await bootstrap_of(server) as bootstrap:
            await set_up(bootstrap)
        async with await connect(server.credential("planner"), name="test") as planner:
            await planner.api_request(SUBJECT, {"kept": True})
        url, pid = server.url, server.pid
        os.kill(pid, signal.SIGKILL)
        await events.wait_for("restarted")
        assert server.url == url
        assert server.pid not in {0, pid}
        async with await connect(server.credential("planner"), name="test") as planner:
            stored = await planner.request(jetstream_api.direct_get_last(stream_names.RUNS, SUBJECT))
            assert stored.data == b'{"kept":true}'
    assert [event.kind for event in events.all] == ["started", "crashed", "restarted", "stopped"]
    assert events.all[1].exit_code == -signal.SIGKILL


async def test_the_next_start_keeps_port_keys_and_data(tmp_path: Path) -> None:
    """Credential files that were copied earlier stay valid."""
    async with EmbeddedServer(tmp_path) as server:
        first = server.credential("client")
        async with await bootstrap_of(server) as bootstrap:
            await set_up(bootstrap)
    async with EmbeddedServer(tmp_path) as server:
        assert server.credential("client") == first == load_credential(tmp_path / "credentials" / "client.json")
        async with await bootstrap_of(server) as bootstrap:
            assert (await set_up(bootstrap)).created == ()


async def test_a_remembered_port_that_is_taken_is_replaced(tmp_path: Path) -> None:
    """The server starts on another port, which is in the credential files."""
    async with EmbeddedServer(tmp_path) as server:
        old = int(server.url.rsplit(":", 1)[1])
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", old))
        taken.listen()
        async with EmbeddedServer(tmp_path) as server:
            assert server.url != f"nats://127.0.0.1:{old}"
            assert load_credential(tmp_path / "credentials" / "client.json").url == server.url
        with pytest.raises(ConfigError, match=f"port {old} is in use: choose another"):
            await EmbeddedServer(tmp_path, ServerOptions(port=old)).start()


async def test_its_files_are_private_and_it_listens_on_loopback_only(tmp_path: Path) -> None:
    """No other machine can reach it."""
    async with EmbeddedServer(tmp_path) as server:
        assert stat.S_IMODE((tmp_path / "nats.conf").stat().st_mode) == 0o600
        running = psutil.Process(server.pid)
        assert {connection.laddr.ip for connection in running.net_connections()} == {"127.0.0.1"}
        assert running.environ()["GOMEMLIMIT"] == "200MiB"
        assert running.environ()["GOMAXPROCS"] == process.GO_CORES
    assert not psutil.pid_exists(running.pid)


async def test_a_directory_belongs_to_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second start names the process that uses it, and harms nothing."""
    monkeypatch.setattr(server_module, "LOCK_WAIT_S", 0.1)
    async with EmbeddedServer(tmp_path) as server:
        with pytest.raises(ConfigError, match=f"already runs here .process {os.getpid()} uses .*choose another"):
            await EmbeddedServer(tmp_path).start()
        async with await bootstrap_of(server) as bootstrap:
            assert bootstrap.connected


async def test_a_server_that_keeps_crashing_is_not_started_again(tmp_path: Path) -> None:
    """After five crashes in a minute it is not started again; the sentence names the log."""
    events = Events()
    async with EmbeddedServer(tmp_path, on_event=events) as server:
        for crash in range(1, 6):
            os.kill(server.pid, signal.SIGKILL)
            if crash < 5:
                await events.wait_for("restarted", crash)
        await events.wait_for("gave_up")
        assert "ended 5 times within 60 s and is not started again" in events.all[-1].sentence
        assert str(tmp_path / "nats.log") in events.all[-1].sentence
        assert server.pid == 0


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The server's own reason is in the sentence, and the directory is free again."""
    (tmp_path / "jetstream").write_text("not a directory")
    for _ in range(2):
        with pytest.raises(
            ConfigError, match=r"did not start: .*storage directory is not a directory; see .*nats\.log"
        ):
            await EmbeddedServer(tmp_path).start()


async def test_a_server_that_makes_no_progress_is_ended(tmp_path: Path) -> None:
    """The wait ends, and no process is left behind."""
    config = tmp_path / "nats.conf"
    config.write_text(f'{{"listen": "127.0.0.1:{process.free_port()}"}}')
    started = process.NatsProcess(config, tmp_path / "nats.log", port=process.free_port())
    with pytest.raises(Unreachable, match=r"has made no progress for 0\.2 s"):
        await started.start(no_progress_max_s=0.2)
    assert started.pid == 0


def test_a_server_that_is_not_running_says_so(tmp_path: Path) -> None:
    """Reading the address before the start raises one sentence."""
    with pytest.raises(ConfigError, match="is not running: start it first"):
        _ = EmbeddedServer(tmp_path).url


HOST = """
    import asyncio, pathlib, sys
    from linestop.bus.server.embedded import EmbeddedServer
    async def main():
        async with EmbeddedServer(pathlib.Path(sys.argv[1])) as server:
            print(server.pid, flush=True)
            await asyncio.Event().wait()
    asyncio.run(main())
"""


@contextlib.contextmanager
def host(directory: Path) -> Generator[tuple[subprocess.Popen[str], int]]:
    """Run an embedded server in another process; give that process and the server's id."""
    source = Path(__file__).parents[2] / "src"
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOST), str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source)},
    ) as parent:
        assert parent.stdout is not None
        try:
            yield parent, int(parent.stdout.readline())
        finally:
            parent.kill()


async def test_a_server_dies_with_its_parent_and_the_next_start_works(tmp_path: Path) -> None:
    """SIGKILL of the host leaves no server behind that would hold the directory."""
    with host(tmp_path) as (parent, pid):
        child = psutil.Process(pid)
        parent.kill()
        psutil.wait_procs([child], timeout=10)
        assert not child.is_running()
    async with EmbeddedServer(tmp_path) as server:
        assert server.pid != pid


async def test_another_process_cannot_use_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock works between processes, and names the one that has it."""
    monkeypatch.setattr(server_module, "LOCK_WAIT_S", 0.1)
    with host(tmp_path) as (parent, _), pytest.raises(ConfigError, match="already runs here") as refused:
        await EmbeddedServer(tmp_path).start()
    assert f"process {parent.pid} uses " in str(refused.value)


@pytest.mark.cluster
async def test_a_cluster_of_three_keeps_working_when_its_leader_is_killed(tmp_path: Path) -> None:
    """Acknowledged messages are there, more can be written, and the killed node comes back."""
    space = StreamSizes(runs=2**26, forks=2**24, blobs=2**24, tasks=2**24, outcomes=2**24, ids=2**22, small=2**22)
    async with Cluster(tmp_path, space=space) as cluster:
        async with await connect(cluster.credential("bootstrap"), name="test") as bootstrap:
            (await set_up(bootstrap, BusLayout(sizes=space, replicas=3))).require_no_differences()
        async with await connect(cluster.credential("planner"), name="test") as planner:
            await planner.api_request(SUBJECT, {"n": 1})
            leader = await cluster.leader_of(stream_names.RUNS)
            await cluster.kill(leader)
            assert cluster.pids[leader] == 0
            # Until another leader is elected there is no reply; each attempt uses another subject.
            second = await eventually(lambda n: planner.api_request(f"{SUBJECT}{n}", {"n": n}, timeout_s=1))
            assert cast("int", second["seq"]) > 1
            stored = await eventually(
                lambda _: planner.request(jetstream_api.direct_get_last(stream_names.RUNS, SUBJECT), timeout_s=1)
            )
            assert stored.data == b'{"n":1}'
            await cluster.restart(leader)
            assert all(cluster.pids)


async def eventually(attempt: Callable[[int], Awaitable[T]]) -> T:
    """Return the first result of ``attempt`` (called with 1, 2, 3 …) that is not ``Unreachable``."""
    async with asyncio.timeout(30):
        for n in itertools.count(1):
            with contextlib.suppress(Unreachable):
                return await attempt(n)
            await asyncio.sleep(0.05)
    raise AssertionError
