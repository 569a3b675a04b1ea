"""``Run``: the fold of one run's log. The rules by which an event changes it, and the phase that follows.

Each rule either changes the ``Run`` and returns an empty string, or changes nothing and returns why the event is
ignored. The rules enforce the promises: a start without a reservation, or a grant for other arguments than those asked
about, is ignored by every reader of the log, whichever process wrote it. The rules of a subject are in ``*_rules``.
"""

from __future__ import annotations

import traceback
from datetime import timedelta
from typing import TYPE_CHECKING, assert_never

import msgspec

from linestop.errors import InputError
from linestop.schemas.events import (
    Accepted,
    Amended,
    Answered,
    AnyEvent,
    Asked,
    Checked,
    Cleared,
    Compacted,
    Denied,
    Edited,
    EffectStarted,
    Finished,
    Granted,
    Held,
    Judged,
    ModelFailedEvent,
    ModelStarted,
    Opened,
    Paused,
    Proposed,
    Queued,
    Refused,
    Resolved,
    Resumed,
    Returned,
    Sealed,
    Settled,
    Stopped,
    Warned,
    Widened,
    belongs_to_another_role,
    decode,
    decode_envelope,
    is_known,
)
from linestop.schemas.run import hash_chain
from linestop.schemas.run.active_time import DECIDING_MAX_S
from linestop.schemas.run.call_states import (
    ITEM,
    ProposalState,
    Stage,
    text_size,
    waits_for_earlier_call,
)
from linestop.schemas.run.phases import Phase, is_legal
from linestop.schemas.run.rules import approvals, calls, model_requests, money, widened_contracts
from linestop.schemas.run.rules.opening_limits import clamp_limits
from linestop.schemas.run.starting.model_choice import waits_for_model
from linestop.schemas.run.starting.prompt_size import base_size
from linestop.schemas.run.state import LATEST, Entry, FoldFailure, RunState
from linestop.schemas.subjects import parse_run_event
from linestop.schemas.text.text_size import total

if TYPE_CHECKING:
    from linestop.schemas.subjects import RoleName, RunId, TenantId

ACTING_STAGES = {Stage.READY, Stage.OPEN, Stage.CHECK}


class Run(RunState):
    """The fold of one run's messages: ``apply`` changes it, and nothing else does.

    It has no clock, no configuration and no guesses: two programs that saw the same messages hold the same ``Run``.
    """

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
        reason = apply_event(self, role, self.n, event)
        if reason:
            return reason
        before, self.at = self.at, event.at
        if self.opened is not None and self.waiting_since is None and before >= self.opened_at:
            decided = min(event.at, before + timedelta(seconds=DECIDING_MAX_S))
            self.active.add(self._since_opened_s(before), self._since_opened_s(decided))
        self.phase = phase_of(self)
        if self.waiting_since is not None:
            self.wait_s += (event.at - self.waiting_since).total_seconds()
        waits = self.phase is Phase.WAITING or waits_for_model(self) or self.queued is not None
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


def apply_event(run: RunState, role: str, n: int, event: AnyEvent) -> str:  # noqa: C901, PLR0912 - one arm an event
    """Apply ``event`` (number ``n``, legal in this phase) to ``run``; return why it is ignored, or ''."""
    match event:
        case Opened() | Refused() | Stopped() | Paused() | Resumed() | Accepted() | Returned():
            return _milestone(run, role, event)
        case Judged():
            return calls.apply_judged(run, n, event)
        case Checked():
            return calls.apply_checked(run, n, event)
        case Cleared():
            return approvals.apply_cleared(run, n, event)
        case Asked():
            return approvals.apply_asked(run, event)
        case Granted():
            return approvals.apply_granted(run, n, event)
        case Denied():
            return approvals.apply_denied(run, n, event)
        case Edited() | Answered() | Resolved():
            return approvals.apply_person_input(run, n, event)
        case Held():
            return money.apply_held(run, event)
        case Queued():
            return money.apply_queued(run, event)
        case Settled():
            return money.apply_settled(run, event)
        case Warned():
            run.warned.add(event.limit)
            return ""
        case ModelStarted():
            return model_requests.apply_model_started(run, n, event)
        case Proposed():
            return model_requests.apply_proposed(run, n, event)
        case ModelFailedEvent():
            return model_requests.apply_failed(run, n, event)
        case Compacted():
            return model_requests.apply_compacted(run, n, event)
        case EffectStarted():
            return calls.apply_started(run, n, event)
        case Finished():
            return calls.apply_finished(run, n, event)
        case Widened():
            return widened_contracts.widened(run, event)
        case Sealed():
            return _seal(run, n, event)
        case Amended():
            run.amended = event
            run.late_results = [fact for fact in run.late_results if fact not in event.facts]
            return ""
        case _:
            assert_never(event)


