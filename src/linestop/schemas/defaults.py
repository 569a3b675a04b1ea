"""Every default that a user may want to change, or that several modules share: one group a subject.

The defaults of streams, the broker and the archive are in ``schemas/broker_defaults.py``.

A run's limits are resolved once, when it opens, and written into ``validator.opened``; from then on only
the log counts, so changing a default never changes a run that is under way.

Units are in the names: ``_s`` seconds, ``_micros`` micro-dollars, ``_bytes`` bytes. A figure that belongs to one
algorithm alone, such as the pause between two polls, stands in the module of that algorithm.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec

DEFAULT_TENANT: Final = "default"
"""The tenant where none is named."""

# --- a run: its limits and their largest values -------------------------------------------------------------------


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one run. An agent's file may set any of them; a task may only lower them.

    All are written, also those at their default: a later version with another default reads the same bounds.
    """

    turns_max: int = 15
    calls_max: int = 20
    calls_per_tool_max: int = 10
    equal_calls_max: int = 3
    rejections_max: int = 3
    returned_max: int = 3
    tokens_max: int = 50_000
    cost_max_micros: int = 500_000
    warn_percent: int = 75
    ask_from_micros: int = 250_000
    wall_s: int = 120
    run_max_s: int = 30 * 86_400
    input_chars_max: int = 20_000
    tool_timeout_s: float = 5.0
    tool_retries_max: int = 2
    model_deadline_s: float = 120.0
    model_retries_max: int = 3
    model_wait_max_s: float = 30.0
    model_output_tokens_max: int = 4_096
    approval_expires_s: int = 3_600
    result_bytes_max: int = 16 * 1024
    proposal_calls_max: int = 16
    compactions_max: int = 3
    events_max: int = 2_000


_DAY_S: Final = 86_400
RUN_DAYS_MAX = 30
"""The days within which a run ends, and so the longest wait of a call: its log is stored for longer."""

RUNS_DAYS_MAX = 90
"""The days for which RUNS stores the log of a run: longer than the longest run, so none loses its start."""

COUNT_MAX = 10**12
"""The largest value of a limit that nothing else bounds."""

LIMITS_MAX: dict[str, int] = {
    **dict.fromkeys(Limits.__struct_fields__, COUNT_MAX),
    "wall_s": RUN_DAYS_MAX * _DAY_S,
    "run_max_s": RUN_DAYS_MAX * _DAY_S,
    "approval_expires_s": RUNS_DAYS_MAX * _DAY_S,
    "tool_timeout_s": _DAY_S,
    "model_deadline_s": _DAY_S,
    "model_wait_max_s": RUN_DAYS_MAX * _DAY_S,
    "events_max": 2_000,
}
"""The largest value of each limit. A run ends within 30 days, since its log is stored for 90; no call lasts longer than
a day; ``budget.settled`` of 2,000 events still fits into a message, so that every run can be sealed."""


def excessive_limit(limits: Limits) -> str:
    """Return which of these limits is too large or negative, as a part of a sentence; empty if none is."""
    for name, value_max in LIMITS_MAX.items():
        value = getattr(limits, name)
        # Written so that NaN fails too.
        if not 0 <= value <= value_max:
            remedy = "lower it, or leave it out for the default"
            return f"limits.{name}: {value:g} is not between 0 and {value_max:,}; {remedy}"
    return ""


def clamp(limits: Limits) -> Limits:
    """Return ``limits`` with each value that is too large lowered to its maximum: no log may break its readers."""
    too_large = {name: value_max for name, value_max in LIMITS_MAX.items() if not getattr(limits, name) <= value_max}
    return msgspec.structs.replace(limits, **too_large) if too_large else limits


WINDOW_TOKENS = 128_000
"""The window of a model whose agent file names none. An event that names none was written with 128,000 for ever."""

WAIT_MAX_S = RUN_DAYS_MAX * _DAY_S
"""The longest wait for a date, an event or a person: as long as the longest run."""

LABELS_MAX = 32
LABEL_CHARS_MAX = 256
"""The most labels of a task, and the most characters of one."""

MATERIAL_BYTES_MAX = 128 * 1024
"""The most bytes of a task's material: with text and tools it fits into the event that opens a run."""

ARGUMENTS_BYTES_MAX = 8 * 1024 * 1024
"""The most bytes of the arguments of one call, and of all calls of one answer together."""

ARGUMENT_VALUES_MAX = 10_000
"""The most values (including keys of objects) in the arguments of one call."""

