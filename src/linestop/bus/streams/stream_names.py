"""The names of streams, buckets and durable consumers, shared by permissions, definitions and readers."""

from __future__ import annotations

from typing import Final

RUNS: Final = "RUNS"
FORKS: Final = "FORKS"
TASKS: Final = "TASKS"
CONTROL: Final = "CONTROL"
CLIENTS: Final = "CLIENTS"
"""Control messages from the credential ``client``, with a separate limit, so that no service can block people."""

OUTCOMES: Final = "OUTCOMES"
ALERTS: Final = "ALERTS"
TIMERS: Final = "TIMERS"
DEAD: Final = "DEAD"
BLOBS: Final = "BLOBS"
PROBES: Final = "PROBES"
"""The stream with which `health` and `doctor` check that the broker stores: one message of each credential."""

AGENTS_BUCKET: Final = "agents"
IDS_BUCKET: Final = "ids"
SHARED_BUCKET: Final = "shared"
SWITCHES_BUCKET: Final = "switches"
"""The closed kill switches: one key that only operators write, so that nothing else can take its space."""

WORKERS_BUCKET: Final = "workers"
BEATS_BUCKET: Final = "beats"
"""The heartbeat of every worker, every two seconds; one key for each role and name
(``bus.stores.worker_heartbeats``)."""

POSITIONS_BUCKET: Final = "positions"
"""The position of each named listener in OUTCOMES or ALERTS; one key for each credential, stream and name."""

SEALED_CONSUMER: Final = "sealed"
"""The ``sealed`` events of RUNS, from which recorders publish outcomes even if another recorder died."""

TASKS_CONSUMER: Final = "tasks"
TIMERS_CONSUMER: Final = "timers"

STOPS_CONSUMERS: Final = ((CONTROL, "control_stops"), (CLIENTS, "client_stops"))
"""The stops of people, roles and clients. Every process pulls them, so that any one of them appends the stop."""

REQUESTS_CONSUMERS: Final = ((CONTROL, "control_approver"), (CLIENTS, "client_requests"))
"""All other control messages: the approver's, as (stream, consumer)."""


def probe_subject(credential: str) -> str:
    """Build the subject of a credential's probes."""
    return f"probes.{credential}"


def bucket_stream(bucket: str) -> str:
    """Name the stream behind a key-value bucket."""
    return f"KV_{bucket}"


def bucket_key(bucket: str, key: str) -> str:
    """Build the subject of a key of a bucket; ``key`` may be a filter."""
    return f"$KV.{bucket}.{key}"


def inbox_prefix(credential: str) -> str:
    """Build the prefix of the inboxes that receive replies to a credential, and to no other."""
    return f"_INBOX.{credential}"


def reply_inbox(credential: str, token: str) -> str:
    """Build the inbox to name in ``Linestop-Reply``.

    It is inside the credential's own inbox, but apart from the replies of the broker: a role may send replies, but no
    false acknowledgements.
    """
    return f"{inbox_prefix(credential)}.answers.{token}"
