"""``RunState``: the state of one run, and the book-keeping of its attempts and its money.

``fold.Run`` is this state with the means to change it, by the rules in ``*_rules``. Rules and decisions that only read,
and everything else in this folder, take a ``RunState``.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import msgspec

from linestop.schemas.defaults import EVENTS_RESERVED, Limits
from linestop.schemas.events import (
    NEVER,
    Accepted,
    Amended,
    Answered,
    AnyEvent,
    Compacted,
    Denied,
    EffectStarted,
    Finished,
    Held,
    ModelFailedEvent,
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
    ToolGrant,
)
from linestop.schemas.run import hash_chain
from linestop.schemas.run.active_time import ActiveTime
from linestop.schemas.run.call_states import Attempt, CallState, ProposalState, Stage
from linestop.schemas.run.judged_calls import JudgedCalls
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.prompt_state import PromptState
from linestop.schemas.subjects import RunId, TenantId
from linestop.schemas.text.text_size import Size

DEFAULT_LIMITS = Limits()
DAY_S = 86_400
FOLD_FAILURES_MAX = 3
"""No more is appended to a run with more events on which the fold fails: if it fails on the stop too, it has no end."""

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


class RunState:
    """What is known of a run. Read it freely; only the fold changes it."""

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
        self.ended_attempts: dict[int, list[Attempt]] = {}
        self.proposals: list[ProposalState] = []
        self.calls: dict[str, CallState] = {}
        self.judged_calls = JudgedCalls()
        self.compactions: list[Compacted] = []
        self.holds: dict[str, Held] = {}
        self.holds_made = 0
        self.held_micros = self.settled_micros = 0
        self.queued: Queued | None = None
        self.spent_micros = self.reserved_micros = 0
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
        self.wait_s: float = 0.0
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

    # --- attempts and money ------------------------------------------------------------------------------

    def grant_of(self, tool: str) -> ToolGrant | None:
        """Return the run's grant of that tool, or None."""
        if self.opened is None:
            return None
        return next((grant for grant in self.opened.tools if grant.name == tool), None)

    def fits(self, cost_max_micros: int) -> bool:
        """Whether a start of this cost fits into the run's hold (a takeover frees nothing: it is charged)."""
        return 0 <= cost_max_micros <= self.available_micros

    def open_attempt(self, attempt: Attempt) -> None:
        """Record a start: from here its reservation counts."""
        self.attempts.setdefault(attempt.n, []).append(attempt)
        self.open_attempts.append(attempt)
        self.reserved_micros += attempt.cost_max_micros

    def close_attempt(self, attempt: Attempt, n: int, *, outcome: str, cost_micros: int, reported: bool) -> None:
        """Record an attempt's outcome; its real cost replaces the reservation, also long after it was superseded."""
        if attempt.open:
            self.open_attempts.remove(attempt)
            self.reserved_micros -= attempt.cost_max_micros
        else:
            self.spent_micros -= attempt.charged_micros
        self.ended_attempts.setdefault(n, []).append(attempt)
        attempt.closed_n = n
        attempt.outcome = outcome
        attempt.charged_micros = max(cost_micros, 0)
        attempt.source = "reported" if reported else "reserved"
        self.spent_micros += attempt.charged_micros
        if self.sealed:
            self.late_results.append(n)

    def supersede(self, attempt: Attempt, n: int) -> None:
        """Take over from an attempt past its deadline: it is charged at its reservation until its result comes."""
        self.open_attempts.remove(attempt)
        self.reserved_micros -= attempt.cost_max_micros
        self.spent_micros += attempt.cost_max_micros
        attempt.charged_micros = attempt.cost_max_micros
        self.ended_attempts.setdefault(n, []).append(attempt)
        attempt.superseded_n = n
        if attempt.charges_tokens:
            attempt.tokens = attempt.input_tokens_max + attempt.output_tokens_max
            self.tokens += attempt.tokens

    def count_start(self, attempt: Attempt, event: Proposed | ModelFailedEvent | Compacted | Finished) -> None:
        """Count the time of a start whose result is in the log."""
        if not attempt.active or attempt.closed_n or not 0 < event.duration_s <= DAY_S:
            return
        end = min(event.at, attempt.done_by, attempt.started_at + timedelta(seconds=event.duration_s))
        self.active.add(self._since_opened_s(attempt.started_at), self._since_opened_s(end))
