"""The files that `setup` writes before there is a server: its configuration, and a credential in its own folder."""

from __future__ import annotations

import json
import os
import runpy
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest
from tests.deploy.images import ROOT

from linestop.bus.access.credentials import ensure_credentials, load_credential
from linestop.bus.access.rights import CREDENTIALS
from linestop.bus.server.embedded import EmbeddedServer
from linestop.bus.server.process import server_program
from linestop.cli.main import run
from linestop.errors import ConfigError
from linestop.runtime.workers.worker_names import lock_name


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an empty folder, and no LINESTOP variables of the user's environment."""
    for name in ("PROJECT", "PROFILE", "DIR", "NATS", "TENANT", "SYNC"):
        monkeypatch.setenv(f"LINESTOP_{name}", "")
        monkeypatch.delenv(f"LINESTOP_{name}")
    monkeypatch.chdir(tmp_path)


def set_up(*words: str) -> int:
    """Write the configuration of a server at port 4300."""
    return run(["bus", "init", "--nats", "nats://nats:4300", "--config-file", "for/nats/nats.conf", *words])


def test_a_whole_configuration_is_written_before_there_is_a_server(tmp_path: Path) -> None:
    """The server accepts it unchanged: JetStream on the volume, every append synced, a health check on loopback."""
    assert set_up() == 0
    file = tmp_path / "for" / "nats" / "nats.conf"
    config = json.loads(file.read_text())
    assert config["listen"] == "0.0.0.0:4300"
    assert config["http"] == "127.0.0.1:8222"
    assert config["jetstream"]["store_dir"] == "/jetstream"
    assert config["jetstream"]["sync_interval"] == "always"
    assert len(config["accounts"]) == len(CREDENTIALS) + 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    done = subprocess.run([server_program(), "-t", "-c", file], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_copied_credential_is_alone_in_its_folder(tmp_path: Path) -> None:
    """The folder contains no other credential, and no other user may read the file."""
    assert set_up("--copy", "planner", "for/planner", "--copy", "client", "for/people") == 0
    assert [path.name for path in (tmp_path / "for" / "planner").iterdir()] == ["planner.json"]
    assert load_credential(tmp_path / "for/planner/planner.json") == load_credential(
        tmp_path / ".linestop/credentials/planner.json"
    )


def test_setting_up_again_changes_nothing(tmp_path: Path) -> None:
    """Existing keys are kept, so that a running server still accepts them."""
    assert set_up("--copy", "planner", "for/planner") == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert set_up("--copy", "planner", "for/planner") == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_folder_of_an_embedded_broker_is_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its credentials keep the address of their broker."""
    folder = tmp_path / ".linestop"
    before = ensure_credentials(folder, "nats://127.0.0.1:4321")
    (folder / "port").write_text("4321")
    assert run(["bus", "init", "--nats", "nats://elsewhere:4222"]) == 2
    assert "belongs to the broker of `linestop dev`: name another one" in capsys.readouterr().err
    assert ensure_credentials(folder, "nats://127.0.0.1:4321") == before


def test_dev_does_not_change_the_folder_of_an_outside_broker(tmp_path: Path) -> None:
    """Its credentials would name the broker of `linestop dev`, and their user would lose every run."""
    folder = tmp_path / ".linestop"
    ensure_credentials(folder, "nats://elsewhere:4222")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    async def start() -> None:
        async with EmbeddedServer(folder):
            pass

    with pytest.raises(
        ConfigError, match=r"the broker at nats://elsewhere:4222, .* run `linestop up` .* another folder"
    ):
        anyio.run(start)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_unknown_credential_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt name writes nothing."""
    assert set_up("--copy", "plannner", "for/planner") == 2
    assert "plannner" in capsys.readouterr().err


def test_health_of_a_role_looks_for_this_hosts_worker(tmp_path: Path) -> None:
    """A check that knows only the role finds the worker that has it, alone or among others, whatever its name is."""

    def health() -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "linestop.cli.main", "health", "--role", "planner"]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    missing = health()
    assert missing.returncode == 1
    assert "No worker with the role planner runs on this host" in missing.stderr
    with lock_name(tmp_path / ".linestop", "any") as lock:
        lock.record_roles(["validator", "approver"])
        assert health().returncode == 1
        lock.record_roles(["planner", "executor"])
        # The worker is found, so what is missing now is the credential.
        found = health()
    assert found.returncode == 8
    assert "The worker any is alive." in found.stdout


def test_the_container_check_reports_whether_the_worker_is_healthy(tmp_path: Path) -> None:
    """It imports nothing of linestop and needs only a locked, recently touched name and a broker that greets."""

    def check(url: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-I", "-S", str(ROOT / "deploy" / "health.py"), "planner"]
        environ = {"LINESTOP_DIR": str(tmp_path), "LINESTOP_NATS": url}
        return subprocess.run(words, env=environ, capture_output=True, text=True, timeout=60, check=False)

    with socket.create_server(("127.0.0.1", 0)) as broker:
        url = f"nats://127.0.0.1:{broker.getsockname()[1]}"
        (tmp_path / "credentials").mkdir()
        (tmp_path / "credentials" / "planner.json").write_text("{}")
        assert (check(url).returncode, check(url).stdout) == (1, "No worker with the role planner runs here.\n")
        other_host = tmp_path / "worker-a-name.lock"
        with lock_name(tmp_path, "a-name"), lock_name(tmp_path, "b-name") as lock:
            other_host.write_text(f"1 not-{socket.gethostname()} planner")
            os.utime(other_host, (0, 0))
            lock.record_roles(["validator", "approver"])
            assert check(url).returncode == 1
            lock.record_roles(["executor", "planner"])
            greeter = threading.Thread(target=_greet_client, args=(broker,))
            greeter.start()
            healthy = check(url)
            # A thread that still waited would take the connections of the next owner of this descriptor.
            greeter.join()
            assert healthy.returncode == 0, healthy.stdout
            os.utime(lock.path, (0, 0))
            assert "has not responded for" in check(url).stdout
            lock.touch()
            assert "does not answer" in check("nats://127.0.0.1:1").stdout


def _greet_client(broker: socket.socket) -> None:
    """Greet one client as a NATS server does."""
    broker.settimeout(60)
    connection, _ = broker.accept()
    with connection:
        connection.sendall(b"INFO {}\r\n")


def test_the_image_has_a_folder_for_every_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume gets its folder's owner and mode, so every folder that `setup` fills must exist."""
    monkeypatch.setattr(sys, "argv", ["folders.py", str(tmp_path / "image")])
    runpy.run_path(str(ROOT / "deploy" / "folders.py"))
    volumes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "image" / "volumes").iterdir()}
    assert volumes == dict.fromkeys(("planner", "executor", "gates", "people", "nats", "jetstream"), 0o700)
