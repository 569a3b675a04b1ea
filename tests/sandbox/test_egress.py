"""The egress guard against real servers and lying name servers."""

# ruff: noqa: SIM905 - a table of many short words is read more easily as one text
from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from linestop.sandbox.http.egress_client import EgressClient, EgressPolicy
from linestop.sandbox.tools.failures import EgressDenied
from linestop.schemas.tool_contracts import Egress

if TYPE_CHECKING:
    from tests.sandbox.conftest import Servers

pytestmark = pytest.mark.anyio

SOON = dt.timedelta(seconds=30)
MIB = 1024 * 1024


def client(*allow: str, names: dict[str, list[str]] | None = None, policy: EgressPolicy | None = None) -> EgressClient:
    """A client with the given name resolution; any other name has no address."""

    async def resolve(host: str, port: int) -> list[str]:
        assert port
        try:
            return (names or {})[host]
        except KeyError:
            raise OSError(8, "no such name") from None

    now = dt.datetime.now(dt.UTC)
    policy = policy or EgressPolicy(allow=allow or ("*",))
    return EgressClient(policy, deadline=now + SOON, start_by=now + SOON, resolve=resolve)


LITERAL = """
http://127.0.0.1 http://127.1 http://0 http://0.0.0.0 http://0x7f000001 http://0x7f.1 http://2130706433
http://017700000001 http://①②⑦.⓪.⓪.① http://[::1] http://[::] http://[::ffff:127.0.0.1]
http://[::ffff:169.254.169.254] http://[::127.0.0.1] http://[64:ff9b::7f00:1] http://[2002:7f00:1::]
http://[fe80::1] http://[fe80::1%25eth0] http://[fc00::1] http://[fec0::1] http://10.0.0.1 http://172.16.0.1
http://192.168.0.1 http://100.64.0.1 http://169.254.169.254/latest/meta-data/ http://192.0.0.1 http://198.18.0.1
http://224.0.0.1 http://240.0.0.1 http://255.255.255.255
http://ok@127.0.0.1 http://good.example@127.0.0.1 http://good.example:80@127.0.0.1 http://127.0.0.1#@good.example
http://127.0.0.1?@good.example http://good.example\\@127.0.0.1 http://good.example%2f@127.0.0.1
http://127.0.0.1. http://localhost. http://good.example. http://user:pw@good.example
http://good.example:4222 http://good.example:22 http://good.example:0 http://good.example:65536
http://good.example:99999 http://8.8.8.8:53 http:///etc/passwd http://
file:///etc/passwd gopher://good.example/_x ftp://good.example/x unix:///var/run/docker.sock
data:text/plain,hello ws://good.example dict://good.example jar:http://good.example!/ //good.example /etc/passwd
http://ex%61mple.example http://good.example%00.evil http://[::1
""".split()
SPACED = [
    "http://good.example\t",
    "http://go\tod.example",
    "http://good.example\r\nX: y",
    "http://\x00",
    "http://a b/",
    "",
]


@pytest.mark.parametrize("url", LITERAL + SPACED)
async def test_a_url_to_a_forbidden_place_is_refused(url: str) -> None:
    """Every way to write loopback, metadata, another port, another scheme or two hosts at once."""
    async with client(names={"good.example": ["93.184.216.34"]}) as http:
        with pytest.raises(EgressDenied):
            await http.get(url)
        assert [request.status for request in http.requests] == [0]
        assert http.effect_sent is False


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["93.184.216.34", "127.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:10.0.0.1"],
        ["fe80::1%eth0"],
        ["fe80::1%2"],
        ["64:ff9b::7f00:1"],
        ["224.0.0.1"],
        ["not-an-address"],
    ],
)
async def test_a_name_is_refused_if_any_of_its_addresses_is(addresses: list[str]) -> None:
    """Also if a public address comes first: one bad record refuses the name."""
    async with client(names={"good.example": addresses}) as http:
        with pytest.raises(EgressDenied, match=r"good\.example"):
            await http.get("http://good.example/")
        assert http.requests == (Egress(host="good.example", method="GET"),)


