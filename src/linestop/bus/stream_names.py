"""The names of streams, buckets and durable consumers: what permissions, streams and readers agree on."""

from __future__ import annotations

from typing import Final

RUNS: Final = "RUNS"
FORKS: Final = "FORKS"
TASKS: Final = "TASKS"
CONTROL: Final = "CONTROL"
CLIENTS: Final = "CLIENTS"
"""Control messages from the credential ``client``: a limit of their own, so that no service can keep people out."""

OUTCOMES: Final = "OUTCOMES"
ALERTS: Final = "ALERTS"
TIMERS: Final = "TIMERS"
DEAD: Final = "DEAD"
BLOBS: Final = "BLOBS"
ADVISORIES: Final = "ADVISORIES"
PROBES: Final = "PROBES"
"""Where `health` and `doctor` see that the broker stores: one message of each credential, replaced by its next."""

AGENTS_BUCKET: Final = "agents"
IDS_BUCKET: Final = "ids"
SHARED_BUCKET: Final = "shared"
SWITCHES_BUCKET: Final = "switches"
"""The closed kill switches: one key that only operators write, so that nothing else can take its space."""

WORKERS_BUCKET: Final = "workers"
BEATS_BUCKET: Final = "beats"
"""What every worker says of itself every two seconds, a key a role and name: see ``bus.worker_heartbeats``."""

POSITIONS_BUCKET: Final = "positions"
"""How far each listener that has a name has come in OUTCOMES or ALERTS: a key a credential, stream and name."""

FEED: Final = "feed"
"""All of RUNS, for the recorder's archive and nobody else."""

SEALED_CONSUMER: Final = "sealed"
"""The seals of RUNS, for whoever publishes outcomes: an outcome must come although its recorder died."""

TASKS_CONSUMER: Final = "tasks"
TIMERS_CONSUMER: Final = "timers"
ADVISORIES_CONSUMER: Final = "advisories"


def role_consumer(role: str) -> str:
    """Name the durable on RUNS that wakes a role running in a process of its own."""
    return f"role_{role}"


STOPS_CONSUMERS: Final = ((CONTROL, "control_stops"), (CLIENTS, "client_stops"))
"""The stops of people, roles and clients. Every process pulls them, so that any one of them carries a stop out."""

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
    """Build the prefix of everything that is answered to a credential, and to no other."""
    return f"_INBOX.{credential}"


def reply_inbox(credential: str, token: str) -> str:
    """Build the inbox to name in ``Linestop-Reply``.

    It lies inside the credential's own inbox, apart from where its requests are answered: a role may send
    answers, but no false acknowledgements.
    """
    return f"{inbox_prefix(credential)}.answers.{token}"
