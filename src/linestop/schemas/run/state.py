"""``Run``: the state of one run, from its log.

A ``Run`` is made only by feeding it the run's messages in order (``apply``). It has no clock, no configuration and no
guesses: two programs that saw the same messages hold the same ``Run``. ``fold`` has the rules by which an event changes
it; decisions only read it.
"""

from __future__ import annotations

import traceback
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import msgspec

from linestop.errors import InputError
from linestop.schemas.defaults import EVENTS_RESERVED, FOLD_FAILURES_MAX, Limits
from linestop.schemas.events import (
    NEVER,
    Accepted,
    Amended,
    Answered,
    AnyEvent,
    Compacted,
    Denied,
    EffectStarted,
    Held,
    ModelStarted,
    Opened,
    Paused,
    Proposed,
    Queued,
    Refused,
    Resolved,
    Sealed,
    SpendQuestion,
    Stopped,
    belongs_to_another_role,
    decode,
    decode_envelope,
    is_known,
)
from linestop.schemas.run import fold, hash_chain
from linestop.schemas.run.active_time import DECIDING_MAX_S, ActiveTime
from linestop.schemas.run.call_states import Attempt, CallState, ProposalState, Stage
from linestop.schemas.run.phases import Phase, is_legal
from linestop.schemas.run.prompt_size import PromptState
from linestop.schemas.subjects import RoleName, RunId, TenantId, parse_run_event
from linestop.schemas.text_size import Size

DEFAULT_LIMITS = Limits()
LATEST = datetime(9000, 1, 1, tzinfo=UTC)
"""An event with a later time is ignored: a date computed from it could leave the calendar and break a reader."""


class Entry(msgspec.Struct, frozen=True):
    """One message of the run as the fold saw it.

    ``n`` is 0 for a void message (not part of the chain). ``ignored`` says why an event of the chain, or a void
    message, changes nothing; it is empty for an event that counts.
    """

    seq: int
    subject: str
    role: str
    name: str
    n: int
    event: AnyEvent | None
    ignored: str = ""
    bytes: int = 0


class FoldFailure(msgspec.Struct, frozen=True):
    """The error at which the fold failed, and its place. The exception itself would keep all objects of its frames."""

    kind: str
    text: str
    where: str


