"""The table of rights: which credential may publish and subscribe to which subjects.

``permissions`` makes every credential's list from these rows, ``docs/permissions.md`` shows them.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from linestop.bus import jetstream_api
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import consumers, streams
from linestop.schemas import subjects
from linestop.schemas.kill_switches import KEY
from linestop.schemas.subjects import ACTORS, ROLES, RoleName, Verb

CredentialName = Literal[RoleName, "client", "watcher", "fork", "bootstrap"]
CREDENTIALS: Final[tuple[CredentialName, ...]] = (*ROLES, "client", "watcher", "fork", "bootstrap")

Action = Literal["publish", "subscribe"]
SELF: Final = "{self}"
CLIENT_VERBS: Final[tuple[Verb, ...]] = ("stop", "pause", "resume", "answer")


class Right(msgspec.Struct, frozen=True, kw_only=True):
    """One row: ``holders`` may do ``action`` on ``subjects``. ``{self}`` stands for the holder's own name."""

    action: Action
    subjects: tuple[str, ...]
    holders: tuple[CredentialName, ...]
    why: str


def _read_subjects(stream: str) -> tuple[str, ...]:
    """Return the subjects for reading single messages, batches and the size of a stream, from any replica."""
    return (
        jetstream_api.direct_get(stream),
        jetstream_api.direct_get_last(stream, ">"),
        jetstream_api.stream_info(stream),
    )


def _pull_subjects(stream: str, consumer: str) -> tuple[str, ...]:
    return (
        jetstream_api.consumer_next(stream, consumer),
        jetstream_api.consumer_ack(stream, consumer),
        jetstream_api.consumer_info(stream, consumer),
    )


def _bucket_read_subjects(bucket: str) -> tuple[str, ...]:
    return *_read_subjects(stream_names.bucket_stream(bucket)), jetstream_api.message_get(
        stream_names.bucket_stream(bucket)
    )


def _shared_key_filter(kind: str) -> str:
    return stream_names.bucket_key(stream_names.SHARED_BUCKET, f"{kind}.>")


_SWITCHES: Final = stream_names.bucket_key(stream_names.SWITCHES_BUCKET, KEY)
_OBSERVERS: Final[tuple[CredentialName, ...]] = ("operator", "client", "watcher")


def _row(action: Action, granted: tuple[str, ...], *, holders: tuple[CredentialName, ...], why: str) -> Right:
    return Right(action=action, subjects=granted, holders=holders, why=why)


