"""The state of one call and of one attempt inside a run; only the fold changes it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import takewhile
from typing import Final, Literal

from linestop.schemas.defaults import NOT_BEGUN_MAX
from linestop.schemas.events import (
    AskedCall,
    BlobRef,
    Edited,
    Finished,
    JudgedCall,
    ModelFailedEvent,
    Proposed,
    Question,
    Returned,
    Text,
    ToolGrant,
)
from linestop.schemas.model_messages import Usage
from linestop.schemas.run.call_outcome import CallOutcome, omit_text
from linestop.schemas.text.text_size import NO_SIZE, Size
from linestop.schemas.tool_contracts import ToolError

ELIDED_BYTES = 512
"""The size of a blob in a prompt: it is named there (digest, size), never inlined."""

ITEM_BYTES = 96
"""The most bytes of framing that a prompt adds to a message, as tokens; part of every size bound."""

DROPPED_BYTES = 256
"""The size in a prompt of a result that was left out: the note that stands in its place."""

INCARNATION_DIGITS_MAX = 18
MODEL_DOWN_KINDS = frozenset({"availability", "rate_limit"})
"""Failures of a model that may not happen with another model, or later."""


ITEM: Final = Size(ITEM_BYTES, 48)
"""The framing of a message or call: its role, and an id of 29 characters, each of which may be a token."""

DROPPED: Final = Size(DROPPED_BYTES, 112)
"""The note in the place of a result that was left out."""


def text_size(text: Text) -> Size:
    """Return the size of ``text`` in a prompt."""
    return Size.framing(ELIDED_BYTES) if isinstance(text, BlobRef) else Size.of(text)


class Stage(StrEnum):
    """The stage of one call."""

    PENDING = "pending"  # proposed, or edited: the validator's turn
    GATE = "gate"  # judged, and needs the approver: the approver's turn
    ASKED = "asked"  # a person's turn
    WAITING = "waiting"  # passed, and waits for its date (wait.until)
    READY = "ready"  # may start, from ready_at on
    OPEN = "open"  # an attempt is under way
    UNKNOWN_OUTCOME = "doubt"  # whether it took effect is unknown
    CHECK = "check"  # finished: the validator checks the result
    ENDED = "answered"  # over: the model has its outcome


@dataclass(slots=True, eq=False)
class Attempt:
    """One start and its outcome. ``charged_micros`` counts as spent once the attempt is no longer open.

    ``active``: whether its time counts as active; retries of a model that the run queues for do not.
    """

    n: int
    attempt: int
    purpose: Literal["turn", "compact", "close", "effect", "probe"]
    worker: str
    started_at: datetime
    start_by: datetime
    done_by: datetime
    cost_max_micros: int = 0
    model: str = ""
    base_url: str = ""
    turn: int = 0
    call: str = ""
    closed_n: int = 0
    superseded_n: int = 0
    outcome: str = ""
    ended: bool = False
    active: bool = True
    charged_micros: int = 0
    source: Literal["reported", "reserved"] = "reserved"
    usage: Usage | None = None
    failure: ModelFailedEvent | None = None
    error: ToolError | None = None
    begun: bool = True
    input_tokens_max: int = 0
    output_tokens_max: int = 0
    charges_tokens: bool = False
    tokens: int = 0

    @property
    def open(self) -> bool:
        """Whether its outcome is still unknown and no other attempt has taken over."""
        return not self.closed_n and not self.superseded_n

    @property
    def down(self) -> bool:
        """Whether it ended because its model was unavailable, whatever the request was."""
        return self.failure is not None and self.failure.kind in MODEL_DOWN_KINDS

    def expired(self, now: datetime, worker: str = "", dead: Collection[str] = ()) -> bool:
        """Whether another worker may end or repeat it: ``done_by`` has passed, or its worker is dead or has restarted.

        ``worker`` is the asking worker, ``<name>#<incarnation>``; one process at a time holds a name. ``dead`` are
        workers that are known to be dead, never the asking one.
        """
        if now >= self.done_by or (self.worker in dead and self.worker != worker):
            return True
        name, own_name = self.worker.rpartition("#")[0], worker.rpartition("#")[0]
        return bool(name) and name == own_name and incarnation_of(self.worker) < incarnation_of(worker)


def count_tries(attempts: Sequence[Attempt]) -> int:
    """Return how many attempts count as tries: those that began, and the others beyond ``NOT_BEGUN_MAX``."""
    begun = sum(1 for attempt in attempts if attempt.begun)
    return begun + max(len(attempts) - begun - NOT_BEGUN_MAX, 0)


def not_begun_in_a_row(attempts: Sequence[Attempt]) -> int:
    """Return how many of the last attempts did not begin, one after the other."""
    return sum(1 for _ in takewhile(lambda attempt: not attempt.begun, reversed(attempts)))


def dead_workers_relied_on(
    attempts: Iterable[Attempt], now: datetime, *, worker: str, dead: Collection[str]
) -> tuple[str, ...]:
    """Return the dead workers that ending these attempts now relies on; the event that ends them must name them."""
    return tuple(sorted({a.worker for a in attempts if not a.expired(now, worker) and a.expired(now, worker, dead)}))


def incarnation_of(worker: str) -> int:
    """Return the number in ``<name>#<incarnation>``; other text counts as the oldest: no event may break a reader."""
    number = worker.rpartition("#")[2]
    return int(number) if number.isdecimal() and len(number) <= INCARNATION_DIGITS_MAX else 0


