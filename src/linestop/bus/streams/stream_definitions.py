"""Every stream, bucket and durable consumer of linestop, as data, exactly as the server gets it.

The definitions are raw JSON, because the client library's classes lack newer fields. Durations are nanoseconds, as
on the wire.

The reasons for the settings:

- RUNS, FORKS, OUTCOMES and BLOBS are write-once per subject, so that a role cannot overwrite its own old event. No
  credential can delete or purge in them, ``bootstrap`` included.
- A full RUNS refuses new messages (``discard: new``) instead of dropping the oldest, so that history is never lost.
- TIMERS contains schedules, which require purging and exclude ``discard: new``; so timers have their own stream.
- Durable consumers deliver without a limit: a task or a control message must not be dropped because a process was
  killed five times. A role is woken by republished events instead: they are only hints, and the sweep advances the
  runs whose hint was lost.
- CONTROL and CLIENTS store a message only until it is acknowledged (``interest``), so handled messages take no space.
  Messages that the credential ``client`` sends on ``control.`` are stored under ``clients.``, so that a service that
  floods its stream does not block people. In each stream, stops have a separate durable, which every process pulls;
  the other verbs go only to the approver. No two durables share a message, so none retains one that another handled.
- A full DEAD drops the oldest dead letters, and the number for each subject is bounded: a sender of malformed
  messages displaces only its own dead letters.
- PROBES only serves to check that the broker stores. A probe that a full disk refuses breaks its stream until the
  broker starts again, and must not break another one.
- The server republishes messages stored in RUNS, OUTCOMES and ALERTS under ``live.>``: following them needs no
  consumer, and no credential may create one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from linestop.bus.disk_space import MIB
from linestop.bus.streams import stream_names
from linestop.schemas import subjects
from linestop.schemas.broker_defaults import (
    ACK_WAIT_S,
    ALERT_DAYS,
    CONTROL_DAYS,
    DEAD_LETTER_DAYS,
    DEAD_LETTERS_PER_SUBJECT_MAX,
    STOP_ACK_WAIT_S,
)
from linestop.schemas.defaults import BLOB_PART_BYTES, CONTROL_BYTES_MAX, MESSAGE_BYTES_MAX, RUNS_DAYS_MAX
from linestop.schemas.json_values import JsonValue
from linestop.schemas.subjects import VERBS

SECOND_NS: Final = 1_000_000_000
DAY_NS: Final = 86_400 * SECOND_NS
HEADER_BYTES_MAX: Final = 8 * 1024
RUNS_RETENTION_NS: Final = RUNS_DAYS_MAX * DAY_NS

PROBE_BYTES: Final = 8 * 1024
"""More than the unused part of a file system's block: a full disk cannot store it."""

PROBES_BYTES: Final = 1024 * 1024

SWITCHES_BYTES: Final = 2 * MIB
"""Space for the longest list of closed kill switches, twice: a value is removed only after the next is stored."""

DUPLICATE_WINDOW_NS: Final = 120 * SECOND_NS
HEARTBEAT_BYTES_MAX: Final = 16 * 1024
HEARTBEATS_BYTES: Final = 8 * MIB
"""Space for heartbeats of workers: about 10,000 names."""

POSITIONS_BYTES: Final = 8 * MIB
"""Space for the positions of named listeners: about 30,000 names."""

POSITION_BYTES_MAX: Final = 1024

Config = Mapping[str, JsonValue]
"""A configuration as the server's JSON API expects it: an open format."""


FIXED_BYTES: Final = HEARTBEATS_BYTES + PROBES_BYTES + POSITIONS_BYTES + SWITCHES_BYTES
SMALL_STREAMS: Final = 12
"""Streams and buckets of the size ``StreamSizes.small``, and some in reserve."""


class StreamSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A stream and its required configuration."""

    name: str
    config: Config


class ConsumerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A durable pull consumer of a stream and its required configuration."""

    stream: str
    name: str
    config: Config