TABLE: Final[tuple[Right, ...]] = (
    # The run log.
    _row("publish", ("runs.*.*.{self}.>",), holders=ROLES, why="append its own events, `stopped` included"),
    _row("publish", _read_subjects(stream_names.RUNS), holders=(*ROLES, "watcher", "fork"), why="fold runs"),
    _row(
        "publish",
        (jetstream_api.message_get(stream_names.OUTCOMES),),
        holders=ROLES,
        why="see whether a run that was removed from RUNS has ended",
    ),
    _row(
        "publish",
        (jetstream_api.stream_info(stream_names.OUTCOMES),),
        holders=ROLES,
        why="see whether the stream has space for the outcomes of open runs",
    ),
    _row(
        "publish",
        (jetstream_api.stream_info("*"),),
        holders=("recorder",),
        why="see which stream is nearly full, to raise an alert",
    ),
    _row("publish", (jetstream_api.message_get(stream_names.RUNS),), holders=ROLES, why="read a head from the leader"),
    _row(
        "subscribe",
        ("live.runs.>",),
        holders=(*ROLES, "watcher"),
        why="follow runs as they are stored; a role in a process of its own is woken by them",
    ),
    _row(
        "publish",
        _pull_subjects(stream_names.RUNS, stream_names.SEALED_CONSUMER),
        holders=("recorder",),
        why="publish outcomes",
    ),
    _row("publish", ("wake.>",), holders=ROLES, why="hint to a role that a run may need it"),
    _row("subscribe", ("wake.{self}.>",), holders=ACTORS, why="receive hints"),
    # In: tasks and control.
    _row(
        "publish",
        ("tasks.>",),
        holders=("operator", "client"),
        why="submit a task",
    ),
    _row(
        "publish",
        _pull_subjects(stream_names.TASKS, stream_names.TASKS_CONSUMER),
        holders=("validator",),
        why="take in tasks",
    ),
    _row(
        "publish",
        tuple(subjects.control_filter(verb) for verb in subjects.VERBS),
        holders=("operator",),
        why="send a person's control messages: approve, deny, edit, resolve, and those a client may send",
    ),
    _row(
        "publish",
        tuple(subjects.control_filter(verb) for verb in CLIENT_VERBS),
        holders=("client",),
        why="stop, pause, resume and answer (stored under `clients.`, with a separate limit)",
    ),
    _row("publish", ("control.*.*.stop",), holders=ACTORS, why="stop a run"),
    _row(
        "publish",
        tuple(subject for durable in stream_names.STOPS_CONSUMERS for subject in _pull_subjects(*durable)),
        holders=ACTORS,
        why="carry out stops",
    ),
    _row(
        "publish",
        tuple(subject for durable in stream_names.REQUESTS_CONSUMERS for subject in _pull_subjects(*durable)),
        holders=("approver",),
        why="receive the decisions of people and the requests of clients",
    ),
    _row(
        "publish",
        (stream_names.reply_inbox("client", ">"), stream_names.reply_inbox("operator", ">")),
        holders=ACTORS,
        why="reply to the inbox in `Linestop-Reply`",
    ),
    # Out: outcomes, tokens, alerts, dead letters.
    _row("publish", ("outcomes.>",), holders=("recorder",), why="publish outcomes"),
    _row(
        "publish",
        _read_subjects(stream_names.OUTCOMES),
        holders=(*_OBSERVERS, "recorder"),
        why="read outcomes",
    ),
    _row("subscribe", ("live.outcomes.>",), holders=_OBSERVERS, why="wait for outcomes"),
    _row("publish", ("deltas.>",), holders=("planner",), why="publish the model's tokens as they arrive"),
    _row("subscribe", ("deltas.>",), holders=_OBSERVERS, why="receive the model's tokens as they arrive"),
    _row("publish", ("alerts.>",), holders=ACTORS, why="alert a person"),
    _row("publish", _read_subjects(stream_names.ALERTS), holders=("operator", "watcher"), why="read past alerts"),
    _row("subscribe", ("live.alerts.>",), holders=("operator", "watcher"), why="receive alerts"),
    _row("publish", ("dead.{self}.>",), holders=ACTORS, why="store the messages that it could not handle"),
    _row("publish", _read_subjects(stream_names.DEAD), holders=("operator",), why="read dead letters"),
    # Timers and blobs.
    _row("publish", ("timers.set.>",), holders=ACTORS, why="set timers"),
    _row(
        "publish",
        _pull_subjects(stream_names.TIMERS, stream_names.TIMERS_CONSUMER),
        holders=ACTORS,
        why="turn fired timers into hints",
    ),
    _row("publish", ("blobs.>",), holders=(*ROLES, "fork"), why="store long texts, write-once"),
    _row("publish", _read_subjects(stream_names.BLOBS), holders=(*ROLES, "watcher", "fork"), why="read long texts"),
    # Key-value buckets. No credential may create the consumer with which a client library watches a bucket:
    # the creator of a consumer chooses the subject it delivers to.
    _row(
        "publish",
        _bucket_read_subjects(stream_names.AGENTS_BUCKET),
        holders=(*ROLES, "client", "watcher", "fork"),
        why="read agents",
    ),
    _row(
        "publish",
        (stream_names.bucket_key(stream_names.AGENTS_BUCKET, ">"),),
        holders=("operator",),
        why="deploy and roll back agents",
    ),
    _row(
        "publish",
        _bucket_read_subjects(stream_names.IDS_BUCKET),
        holders=("validator", "operator"),
        why="find the run of a key",
    ),
    _row(
        "publish",
        (stream_names.bucket_key(stream_names.IDS_BUCKET, ">"),),
        holders=("validator",),
        why="store the run of a key",
    ),
    _row(
        "publish",
        _bucket_read_subjects(stream_names.SHARED_BUCKET),
        holders=(*ROLES, "watcher"),
        why="read accounts",
    ),
    _row("publish", (_shared_key_filter("account"),), holders=("budget",), why="keep the accounts of spending"),
    _row(
        "publish",
        _bucket_read_subjects(stream_names.SWITCHES_BUCKET),
        holders=(*ROLES, "watcher"),
        why="read kill switches",
    ),
    _row("publish", (_SWITCHES,), holders=("operator",), why="open and close kill switches"),
    _row(
        "publish",
        (
            jetstream_api.direct_get_last(stream_names.bucket_stream(stream_names.SWITCHES_BUCKET), _SWITCHES),
            # Where an older linestop stored them.
            jetstream_api.direct_get_last(
                stream_names.bucket_stream(stream_names.SHARED_BUCKET), _shared_key_filter("door")
            ),
        ),
        holders=("client",),
        why="see which kill switches are closed",
    ),
    _row(
        "publish",
        (
            *_bucket_read_subjects(stream_names.WORKERS_BUCKET),
            stream_names.bucket_key(stream_names.WORKERS_BUCKET, ">"),
        ),
        holders=ACTORS,
        why="number the holders of a worker's name",
    ),
    _row(
        "publish",
        (stream_names.bucket_key(stream_names.BEATS_BUCKET, f"{SELF}.>"),),
        holders=ACTORS,
        why="store the heartbeats of its own role's workers",
    ),
    _row(
        "publish",
        _bucket_read_subjects(stream_names.BEATS_BUCKET),
        holders=(*ROLES, "client", "watcher", "bootstrap"),
        why="see which workers are alive, and when one dies",
    ),
    _row(
        "publish",
        (
            *_bucket_read_subjects(stream_names.POSITIONS_BUCKET),
            stream_names.bucket_key(stream_names.POSITIONS_BUCKET, f"{SELF}.>"),
        ),
        holders=_OBSERVERS,
        why="store the positions of its named listeners",
    ),
    # Forks, set-up and health.
    _row(
        "publish",
        ("forks.>", *_read_subjects(stream_names.FORKS), jetstream_api.message_get(stream_names.FORKS)),
        holders=("fork",),
        why="write and fold forks, where no live credential has any right",
    ),
    _row(
        "publish",
        (
            f"{jetstream_api.PREFIX}.INFO",
            f"{jetstream_api.PREFIX}.STREAM.NAMES",
            f"{jetstream_api.PREFIX}.STREAM.LIST",
            jetstream_api.stream_info("*"),
            f"{jetstream_api.PREFIX}.CONSUMER.LIST.*",
            jetstream_api.consumer_info("*", "*"),
        ),
        holders=("operator",),
        why="see the health of the bus",
    ),
    _row(
        "publish",
        (
            *(jetstream_api.stream_create(spec.name) for spec in streams()),
            *(jetstream_api.consumer_create(spec.stream, spec.name) for spec in consumers()),
        ),
        holders=("bootstrap",),
        # By name: through a stream or consumer of its own choice it could have the server deliver to any subject.
        why="create streams and consumers, and bring consumers up to date",
    ),
    _row(
        "publish",
        (jetstream_api.stream_info("*"), jetstream_api.consumer_info("*", "*")),
        holders=("bootstrap",),
        why="compare the existing streams and consumers with their definitions",
    ),
    _row(
        "publish",
        (stream_names.probe_subject(SELF),),
        holders=CREDENTIALS,
        why="see whether the broker can store messages (`health`, `doctor`)",
    ),
    _row(
        "subscribe",
        (stream_names.reply_inbox(SELF, ">"),),
        holders=("operator", "client"),
        why="receive the replies of roles",
    ),
    _row(
        "subscribe",
        (stream_names.inbox_prefix(SELF) + ".>",),
        holders=CREDENTIALS,
        why="receive the replies to its own requests",
    ),
)
"""Every right but the optional ones. Rows about `shared` name the first token of its keys (see ``stream_names``)."""

CLIENT_READ_RIGHTS: Final[tuple[Right, ...]] = (
    _row(
        "publish",
        (*_read_subjects(stream_names.RUNS), *_read_subjects(stream_names.BLOBS)),
        holders=("client",),
        why="follow runs from any point (`client_reads_runs`)",
    ),
    _row(
        "publish",
        (jetstream_api.message_get(stream_names.RUNS),),
        holders=("client",),
        why="verify an open run against the leader's copy (`client_reads_runs`)",
    ),
    _row(
        "subscribe",
        ("live.runs.>",),
        holders=("client",),
        why="follow runs as they are stored (`client_reads_runs`)",
    ),
)