WIDENED_MAX = 5
"""The most times that people are asked about one call because its tool may do more than was agreed to."""

REPORTED_EVENTS_MAX = 16
"""The most reported events that a run stores before it waits for them: this many of clients, as many of others."""

# --- a run: retries and waits -------------------------------------------------------------------------------------

MODEL_RETRY_DELAYS_S = (1.0, 2.0, 4.0)
"""Waits before the second, third and fourth attempt of a model request; jitter of a quarter either way."""

RETRY_JITTER = 0.25
RETRY_AFTER_MAX_S = RUN_DAYS_MAX * float(_DAY_S)
"""The longest wait that a provider or a tool may ask for, as long as the longest run: a date beyond the calendar would
break the fold."""

NOT_BEGUN_DELAY_S = 0.5
NOT_BEGUN_DELAY_MAX_S = 30.0
"""Waits after an attempt that its busy worker did not begin: half a second, then twice as long each time."""

NOT_BEGUN_MAX = 50
"""Attempts of one model request or tool call that may fail to begin before the next ones count as tries."""

QUEUE_RETRY_MIN_S = 60.0
QUEUE_RETRY_MAX_S = 3_600.0
"""Waits of a run whose agent chose ``queue`` while no model answers: a minute before the first retry, then twice as
long each time, at most an hour, so that its events last for the 30 days that a run may take."""

FALLBACK_FIRST_S = 60.0
"""For how long after its failure a model is not tried first in a new turn, if a fallback has answered."""

# --- a run: compaction, and its end -------------------------------------------------------------------------------

COMPACT_AT_WINDOW: Final = 0.6
"""The share of the model's window at which the conversation is summarised."""

COMPACT_AT_TOKENS: Final = 0.8
"""The share of the run's tokens at which the conversation is summarised, so that the rest lasts longer."""

COMPACT_TOKENS_LEFT_FACTOR: Final = 2
"""A summary to save tokens must leave enough of them: it reads the whole conversation once."""

COMPACT_FACTOR_MIN: Final = 2
"""A compaction must be able to halve the context, or it is not worth its request."""

EVENTS_RESERVED = 50
"""The last events of a run, reserved for stop, results and seal: new work needs ``n < events_max - 50``."""

CLOSING_EVENTS = 10
"""How many of these a run's closing turn may use: its hold, its start."""

ANSWER_TOKENS_MIN = 256
"""A model request with room for fewer answer tokens than this is not worth its price; the run ends instead."""

CLOSING_ANSWER_TOKENS_MAX = 1_024
"""The length of the answer with which a run that has reached a limit sums up its results."""

CLOSING_ANSWER_TOKENS_MIN = 128
"""A closing turn with room for fewer answer tokens than this does not take place."""

# --- money --------------------------------------------------------------------------------------------------------


class AccountLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that all runs together may spend, in micro-dollars a period (UTC day or hour)."""

    user_day_micros: int = 5_000_000
    tenant_day_micros: int = 100_000_000
    system_hour_micros: int = 100_000_000


STARTS_PER_HOLD = 4
"""A hold covers about this many starts like the next one, so that a run seldom waits for budget."""

TOKEN_OVERHEAD = 1_024
"""Tokens a provider may add around a prompt (tool preamble, separators); part of every reservation."""

MONEY_RETRY_S = 30.0
"""How often a run that waits for money asks again, in case the hint that there is room was lost."""

ORPHANED_AFTER_S = 120.0
"""Age from which a hold that no event names counts as orphaned: by then the append of its ``held`` is over."""

RELEASE_HOLDS_EVERY_S = 60.0
"""How often a process with budget looks for orphaned holds."""

# --- a start: when its effect may begin, and when its outcome is due ----------------------------------------------

START_WITHIN_S = 5.0
"""``start_by`` of a start: how long after it was decided the effect may still begin."""

TOOL_GRACE_S = 2.0
MODEL_GRACE_S = 5.0
"""``done_by`` of a start: how long after the timeout of its tool, or of its model, the outcome may still come."""

EFFECT_AFTER_ACK_S = 0.1
"""On one server the acknowledgement of a start proves the head, if the effect begins this soon after."""

HEAD_CHECK_S = 5.0
"""How often a performer reads the head again while it performs."""

# --- clocks -------------------------------------------------------------------------------------------------------

CLOCK_SLACK_S = 60.0
"""How far a clock may jump between a decision and its append, so how far an event's deadline may exceed its limit."""

