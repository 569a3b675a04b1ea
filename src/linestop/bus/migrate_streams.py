"""Streams as an older linestop made them, and how they are brought up to date.

No credential may change a stream, ``bootstrap`` included: it takes the broker's administrator. The embedded server
makes itself one for as long as that takes (``EmbeddedServer.administrator``). For an outside broker the sentence says
what its administrator has to do; meanwhile everything works as it did before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from linestop.bus import jetstream_api, stream_names
from linestop.bus.connection import Connection
from linestop.bus.jetstream_api import ApiError
from linestop.bus.stream_definitions import HEADER_BYTES_MAX, SECOND_NS, Config
from linestop.schemas.defaults import MESSAGE_BYTES_MAX
from linestop.schemas.subjects import ACTORS

Administrator = Callable[[], AbstractAsyncContextManager[Connection]]
"""Connects as a user who may change streams."""

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
"""The settings that an older linestop gave its streams, where they were others."""

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
"""Durables on CONTROL that nobody pulls any more: they would keep every stop."""


def is_older(stream: str, fields: list[str], existing: Mapping[str, Any]) -> bool:
    """Whether an older linestop made the stream so: ``fields`` are those that differ, each as it was then."""
    older = _OLDER.get(stream, {})
    if stream == stream_names.RUNS and "max_age" in fields:
        # Or a rotation was interrupted: it lets RUNS keep less for some milliseconds (``rotation``).
        older = {**older, **{field: existing.get(field) for field in ("max_age", "duplicate_window")}}
    return bool(fields) and all(
        field in older and (existing.get(field) or None) == (older[field] or None) for field in fields
    )


def how_to_update(stream: str, fields: list[str], config: Config) -> str:
    """Say what the administrator of an outside broker has to do, in one sentence."""
    values = {field: config[field] // SECOND_NS if field in _DURATIONS else config[field] for field in fields}
    flags = " ".join(_FLAGS[field].format(values[field]) for field in fields)
    stale = (
        "".join(f" && nats consumer rm -f {stream} {name}" for name in _STALE_CONSUMERS)
        if stream == stream_names.CONTROL
        else ""
    )
    return (
        f"stream {stream} is as an older linestop made it ({', '.join(fields)}); it takes the broker's administrator: "
        f"`nats stream edit {stream} -f {flags}{stale}` (docs/operations.md)."
    )


async def update(admin: Connection, config: Config, existing: Mapping[str, Any]) -> None:
    """Bring one stream up to date; its size and its copies stay as they are.

    Raises:
        ApiError: the server refuses; the stream is as it was.
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
