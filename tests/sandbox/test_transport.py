"""Guarded requests: bounded in size and time, pinned to an address, and begun in time or not at all."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from linestop.sandbox.http.egress_client import EgressClient, EgressPolicy
from linestop.sandbox.tools.failures import EgressDenied, EgressFailed, StartedTooLate
from linestop.schemas.start_deadline import IS_STOPPED, STOPPED_FIRST
from linestop.schemas.tool_contracts import Egress

if TYPE_CHECKING:
    from tests.sandbox.conftest import ReceivedRequest, Servers

pytestmark = pytest.mark.anyio

SOON = dt.timedelta(seconds=30)
MIB = 1024 * 1024


def client(*allow: str, policy: EgressPolicy | None = None) -> EgressClient:
    """A client for these hosts and ports."""
    now = dt.datetime.now(dt.UTC)
    return EgressClient(policy or EgressPolicy(allow=allow), deadline=now + SOON, start_by=now + SOON)


async def test_a_large_answer_is_cut_off(servers: Servers) -> None:
    """With or without an announced size, no more is read than the limit allows."""
    sent = 0

    async def endless(_request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        for _ in range(1_000):
            writer.write(b"x" * MIB)
            await writer.drain()
            sent += MIB

    server = await servers.start({"/": endless})
    async with client(policy=EgressPolicy(allow=(server.netloc,), response_bytes_max=2 * MIB)) as http:
        with pytest.raises(EgressFailed, match="over 2097152 bytes"):
            await http.get(server.url())
    await server.closed.wait()
    assert sent < 40 * MIB


async def test_a_gzip_bomb_is_noticed_before_it_is_unpacked(servers: Servers) -> None:
    """The limit counts the decompressed bytes, not those on the wire; also in the body of a redirect."""
    bomb = gzip.compress(b"\0" * (64 * MIB))
    headers = {"Content_Encoding": "gzip"}
    server = await servers.start(
        {
            "/": servers.response(bomb, **headers),
            "/many": servers.response(gzip.compress(b"\0" * MIB) * 64, **headers),
            "/hop": servers.response(bomb, "302 Found", Location="/ok", **headers),
            "/ok": servers.response(gzip.compress(b"fine ") + gzip.compress(b"twice"), **headers),
        }
    )
    async with client(policy=EgressPolicy(allow=(server.netloc,), response_bytes_max=4 * MIB)) as http:
        for path in ("/", "/many", "/hop"):
            with pytest.raises(EgressFailed, match="over 4194304 bytes"):
                await http.get(server.url(path))
        assert (await http.get(server.url("/ok"))).text == "fine twice"


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (b"x", "br"),
        (b"x", "gzip, gzip"),
        (b"not gzip", "gzip"),
        (gzip.compress(b"x" * 1000)[:-12], "gzip"),
        (b"x", "deflate"),
    ],
)
async def test_a_coding_that_cannot_be_read_is_refused(servers: Servers, body: bytes, coding: str) -> None:
    """Only one layer of gzip is read, and only a complete one."""
    server = await servers.start({"/": servers.response(body, Content_Encoding=coding)})
    async with client(server.netloc) as http:
        with pytest.raises(EgressFailed):
            await http.get(server.url())


async def _drip(_request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def _silent(_request: ReceivedRequest, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("answer", [_drip, _silent])
async def test_a_slow_answer_ends_at_the_deadline(
    servers: Servers, answer: Callable[[ReceivedRequest, asyncio.StreamWriter], Awaitable[None]]
) -> None:
    """Single bytes now and then do not extend the deadline, which is for the whole exchange."""
    server = await servers.start({"/": answer})
    async with client(policy=EgressPolicy(allow=(server.netloc,), request_s_max=0.15)) as http:
        begin = asyncio.get_running_loop().time()
        with pytest.raises(EgressFailed, match=r"no complete response within 0\.1 s|0\.2 s") as caught:
            await http.get(server.url())
        assert asyncio.get_running_loop().time() - begin < 2
        assert caught.value.type == "transient"
        assert caught.value.retry_safe is True


async def test_the_number_of_requests_is_bounded(servers: Servers) -> None:
    """One call has a limit of requests, refused ones included."""
    server = await servers.start({"/": servers.response(b"x")})
    async with client(policy=EgressPolicy(allow=(server.netloc,), requests_max=3)) as http:
        for _ in range(3):
            await http.get(server.url())
        for url in (server.url(), "http://127.0.0.1:1/"):
            with pytest.raises(EgressDenied):
                await http.get(url)
        assert len(http.requests) == 3


async def test_nothing_leaves_after_start_by(servers: Servers) -> None:
    """The first byte may leave only in time, even if resolving the name took long."""
    server = await servers.start({"/": servers.response(b"x")})
    now = dt.datetime.now(dt.UTC)
    start_by = now + dt.timedelta(seconds=0.05)
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(0.06, passed.set)

    async def slow(_host: str, _port: int) -> list[str]:
        await passed.wait()
        return ["127.0.0.1"]

    policy = EgressPolicy(allow=(f"app.example:{server.port}",))
    async with EgressClient(policy, deadline=now + SOON, start_by=start_by, resolve=slow) as http:
        with pytest.raises(StartedTooLate):
            await http.post(f"http://app.example:{server.port}/", json={})
        assert passed.is_set()
        assert http.effect_sent is False
        with pytest.raises(StartedTooLate):
            await http.get(f"http://app.example:{server.port}/")
    assert server.requests == []


async def test_nothing_leaves_once_the_run_is_stopped(servers: Servers) -> None:
    """After a stop during the connection not a byte is written; a request that has begun continues."""
    server = await servers.start({"/": servers.response(b"x")})
    stops: list[bool] = []

    async def resolve(_host: str, _port: int) -> list[str]:
        stops.append(True)
        return ["127.0.0.1"]

    now = dt.datetime.now(dt.UTC)
    policy = EgressPolicy(allow=(f"app.example:{server.port}",))
    # Tests that share an event loop share a context: a value left there would apply to the next tests.
    token = IS_STOPPED.set(lambda: bool(stops))
    try:
        async with EgressClient(policy, deadline=now + SOON, start_by=now + SOON, resolve=resolve) as http:
            with pytest.raises(StartedTooLate, match=STOPPED_FIRST):
                await http.get(f"http://app.example:{server.port}/")
        assert server.requests == []
        stops.clear()
        async with client(server.netloc) as http:
            await http.get(server.url())
            stops.append(True)
            assert (await http.get(server.url())).status_code == 200
    finally:
        IS_STOPPED.reset(token)


async def test_a_call_that_has_begun_may_continue_after_start_by(servers: Servers) -> None:
    """The second request of a call belongs to an effect that began in time."""
    server = await servers.start({"/": servers.response(b"x")})
    now = dt.datetime.now(dt.UTC)
    start_by = now + dt.timedelta(seconds=0.5)
    async with EgressClient(EgressPolicy(allow=(server.netloc,)), deadline=now + SOON, start_by=start_by) as http:
        await http.get(server.url())
        passed = asyncio.Event()
        asyncio.get_running_loop().call_later(0.51, passed.set)
        await passed.wait()
        await http.get(server.url())
    assert len(server.requests) == 2


async def test_effect_sent_is_true_once_a_write_may_have_been_read(servers: Servers) -> None:
    """A read is never an effect; a write is one as soon as it may have been read, with or without a response."""

    async def hang_up(_request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await servers.start({"/": servers.response(b"x"), "/gone": hang_up})
    other_server = await servers.start({})
    other_url = other_server.url()
    async with client(server.netloc, "127.0.0.1:1") as http:
        await http.get(server.url())
        with pytest.raises(EgressFailed):
            await http.get(server.url("/gone"))
        with pytest.raises(EgressFailed, match="cannot be reached") as caught:
            await http.post("http://127.0.0.1:1/", json={})
        assert caught.value.retry_safe is True
        with pytest.raises(EgressDenied):
            await http.post(other_url, json={})
        assert http.effect_sent is False
        with pytest.raises(EgressFailed, match="gave no valid response") as caught:
            await http.post(server.url("/gone"), json={})
        assert caught.value.retry_safe is False
        assert http.effect_sent is True


def _certificate(tmp_path: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's TLS context for one self-signed name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    path = tmp_path / "server.pem"
    path.write_bytes(
        pem
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cadata=pem.decode())


async def test_a_pinned_connection_still_checks_the_name(servers: Servers, tmp_path: Path) -> None:
    """TLS verifies the name in the URL, although the connection goes to an address."""
    server_tls, client_tls = _certificate(tmp_path, "api.example")
    asked: list[str | None] = []
    server_tls.sni_callback = lambda _socket, name, _context: asked.append(name)
    server = await servers.start({"/": servers.response(b"private")}, server_tls)

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    policy = EgressPolicy(allow=(f"api.example:{server.port}", f"other.example:{server.port}"))
    deadline = dt.datetime.now(dt.UTC) + SOON
    async with EgressClient(policy, deadline=deadline, resolve=resolve, tls=client_tls) as http:
        answer = await http.get(f"https://api.example:{server.port}/")
        assert answer.text == "private"
        with pytest.raises(EgressFailed, match="cannot be reached"):
            await http.post(f"https://other.example:{server.port}/", json={})
        assert http.effect_sent is False
    assert asked == ["api.example", "other.example"]
    assert server.requests[0].headers["host"] == f"api.example:{server.port}"


async def test_a_cancelled_request_leaves_no_connection(servers: Servers) -> None:
    """Leaving the scope closes the connection, which the server sees."""
    reached = asyncio.Event()

    async def wait(_request: ReceivedRequest, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await writer.wait_closed()

    server = await servers.start({"/": wait})
    async with client(server.netloc) as http:
        task = asyncio.create_task(http.post(server.url(), json={}))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert http.effect_sent is True
        assert http.requests == (Egress(host=server.netloc, method="POST"),)
