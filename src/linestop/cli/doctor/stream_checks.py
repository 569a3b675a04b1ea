"""The checks of the streams and their disk for ``doctor``: do they store, how full are they, is every copy current."""

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
from linestop.bus.streams.stream_definitions import streams
from linestop.errors import LinestopError, PermissionDenied, Unreachable
from linestop.schemas.broker_defaults import DISK_TO_WARN_BYTES, SPACE_FOR_NEW_WORK, SPACE_TO_WARN

FAULTS_NAMED_MAX: Final = 3
REPLICA_LAG_MAX: Final = 1_000
"""Operations that a copy may lag behind for a moment under load."""

REPLY_TIMEOUT_S: Final = 2.5
SILENCE_MAX_S: Final = 3.0
"""A live node answers its leaders every second."""


class CheckWarning(Exception):
    """Raised by a check for a finding that prevents nothing."""


class _StreamConfig(msgspec.Struct, frozen=True):
    max_bytes: int = -1
    num_replicas: int = 1


class _Peer(msgspec.Struct, frozen=True):
    name: str
    current: bool = False
    offline: bool = False
    lag: int = 0
    active: int = 0
    """Nanoseconds since the leader last heard from it."""


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
    """Name the log file of the broker, if linestop runs it; an outside broker's log belongs to its administrator."""
    return f"; its log is {directory / LOG_FILE}" if is_broker_directory(directory) else ""


def check_disk(directory: Path) -> str:
    """Return how much is free on the disk of the state folder.

    Raises:
        NotStored: so little that a broker there cannot store.
        CheckWarning: little.
    """
    if broker_disk_is_full(directory):
        raise NotStored(disk_full_message(directory))
    used = used_share(directory)
    free = f"{format_bytes(free_bytes(directory))} free where {directory} is ({used:.0%} full)"
    if is_full(directory):
        raise LinestopError(f"{free}: the disk is full, and workers cannot store their files there; make room")
    if free_bytes(directory) < DISK_TO_WARN_BYTES or used >= SPACE_TO_WARN:
        raise CheckWarning(f"{free}: make room before the disk is full, because a full disk stops everything")
    return free


async def check_log(connection: Connection, directory: Path) -> str:
    """Store a probe at the broker, and return how much is free on its disk.

    Raises:
        NotStored: the broker answers and does not store; the message names a full disk of the state folder.
        Unreachable: the broker does not answer.
        CheckWarning: the broker was set up for an older linestop and refuses the probe.
    """
    try:
        await probe_log(connection.wire, connection.credential)
    except PermissionDenied:
        raise CheckWarning(
            "was not probed: the broker does not permit it yet; give it the configuration of `linestop bus init`"
        ) from None
    except NotStored:
        if broker_disk_is_full(directory):
            raise NotStored(disk_full_message(directory)) from None
        raise
    free = f", with {format_bytes(free_bytes(directory))} free on its disk" if is_broker_directory(directory) else ""
    return f"stores messages{free}"


async def check_space(connection: Connection) -> str:
    """Return how full each stream is, the fullest first.

    Raises:
        LinestopError: a stream is so full that new work is refused, or soon something else.
        CheckWarning: a stream is more than three quarters full.
    """
    fills = sorted([await _fill(connection, spec.name) for spec in streams()], key=lambda fill: -fill.used)
    usage = ", ".join(f"{fill.stream} {fill.used:.0%}" for fill in fills)
    if fills[0].used >= SPACE_FOR_NEW_WORK:
        raise LinestopError(
            f"{usage}; see docs/operations.md for the effects of a full stream and for how to make room"
        )
    if fills[0].used >= SPACE_TO_WARN:
        raise CheckWarning(
            f"{usage}; make room before {fills[0].stream} reaches {SPACE_FOR_NEW_WORK:.0%} (docs/operations.md)"
        )
    return usage


async def _fill(connection: Connection, stream: str) -> Fill:
    reply = msgspec.convert(await connection.api_request(jetstream_api.stream_info(stream)), _StreamInfo)
    limit = reply.config.max_bytes
    return Fill(stream=stream, used=reply.state.bytes / limit if limit > 0 else 0.0)


async def check_replicas(connection: Connection) -> str:
    """Check that every copy of every stream has everything that its leader has.

    Raises:
        LinestopError: a copy is missing or behind, or there is no leader: the next fault may lose acknowledged events.
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
    """The configured number of copies of a stream, and the fault of each."""
    try:
        reply = await _info(connection, stream)
    except Unreachable:
        return 1, [f"{stream} does not answer"]
    copies_configured, cluster = reply.config.num_replicas, reply.cluster or _Cluster()
    faults = [f"{stream} has no leader"] if copies_configured > 1 and not cluster.leader else []
    if len(cluster.replicas) < copies_configured - 1:
        faults.append(f"{stream} has {len(cluster.replicas) + 1} of {copies_configured} copies")
    faults += [f"{stream} on {peer.name} {fault}" for peer in cluster.replicas if (fault := _peer_fault(peer))]
    return copies_configured, faults


async def _info(connection: Connection, stream: str) -> _StreamInfo:
    # A request during the election of a leader is never answered, so it is sent again.
    request = partial(connection.api_request, jetstream_api.stream_info(stream), timeout_s=REPLY_TIMEOUT_S)
    try:
        reply = await request()
    except Unreachable:
        reply = await request()
    return msgspec.convert(reply, _StreamInfo)


def _peer_fault(peer: _Peer) -> str:
    """The fault of a copy, compared with the leader's; empty if it has none."""
    silent_s = peer.active / 1e9
    # For some seconds after a node died the server reports its copy as current, and it calls no known node offline.
    if peer.offline or silent_s > SILENCE_MAX_S:
        return f"has not answered for {silent_s:.0f} s"
    if not peer.current or peer.lag > REPLICA_LAG_MAX:
        return f"is {peer.lag} operations behind" if peer.lag else "is not current"
    return ""
