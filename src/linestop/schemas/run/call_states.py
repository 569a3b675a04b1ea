"""The state of one call and of one attempt inside a run: what the fold keeps, and nobody else changes."""

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
from linestop.schemas.text_size import NO_SIZE, Size
from linestop.schemas.tool_contracts import ToolError

ELIDED_BYTES = 512
"""What a blob costs in a prompt: it is named there (digest, size), never inlined."""

ITEM_BYTES = 96
"""Bytes of framing a prompt adds to each message at most, as tokens; part of every size bound."""

DROPPED_BYTES = 256
"""What a result that was left out still takes in a prompt: the note that it was."""

INCARNATION_DIGITS_MAX = 18
MODEL_DOWN_KINDS = frozenset({"availability", "rate_limit"})
"""Failures of a model that another model, or a later hour, may not have."""


ITEM: Final = Size(ITEM_BYTES, 48)
"""The framing of a message or call: its role, and an id of 29 characters, each of which may be a token."""

DROPPED: Final = Size(DROPPED_BYTES, 112)
"""The note in the place of a result that was left out."""


def text_size(text: Text) -> Size:
    """The size of ``text`` as it stands in a prompt."""
    return Size.framing(ELIDED_BYTES) if isinstance(text, BlobRef) else Size.of(text)


class Stage(StrEnum):
    """Where one call stands."""

    PENDING = "pending"  # proposed, or edited: the validator's turn
    GATE = "gate"  # judged and passed: the approver's turn
    ASKED = "asked"  # a person's turn
    WAITING = "waiting"  # cleared, and waits for its moment (wait.until)
    READY = "ready"  # may start, from ready_at on
    OPEN = "open"  # an attempt is under way
    UNKNOWN_OUTCOME = "doubt"  # nobody knows whether it took effect
    CHECK = "check"  # finished: the validator looks at the result
    ENDED = "answered"  # the model has its answer


@dataclass(slots=True, eq=False)
class Attempt:
    """One start and what came of it. ``charged_micros`` counts as spent once it is no longer open.

    ``active``: whether its time is work; asking a model again that the run queues for is not.
    """

    n: int
    attempt: int
    purpose: Literal["turn", "compact", "judge", "close", "effect", "probe"]
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
        """Whether its fate is still unknown and nobody has taken over."""
        return not self.closed_n and not self.superseded_n

    @property
    def down(self) -> bool:
        """Whether it ended because its model was not there, which says nothing about what was asked of it."""
        return self.failure is not None and self.failure.kind in MODEL_DOWN_KINDS

    def expired(self, now: datetime, worker: str = "", dead: Collection[str] = ()) -> bool:
        """Whether somebody else may speak for it: past ``done_by``, or its worker lives in a later incarnation.

        ``worker`` is the asking worker, ``<name>#<incarnation>``; a name is held by one process at a time. ``dead``
        are workers that are known to be dead; nobody knows that of itself.
        """
        if now >= self.done_by or (self.worker in dead and self.worker != worker):
            return True
        name, own_name = self.worker.rpartition("#")[0], worker.rpartition("#")[0]
        return bool(name) and name == own_name and incarnation_of(self.worker) < incarnation_of(worker)


def count_tries(attempts: Sequence[Attempt]) -> int:
    """How many of these attempts count as tries: those that began, and the rest beyond ``NOT_BEGUN_MAX``."""
    begun = sum(1 for attempt in attempts if attempt.begun)
    return begun + max(len(attempts) - begun - NOT_BEGUN_MAX, 0)


def not_begun_in_a_row(attempts: Sequence[Attempt]) -> int:
    """How many of the last attempts did not begin, one after the other."""
    return sum(1 for _ in takewhile(lambda attempt: not attempt.begun, reversed(attempts)))


def dead_workers_relied_on(
    attempts: Iterable[Attempt], now: datetime, *, worker: str, dead: Collection[str]
) -> tuple[str, ...]:
    """Whose death it takes to speak for these attempts now: what the event that does so must tell."""
    return tuple(sorted({a.worker for a in attempts if not a.expired(now, worker) and a.expired(now, worker, dead)}))


def incarnation_of(worker: str) -> int:
    """The number in ``<name>#<incarnation>``; what is not a number is the oldest, for no event may break a reader."""
    number = worker.rpartition("#")[2]
    return int(number) if number.isdecimal() and len(number) <= INCARNATION_DIGITS_MAX else 0


@dataclass(slots=True)
class CallState:
    """One call of a proposal, from what the model wrote to the answer it gets."""

    call: str
    tool: str
    proposal_n: int
    index: int
    raw_args: Text
    grant: ToolGrant | None = None
    agreed: ToolGrant | None = None
    """What was agreed to last, while ``grant`` is a wider contract that nobody has agreed to yet; None otherwise."""

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
        """In what its contract allows more than was agreed to; empty once somebody has agreed to it."""
        return self.agreed.widened_by(self.grant) if self.agreed is not None and self.grant is not None else ()

    @property
    def open_attempt(self) -> Attempt | None:
        """The attempt under way, if any: always the last one."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].open else None

    @property
    def effects(self) -> list[Attempt]:
        """Attempts at the effect itself, without probes."""
        return [attempt for attempt in self.attempts if attempt.purpose == "effect"]

    @property
    def tries(self) -> int:
        """How many attempts at the effect count against its retries."""
        return count_tries(self.effects)

    @property
    def args_sha256(self) -> str:
        """Digest of the canonical arguments, empty before judgement."""
        return self.judged.args_sha256 if self.judged else ""

    @property
    def is_error(self) -> bool:
        """Whether the model has to do without a result."""
        return self.outcome is not None and self.outcome.is_error

    def outcome_in_prompt(self, dropped_to: int) -> tuple[str, CallOutcome | None]:
        """The answer as it stands in a prompt that leaves out results up to event ``dropped_to``.

        Without an outcome its text is all that the model is told: so it was in older runs.
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
        """What that takes, without its framing."""
        if self.outcome_n > dropped_to or self.answer_size.bytes <= DROPPED_BYTES:
            return self.answer_size
        return DROPPED if self.structured else text_size(self.outcome_in_prompt(dropped_to)[0])

    @property
    def edited_args(self) -> Text | None:
        """The arguments that a person put in the place of the model's, where the model is told of it."""
        if self.edit is None or self.edit.approves is None:
            return None
        return self.judged.args if self.judged is not None and self.judged.args else self.edit.args

    @property
    def has_passed(self) -> bool:
        """Whether it counts as let through; one that a person edited is judged, and counted, anew."""
        return self.judged is not None and self.judged.verdict == "pass" and self.stage is not Stage.PENDING

    @property
    def fate(self) -> str:
        """What a receipt says of this call."""
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
    """One answer of the model and how far its calls are."""

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
        """Whether the model may be asked again: every call has its answer, or the final one was returned."""
        if self.event.final:
            return self.returned is not None
        return all(call.stage is Stage.ENDED for call in self.calls)
