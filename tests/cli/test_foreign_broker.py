"""A stranger's broker learns no secret, and a stranger's folder cannot name a broker for this user's state.

The listener here plays that broker and keeps every byte that it is sent.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import anyio
import pytest

from linestop.bus.access.credentials import (
    Credential,
    credential_path,
    ensure_credentials,
    load_credential,
    logins_by_credential,
    write_credential,
)
from linestop.bus.access.rights import CREDENTIALS, CredentialName
from linestop.bus.connection import connect
from linestop.bus.server.embedded import EmbeddedServer
from linestop.bus.server.nats_accounts import accounts_section
from linestop.bus.server.nats_config import Listen, server_config
from linestop.bus.server.outside_broker import bus_init
from linestop.bus.server.process import NatsProcess, free_port
from linestop.bus.server.store_health import new_supervisor
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES
from linestop.cli.main import run
from linestop.client import Client
from linestop.errors import LinestopError, PermissionDenied

pytestmark = pytest.mark.anyio

HEALTH = Path(__file__).parents[2] / "deploy" / "health.py"
COMMANDS = (
    ("runs",),
    ("show", "any"),
    ("stop", "any"),
    ("approvals",),
    ("workers",),
    ("verify", "any"),
    ("switch", "list"),
    ("agents",),
    ("deploy",),
    ("up",),
    ("actor", "planner"),
    ("health",),
    ("doctor",),
    ("bus", "init"),
)
"""Each way to the broker: as a client, as the operator, as a worker, as ``bootstrap``, and those that only read."""

GREETINGS: dict[str, dict[str, object]] = {
    "asks for a password": {"auth_required": True},
    "asks for a signature": {"auth_required": True, "nonce": "c29tZXRoaW5nIHRvIHNpZ24"},
    "asks for nothing": {},
}


class ForeignBroker:
    """A broker that sends a given greeting, refuses every CONNECT, and records all bytes that it received."""

    def __init__(self, greeting: dict[str, object]) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"nats://127.0.0.1:{self._socket.getsockname()[1]}"
        info = {"server_id": "X", "version": "2.15.1", "proto": 1, "headers": True, "max_payload": 1024, **greeting}
        self._info = b"INFO " + json.dumps(info).encode() + b"\r\n"
        self._received: list[bytes] = []
        self.connections = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def received(self) -> bytes:
        """Every byte that came."""
        return b"".join(self._received)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                connection.settimeout(1)
                try:
                    connection.sendall(self._info)
                    while data := connection.recv(65536):
                        self._received.append(data)
                        if b"PING" in data:
                            connection.sendall(b"-ERR 'Authorization Violation'\r\n")
                            break
                except OSError:
                    continue

    def close(self) -> None:
        """Stop listening."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def foreign(request: pytest.FixtureRequest) -> Generator[ForeignBroker]:
    """A stranger's broker."""
    listener = ForeignBroker(GREETINGS[getattr(request, "param", "asks for a password")])
    yield listener
    listener.close()


@pytest.fixture(autouse=True)
def _keep_test_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that runs in the test's own process does not take over where the tests' logs go."""
    monkeypatch.setattr("linestop.cli.serving.until_signal.configure_logs", lambda: None)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """This user's state folder."""
    ensure_credentials(tmp_path / "mine" / ".linestop", "nats://127.0.0.1:1")
    return tmp_path / "mine" / ".linestop"


