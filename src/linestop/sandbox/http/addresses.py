"""The rules for the hosts and addresses that a tool may reach: pure functions, no network.

``ipaddress.is_global`` alone is not enough: Python 3.11 takes 224.0.0.1, fec0::1, 64:ff9b::7f00:1 and
::127.0.0.1 for global. So the special-purpose ranges are listed, IPv6 must be in 2000::/3, and an IPv4
address inside an IPv6 one is extracted and checked itself.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from linestop.errors import ConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_V4_REFUSED = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_METADATA: dict[str, str] = {
    "168.63.129.16": "Azure's host: metadata, DNS, extensions (learn.microsoft.com, What is IP address 168.63.129.16)",
    "169.254.169.254": "AWS, Azure, Google Cloud, Oracle, DigitalOcean, Hetzner, OpenStack",
    "169.254.170.2": "AWS ECS task credentials (docs.aws.amazon.com, Task IAM role)",
    "169.254.170.23": "AWS EKS pod identity (docs.aws.amazon.com, EKS Pod Identity)",
    "169.254.0.23": "Tencent Cloud (tencentcloud.com, Instance metadata)",
    "169.254.42.42": "Scaleway (scaleway.com, Instances metadata API)",
    "100.100.100.200": "Alibaba Cloud (alibabacloud.com, View instance metadata)",
    "192.0.0.192": "Oracle Cloud, classic (docs.oracle.com, Retrieving instance metadata)",
    "fd00:ec2::254": "AWS over IPv6 (docs.aws.amazon.com, Instance metadata service)",
    "fd00:ec2::23": "AWS EKS pod identity over IPv6",
    "fd20:ce::254": "Google Cloud over IPv6 (cloud.google.com, View VM metadata)",
    "fd00:42::42": "Scaleway over IPv6",
}
"""Addresses that give a machine the secrets of its cloud, by provider: refused even if the operator allowed them.

One of them is in a public range, and some are in ranges that an operator may allow.
"""

_METADATA_ADDRESSES = frozenset(ipaddress.ip_address(address) for address in _METADATA)
_V4_PRIVATE = tuple(
    ipaddress.IPv4Network(network)
    for network in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
)
_V6_GLOBAL = ipaddress.IPv6Network("2000::/3")
_V6_REFUSED = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",
        "2002::/16",  # 6to4 carries any IPv4 address and is long retired
        "3fff::/20",
    )
)
_V6_PRIVATE = (ipaddress.IPv6Network("fc00::/7"), ipaddress.IPv6Network("::1/128"))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)")
_HOST_CHARS_MAX = 253
_PORTS = {"http": 80, "https": 443}


class Rule(NamedTuple):
    """One entry of an allow-list. ``port`` 0 means 80 and 443; an explicit port also allows private addresses."""

    host: str
    port: int


def parse_allow(entries: tuple[str, ...]) -> tuple[Rule, ...]:
    """Read an allow-list: ``*``, ``host``, ``*.domain``, ``host:port``, ``[v6]:port``.

    Raises:
        ConfigError: for an entry of another form.
    """
    return tuple(_parse_entry(entry) for entry in entries)


def matching_rule(rules: tuple[Rule, ...], host: str, port: int) -> Rule | None:
    """The rule that allows ``host`` and ``port``, one with an explicit port first, or None."""
    for rule in sorted(rules, key=lambda rule: rule.port == 0):
        port_fits = port == rule.port if rule.port else port in _PORTS.values()
        if port_fits and _host_matches(rule.host, host):
            return rule
    return None


def host_error(host: str) -> str | None:
    """Why ``host`` (lower case, as a URL has it, without brackets) is not a proper host, or None."""
    if not host:
        return "the URL names no host"
    if parse_address(host) is not None:
        return None
    if host.endswith("."):
        return "a host with a trailing dot is refused"
    if len(host) > _HOST_CHARS_MAX or not _HOST_NAME.fullmatch(host):
        return "that is not a proper host name"
    # 127.1, 0x7f.1, 2130706433: a host that ends in a number is an address, and has only one proper spelling.
    if _NUMBER.fullmatch(host.rsplit(".", 1)[-1]):
        return "an address is written as four decimal numbers"
    return None


def address_error(address: Address, *, private: bool = False) -> str | None:
    """Why connections to ``address`` are refused, or None if it is a public one.

    ``private``: the operator named this host and port, so private and loopback addresses are allowed.
    Link-local addresses (cloud metadata), multicast and reserved ranges never are.
    """
    unwrapped = _unwrap(address)
    if unwrapped is None:
        return f"{address} carries another address inside"
    if unwrapped in _METADATA_ADDRESSES:
        return f"{address} serves a cloud's metadata"
    if private and any(unwrapped in network for network in (_V4_PRIVATE if unwrapped.version == 4 else _V6_PRIVATE)):
        return None
    if isinstance(unwrapped, ipaddress.IPv4Address):
        is_refused = any(unwrapped in network for network in _V4_REFUSED) or not unwrapped.is_global
    else:
        is_global_unicast = unwrapped in _V6_GLOBAL and not any(unwrapped in network for network in _V6_REFUSED)
        is_refused = not is_global_unicast or not unwrapped.is_global
    return f"{address} is not a public address" if is_refused else None


def parse_address(text: str) -> Address | None:
    """Parse a properly written IP address without a zone; None for anything else."""
    if "%" in text:
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _unwrap(address: Address) -> Address | None:
    """The address that packets really go to; None for retired forms, which only hide an address."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if int(address) >> 32 == 0 and int(address) > 1:
        return None
    return address


def _host_matches(pattern: str, host: str) -> bool:
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    left, right = parse_address(pattern), parse_address(host)
    return left == right if left is not None or right is not None else pattern == host


def _parse_entry(entry: str) -> Rule:
    host, port = entry.strip().lower(), 0
    if host == "*":
        return Rule("*", 0)
    if match := re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^:]+))(?::([0-9]{1,5}))?", host):
        host = match[1] or match[2]
        port = int(match[3] or 0)
    is_valid_host = host_error(host.removeprefix("*.")) is None
    if not is_valid_host or port > 65_535 or (match and match[3] and not port):
        raise ConfigError(f"allow: {entry!r} is not a host; write host, host:port, *.domain or * (any public host)")
    return Rule(host, port)