class Run:
    """The fold of one run's messages. Read it freely; only ``apply`` changes it."""

    def __init__(self, tenant: TenantId, run: RunId) -> None:
        self.tenant = tenant
        self.run = run
        self.head_seq = 0
        self.head = hash_chain.genesis(tenant, run)
        self.n = 0
        self.at: datetime = NEVER
        self.entries: list[Entry] = []
        self.taken_subjects: set[str] = set()
        self.has_unknown_events = False
        self.fold_failures: list[FoldFailure] = []
        self.phase = Phase.NEW
        self.opened: Opened | None = None
        self.opened_at: datetime = NEVER
        self.refused: Refused | None = None
        self.stopped: Stopped | None = None
        self.stopped_role = ""
        self.paused: Paused | None = None
        self.accepted: Accepted | None = None
        self.sealed: Sealed | None = None
        self.sealed_n = 0
        self.amended: Amended | None = None
        self.turn = 0
        self.turn_attempts: list[Attempt] = []
        self.attempts: dict[int, list[Attempt]] = {}
        self.open_attempts: list[Attempt] = []
        self.proposals: list[ProposalState] = []
        self.calls: dict[str, CallState] = {}
        self.compactions: list[Compacted] = []
        self.holds: dict[str, Held] = {}
        self.holds_made = 0
        self.held_micros = 0
        self.settled_micros = 0
        self.queued: Queued | None = None
        self.spent_micros = 0
        self.reserved_micros = 0
        self.tokens = 0
        self.down_until: dict[tuple[str, str], datetime] = {}
        self.prompt = PromptState()
        self.warned: set[str] = set()
        self.rejections_in_a_row = self.returned_in_a_row = 0
        self.spend_asked: SpendQuestion | None = None
        self.spend_granted = False
        self.spend_denied: Denied | None = None
        self.stop_resolution: Resolved | None = None
        self.reported_events: dict[int, Answered] = {}
        self.context = Size()
        self.wait_s = 0.0
        self.waiting_since: datetime | None = None
        self.active = ActiveTime()
        self.late_results: list[int] = []

    # --- reading ---------------------------------------------------------------------------------------

    @property
    def context_bytes(self) -> int:
        """The most bytes of the next prompt."""
        return self.context.bytes

    @property
    def limits(self) -> Limits:
        """The run's limits, as fixed when it opened."""
        return self.opened.limits if self.opened else DEFAULT_LIMITS

    @property
    def proposal(self) -> ProposalState | None:
        """The model's last answer."""
        return self.proposals[-1] if self.proposals else None

    @property
    def model_attempt(self) -> Attempt | None:
        """The open model request, if any."""
        return self.turn_attempts[-1] if self.turn_attempts and self.turn_attempts[-1].open else None

    @property
    def available_micros(self) -> int:
        """The money that the run holds and has neither spent nor reserved."""
        return self.held_micros - self.spent_micros - self.reserved_micros

    @property
    def unsettled_micros(self) -> int:
        """Spent money that the accounts do not know yet; more than the run holds if a provider charged more."""
        return max(self.spent_micros - self.settled_micros, 0) if self.holds else 0

    @property
    def done(self) -> bool:
        """Whether no new work is allowed: stopped, refused, accepted or sealed."""
        return self.phase in {Phase.DRAINING, Phase.SETTLING, Phase.SEALED}

    @property
    def fold_failed_too_often(self) -> bool:
        """Whether the fold failed on its events so often that no role appends to it any more.

        After the run's end the fold may fail as often again, so that a valid stop leads to settlement and seal.
        """
        return len(self.fold_failures) > FOLD_FAILURES_MAX * (2 if self.done else 1)

    @property
    def events_left(self) -> int:
        """Events that new work may still use; the last ``EVENTS_RESERVED`` are for stop, results and seal."""
        return self.limits.events_max - EVENTS_RESERVED - self.n

    @property
    def is_full(self) -> bool:
        """Whether it has used all of its events: after them come only results, stop, settlement and seal."""
        return self.n >= self.limits.events_max

    @property
    def has_released_key(self) -> bool:
        """Whether the key of its task may be used by another run: refused, or over before its first start."""
        if self.opened is None:
            return self.refused is not None
        begun = (ModelStarted, EffectStarted, Proposed)
        return self.done and not any(isinstance(entry.event, begun) for entry in self.entries)

    @property
    def stopped_beforehand(self) -> bool:
        """Whether it was stopped before its task came, so that its log does not contain the task."""
        return self.opened is None and self.refused is None and self.stopped is not None

    def active_s(self, now: datetime, performing: Collection[int] = ()) -> float:
        """Return the seconds of the run's active time (``schemas.run.active_time``).

        ``performing`` are the starts that the asking process performs now: only it can count them before they end.
        """
        live = [a for a in self.open_attempts if a.n in performing and a.active]
        if not live:
            return self.active.total_s
        begin, end = min(a.started_at for a in live), max(min(now, a.done_by) for a in live)
        return self.active.with_span(self._since_opened_s(begin), self._since_opened_s(end))

    def _since_opened_s(self, moment: datetime) -> float:
        return (moment - self.opened_at).total_seconds()

    def stages(self) -> set[Stage]:
        """The stages of the calls of the present proposal."""
        return {call.stage for call in self.proposal.calls} if self.proposal else set()

    # --- folding ---------------------------------------------------------------------------------------

    def apply(self, subject: str, payload: bytes, seq: int) -> Entry:
        """Apply the run's next message; return its entry, which says whether it counts.

        Messages must come in stream order; one at or below ``head_seq`` is returned as a void entry and
        changes nothing, so feeding a message twice is harmless.
        """
        if seq <= self.head_seq:
            return Entry(seq, subject, "", "", 0, None, "it was folded before", len(payload))
        self.head_seq = seq
        try:
            parts = parse_run_event(subject)
        except InputError as error:
            entry = Entry(seq, subject, "", "", 0, None, str(error), len(payload))
            self.entries.append(entry)
            return entry
        reason = self._void_reason(parts.n, payload)
        if reason:
            entry = Entry(seq, subject, parts.role, parts.event, 0, None, reason, len(payload))
            self.entries.append(entry)
            if parts.n > self.n:
                # A subject is written once, so no event with that number can be appended any more.
                self.taken_subjects.add(subject)
            return entry
        self.n = parts.n
        self.head = hash_chain.link(subject, payload)
        event, reason = self._decode(parts.role, parts.event, payload)
        if event is not None and not reason:
            try:
                reason = self._apply_event(parts.role, parts.event, event)
            except Exception as error:  # noqa: BLE001 - whatever a rule fails on, the events after it must be readable
                reason = f"it cannot be folded: {type(error).__name__}: {error}"
                self.fold_failures.append(FoldFailure(type(error).__name__, str(error), _raised_at(error)))
        entry = Entry(seq, subject, parts.role, parts.event, self.n, event, reason, len(payload))
        self.entries.append(entry)
        return entry

    def apply_unstored(self, subject: str, payload: bytes) -> Entry:
        """Apply the run's next event before the log has acknowledged it; ``mark_stored`` must follow.

        If the event is not stored, this ``Run`` must be discarded: it contains an event that does not exist.
        """
        return self.apply(subject, payload, self.head_seq + 1)

    def mark_stored(self, seq: int) -> None:
        """Record that the event of ``apply_unstored`` is stored, at this sequence."""
        self.head_seq = seq
        self.entries[-1] = msgspec.structs.replace(self.entries[-1], seq=seq)

    def _void_reason(self, n: int, payload: bytes) -> str:
        """Return why this message is not the chain's next event; empty if it is."""
        if n != self.n + 1:
            return f"its number is {n}, the chain's next is {self.n + 1}"
        try:
            envelope = decode_envelope(payload)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return "it has no readable envelope (id, prev)"
        return "" if envelope.prev == self.head else "it does not name the hash of the event before"

    def _decode(self, role: RoleName, name: str, payload: bytes) -> tuple[AnyEvent | None, str]:
        if belongs_to_another_role(role, name):
            return None, f"'{name}' is not an event of the {role}"
        if not is_known(role, name):
            self.has_unknown_events = True
            return None, f"this version does not know '{role}.{name}'"
        try:
            return decode(role, name, payload), ""
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            return None, f"it cannot be decoded: {error}"

    def _apply_event(self, role: RoleName, name: str, event: AnyEvent) -> str:
        """Apply a decoded event of the chain; return why it is ignored, or nothing."""
        if event.at < self.at:
            return "its time is before that of the event it follows"
        if event.at >= LATEST:
            return f"its time is not before the year {LATEST.year}"
        if not is_legal(self.phase, role, name):
            return f"'{role}.{name}' is not legal while the run is {self.phase}"
        reason = fold.apply(self, role, self.n, event)
        if reason:
            return reason
        before, self.at = self.at, event.at
        if self.opened is not None and self.waiting_since is None and before >= self.opened_at:
            decided = min(event.at, before + timedelta(seconds=DECIDING_MAX_S))
            self.active.add(self._since_opened_s(before), self._since_opened_s(decided))
        self.phase = fold.phase_of(self)
        if self.waiting_since is not None:
            self.wait_s += (event.at - self.waiting_since).total_seconds()
        waits = self.phase is Phase.WAITING or fold.waits_for_model(self) or self.queued is not None
        self.waiting_since = event.at if waits else None
        return ""


def _raised_at(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__, limit=-1)[0]
    return f"{frame.filename}:{frame.lineno} in {frame.name}"


def fold_messages(tenant: TenantId, run: RunId, messages: list[tuple[str, bytes, int]]) -> Run:
    """Fold a whole log of (subject, payload, sequence)."""
    state = Run(tenant, run)
    for subject, payload, seq in messages:
        state.apply(subject, payload, seq)
    return state
