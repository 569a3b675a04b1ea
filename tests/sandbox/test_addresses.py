"""Allowed addresses and hosts, and a table of those that must be refused."""

# ruff: noqa: SIM905 - a table of many short words is read more easily as one text
from __future__ import annotations

import ipaddress

import pytest

from linestop.errors import ConfigError
from linestop.sandbox.http.addresses import Rule, address_error, host_error, matching_rule, parse_allow

REFUSED = """
127.0.0.1 127.255.255.254 0.0.0.0 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 169.254.169.254
192.0.0.1 192.0.0.9 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1
239.255.255.250 240.0.0.1 255.255.255.255
::1 :: ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:10.0.0.1 ::127.0.0.1 ::8.8.8.8 64:ff9b::7f00:1
64:ff9b::a9fe:a9fe 64:ff9b:1::1 2002:7f00:1:: 2002:808:808:: 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:db8::1
3fff::1 fe80::1 fc00::1 fd00::1 fec0::1 ff02::1 ff0e::1 100::1 4000::1
""".split()
PUBLIC = """
8.8.8.8 1.1.1.1 93.184.216.34 172.32.0.1 100.128.0.1 2606:4700:4700::1111 2a00:1450:4001:80b::200e
::ffff:8.8.8.8 64:ff9b::808:808
""".split()
NEVER = "169.254.169.254 0.0.0.0 224.0.0.1 240.0.0.1 :: fe80::1 ff02::1 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe"


@pytest.mark.parametrize("text", REFUSED)
def test_an_address_that_is_not_public_is_refused(text: str) -> None:
    """Private, loopback, link-local, multicast, reserved and every form that hides one of them."""
    assert address_error(ipaddress.ip_address(text)) is not None


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_is_legal(text: str) -> None:
    """Plain, mapped and behind NAT64."""
    assert address_error(ipaddress.ip_address(text)) is None


@pytest.mark.parametrize("text", ["127.0.0.1", "10.1.2.3", "192.168.1.1", "::1", "fd00::1", "8.8.8.8"])
def test_an_explicit_port_makes_private_addresses_legal(text: str) -> None:
    """The operator named this host and port."""
    assert address_error(ipaddress.ip_address(text), private=True) is None


@pytest.mark.parametrize("text", NEVER.split())
def test_cloud_metadata_and_multicast_are_never_legal(text: str) -> None:
    """Not even for a host and port that the operator named."""
    assert address_error(ipaddress.ip_address(text), private=True) is not None


@pytest.mark.parametrize(
    "host",
    [
        "127.1", "0", "0x7f000001", "0x7f.1", "2130706433", "017700000001", "0177.0.0.1", "1.2.3", "1.2.3.4.5",
        "127.0.0.1.", "localhost.", "example.com..", ".example.com", "a..b", "", " ", "a b", "a%20b", "x%00y",
        "ex%61mple.com", "a/b", "a\\b", "a@b", "-a.com", "a-.com", "fe80::1%eth0", "fe80::1%25eth0", "a:b",
        "a" * 64 + ".com", "a." * 127 + "com", "EXAMPLE.COM", "exämple.com", "example.0x1",
    ],
)  # fmt: skip
def test_a_host_that_is_not_properly_written_is_refused(host: str) -> None:
    """Each address has one spelling, and other hosts are plain names, so two parsers never disagree."""
    assert host_error(host) is not None


@pytest.mark.parametrize(
    "host", ["example.com", "a-b.c_d.x1", "xn--mller-kva.de", "127.0.0.1", "::1", "localhost", "1password.com"]
)
def test_a_proper_host_is_legal(host: str) -> None:
    """The allow-list and its addresses decide whether the host may be reached."""
    assert host_error(host) is None


def test_the_allow_list_decides_about_host_and_port() -> None:
    """A name means ports 80 and 443, a port only that port, and a star any public host or any sub-domain."""
    rules = parse_allow(("api.example.com", "*.shop.example", "127.0.0.1:8080", "[::1]:9090", "API.internal:7000"))
    assert matching_rule(rules, "api.example.com", 443) == Rule("api.example.com", 0)
    assert matching_rule(rules, "a.b.shop.example", 80) == Rule("*.shop.example", 0)
    assert matching_rule(rules, "127.0.0.1", 8080) == Rule("127.0.0.1", 8080)
    assert matching_rule(rules, "0:0:0:0:0:0:0:1", 9090) == Rule("::1", 9090)
    assert matching_rule(rules, "api.internal", 7000) == Rule("api.internal", 7000)
    for host, port in (
        ("api.example.com", 4222),
        ("api.example.com.evil.example", 443),
        ("xapi.example.com", 443),
        ("shop.example", 443),
        ("evilshop.example", 443),
        ("127.0.0.1", 80),
        ("127.0.0.2", 8080),
        ("api.internal", 443),
    ):
        assert matching_rule(rules, host, port) is None
    assert matching_rule((), "example.com", 443) is None
    assert matching_rule(parse_allow(("*",)), "example.com", 443) == Rule("*", 0)
    assert matching_rule(parse_allow(("*",)), "example.com", 4222) is None


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "http://example.com",
        "example.com/path",
        "a b",
        "example.com:",
        "example.com:0",
        "x:70000",
        "*:80",
        "a*b",
        "0x7f.1",
        "u@h",
        "[::1",
    ],
)
def test_an_entry_that_is_not_a_host_is_a_configuration_error(entry: str) -> None:
    """One sentence that lists the allowed forms."""
    with pytest.raises(ConfigError, match=r"write host, host:port, \*\.domain or \*"):
        parse_allow((entry,))