@dataclass(slots=True)
class CallState:
    """One call of a proposal, from the model's text to the outcome that the model receives."""

    call: str
    tool: str
    proposal_n: int
    index: int
    raw_args: Text
    grant: ToolGrant | None = None
    agreed: ToolGrant | None = None
    """The last contract that was agreed to, while ``grant`` is a wider one without agreement; None otherwise."""

    widenings: int = 0
    judged: JudgedCall | None = None
    stage: Stage = Stage.PENDING
    gate_n: int = 0
    asked: AskedCall | Question | None = None
    asked_about_outcome: bool = False
    edited: bool = False
    edit: Edited | None = None
    votes: set[str] = field(default_factory=set[str])
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    ready_at: datetime | None = None
    probed: bool = False
    finished: Finished | None = None
    finished_n: int = 0
    outcome_n: int = 0
    outcome_text: str = ""
    reply_untrusted: bool = False
    outcome: CallOutcome | None = None
    structured: bool = False
    answer_size: Size = NO_SIZE

    @property
    def wider(self) -> tuple[str, ...]:
        """The points in which its contract allows more than was agreed to; empty once a person has agreed to it."""
        return self.agreed.widened_by(self.grant) if self.agreed is not None and self.grant is not None else ()

    @property
    def open_attempt(self) -> Attempt | None:
        """The open attempt, if any: always the last one."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].open else None

    @property
    def effects(self) -> list[Attempt]:
        """Attempts at the effect itself, without probes."""
        return [attempt for attempt in self.attempts if attempt.purpose == "effect"]

    @property
    def tries(self) -> int:
        """The number of attempts at the effect that count against its retries."""
        return count_tries(self.effects)

    @property
    def args_sha256(self) -> str:
        """The digest of the canonical arguments; empty before judgement."""
        return self.judged.args_sha256 if self.judged else ""

    @property
    def is_error(self) -> bool:
        """Whether the model receives no result."""
        return self.outcome is not None and self.outcome.is_error

    def outcome_in_prompt(self, dropped_to: int) -> tuple[str, CallOutcome | None]:
        """Return text and outcome in a prompt that leaves out results up to event ``dropped_to``.

        In older runs there is no outcome, and the model receives the text alone.
        """
        if self.outcome_n > dropped_to or self.answer_size.bytes <= DROPPED_BYTES:
            return self.outcome_text, self.outcome if self.structured else None
        size = len(self.outcome_text.encode())
        if self.structured and self.outcome is not None:
            return omit_text(self.outcome, size)
        return (
            f"[Left out to fit the model's window: {size} bytes. Call '{self.tool[:80]}' again if it is needed.]",
            None,
        )

    def shown_size(self, dropped_to: int) -> Size:
        """Return the size of the outcome in a prompt, without its framing."""
        if self.outcome_n > dropped_to or self.answer_size.bytes <= DROPPED_BYTES:
            return self.answer_size
        return DROPPED if self.structured else text_size(self.outcome_in_prompt(dropped_to)[0])

    @property
    def edited_args(self) -> Text | None:
        """The arguments with which a person replaced the model's, if the model is shown them."""
        if self.edit is None or self.edit.approves is None:
            return None
        return self.judged.args if self.judged is not None and self.judged.args else self.edit.args

    @property
    def has_passed(self) -> bool:
        """Whether it counts as passed; a call that a person edited is judged and counted again."""
        return self.judged is not None and self.judged.verdict == "pass" and self.stage is not Stage.PENDING

    @property
    def fate(self) -> str:
        """The state of this call in a receipt."""
        if open_attempt := self.open_attempt:
            return "unknown" if open_attempt.purpose == "effect" else "in doubt"
        last = next((a for a in reversed(self.attempts) if a.purpose == "effect"), None)
        if last is None:
            return "answered" if self.stage is Stage.ENDED and not self.is_error else "not_started"
        if self.stage is Stage.ENDED and not self.is_error:
            return "done"
        return {"succeeded": "done", "failed": "failed", "never_started": "never_started"}.get(last.outcome, "unknown")


@dataclass(slots=True)
class ProposalState:
    """One answer of the model, and the states of its calls."""

    n: int
    event: Proposed
    calls: list[CallState]
    model: str = ""
    base_url: str = ""
    judged: bool = False
    returned: Returned | None = None
    accepted: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether the model may be requested again: every call has its outcome, or the final answer was returned."""
        if self.event.final:
            return self.returned is not None
        return all(call.stage is Stage.ENDED for call in self.calls)


def waits_for_earlier_call(proposal: ProposalState | None, call: CallState) -> bool:
    """Whether a call is ready but ordered, and an earlier one has no outcome: then it must wait."""
    if proposal is None or call.stage is not Stage.READY or call.grant is None or not call.grant.ordered:
        return False
    return any(other.stage is not Stage.ENDED for other in proposal.calls[: call.index])
