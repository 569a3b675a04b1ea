"""Credential files and connections: each mistake is one clear sentence."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import time
from pathlib import Path

import anyio
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from linestop.bus.access.credentials import (
    Credential,
    credential_path,
    ensure_credentials,
    load_credential,
    write_credential,
)
from linestop.bus.access.nkeys import new_seed
from linestop.bus.access.rights import CREDENTIALS
from linestop.bus.connection import Violation, connect
from linestop.bus.server.embedded import EmbeddedServer
from linestop.bus.server.process import free_port
from linestop.errors import ConfigError, PermissionDenied, TooLarge, Unreachable

pytestmark = [pytest.mark.anyio]

GOOD = Credential(url="nats://127.0.0.1:4222", user="planner", seed=new_seed())
OLD = Credential(url="nats://127.0.0.1:4222", user="planner", password="secret-word")


def test_a_file_is_private_and_is_read_as_written(tmp_path: Path) -> None:
    """Mode 0600 in a directory with mode 0700; no other file is left beside it."""
    path = credential_path(tmp_path, "planner")
    write_credential(path, GOOD)
    assert load_credential(path) == GOOD
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["planner.json"]


@pytest.mark.parametrize("credential", [GOOD, OLD])
def test_no_secret_is_shown_in_logs(credential: Credential) -> None:
    """A representation contains only the server and the user."""
    shown = f"{credential} {credential!r} {[credential]}"
    assert not any(secret in shown for secret in ("secret-word", GOOD.seed))


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    """The sentence names the file and the remedy."""
    with pytest.raises(ConfigError, match=r"planner\.json does not exist: start the bus"):
        load_credential(credential_path(tmp_path, "planner"))


def test_a_path_that_is_not_a_regular_file_is_not_read(tmp_path: Path) -> None:
    """A pipe in the place of a credential does not block."""
    os.mkfifo(tmp_path / "planner.json", 0o600)
    with pytest.raises(ConfigError, match=r"planner\.json cannot be read: it is not a regular file"):
        load_credential(tmp_path / "planner.json")


@pytest.mark.parametrize(
    "url",
    [
        "broker",
        "broker:4222",
        "http://broker",
        "nats://",
        "nats://a:0",
        "nats://a:99999",
        "nats://a:x",
        "nats://[::1",
        "nats://a\0b",
        "nats://a,::",
        "nats://ann:hunter2@broker:4222",
    ],
)
def test_an_invalid_address_is_refused_without_showing_its_password(tmp_path: Path, url: str) -> None:
    """The sentence names the file and the form, and shows no secret."""
    path = credential_path(tmp_path, "planner")
    write_credential(path, Credential(url=url, user="planner", password="secret-word"))
    with pytest.raises(
        ConfigError, match=r"planner\.json, url: .* is not the address of a broker: write nats://"
    ) as caught:
        load_credential(path)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["nats://broker", "tls://a:4222, nats://[::1]:4222,", "nats://127.0.0.1:4222"])
def test_valid_addresses_of_servers_are_accepted(tmp_path: Path, url: str) -> None:
    """One or several."""
    path = credential_path(tmp_path, "planner")
    write_credential(path, Credential(url=url, user="planner", password="secret-word"))
    assert load_credential(path).url == url


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """The error names the mode and the command; a container's secret may be exempted."""
    path = credential_path(tmp_path, "planner")
    write_credential(path, GOOD)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"may be read by others \(mode 0640\): run `chmod 600 "):
        load_credential(path)
    assert load_credential(path, check_mode=False) == GOOD


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"url":"nats://x","user":"planner"}',
        '{"url":"nats://x","user":"janitor","password":"p"}',
        '{"url":"nats://x","user":"planner","password":"p","more":1}',
        '{"url":"","user":"planner","password":"p"}',
        '{"url":"nats://x","user":"planner","password":""}',
        '{"url":"nats://x","user":"planner","seed":"SUAAA"}',
        '{"url":"caf\udce9","user":"planner","password":"p"}',
        "[" * 50_000,
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    """Whatever the damage, the sentence names the file and shows no password."""
    path = tmp_path / "planner.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"credential file .*planner\.json (is not a|has an empty)"):
        load_credential(path)


def test_a_new_address_keeps_every_key(tmp_path: Path) -> None:
    """Each key is random, differs from the others, and survives a move of the server."""
    first = ensure_credentials(tmp_path, "nats://127.0.0.1:1")
    second = ensure_credentials(tmp_path, "nats://127.0.0.1:2,nats://127.0.0.1:3")
    assert len({credential.seed for credential in first.values()}) == len(CREDENTIALS)
    assert {name: c.seed for name, c in first.items()} == {name: c.seed for name, c in second.items()}
    assert not any(credential.password for credential in second.values())
    assert load_credential(credential_path(tmp_path, "client")).servers == [
        "nats://127.0.0.1:2",
        "nats://127.0.0.1:3",
    ]


