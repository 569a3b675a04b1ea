"""Updates the streams that an older linestop created.

No credential may change a stream, ``bootstrap`` included; only the broker's administrator may. The embedded server
adds such a user for the time of the update (``EmbeddedServer.administrator``). For an outside broker a sentence tells
its administrator what to do; until then everything works as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final

from linestop.bus import jetstream_api
from linestop.bus.connection import Connection
from linestop.bus.jetstream_api import ApiError
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import HEADER_BYTES_MAX, SECOND_NS, Config
from linestop.schemas.defaults import MESSAGE_BYTES_MAX
from linestop.schemas.json_values import JsonValue
from linestop.schemas.subjects import ACTORS

Administrator = Callable[[], AbstractAsyncContextManager[Connection]]
"""Opens a connection as a user who may change streams."""

_COMPRESSED: Final[Config] = {"compression": "s2"}
_OLDER: Final[Mapping[str, Config]] = {
    # A replica that is killed loses compressed messages for good (nats-server 2.15.1).
    stream_names.RUNS: _COMPRESSED,
    stream_names.FORKS: _COMPRESSED,
    stream_names.BLOBS: _COMPRESSED,
    stream_names.CONTROL: {"retention": "limits", "max_msg_size": MESSAGE_BYTES_MAX + HEADER_BYTES_MAX},
    stream_names.DEAD: {"discard": "new", "max_msgs_per_subject": -1},
    stream_names.bucket_stream(stream_names.IDS_BUCKET): {"discard_new_per_subject": True, "max_age": 0},
}
"""The settings of an older linestop's streams that differ from today's."""

_FLAGS: Final = {
    "compression": "--compression=none",
    "retention": "--retention=interest",
    "max_msg_size": "--max-msg-size={}",
    "discard": "--discard=old",
    "max_msgs_per_subject": "--max-msgs-per-subject={}",
    "discard_new_per_subject": "--no-discard-per-subject",
    "max_age": "--max-age={}s",
    "duplicate_window": "--dupe-window={}s",
}
_DURATIONS: Final = frozenset({"max_age", "duplicate_window"})
_STALE_CONSUMERS: Final = tuple(f"control_{role}" for role in ACTORS if role != "approver")
"""Durables on CONTROL that no process pulls any more: because of them every stop would stay stored."""


def is_older(stream: str, fields: list[str], existing: Mapping[str, JsonValue]) -> bool:
    """Whether ``fields``, which differ in the stream, all have the values of an older linestop."""
    older = _OLDER.get(stream, {})
    if stream == stream_names.RUNS and "max_age" in fields:
        # Or a rotation was interrupted: it shortens the retention of RUNS for some milliseconds.
        older = {**older, **{field: existing.get(field) for field in ("max_age", "duplicate_window")}}
    return bool(fields) and all(
        field in older and (existing.get(field) or None) == (older[field] or None) for field in fields
    )


def how_to_update(stream: str, fields: list[str], config: Config) -> str:
    """Tell the administrator of an outside broker what to do, in one sentence."""
    values = {field: config[field] // SECOND_NS if field in _DURATIONS else config[field] for field in fields}
    flags = " ".join(_FLAGS[field].format(values[field]) for field in fields)
    stale = (
        "".join(f" && nats consumer rm -f {stream} {name}" for name in _STALE_CONSUMERS)
        if stream == stream_names.CONTROL
        else ""
    )
    return (
        f"stream {stream} is as an older linestop made it ({', '.join(fields)}); the broker's administrator has to run "
        f"`nats stream edit {stream} -f {flags}{stale}` (docs/operations.md)."
    )


async def update(admin: Connection, config: Config, existing: Mapping[str, JsonValue]) -> None:
    """Update one stream; its size and its replicas stay as they are.

    Raises:
        ApiError: the server refuses; the stream is unchanged.
    """
    stream = config["name"]
    unchanged = {field: existing[field] for field in ("max_bytes", "num_replicas") if field in existing}
    await admin.api_request(
        jetstream_api.server_subject(jetstream_api.stream_update(stream)), {**existing, **config, **unchanged}
    )
    for name in _STALE_CONSUMERS if stream == stream_names.CONTROL else ():
        try:
            await admin.api_request(jetstream_api.server_subject(jetstream_api.consumer_delete(stream, name)))
        except ApiError as error:
            if error.err_code != jetstream_api.CONSUMER_NOT_FOUND:
                raise
