"""A worker's name is held by one process at a time, and each holder has a number of its own."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import pytest
from tests.bus.administered import administered

from linestop.bus.access.credentials import Credential, write_credential
from linestop.bus.broker_backend import JetStreamBackend
from linestop.bus.connection import connect
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import set_up
from linestop.errors import ConfigError, InputError
from linestop.runtime.workers.worker_names import (
    default_name,
    host_name,
    is_locked,
    lock_free_name,
    lock_name,
    locked_names,
    next_incarnation,
)
from linestop.schemas.subjects import ACTORS, RoleName, check_name
from linestop.testing.memory import MemoryBroker

HOLDER_PROGRAM = """
import sys, time
from pathlib import Path
from linestop.runtime.workers.worker_names import lock_name
with lock_name(Path(sys.argv[1]), "planner"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_locked_name_is_refused_and_the_error_names_its_process(tmp_path: Path) -> None:
    """Two processes under one name could take over what the other one is doing."""
    with lock_name(tmp_path, "planner"):
        assert is_locked(tmp_path, "planner")
        with (
            pytest.raises(ConfigError, match=f"planner is held by process {os.getpid()}"),
            lock_name(tmp_path, "planner"),
        ):
            pass
    assert not is_locked(tmp_path, "planner")


def test_a_killed_holder_releases_the_name_at_once(tmp_path: Path) -> None:
    """The operating system releases the lock, however the process dies."""
    child = subprocess.Popen([sys.executable, "-c", HOLDER_PROGRAM, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"held\n"
        assert is_locked(tmp_path, "planner")
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    with lock_name(tmp_path, "planner"):
        assert is_locked(tmp_path, "planner")


def test_the_first_free_name_is_taken(tmp_path: Path) -> None:
    """Any number of processes may be started without naming them; a replacement gets the name that is free."""
    with lock_free_name(tmp_path, "planner") as one:
        with lock_free_name(tmp_path, "planner") as two:
            assert (one.name, two.name) == ("planner", "planner-2")
        with lock_free_name(tmp_path, "planner") as again:
            assert again.name == "planner-2"


def test_touching_a_lock_moves_the_time_of_its_file(tmp_path: Path) -> None:
    """It shows a health check that the event loop still runs."""
    with lock_name(tmp_path, "planner") as lock:
        os.utime(lock.path, (1, 1))
        lock.touch()
        assert lock.path.stat().st_mtime > 1


def test_a_name_must_fit_into_a_key(tmp_path: Path) -> None:
    """It becomes a token of a subject."""
    with pytest.raises(InputError, match="is not a name"), lock_name(tmp_path, "No Name"):
        pass
    assert host_name() == host_name().lower()


@pytest.mark.parametrize(
    ("host", "roles", "name"),
    [
        ("Build-7.example", ["planner"], "build-7-planner"),
        ("build-7", ["recorder", "budget", "approver", "validator"], "build-7-validator-approver-budget-recorder"),
        ("build-7", [*reversed(ACTORS)], "build-7"),
        ("_", ["planner"], "host-planner"),
    ],
)
def test_a_worker_is_called_after_its_host_and_roles(
    monkeypatch: pytest.MonkeyPatch, host: str, roles: list[RoleName], name: str
) -> None:
    """In whatever order the roles are given; a worker with all roles is called after its host alone."""
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert default_name(roles) == name


@pytest.mark.parametrize("count", range(1, len(ACTORS) + 1))
def test_the_names_of_hosts_that_begin_alike_differ(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Two workers of one name would take over each other's starts; the hundredth name is still one."""
    names: list[str] = []
    for host in (
        "linestop-of-the-flower-shop-gates-7d9f8b6c5d-x2x9z",
        "linestop-of-the-flower-shop-gates-7d9f8b6c5d-q4tt7",
    ):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        names += [check_name("worker", f"{default_name(roles)}-100") for roles in combinations(ACTORS, count)]
    assert len(set(names)) == len(names)


def test_the_workers_of_a_role_are_found(tmp_path: Path) -> None:
    """Those of this host that run, whatever their names are and whichever roles they have besides."""
    with lock_name(tmp_path, "gates") as gates, lock_name(tmp_path, "elsewhere") as elsewhere:
        assert locked_names(tmp_path, "budget") == []
        gates.record_roles(["validator", "budget"])
        elsewhere.path.write_text(f"1 not-{socket.gethostname()} budget")
        assert locked_names(tmp_path, "budget") == locked_names(tmp_path, "validator") == ["gates"]
        assert locked_names(tmp_path, "planner") == []
        with pytest.raises(ConfigError, match=f"held by process {os.getpid()}: stop it"), lock_name(tmp_path, "gates"):
            pass
    assert locked_names(tmp_path, "budget") == []


@pytest.mark.anyio
async def test_each_holder_gets_the_next_number() -> None:
    """Starts of an older incarnation may be taken over, so no number is given twice."""
    broker = MemoryBroker(lambda: datetime.now(UTC))
    workers, older = broker.bucket("workers"), broker.bucket("shared")
    names = [await next_incarnation(workers, "planner", older=older) for _ in range(3)]
    assert names == ["planner#1", "planner#2", "planner#3"]
    assert await next_incarnation(workers, "executor", older=older) == "executor#1"


@pytest.mark.anyio
@pytest.mark.broker
async def test_an_upgrade_continues_after_the_last_number_of_an_older_linestop(tmp_path: Path) -> None:
    """With a number that is given twice, no worker could take over its predecessor's starts; any actor may read it."""
    async with administered(tmp_path) as server:
        async with await connect(server.credentials["bootstrap"], name="test") as bootstrap:
            await set_up(bootstrap)
        backend = await JetStreamBackend.open({role: server.credentials[role] for role in ACTORS}, name="test")
        try:
            for role in ACTORS:
                await server.admin.api_request(stream_names.bucket_key(stream_names.SHARED_BUCKET, f"worker.{role}"), 7)
                workers, older = (
                    backend.bucket(role, each) for each in (stream_names.WORKERS_BUCKET, stream_names.SHARED_BUCKET)
                )
                assert await next_incarnation(workers, role, older=older) == f"{role}#8"
                assert await next_incarnation(workers, role, older=older) == f"{role}#9"
        finally:
            await backend.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize(("bucket", "key"), [("workers", "planner"), ("shared", "worker.planner")])
async def test_a_counter_that_is_not_a_number_is_refused(bucket: str, key: str) -> None:
    """Starting again from one would give a number twice."""
    broker = MemoryBroker(lambda: datetime.now(UTC))
    await broker.bucket(bucket).create(key, b"many")
    with pytest.raises(ConfigError, match=f"Key {key} of the bucket `{bucket}` is not a number"):
        await next_incarnation(broker.bucket("workers"), "planner", older=broker.bucket("shared"))


def test_a_new_state_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    """It contains prompts, arguments and results; a folder that exists already stays as it is."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    before = os.umask(0o022)
    try:
        with lock_free_name(tmp_path / "a", "dev"), lock_name(tmp_path / "b", "dev"), lock_name(shared, "dev"):
            pass
        write_credential(tmp_path / "d" / "credentials" / "x.json", Credential(url="", user="client", password=""))
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "b", "d", "shared")}
    assert modes == {"a": 0o700, "b": 0o700, "d": 0o700, "shared": 0o755}