async def test_dns_rebinding_gains_nothing(servers: Servers) -> None:
    """The name is resolved once per connection, and the connection goes to the address that was checked."""
    server = await servers.start({"/": servers.response(b"internal")})
    asked: list[str] = []

    async def rebinding(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["192.0.2.1"] if len(asked) == 1 else ["127.0.0.1"]

    deadline = dt.datetime.now(dt.UTC) + SOON
    async with EgressClient(EgressPolicy(allow=("*",)), deadline=deadline, resolve=rebinding) as http:
        for _ in range(2):
            with pytest.raises(EgressDenied):
                await http.get("http://evil.example/")
    assert asked == ["evil.example", "evil.example"]

    async def honest_once(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if asked.count(host) == 1 else ["169.254.169.254"]

    allow = (f"app.example:{server.port}",)
    async with EgressClient(EgressPolicy(allow=allow), deadline=deadline, resolve=honest_once) as http:
        answer = await http.get(f"http://app.example:{server.port}/")
        assert answer.text == "internal"
    assert asked.count("app.example") == 1
    assert server.requests[0].headers["host"] == f"app.example:{server.port}"


async def test_an_explicit_host_and_port_is_reached_and_recorded(servers: Servers) -> None:
    """An allow-list entry with a port opens exactly that port; the record has each request and its host."""
    server = await servers.start({"/a?x=1": servers.response(b"hello", Content_Type="text/plain")})
    async with client(server.netloc) as http:
        answer = await http.get(server.url("/a"), params={"x": 1}, headers={"X-Mine": "y"})
        assert (answer.status_code, answer.text) == (200, "hello")
        assert http.requests == (Egress(host=server.netloc, method="GET", status=200, bytes=5),)
        with pytest.raises(EgressDenied, match="not on the allow-list"):
            await http.get("http://127.0.0.1:1/")
        with pytest.raises(EgressDenied, match="not on the allow-list"):
            await http.get("http://example.com/")
    (request,) = server.requests
    assert request.headers == {
        "host": server.netloc,
        "accept": "*/*",
        "accept-encoding": "gzip",
        "connection": "keep-alive",
        "user-agent": "linestop",
        "x-mine": "y",
    }


async def test_nothing_is_taken_from_the_environment(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy variables and netrc are for people, not for agents."""
    server = await servers.start({"/": servers.response(b"direct")})
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with client(server.netloc) as http:
        assert (await http.get(server.url())).text == "direct"


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://169.254.169.254/",
        "//10.0.0.1/x",
        "file:///etc/passwd",
        "http://good.example:4222/",
        "http://user@good.example/",
        "gopher://good.example/",
        "http://2130706433/",
        "http://evil.example/",
        "http://[bad",
        "http://\x01/",
        "http://x:99999/",
    ],
)
async def test_each_redirect_is_checked_again(servers: Servers, location: str) -> None:
    """An allowed server cannot redirect the client to a forbidden one."""
    server = await servers.start({"/": servers.redirect(location)})
    names = {"good.example": ["93.184.216.34"], "evil.example": ["127.0.0.1"]}
    async with client(server.netloc, "*", names=names) as http:
        with pytest.raises(EgressDenied):
            await http.get(server.url())
        assert [request.status for request in http.requests] == [302, 0]


async def test_redirects_are_followed_and_bounded(servers: Servers) -> None:
    """Five are followed, the sixth is refused; each is recorded as a request."""
    routes: dict[str, bytes] = {f"/{n}": servers.redirect(f"/{n - 1}") for n in range(1, 9)}
    server = await servers.start({**routes, "/0": servers.response(b"there")})
    async with client(server.netloc) as http:
        assert (await http.get(server.url("/5"))).text == "there"
        assert len(http.requests) == 6
        with pytest.raises(EgressDenied, match="more than 5 redirects"):
            await http.get(server.url("/6"))
        assert len(server.requests) == 12


async def test_a_redirect_to_another_host_carries_neither_headers_nor_body(servers: Servers) -> None:
    """Data for one host does not go to another."""
    other = await servers.start({"/in": servers.response(b"other")})
    first = await servers.start(
        {"/": servers.redirect(other.url("/in")), "/keep": servers.redirect(other.url("/in"), "307 Temporary")}
    )
    async with client(first.netloc, other.netloc) as http:
        secret = {"Authorization": "Bearer x", "X-Api-Key": "y", "Cookie": "z=1"}
        assert (await http.get(first.url(), headers=secret)).text == "other"
        assert not {"authorization", "x-api-key", "cookie"} & set(other.requests[0].headers)
        assert (await http.post(first.url(), json={"a": 1}, headers=secret)).text == "other"
        assert (other.requests[1].method, other.requests[1].body) == ("GET", b"")
        assert not {"authorization", "x-api-key", "cookie"} & set(other.requests[1].headers)
        with pytest.raises(EgressDenied, match="carry the body to another host"):
            await http.post(first.url("/keep"), json={"a": 1})
    assert len(other.requests) == 2


async def test_a_custom_host_header_is_refused(servers: Servers) -> None:
    """The checked host is the host that gets the request."""
    server = await servers.start({"/": servers.response(b"x")})
    async with client(server.netloc) as http:
        with pytest.raises(EgressDenied, match="Host header"):
            await http.get(server.url(), headers={"Host": "internal.example"})
        with pytest.raises(EgressDenied, match="method"):
            await http.request("CONNECT", server.url())
    assert server.requests == []


@pytest.mark.parametrize(
    "address", ["168.63.129.16", "169.254.169.254", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"]
)
@pytest.mark.parametrize("allow", ["*", "named.example:80"])
async def test_cloud_metadata_is_refused_even_if_the_allow_list_names_it(address: str, allow: str) -> None:
    """One of them is a public address, and others are in ranges that may be allowed; no connection is tried."""
    async with client(allow, names={"named.example": [address]}) as http:
        with pytest.raises(EgressDenied, match=r"metadata|not a public address"):
            await http.get("http://named.example/metadata")
    assert [request.status for request in http.requests] == [0]


@pytest.mark.parametrize("given", ["9", "2", "x", "-1", ""])
async def test_a_false_content_length_is_refused_before_anything_is_sent(given: str) -> None:
    """With a sentence of linestop, not halfway through the request with an error of the library."""
    async with client("127.0.0.1:9") as http:
        with pytest.raises(EgressDenied, match="but the body has 3 bytes; leave the header out"):
            await http.post("http://127.0.0.1:9/", content=b"abc", headers={"Content-Length": given})
        assert not http.effect_sent
