"""The defaults of what is around the runs: deliveries, streams and their space, the broker, the archive.

The rules are those of ``schemas/defaults.py``, which has the defaults of runs, processes, models and tools.
"""

from __future__ import annotations

import msgspec

from linestop.schemas.defaults import RUNS_DAYS_MAX

# --- messages: their delivery -------------------------------------------------------------------------------------

STOP_ACK_WAIT_S = 1.0
"""How soon another process gets a stop if the one that had it hangs."""

ACK_WAIT_S = 2.0
"""How soon another process gets a task, control message or timer if the one that had it was killed."""

DELIVERIES_IN_FLIGHT_MAX = 64
"""The messages of one queue that a process handles at once."""

DELIVERY_ATTEMPTS_MAX = 5
DELIVERY_RETRY_S = 1.0
"""How often a message is delivered, and the pause between, if handling it fails by a defect; then it is a dead letter.
A message that fails because the broker is away is delivered again without limit."""

OUTCOME_RETRY_S = 60.0
"""Seconds until an outcome that found no space is published again."""

TIMER_IN_PROCESS_MAX_S = 300.0
"""Nearer deadlines are timers in the process; later ones are durable timers of the broker."""

REPLY_WAIT_S = 10.0
"""How long a client waits for a role's reply to a task or a control message, which is stored in any case."""

STOP_WITHIN_S = 10.0
"""How long a stop is tried against a run that moves all the time."""

# --- streams: how long they store, and how full they may be -------------------------------------------------------


ARCHIVE_DAYS_MAX = 36_500


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The days for which sealed runs stay: ``runs_days`` in the log, ``archive_days`` in the archive's database.

    After that they are only in the archive, in Parquet files. ``archive_days`` 0 means without limit.
    """

    runs_days: int = RUNS_DAYS_MAX
    archive_days: int = 0

    def __post_init__(self) -> None:
        """Refuse impossible values; the decoder adds their place."""
        if not 1 <= self.runs_days <= RUNS_DAYS_MAX:
            raise ValueError(f"runs_days {self.runs_days} is not between 1 and {RUNS_DAYS_MAX}")
        if not 0 <= self.archive_days <= ARCHIVE_DAYS_MAX:
            raise ValueError(f"archive_days {self.archive_days} is not between 0 (no limit) and {ARCHIVE_DAYS_MAX}")


CONTROL_DAYS = 7
ALERT_DAYS = 30
DEAD_LETTER_DAYS = 90
"""The days for which control messages that no role takes, alerts and dead letters are stored."""

DEAD_LETTERS_PER_SUBJECT_MAX = 64
"""Dead letters of one run and role, or of all messages of a role that name no run."""

STREAMS_DISK_SHARE = 0.5
"""The share of the free space for the streams: the archive, workspaces and other files need the rest."""

SPACE_TO_WATCH = 0.5
"""Below this share the space is checked at intervals; above it, before each task is accepted."""

SPACE_TO_WARN = 0.75
"""An alert is published when a stream, or the disk of the state folder, is this full, and once more at
``SPACE_FOR_NEW_WORK``."""

SPACE_HYSTERESIS = 0.05
"""The alert is repeated only after this much below the mark had become free."""

SPACE_FOR_NEW_WORK = 0.9
"""Nothing is written to a run that does not exist yet when a stream it needs is this full: no task is accepted, and no
refusal or stop of an absent run takes the room that open runs need."""

SPACE_FOR_STARTS = 0.95
"""Open runs are stopped when a stream they need is this full; the rest is for their results, stops and seals."""

DISK_TO_WARN_BYTES = 512 * 1024 * 1024
"""With less than this free, a person should make room on the disk."""

DISK_FULL_BYTES = 4 * 1024 * 1024
"""With less than this free on its disk a broker may be unable to store anything at all."""

# --- the broker, and connections to it ----------------------------------------------------------------------------

BROKER_CONNECT_TIMEOUT_S = 5.0
BROKER_REQUEST_TIMEOUT_S = 5.0
"""How long to wait for a broker that does not answer: for the first connection, and for one request."""

BROKER_RETRY_FOR_S = 15.0
"""How long a request is repeated: longer than three servers need to elect a leader (4.5 s measured)."""

APPEND_TRIES_MAX = 10
"""How often an append is repeated while the broker has another one of the same run in progress."""

BROKER_CRASHES_MAX = 5
BROKER_CRASH_WINDOW_S = 60.0
"""A broker of linestop's own that ends by itself this often within this time is not started again."""

BROKER_LOG_BYTES_MAX = 10 * 1024 * 1024
"""The size at which the log file of linestop's own broker is rotated; one older file stays."""

# --- the archive --------------------------------------------------------------------------------------------------

ARCHIVE_BATCH_EVERY_S = 1.0
"""How often the log is read: a commit costs some 10 ms, whatever its size."""

ARCHIVE_RETRY_S = 5.0
"""The pause before the archive is written again after a failure, such as a full disk or a writer that ended."""

ARCHIVE_MOVE_EVERY_S = 3_600.0
"""How often runs that are old enough move from the database to Parquet files."""

ARCHIVE_REPLY_WAIT_S = 300.0
"""How long a command waits for the archive's writer, which may have to copy or export a large file."""