CLOCK_TO_WARN_S = 1.0
"""From this difference from the broker's time on, ``doctor`` and ``health`` warn: deadlines of a run are points in
time, and a clock that is this wrong shifts them noticeably."""

CLOCK_OFF_MAX_S = 30.0
"""The largest difference from the broker's time with which a process still decides."""

# --- a process: how much it works on ------------------------------------------------------------------------------

RUNS_PER_CORE = 64
STARTS_PER_CORE = 64
CORES_COUNTED_MAX = 4
"""The most runs and starts that a process works on at once for each core. A process uses one core for itself and others
for threads, child processes and the broker, so more than a few cores do not increase its capacity."""

PROCESS_TOOL_WEIGHT = 16
"""The number of places that a tool in its own process takes: starting one costs that much more."""


class WorkerLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that one process works on at once: runs that do not wait; model requests and tool calls. 0: by cores."""

    runs_max: int = 0
    starts_max: int = 0

    def resolved(self) -> WorkerLimits:
        """Return the limits with the defaults in place of 0."""
        cores = min(os.cpu_count() or 1, CORES_COUNTED_MAX)
        return WorkerLimits(
            runs_max=self.runs_max or cores * RUNS_PER_CORE, starts_max=self.starts_max or cores * STARTS_PER_CORE
        )


LAG_MAX_S = 0.25
"""The longest delay of a process's steps with which it still takes new tasks."""

CACHE_RUNS_MAX = 2_048
"""The folded runs that a process keeps in memory; those that it works on stay, however many they are."""

SHUTDOWN_DRAIN_S = 10.0
"""How long a process that ends waits for the calls and requests that it performs, before it cancels them."""

# --- a process: what it does again and again ----------------------------------------------------------------------

SWEEP_EVERY_S = 5.0
SWEEP_TRIES_MAX = 20

HEARTBEAT_EVERY_S = 2.0
HEARTBEATS_MISSED_MAX = 3
"""Heartbeats missed in a row after which a worker is presumed dead."""

REFRESH_FACTS_EVERY_S = 2.0
"""Seconds within which a closed kill switch takes effect in every process."""

SPACE_CHECK_EVERY_S = 30.0
"""How often a recorder checks how full the streams and its disk are."""

ROTATE_EVERY_S = 3_600.0
"""How often sealed runs that are old enough leave the log of linestop's own broker."""

# --- messages: their sizes ----------------------------------------------------------------------------------------

MESSAGE_BYTES_MAX = 256 * 1024
CONTROL_BYTES_MAX = 64 * 1024
"""The largest control message: an approval has 1 KB, edited arguments and reported events may be longer."""

INLINE_BYTES_MAX = 32 * 1024
"""A text longer than this is stored as a blob; the event names it by its digest."""

BLOB_BYTES_MAX = 32 * 1024 * 1024
BLOB_PART_BYTES = 192 * 1024

# --- models -------------------------------------------------------------------------------------------------------

MODEL_CONNECT_TIMEOUT_S = 10.0
"""How long a connection to a provider may take; the run's ``model_deadline_s`` bounds the whole request."""

SECRET_CHARS_MIN = 8
"""A known secret or key that is shorter is not removed from texts: it may be an ordinary word, or a placeholder for a
server that needs no key."""

# --- tools --------------------------------------------------------------------------------------------------------

TOOL_THREADS_MAX = 512
"""The most calls of thread tools at once, those included that were given up but have not returned."""

TOOL_OUTPUT_BYTES_MAX = 64 * 1024
"""The most bytes of the standard output of a tool in its own process that are shown."""

EGRESS_REQUESTS_MAX = 100
EGRESS_REDIRECTS_MAX = 5
EGRESS_RESPONSE_BYTES_MAX = 8 * 1024 * 1024
EGRESS_REQUEST_MAX_S = 60.0
"""The HTTP requests of one call, and of each the redirects, the decompressed bytes of the answer and the seconds."""

HTTP_GET_TIMEOUT_S = 20
"""The timeout of ``http.get``: pages are slower than most tools."""

HTTP_TEXT_CHARS_MAX = 200_000
"""The most characters of a page that ``http.get`` returns."""

WORKSPACE_BYTES_MAX = 64 * 1024 * 1024
WORKSPACE_FILE_BYTES_MAX = 8 * 1024 * 1024
WORKSPACE_ENTRIES_MAX = 1_000
WORKSPACE_PATH_CHARS_MAX = 1_024
"""The bytes, the files and folders in the workspace of one run; the bytes of one file, the characters of its path."""