def test_a_file_under_another_name_is_refused(tmp_path: Path) -> None:
    """A copied credential would give one role the rights of another."""
    write_credential(credential_path(tmp_path, "client"), GOOD)
    with pytest.raises(ConfigError, match=r"belongs to 'planner': move it to planner\.json"):
        ensure_credentials(tmp_path, "nats://127.0.0.1:1")


@pytest.mark.broker
@pytest.mark.parametrize("secrets", [{"seed": GOOD.seed}, {"password": "wrong"}])
async def test_a_credential_of_another_server_is_refused_at_once(
    server: EmbeddedServer, secrets: dict[str, str]
) -> None:
    """Another attempt would not help, so connecting ends."""
    wrong = Credential(url=server.url, user="planner", **secrets)
    before = time.monotonic()
    with pytest.raises(PermissionDenied, match="refuses credential 'planner': the server does not know its key"):
        await connect(wrong, name="test", timeout_s=30)
    assert time.monotonic() - before < 5


async def test_a_first_connect_ends_in_time_even_if_a_cancellation_is_swallowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``asyncio.wait_for`` of Python 3.11 loses a cancellation that arrives late; the client never stops."""
    swallowed = 0

    async def stubborn(self: Client, **options: object) -> None:
        nonlocal swallowed
        del self, options
        while swallowed < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    monkeypatch.setattr(Client, "connect", stubborn)
    with anyio.fail_after(10), pytest.raises(Unreachable, match="no broker answers"):
        await connect(GOOD, name="test", timeout_s=0.05)
    assert swallowed == 2


async def test_no_server_is_one_sentence_with_the_address(capfd: pytest.CaptureFixture[str]) -> None:
    """The first connect is bounded, and nothing else is printed."""
    port = free_port()
    stranger = Credential(url=f"nats://127.0.0.1:{port}", user="planner", password="x")
    with pytest.raises(Unreachable, match=rf"no broker answers at nats://127\.0\.0\.1:{port} within 0\.3 s"):
        await connect(stranger, name="test", timeout_s=0.3)
    assert capfd.readouterr() == ("", "")


@pytest.mark.broker
async def test_a_violation_is_recorded_and_passed_to_hooks(server: EmbeddedServer) -> None:
    """A caller that publishes without waiting finds the refusal afterwards."""
    async with await connect(server.credential("watcher"), name="test") as watcher:
        denied_subjects: asyncio.Queue[str] = asyncio.Queue()
        watcher.wire.watch(denied=denied_subjects.put_nowait)
        await watcher.publish("tasks.acme.Support", b"{}")
        assert await asyncio.wait_for(denied_subjects.get(), 5) == "tasks.acme.support"
        assert list(watcher.violations) == [Violation(action="publish", subject="tasks.acme.support")]


@pytest.mark.broker
async def test_a_message_over_the_brokers_limit_is_too_large(server: EmbeddedServer) -> None:
    """The sentence names the subject and the limit."""
    async with await connect(server.credential("client"), name="test") as client:
        with pytest.raises(TooLarge, match=r"tasks\.acme\.support is over the broker's 1048576"):
            await client.request("tasks.acme.support", b"x" * 1_048_577)


@pytest.mark.broker
async def test_a_connection_restores_itself_and_calls_its_hooks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """After a crash of the server the same connection and subscription work again, without output on stderr."""
    async with EmbeddedServer(tmp_path) as server:
        async with (
            await connect(server.credential("planner"), name="test") as planner,
            await connect(server.credential("budget"), name="test") as budget,
        ):
            back, hints = asyncio.Event(), asyncio.Queue[Msg]()
            budget.wire.watch(restored=back.set)
            await budget.subscribe("wake.budget.>", hints.put)
            restored = asyncio.Event()
            planner.wire.watch(restored=restored.set)
            os.kill(server.pid, signal.SIGKILL)
            await asyncio.wait_for(asyncio.gather(back.wait(), restored.wait()), 20)
            await planner.publish_checked("wake.budget.acme.run-1", b"hint")
            assert (await asyncio.wait_for(hints.get(), 5)).data == b"hint"
        assert planner.closed
        with pytest.raises(Unreachable, match="cannot be sent"):
            await planner.publish("wake.budget.acme.run-1")
    assert capfd.readouterr() == ("", "")
