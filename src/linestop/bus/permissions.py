"""Who may say and hear what: one table, from which every credential's permissions are made.

A permission list alone does not keep a role from speaking for another: the server sends its replies (an
acknowledgement, a stored message that was asked for, a pulled one) to whatever reply subject a request
names, unchecked, and a stream stores what arrives on its subjects, from the server too. In one account a
planner could store a text of its own, ask for it with ``runs.….approver.granted.5`` as the reply subject,
and so have it stored as the approver's. Therefore every credential has an account of its own that imports
exactly what the table gives it. Replies come back into that account and reach nobody else's subjects. The
streams live in an account of their own, which nobody enters.

No right here needs ``allow_responses``: acknowledgements are granted by name, and a service that answers
does so to the inbox that a message names in ``Linestop-Reply``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from linestop.bus import jetstream_api, stream_names
from linestop.bus.stream_definitions import consumers, streams
from linestop.schemas import subjects
from linestop.schemas.kill_switches import KEY
from linestop.schemas.subjects import ACTORS, ROLES, RoleName, Verb

CredentialName = Literal[RoleName, "client", "watcher", "fork", "bootstrap"]
CREDENTIALS: Final[tuple[CredentialName, ...]] = (*ROLES, "client", "watcher", "fork", "bootstrap")

Action = Literal["publish", "subscribe"]
SELF: Final = "{self}"
CLIENT_VERBS: Final[tuple[Verb, ...]] = ("stop", "pause", "resume", "answer")


class Right(msgspec.Struct, frozen=True, kw_only=True):
    """One row: ``holders`` may ``act`` on ``subjects``. ``{self}`` is the holder's own name."""

    action: Action
    subjects: tuple[str, ...]
    holders: tuple[CredentialName, ...]
    why: str


class Grants(msgspec.Struct, frozen=True, kw_only=True):
    """All that one credential may do; everything else is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


class AccessOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Choices of whoever runs the bus.

    ``client_reads_runs``: a client may read and follow every run, of every tenant. Right where all clients
    are one trust domain, as on a laptop; off, a client sees outcomes and model tokens only.
    """

    client_reads_runs: bool = True


def _read_subjects(stream: str) -> tuple[str, ...]:
    """Reading by the message or by the batch, and how large the stream is; from any replica."""
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
_ROLE_CONSUMER = stream_names.role_consumer(SELF)


def _row(action: Action, granted: tuple[str, ...], *, holders: tuple[CredentialName, ...], why: str) -> Right:
    return Right(action=action, subjects=granted, holders=holders, why=why)


