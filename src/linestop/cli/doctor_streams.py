"""What ``doctor`` says of the streams and their disk: do they store, how full is each, is every copy current."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from linestop.bus import jetstream_api
from linestop.bus.connection import Connection
from linestop.bus.disk_space import (
    LOG_FILE,
    broker_disk_is_full,
    disk_full_message,
    format_bytes,
    free_bytes,
    is_broker_directory,
    is_full,
    used_share,
)
from linestop.bus.interfaces import Fill
from linestop.bus.jetstream.log_probe import probe_log
from linestop.bus.jetstream.retry import NotStored
from linestop.bus.jetstream.wire import Wire
from linestop.bus.stream_definitions import streams
from linestop.errors import LinestopError, PermissionDenied, Unreachable
from linestop.schemas.defaults import DISK_TO_WARN_BYTES, SPACE_FOR_NEW_WORK, SPACE_TO_WARN

FAULTS_NAMED_MAX: Final = 3
REPLICA_LAG_MAX: Final = 1_000
"""Operations that a copy may be behind for a moment under load."""

REPLY_TIMEOUT_S: Final = 2.5
SILENCE_MAX_S: Final = 3.0
"""A node that lives answers its leaders every second."""


class CheckWarning(Exception):  # noqa: N818 - a finding, not a failure
    """Raised by a check for something to know about that stops nothing."""


class _StreamConfig(msgspec.Struct, frozen=True):
    max_bytes: int = -1
    num_replicas: int = 1


class _Peer(msgspec.Struct, frozen=True):
    name: str
    current: bool = False
    offline: bool = False
    lag: int = 0
    active: int = 0
    """Nanoseconds since the leader heard of it."""


class _Cluster(msgspec.Struct, frozen=True):
    leader: str = ""
    replicas: tuple[_Peer, ...] = ()


class _State(msgspec.Struct, frozen=True):
    bytes: int = 0


class _StreamInfo(msgspec.Struct, frozen=True):
    config: _StreamConfig
    state: _State
    cluster: _Cluster | None = None


def broker_log_hint(directory: Path) -> str:
    """Name the broker's log, if the broker is our own; the log of another one is its administrator's."""
    return f"; its log is {directory / LOG_FILE}" if is_broker_directory(directory) else ""


def check_disk(directory: Path) -> str:
    """Say how much is free on the disk of the state folder.

    Raises:
        NotStored: so little that a broker there cannot store.
        Warn: little.
    """
    if broker_disk_is_full(directory):
        raise NotStored(disk_full_message(directory))
    used = used_share(directory)
    free = f"{format_bytes(free_bytes(directory))} free where {directory} is ({used:.0%} full)"
    if is_full(directory):
        raise LinestopError(f"{free}: the disk is full, and workers cannot keep there what they have to; make room")
    if free_bytes(directory) < DISK_TO_WARN_BYTES or used >= SPACE_TO_WARN:
        raise CheckWarning(f"{free}: make room before it is full, because a full disk stops everything")
    return free


async def check_log(connection: Connection, directory: Path) -> str:
    """Say that the broker stores, having seen it.

    Raises:
        NotStored: it answers and does not store; because the disk of the state folder is full, where it is.
        Unreachable: it does not answer.
        Warn: it was set up for an older linestop and does not take the probe.
    """
    try:
        await probe_log(await Wire.open(connection), connection.credential)
    except PermissionDenied:
        raise CheckWarning(
            "may store or not: it has no permission for probes yet; give it the configuration of `linestop bus init`"
        ) from None
    except NotStored:
        if broker_disk_is_full(directory):
            raise NotStored(disk_full_message(directory)) from None
        raise
    free = f", with {format_bytes(free_bytes(directory))} free on its disk" if is_broker_directory(directory) else ""
    return f"stores what it is given{free}"


async def check_space(connection: Connection) -> str:
    """Say how full each stream is, the fullest first.

    Raises:
        LinestopError: one is so full that new work is refused, or so will something else be.
        Warn: one is fuller than three quarters.
    """
    fills = sorted([await _fill(connection, spec.name) for spec in streams()], key=lambda fill: -fill.used)
    usage = ", ".join(f"{fill.stream} {fill.used:.0%}" for fill in fills)
    if fills[0].used >= SPACE_FOR_NEW_WORK:
        raise LinestopError(f"{usage}; what a full stream means and how to make room: docs/operations.md")
    if fills[0].used >= SPACE_TO_WARN:
        raise CheckWarning(
            f"{usage}; make room before {fills[0].stream} is at {SPACE_FOR_NEW_WORK:.0%}: docs/operations.md"
        )
    return usage


async def _fill(connection: Connection, stream: str) -> Fill:
    reply = msgspec.convert(await connection.api_request(jetstream_api.stream_info(stream)), _StreamInfo)
    limit = reply.config.max_bytes
    return Fill(stream=stream, used=reply.state.bytes / limit if limit > 0 else 0.0)


async def check_replicas(connection: Connection) -> str:
    """Say whether every copy of every stream has all that its leader has.

    Raises:
        LinestopError: one is away, behind, or has no leader: the next fault may lose what was acknowledged.
    """
    streams_checked = await asyncio.gather(*(_replica_faults(connection, spec.name) for spec in streams()))
    copies = max(count for count, _ in streams_checked)
    faults = [fault for _, of_stream in streams_checked for fault in of_stream]
    if faults:
        more = f" (and {len(faults) - FAULTS_NAMED_MAX} more)" if len(faults) > FAULTS_NAMED_MAX else ""
        raise LinestopError(
            f"{', '.join(faults[:FAULTS_NAMED_MAX])}{more}: stop no node until all are current (docs/operations.md)"
        )
    return "one copy of each stream" if copies == 1 else f"{copies} copies of each stream, all current"


async def _replica_faults(connection: Connection, stream: str) -> tuple[int, list[str]]:
    """How many copies a stream is to have, and what each lacks."""
    try:
        reply = await _info(connection, stream)
    except Unreachable:
        return 1, [f"{stream} gives no answer"]
    copies_configured, cluster = reply.config.num_replicas, reply.cluster or _Cluster()
    faults = [f"{stream} has no leader"] if copies_configured > 1 and not cluster.leader else []
    if len(cluster.replicas) < copies_configured - 1:
        faults.append(f"{stream} has {len(cluster.replicas) + 1} of {copies_configured} copies")
    faults += [f"{stream} on {peer.name} {fault}" for peer in cluster.replicas if (fault := _peer_fault(peer))]
    return copies_configured, faults


async def _info(connection: Connection, stream: str) -> _StreamInfo:
    # While a leader is being elected nobody answers, not even afterwards: so it is asked again.
    request = partial(connection.api_request, jetstream_api.stream_info(stream), timeout_s=REPLY_TIMEOUT_S)
    try:
        reply = await request()
    except Unreachable:
        reply = await request()
    return msgspec.convert(reply, _StreamInfo)


def _peer_fault(peer: _Peer) -> str:
    """What keeps a copy from being as good as the leader's; nothing if it is."""
    silent_s = peer.active / 1e9
    # The server calls a copy current for some seconds after its node died, and calls no node offline that it knew.
    if peer.offline or silent_s > SILENCE_MAX_S:
        return f"has not been heard of for {silent_s:.0f} s"
    if not peer.current or peer.lag > REPLICA_LAG_MAX:
        return f"is {peer.lag} operations behind" if peer.lag else "is not current"
    return ""