def phase_of(run: RunState) -> Phase:
    """Return the phase of the run, derived from its state."""
    if run.sealed:
        return Phase.SEALED
    if run.stopped:
        return Phase.DRAINING
    if run.accepted or run.refused:
        return Phase.SETTLING
    if not run.opened:
        return Phase.NEW
    if run.model_attempt:
        return Phase.THINKING
    proposal = run.proposal
    if proposal and not proposal.is_complete:
        phase = _phase_of_proposal(proposal)
        return Phase.WAITING if phase is Phase.ACTING and _waits_for_spending_decision(run, proposal) else phase
    return Phase.WAITING if run.spend_asked else Phase.QUEUED


def _waits_for_spending_decision(run: RunState, proposal: ProposalState) -> bool:
    """Whether calls wait only for the decision about spending."""
    return run.spend_asked is not None and not any(c.stage in {Stage.OPEN, Stage.CHECK} for c in proposal.calls)


def _phase_of_proposal(proposal: ProposalState) -> Phase:
    if proposal.event.final:
        return Phase.ANSWERING
    stages = {call.stage for call in proposal.calls}
    if Stage.PENDING in stages:
        return Phase.JUDGING
    if Stage.GATE in stages:
        return Phase.CLEARING
    if any(call.stage in ACTING_STAGES and not waits_for_earlier_call(proposal, call) for call in proposal.calls):
        return Phase.ACTING
    return Phase.WAITING


def _milestone(
    run: RunState, role: str, event: Opened | Refused | Stopped | Paused | Resumed | Accepted | Returned
) -> str:
    match event:
        case Opened():
            run.opened, run.opened_at = clamp_limits(event), event.at
            run.context = base_size(event) + ITEM
        case Refused():
            if run.opened or run.refused:
                return "the task was opened or refused before"
            run.refused = event
        case Stopped():
            if run.stopped is None:
                run.stopped, run.stopped_role = event, role
            elif event.overrides(run.stopped):
                run.stopped = msgspec.structs.replace(run.stopped, mode=event.mode)
        case Paused():
            run.paused = event
        case Resumed():
            run.paused = None
        case Accepted() | Returned():
            return _accept_or_return(run, event)
        case _:
            assert_never(event)
    return ""


def _accept_or_return(run: RunState, event: Accepted | Returned) -> str:
    proposal = run.proposal
    if proposal is None or proposal.n != event.proposal_n or not proposal.event.final:
        return f"event {event.proposal_n} is not the final answer under judgement"
    if isinstance(event, Accepted):
        proposal.accepted, run.accepted = True, event
        return ""
    if run.returned_in_a_row >= run.limits.returned_max:
        return "the answer was already returned as often in a row as the run's limits allow"
    proposal.returned = event
    run.returned_in_a_row += 1
    run.context += total(map(text_size, event.errors)) + ITEM
    return ""


def _seal(run: RunState, n: int, event: Sealed) -> str:
    if run.open_attempts:
        return "a start is still open"
    if run.holds:
        return "a hold is still open"
    run.sealed, run.sealed_n = event, n
    return ""