TABLE: Final[tuple[Right, ...]] = (
    # The run log.
    _row("publish", ("runs.*.*.{self}.>",), holders=ROLES, why="say what is its own to say, `stopped` included"),
    _row("publish", _read_subjects(stream_names.RUNS), holders=(*ROLES, "watcher", "fork"), why="fold runs"),
    _row(
        "publish",
        (jetstream_api.message_get(stream_names.OUTCOMES),),
        holders=ROLES,
        why="see whether a run is over that left RUNS",
    ),
    _row(
        "publish",
        (jetstream_api.stream_info(stream_names.OUTCOMES),),
        holders=ROLES,
        why="see whether runs have room to end",
    ),
    _row(
        "publish",
        (jetstream_api.stream_info("*"),),
        holders=("recorder",),
        why="see which stream is nearly full, and say so",
    ),
    _row("publish", (jetstream_api.message_get(stream_names.RUNS),), holders=ROLES, why="read a head from the leader"),
    _row("subscribe", ("live.runs.>",), holders=(*ROLES, "watcher"), why="follow runs as they are stored"),
    _row(
        "publish",
        _pull_subjects(stream_names.RUNS, _ROLE_CONSUMER),
        holders=ACTORS,
        why="be woken, in a process of its own",
    ),
    _row(
        "publish",
        _pull_subjects(stream_names.RUNS, stream_names.FEED),
        holders=("recorder",),
        why="archive every event",
    ),
    _row(
        "publish",
        _pull_subjects(stream_names.RUNS, stream_names.SEALED_CONSUMER),
        holders=("recorder",),
        why="publish outcomes",
    ),
    _row("publish", ("wake.>",), holders=ROLES, why="hint to a role to look at a run"),
    _row("subscribe", ("wake.{self}.>",), holders=ACTORS, why="be woken by a hint"),
    # In: tasks and control.
    _row(
        "publish",
        ("tasks.>",),
        holders=("operator", "client", "executor"),
        why="ask for a run; the executor for child runs",
    ),
    _row(
        "publish",
        _pull_subjects(stream_names.TASKS, stream_names.TASKS_CONSUMER),
        holders=("validator",),
        why="be the door for tasks",
    ),
    _row(
        "publish",
        tuple(subjects.control_filter(verb) for verb in subjects.VERBS),
        holders=("operator",),
        why="decide as a person: approve, deny, edit, resolve and all below",
    ),
    _row(
        "publish",
        tuple(subjects.control_filter(verb) for verb in CLIENT_VERBS),
        holders=("client",),
        why="stop, pause, resume and answer (stored under `clients.`, with a limit of its own)",
    ),
    _row("publish", ("control.*.*.stop",), holders=ACTORS, why="stop child runs"),
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
        why="see what people decide and clients ask",
    ),
    _row(
        "publish",
        (stream_names.reply_inbox("client", ">"), stream_names.reply_inbox("operator", ">")),
        holders=ACTORS,
        why="answer to the inbox in `Linestop-Reply`",
    ),
    # Out: outcomes, tokens, alerts, dead letters.
    _row("publish", ("outcomes.>",), holders=("recorder",), why="be the door out"),
    _row(
        "publish",
        _read_subjects(stream_names.OUTCOMES),
        holders=(*_OBSERVERS, "recorder", "executor"),
        why="read outcomes; the executor of child runs",
    ),
    _row("subscribe", ("live.outcomes.>",), holders=(*_OBSERVERS, "executor"), why="wait for outcomes"),
    _row("publish", ("deltas.>",), holders=("planner",), why="show tokens as they come"),
    _row("subscribe", ("deltas.>",), holders=_OBSERVERS, why="watch tokens as they come"),
    _row("publish", ("alerts.>",), holders=ACTORS, why="call a person"),
    _row("publish", _read_subjects(stream_names.ALERTS), holders=("operator", "watcher"), why="read past alerts"),
    _row("subscribe", ("live.alerts.>",), holders=("operator", "watcher"), why="be called"),
    _row("publish", ("dead.{self}.>",), holders=ACTORS, why="keep what it could not handle"),
    _row("publish", _read_subjects(stream_names.DEAD), holders=("operator",), why="look into dead letters"),
    _row(
        "publish",
        _pull_subjects(stream_names.ADVISORIES, stream_names.ADVISORIES_CONSUMER),
        holders=("recorder",),
        why="make dead letters of wakes that were given up",
    ),
    # Timers and blobs.
    _row("publish", ("timers.set.>",), holders=ACTORS, why="wait"),
    _row(
        "publish",
        _pull_subjects(stream_names.TIMERS, stream_names.TIMERS_CONSUMER),
        holders=ACTORS,
        why="turn fired timers into hints",
    ),
    _row("publish", ("blobs.>",), holders=(*ROLES, "fork"), why="store long texts, write-once"),
    _row("publish", _read_subjects(stream_names.BLOBS), holders=(*ROLES, "watcher", "fork"), why="read long texts"),
    # Key-value buckets. Nobody may create the consumer that a client library would watch with: its creator
    # chooses any subject to deliver to.
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
        why="give a key its run",
    ),
    _row(
        "publish",
        _bucket_read_subjects(stream_names.SHARED_BUCKET),
        holders=(*ROLES, "watcher"),
        why="read accounts",
    ),
    _row("publish", (_shared_key_filter("account"),), holders=("budget",), why="account for spending"),
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
            # Where an older linestop kept them.
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
        why="show that a worker of its own role lives",
    ),
    _row(
        "publish",
        _bucket_read_subjects(stream_names.BEATS_BUCKET),
        holders=(*ROLES, "client", "watcher", "bootstrap"),
        why="see which workers live, and when one does no more",
    ),
    _row(
        "publish",
        (
            *_bucket_read_subjects(stream_names.POSITIONS_BUCKET),
            stream_names.bucket_key(stream_names.POSITIONS_BUCKET, f"{SELF}.>"),
        ),
        holders=_OBSERVERS,
        why="keep how far its named listeners have come",
    ),
    # Forks, setting up, and looking after it all.
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
            *(jetstream_api.consumer_create(spec.stream, spec.name) for spec in consumers(dict.fromkeys(ACTORS, ()))),
        ),
        holders=("bootstrap",),
        # By name: in a stream or a consumer of its own making it could have the server deliver anywhere.
        why="create streams and consumers, and bring consumers up to date",
    ),
    _row(
        "publish",
        (jetstream_api.stream_info("*"), jetstream_api.consumer_info("*", "*")),
        holders=("bootstrap",),
        why="compare what is there with what must be",
    ),
    _row(
        "publish",
        (stream_names.probe_subject(SELF),),
        holders=CREDENTIALS,
        why="see whether the broker stores (`health`, `doctor`)",
    ),
    _row(
        "subscribe",
        (stream_names.reply_inbox(SELF, ">"),),
        holders=("operator", "client"),
        why="hear answers of roles",
    ),
    _row(
        "subscribe",
        (stream_names.inbox_prefix(SELF) + ".>",),
        holders=CREDENTIALS,
        why="hear the answers to its own requests",
    ),
)
"""The one table. Rows about `shared` name the first token of its keys (see ``layout``)."""