def files(folder: Path) -> dict[str, str]:
    """The content of a folder."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def secrets_of(state: Path) -> list[bytes]:
    """Every secret in a state folder."""
    credentials = [load_credential(credential_path(state, name)) for name in CREDENTIALS]
    return [each.encode() for credential in credentials for each in (credential.seed, credential.password) if each]


@pytest.mark.parametrize("foreign", GREETINGS, indirect=True)
def test_a_foreign_broker_learns_no_secret(
    foreign: ForeignBroker, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command, a program, a health check and the supervisor, which their user points at that broker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LINESTOP_DIR", str(state))
    monkeypatch.setenv("LINESTOP_NATS", foreign.url)
    secrets = secrets_of(state)
    for words in COMMANDS:
        before = foreign.connections
        run(list(words))
        assert foreign.connections > before, words
    before = foreign.connections
    watcher = new_supervisor(foreign.url)

    async def programs() -> None:
        for name in CREDENTIALS:
            credential = load_credential(credential_path(state, name))
            with pytest.raises(LinestopError):
                await Client.connect(url=foreign.url, user=name, seed=credential.seed).open()
        with pytest.raises(LinestopError):
            await connect(watcher, name="supervisor")

    anyio.run(programs)
    done = subprocess.run([sys.executable, "-I", "-S", HEALTH, "planner"], check=False, env=os.environ)
    assert done.returncode == 1
    assert foreign.connections > before + len(CREDENTIALS)
    assert foreign.received.count(b"CONNECT ") >= len(COMMANDS)
    for secret in (*secrets, watcher.seed.encode(), b'"pass"', b'"auth_token"'):
        assert secret not in foreign.received


@pytest.mark.parametrize("how", ["named", "linked", "credentials linked", "by the environment"])
def test_a_file_names_no_broker_for_a_state_folder_elsewhere(
    foreign: ForeignBroker, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """No broker is contacted, nothing is written, and the sentence names the remedy if it was intended."""
    theirs = state.parents[1] / "theirs"
    theirs.mkdir()
    named = f'dir = "{state}"\n' if how == "named" else ""
    (theirs / "linestop.toml").write_text(f'{named}[nats]\nurl = "{foreign.url}"\n')
    if how == "linked":
        (theirs / ".linestop").symlink_to(state)
    if how == "credentials linked":
        (theirs / ".linestop").mkdir()
        (theirs / ".linestop" / "credentials").symlink_to(state / "credentials")
    if how == "by the environment":
        monkeypatch.setenv("LINESTOP_DIR", str(state))
    else:
        monkeypatch.delenv("LINESTOP_DIR", raising=False)
    monkeypatch.delenv("LINESTOP_NATS", raising=False)
    monkeypatch.chdir(theirs)
    before = files(state)
    for words in COMMANDS:
        assert run(list(words)) in ({0} if words == ("agents",) else {1, 2}), words
        printed = "".join(capsys.readouterr())
        assert "linestop.toml, nats.url: the broker" in printed, words
        assert "name it with LINESTOP_NATS or --nats" in " ".join(printed.split()), words
    assert foreign.connections == 0
    assert {path: digest for path, digest in files(state).items() if "worker-" not in path} == before


def test_a_file_names_the_broker_of_the_state_folder_beside_it(
    foreign: ForeignBroker, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is what the setting is for."""
    monkeypatch.delenv("LINESTOP_DIR", raising=False)
    monkeypatch.delenv("LINESTOP_NATS", raising=False)
    monkeypatch.chdir(state.parent)
    Path("linestop.toml").write_text(f'[nats]\nurl = "{foreign.url}"\n')
    for words in (("runs",), ("health",), ("doctor",)):
        before = foreign.connections
        assert run(list(words)) != 0
        assert foreign.connections > before, words


# --- state folders of an older linestop -------------------------------------------------------------------


def with_passwords(folder: Path, url: str) -> dict[CredentialName, Credential]:
    """Write the credentials that an older linestop would have written."""
    made: dict[CredentialName, Credential] = {
        name: Credential(url=url, user=name, password=f"word-of-{name}") for name in CREDENTIALS
    }
    for name, credential in made.items():
        write_credential(credential_path(folder, name), credential)
    return made


@pytest.mark.broker
async def test_dev_replaces_passwords_by_keys(tmp_path: Path) -> None:
    """The broker is the folder's own, so nothing has to be done; a copied password is useless from then on."""
    old = with_passwords(tmp_path, "nats://127.0.0.1:1")
    (tmp_path / "lock").touch()
    async with EmbeddedServer(tmp_path) as server:
        assert not any(load_credential(credential_path(tmp_path, name)).password for name in CREDENTIALS)
        await (await connect(load_credential(credential_path(tmp_path, "client")), name="test")).close()
        with pytest.raises(PermissionDenied, match="does not know its key"):
            await connect(Credential(url=server.url, user="client", password=old["client"].password), name="test")
    assert b"word-of" not in (tmp_path / "nats.conf").read_bytes()
    assert not any(secret in (tmp_path / "nats.conf").read_bytes() for secret in secrets_of(tmp_path))


@pytest.mark.broker
async def test_an_outside_broker_goes_from_passwords_to_keys_without_a_gap(tmp_path: Path) -> None:
    """Old files work at the old broker, at one that takes both, and are replaced once the keys are known there."""
    port = free_port()
    url, config = f"nats://127.0.0.1:{port}", tmp_path / "nats.conf"
    old = with_passwords(tmp_path / "state", url)
    listen = Listen(port=port, store_dir=tmp_path / "jetstream", file_store_bytes_max=DEFAULT_SIZES.total)
    config.write_bytes(server_config(listen, accounts_section(logins_by_credential(old))))
    server = NatsProcess(config, tmp_path / "nats.log", port=port)

    async def reload(text: str) -> None:
        section = json.loads(text)["accounts"]
        config.write_bytes(server_config(listen, section))
        await server.stop()
        await server.start()

    async def accepts(credential: Credential) -> bool:
        with anyio.fail_after(20):
            try:
                await (await connect(credential, name="test")).close()
            except PermissionDenied:
                return False
        return True

    def stored() -> Credential:
        return load_credential(credential_path(tmp_path / "state", "client"))

    await server.start()
    try:
        first = await bus_init(url, tmp_path / "state")
        assert first.set_up is not None
        assert first.passwords
        assert "give the server this configuration, which accepts keys as well" in first.next_step
        assert await accepts(stored()), "the file has a key that this server does not know, and the password"
        await reload(first.server_config)
        assert await accepts(old["client"])
        second = await bus_init(url, tmp_path / "state")
        assert "now have keys and no passwords" in second.next_step
        assert (stored().password, stored().seed != "") == ("", True)
        assert [await accepts(old["client"]), await accepts(stored())] == [True, True]
        assert "word-of" not in second.server_config
        await reload(second.server_config)
        assert [await accepts(old["client"]), await accepts(stored())] == [False, True]
        third = await bus_init(url, tmp_path / "state")
        assert (third.passwords, third.next_step) == (False, "")
    finally:
        await server.stop()
