"""Real containers: built without a network, started by Compose, killed, stopped and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.compose import Stack
from tests.deploy.engine import Engine, EngineMissing, private_engine, until
from tests.deploy.images import make_images

from linestop.bus.server.process import free_port
from linestop.schemas.subjects import ACTORS

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

WITHIN_S = 60.0
CREDENTIALS_SCRIPT = """
import os
for path in ("/new", "/project/new", "/opt/linestop/new", "/state/credentials/new"):
    try:
        open(path, "w")
    except OSError as error:
        assert error.strerror == "Read-only file system", (path, error)
    else:
        raise AssertionError(path + " can be written")
status = open("/proc/self/status").read()
assert "CapEff:\\t0000000000000000" in status and "NoNewPrivs:\\t1" in status, status
assert os.getuid() == os.getgid() == 10001 and os.getgroups() in ([], [10001])
print(*sorted(os.listdir("/state/credentials")))
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Generator[Engine]:
    """A private engine with the three images."""
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(private_engine())
            make_images(engine, tmp_path_factory.mktemp("images"))
        except EngineMissing as error:
            # In CI everything is installed, so nothing may be skipped.
            if os.environ.get("CI") == "true":
                pytest.fail(str(error))
            pytest.skip(str(error))
        yield engine


@pytest.fixture(scope="module")
def stack(engine: Engine) -> Stack:
    """All services, healthy; two planners, so that one can be killed."""
    stack = Stack(engine, port=free_port())
    stack.up("--scale", "planner=2")
    return stack


def state(engine: Engine, container: str) -> dict[str, Any]:
    """The state of a container."""
    current: dict[str, Any] = engine.inspect(container)["State"]
    return current


def users(engine: Engine, container: str) -> set[str]:
    """The users of the processes of a container, as the host sees them."""
    lines = engine.docker("top", container, "-o", "uid,pid").splitlines()[1:]
    return {line.split()[0] for line in lines}


def test_a_run_reaches_its_outcome_although_containers_are_killed(engine: Engine, stack: Stack) -> None:
    """Three services work on one run; its planner is killed and stays down, the gates' process is restarted."""
    submitted = stack.linestop("run", "support", "Order 1042 arrived broken. Please help.", "--detach")
    until("a person is asked", lambda: bool(stack.linestop("approvals")), within_s=WITHIN_S)
    events = stack.linestop("events", submitted["run"])
    workers = [
        event["data"]["worker"] for event in events if event["role"] == "planner" and event["event"] == "started"
    ]
    # Containers of one service share no folder: their workers' names differ because their host names do.
    planner = workers[0].partition("-planner#")[0]
    assert planner in {container[:12] for container in stack.containers("planner")}

    engine.docker("kill", planner)
    (gates,) = stack.containers("gates")
    os.kill(state(engine, gates)["Pid"], signal.SIGKILL)
    (question,) = stack.linestop("approvals")
    stack.linestop("approve", submitted["run"], "--by", "alice", "--shown", question["shown"])
    stack.wait_for_status(submitted["run"], "completed", within_s=WITHIN_S)

    assert engine.inspect(gates)["RestartCount"] == 1
    roles_in_log = {event["role"] for event in stack.linestop("events", submitted["run"])}
    assert roles_in_log == set(ACTORS)
    assert stack.linestop("verify", submitted["run"])


@pytest.mark.parametrize(
    ("service", "files"),
    [
        ("planner", ["planner.json"]),
        ("executor", ["executor.json"]),
        (
            "gates",
            ["approver.json", "budget.json", "checkpoint.key", "checkpoint.pub", "recorder.json", "validator.json"],
        ),
    ],
)
def test_a_service_runs_as_nobody_with_its_own_credentials_only(
    engine: Engine, stack: Stack, service: str, files: list[str]
) -> None:
    """It has no kernel capabilities, cannot write its files, and cannot read the credential of another service."""
    container = stack.containers(service)[0]
    assert engine.docker("exec", container, "python", "-c", CREDENTIALS_SCRIPT).split() == files
    assert engine.inspect(container)["HostConfig"]["ReadonlyRootfs"]
    assert users(engine, container) == {"10001"}


def test_the_server_runs_as_nobody(engine: Engine, stack: Stack) -> None:
    """It runs from a read-only image, and stores data only in its volume."""
    (server,) = stack.containers("nats")
    details = engine.inspect(server)
    assert details["Config"]["User"] == "10001:10001"
    assert details["HostConfig"]["ReadonlyRootfs"]
    assert users(engine, server) == {"10001"}
    assert [bound["HostIp"] for bound in details["NetworkSettings"]["Ports"]["4222/tcp"]] == ["127.0.0.1"]


def test_a_client_on_the_host_connects_with_a_copied_credential(stack: Stack, tmp_path: Path) -> None:
    """The server accepts a copied credential at its published address, as the docs describe it."""
    file = tmp_path / "credentials" / "client.json"
    file.parent.mkdir()
    stack.compose("cp", "setup:/state/credentials/client.json", str(file))
    file.write_text(file.read_text().replace("nats://nats:4222", f"nats://127.0.0.1:{stack.port}"))
    file.chmod(0o600)
    done = subprocess.run(
        [sys.executable, "-m", "linestop.cli.main", "runs", "--json"],
        env={**os.environ, "LINESTOP_DIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=True,
    )
    assert json.loads(done.stdout) == stack.linestop("runs")


def test_health_fails_without_the_server_and_no_run_is_lost_by_down_and_up(engine: Engine, stack: Stack) -> None:
    """Credentials, the log and its runs are in volumes; containers store nothing."""
    (executor,) = stack.containers("executor")
    engine.docker("exec", executor, "linestop", "health", "--role", "executor")
    stack.compose("stop", "nats")
    with pytest.raises(AssertionError, match="ended with 8"):
        engine.docker("exec", executor, "linestop", "health", "--role", "executor")
    stack.compose("down", "--timeout", "15", timeout_s=WITHIN_S)
    stack.up()
    assert [line["status"] for line in stack.linestop("runs")] == ["completed"]