_CLIENT_READ_RIGHTS: Final[tuple[Right, ...]] = (
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
        why="verify an open run against what the leader has (`client_reads_runs`)",
    ),
    _row(
        "subscribe",
        ("live.runs.>",),
        holders=("client",),
        why="follow runs as they are stored (`client_reads_runs`)",
    ),
)

DEFAULT_ACCESS: Final = AccessOptions()


def rights(name: CredentialName, options: AccessOptions = DEFAULT_ACCESS) -> tuple[Right, ...]:
    """Return the rows of a credential, with its own name filled in."""
    table = (*TABLE, *_CLIENT_READ_RIGHTS) if options.client_reads_runs else TABLE
    return tuple(
        msgspec.structs.replace(row, subjects=tuple(s.replace(SELF, name) for s in row.subjects))
        for row in table
        if name in row.holders
    )


def grants(name: CredentialName, options: AccessOptions = DEFAULT_ACCESS) -> Grants:
    """Return all that a credential may publish and subscribe to."""
    own_rights = rights(name, options)
    publish = _without_duplicates(s for row in own_rights if row.action == "publish" for s in row.subjects)
    return Grants(
        # Every publish right becomes an import; two that overlap would deliver a message twice.
        publish=tuple(s for s in publish if not any(s != t and covers(t, s) for t in publish)),
        subscribe=_without_duplicates(s for row in own_rights if row.action == "subscribe" for s in row.subjects),
    )


def covers(pattern: str, subject: str) -> bool:
    """Whether everything that matches ``subject`` (itself a pattern perhaps) matches ``pattern``."""
    pattern_tokens, tokens = pattern.split("."), subject.split(".")
    if pattern_tokens[-1] == ">":
        pattern_tokens = pattern_tokens[:-1]
        if len(tokens) <= len(pattern_tokens):
            return False
        tokens = tokens[: len(pattern_tokens)]
    return len(pattern_tokens) == len(tokens) and all(
        w == t or (w == "*" and t != ">") for w, t in zip(pattern_tokens, tokens, strict=True)
    )


def _without_duplicates(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