class StreamSizes(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on disk for each kind of stream; ``small`` for every other one. The space is reserved at creation."""

    runs: int = 2048 * MIB
    forks: int = 512 * MIB
    blobs: int = 1024 * MIB
    tasks: int = 256 * MIB
    outcomes: int = 256 * MIB
    ids: int = 64 * MIB
    small: int = 64 * MIB

    @property
    def total(self) -> int:
        """The bytes that a single server must be allowed to store, with some reserve for its own data."""
        kinds = self.runs + self.forks + self.blobs + self.tasks + self.outcomes + self.ids
        return kinds + SMALL_STREAMS * self.small + FIXED_BYTES


DEFAULT_SIZES: Final = StreamSizes()


def streams(sizes: StreamSizes = DEFAULT_SIZES, *, replicas: int = 1) -> tuple[StreamSpec, ...]:
    """Return all streams and buckets, for one server or for a cluster."""
    specs = (*_log_streams(sizes), *_queue_streams(sizes), *_buckets(sizes))
    return tuple(
        # Not compressed: a replica that is killed would lose messages of a compressed stream (nats-server 2.15.1).
        StreamSpec(
            name=spec.name,
            config={**spec.config, "name": spec.name, "num_replicas": replicas, "compression": "none"},
        )
        for spec in specs
    )


def consumers() -> tuple[ConsumerSpec, ...]:
    """Return all durable consumers."""
    # Messages of a killed process are delivered again soon: a task, a timer, and an outcome that a client waits for.
    sealed = _pull_consumer(
        stream_names.RUNS,
        stream_names.SEALED_CONSUMER,
        [subjects.event_filter("recorder", "sealed")],
        ack_wait_s=ACK_WAIT_S,
    )
    tasks = _pull_consumer(stream_names.TASKS, stream_names.TASKS_CONSUMER, ["tasks.>"], ack_wait_s=ACK_WAIT_S)
    timers = _pull_consumer(stream_names.TIMERS, stream_names.TIMERS_CONSUMER, ["timers.fire.>"], ack_wait_s=ACK_WAIT_S)
    return (sealed, tasks, timers, *_control_consumers())


def consumer_spec(name: str) -> ConsumerSpec:
    """Return the durable consumer of that name."""
    return next(spec for spec in consumers() if spec.name == name)


_WRITE_ONCE: Final[Config] = {
    "retention": "limits",
    "storage": "file",
    "discard": "new",
    "max_msgs_per_subject": 1,
    "discard_new_per_subject": True,
    "deny_delete": True,
    "deny_purge": True,
    "allow_rollup_hdrs": False,
    "allow_msg_ttl": False,
    "allow_msg_schedules": False,
    "allow_direct": True,
    "max_age": RUNS_RETENTION_NS,
    "duplicate_window": DUPLICATE_WINDOW_NS,
}


def _log_streams(sizes: StreamSizes) -> tuple[StreamSpec, ...]:
    message = MESSAGE_BYTES_MAX + HEADER_BYTES_MAX
    return (
        _stream_spec(
            stream_names.RUNS,
            ["runs.>"],
            **_WRITE_ONCE,
            max_bytes=sizes.runs,
            max_msg_size=message,
            republish={"src": "runs.>", "dest": "live.runs.>"},
        ),
        _stream_spec(
            stream_names.FORKS,
            ["forks.>"],
            **_WRITE_ONCE,
            max_bytes=sizes.forks,
            max_msg_size=message,
        ),
        _stream_spec(
            stream_names.OUTCOMES,
            ["outcomes.>"],
            **_WRITE_ONCE,
            max_bytes=sizes.outcomes,
            max_msg_size=message,
            republish={"src": "outcomes.>", "dest": "live.outcomes.>"},
        ),
        _stream_spec(
            stream_names.BLOBS,
            ["blobs.>"],
            **_WRITE_ONCE,
            max_bytes=sizes.blobs,
            max_msg_size=BLOB_PART_BYTES + HEADER_BYTES_MAX,
        ),
    )


def _queue_streams(sizes: StreamSizes) -> tuple[StreamSpec, ...]:
    common: Config = {"storage": "file", "duplicate_window": DUPLICATE_WINDOW_NS, "allow_direct": True}
    message = MESSAGE_BYTES_MAX + HEADER_BYTES_MAX
    small: Config = {**common, "max_bytes": sizes.small, "max_msg_size": message, "retention": "limits"}
    control: Config = {
        **small,
        "retention": "interest",
        "discard": "new",
        "max_age": CONTROL_DAYS * DAY_NS,
        "max_msg_size": CONTROL_BYTES_MAX + HEADER_BYTES_MAX,
    }
    return (
        _stream_spec(
            stream_names.TASKS,
            ["tasks.>"],
            **common,
            retention="workqueue",
            discard="new",
            max_age=0,
            max_bytes=sizes.tasks,
            max_msg_size=message,
        ),
        _stream_spec(stream_names.CONTROL, ["control.>"], **control),
        _stream_spec(stream_names.CLIENTS, ["clients.>"], **control),
        _stream_spec(
            stream_names.ALERTS,
            ["alerts.>"],
            **small,
            discard="old",
            max_age=ALERT_DAYS * DAY_NS,
            republish={"src": "alerts.>", "dest": "live.alerts.>"},
        ),
        _stream_spec(
            stream_names.DEAD,
            ["dead.>"],
            **small,
            discard="old",
            max_age=DEAD_LETTER_DAYS * DAY_NS,
            max_msgs_per_subject=DEAD_LETTERS_PER_SUBJECT_MAX,
        ),
        _stream_spec(
            stream_names.TIMERS,
            ["timers.set.>", "timers.fire.>"],
            **small,
            discard="old",
            max_age=0,
            allow_msg_schedules=True,
            allow_msg_ttl=True,
        ),
        _stream_spec(
            stream_names.PROBES,
            [stream_names.probe_subject("*")],
            **{**common, "max_bytes": PROBES_BYTES, "max_msg_size": PROBE_BYTES + HEADER_BYTES_MAX},
            retention="limits",
            discard="old",
            max_age=DAY_NS,
            max_msgs_per_subject=1,
        ),
    )


def _buckets(sizes: StreamSizes) -> tuple[StreamSpec, ...]:
    """Return the key-value buckets, laid out as every NATS client expects them."""
    return (
        _bucket_stream(stream_names.AGENTS_BUCKET, sizes, history=64),
        # A key is stored as long as the log of its run: without the log, the run is unknown (decision 019).
        _bucket_stream(stream_names.IDS_BUCKET, sizes, history=1, max_age=RUNS_RETENTION_NS, max_bytes=sizes.ids),
        _bucket_stream(stream_names.SHARED_BUCKET, sizes, history=1, allow_msg_ttl=True),
        # The next value replaces the stored one, so a switch can be closed as long as the disk has space.
        _bucket_stream(stream_names.SWITCHES_BUCKET, sizes, history=1, discard="old", max_bytes=SWITCHES_BYTES),
        # Every role writes there, and a credential that may write one key of a bucket may fill all of it.
        _bucket_stream(stream_names.WORKERS_BUCKET, sizes, history=1),
        # Not in memory: a restart of the server deletes such a stream, and no role may create it again.
        _bucket_stream(
            stream_names.BEATS_BUCKET,
            sizes,
            history=1,
            discard="old",
            max_bytes=HEARTBEATS_BYTES,
            max_age=DAY_NS,
            max_msg_size=HEARTBEAT_BYTES_MAX,
        ),
        # A position that has not moved for so long is before the oldest stored outcome.
        _bucket_stream(
            stream_names.POSITIONS_BUCKET,
            sizes,
            history=1,
            max_bytes=min(POSITIONS_BYTES, sizes.small),
            max_age=RUNS_RETENTION_NS,
            max_msg_size=POSITION_BYTES_MAX,
        ),
    )


def _bucket_stream(name: str, sizes: StreamSizes, *, history: int, **more: Any) -> StreamSpec:  # noqa: ANN401 - see Config
    config: Config = {
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": history,
        "max_bytes": sizes.small,
        "max_msg_size": MESSAGE_BYTES_MAX,
        "max_age": 0,
        "deny_delete": True,
        "deny_purge": True,
        # Roll-up is a header: a credential that may write one key could erase all keys, kill switches and accounts too.
        "allow_rollup_hdrs": False,
        "allow_msg_ttl": False,
        "allow_msg_schedules": False,
        "allow_direct": True,
        "duplicate_window": DUPLICATE_WINDOW_NS,
    }
    return _stream_spec(stream_names.bucket_stream(name), [stream_names.bucket_key(name, ">")], **{**config, **more})


def _control_consumers() -> Iterable[ConsumerSpec]:
    """Return the durables for stops, and those for all other control messages of people and clients."""
    stops = subjects.control_filter("stop")
    others = [subjects.control_filter(verb) for verb in VERBS if verb != "stop"]
    for filters, ack_wait_s, durables in (
        ([stops], STOP_ACK_WAIT_S, stream_names.STOPS_CONSUMERS),
        (others, ACK_WAIT_S, stream_names.REQUESTS_CONSUMERS),
    ):
        for stream, name in durables:
            stream_filters = (
                filters if stream == stream_names.CONTROL else [subjects.client_subject(each) for each in filters]
            )
            yield _pull_consumer(stream, name, stream_filters, ack_wait_s=ack_wait_s)


def _stream_spec(name: str, stream_subjects: list[str], **config: Any) -> StreamSpec:  # noqa: ANN401 - see Config
    return StreamSpec(name=name, config={"subjects": stream_subjects, **config})


def _pull_consumer(stream: str, name: str, filters: list[str], *, ack_wait_s: float) -> ConsumerSpec:
    config: Config = {
        "durable_name": name,
        "name": name,
        "filter_subjects": filters,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "replay_policy": "instant",
        "ack_wait": int(ack_wait_s * SECOND_NS),
        "max_deliver": -1,
        "max_ack_pending": 256,
    }
    return ConsumerSpec(stream=stream, name=name, config=config)
