"""The checker's record of the events before: starts, calls, money. Separate from the fold.

``Run`` decides what a run may do next; this only adds up the events, so that it reveals a mistake in the fold.
Only events that every reader counts are entered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from linestop.schemas.defaults import Limits
from linestop.schemas.events import (
    Accepted,
    Answered,
    AnyEvent,
    Asked,
    BlobRef,
    Cleared,
    Compacted,
    Edited,
    EffectStarted,
    Finished,
    Granted,
    Held,
    Judged,
    ModelChoice,
    ModelFailedEvent,
    ModelStarted,
    Opened,
    Paused,
    Proposed,
    Queued,
    Refused,
    RequestsModel,
    Resolved,
    Resumed,
    Returned,
    Sealed,
    Settled,
    SpendQuestion,
    StartedCall,
    Stopped,
    Text,
    Widened,
)
from linestop.schemas.run.call_states import MODEL_DOWN_KINDS
from linestop.schemas.run.starting.model_choice import down_until
from linestop.schemas.strict_json import decode_strict
from linestop.schemas.tool_contracts import canonical
from linestop.schemas.verify.call_records import Call, Start, count_tries
from linestop.schemas.verify.unknown_tokens import has_unreported_tokens


class Ledger:
    """The sums and states over all events that count."""

    def __init__(self, tenant: str, run: str, texts: Mapping[str, bytes]) -> None:
        self.tenant = tenant
        self.run = run
        self.texts = texts
        self.opened: Opened | None = None
        self.refused: Refused | None = None
        self.accepted: Accepted | None = None
        self.stopped: Stopped | None = None
        self.sealed: Sealed | None = None
        self.paused_n = 0
        self.ended_n = 0
        self.ended_by = ""
        self.turn = 0
        self.tokens = 0
        self.proposals: dict[int, Proposed] = {}
        self.calls: dict[str, Call] = {}
        self.starts: list[Start] = []
        self.holds: dict[str, Held] = {}
        self.holds_made = 0
        self.held_micros = 0
        self.settled_micros = 0
        self.finished: dict[int, Finished] = {}
        self.late_results: list[int] = []
        self.signatures: dict[str, int] = {}
        self.spend_asked: SpendQuestion | None = None
        self.returned_in_a_row = 0
        self.rejections_in_a_row = 0
        self.compactions = 0
        self.had_closing_turn = False
        self.person_input_ns: set[int] = set()

    @property
    def limits(self) -> Limits:
        """The run's limits, as fixed when it opened."""
        return self.opened.limits if self.opened else Limits()

    @property
    def open_starts(self) -> list[Start]:
        """All starts whose outcome is unknown."""
        return [start for start in self.starts if start.open]

    @property
    def spent_micros(self) -> int:
        """The cost, or the charge, of all starts that are no longer open."""
        return sum(start.charged_micros for start in self.starts if not start.open)

    @property
    def available_micros(self) -> int:
        """The money that the run holds and has neither spent nor reserved."""
        return self.held_micros - self.spent_micros - sum(start.cost_max_micros for start in self.open_starts)

    def pinned_model(self, start: RequestsModel) -> ModelChoice | None:
        """Return the pinned model that ``start`` requests; fallbacks count where the run may fall back."""
        spare = self.opened.fallbacks if self.opened and self.opened.on_model_down == "fall_back" else ()
        models = (self.opened.model, *spare) if self.opened else ()
        return next((choice for choice in models if choice.is_requested_by(start)), None)

    def tries(self, event: ModelStarted) -> int:
        """Return how often this model was requested in this turn; a completed compaction does not count."""
        same = (event.turn, event.model, event.base_url)
        requests = [s for s in self.starts if not s.call and (s.turn, s.model, s.base_url) == same]
        return count_tries([start for start in requests if start.purpose != "compact" or start.outcome != "succeeded"])

    def start_of_turn(self, turn: int, attempt: int) -> Start | None:
        """Return the start of a model request."""
        return next((s for s in self.starts if not s.call and (s.turn, s.attempt) == (turn, attempt)), None)

    def start_of_call(self, call: str, attempt: int) -> Start | None:
        """Return the start of an effect or probe."""
        return next((s for s in self.starts if s.call == call and s.attempt == attempt), None)

    def bytes_of(self, text: Text) -> bytes | None:
        """Return a text from the log, or from a supplied blob that has the digest; None if there is none."""
        return self.supplied_text(text.sha256) if isinstance(text, BlobRef) else text.encode()

    def supplied_text(self, sha256: str) -> bytes | None:
        """Return the blob that was supplied under this digest, if it has the digest."""
        data = self.texts.get(sha256)
        return data if data is not None and hashlib.sha256(data).hexdigest() == sha256 else None

    def is_approved_by_edit(self, call: Call) -> bool:
        """Whether a person wrote the judged arguments, and the edit alone approves them."""
        if call.edit is None or not call.edit.approves or call.judged is None:
            return False
        if self.opened is None or self.opened.policy.quorum > 1:
            return False
        written, judged = self.bytes_of(call.edit.args), self.bytes_of(call.judged.args)
        if written is None or judged is None:
            return call.edit.args_sha256 == call.judged.args_sha256
        try:
            return canonical(decode_strict(written)) == judged
        except ValueError:
            return False

    # --- entering ----------------------------------------------------------------------------------------

    def enter(self, n: int, event: AnyEvent) -> None:  # noqa: C901, PLR0912 - one arm an event
        """Record an event that counts."""
        self._milestone(n, event)
        if signature := getattr(event, "signature", ""):
            self.signatures.setdefault(signature, n)
        match event:
            case Judged():
                for verdict in event.calls:
                    self.calls[verdict.call].judged, self.calls[verdict.call].judged_n = verdict, n
                rejected = all(verdict.verdict == "reject" for verdict in event.calls)
                self.rejections_in_a_row = self.rejections_in_a_row + 1 if rejected else 0
            case Asked() | Cleared() | Granted() | Edited() | Resolved():
                self._gate(n, event)
            case Widened():
                self._widened(event)
            case Answered():
                self.person_input_ns.add(n)
            case Returned():
                self.returned_in_a_row += 1
            case Held():
                self.holds[event.hold] = event
                self.holds_made += 1
                self.held_micros += event.amount_micros
            case Queued():
                self.holds.clear()
                self.settled_micros += sum(line.spent_micros for line in event.holds)
                self.held_micros = self.settled_micros
            case Settled():
                self.holds.clear()
            case ModelStarted() | EffectStarted():
                self._started(n, event)
            case Proposed() | ModelFailedEvent() | Compacted() | Finished():
                self._result(n, event)
            case _:
                return

    def _milestone(self, n: int, event: AnyEvent) -> None:
        match event:
            case Opened():
                self.opened = event
            case Paused():
                self.paused_n = n
            case Resumed():
                self.paused_n = 0
            case Refused():
                self.refused = event
                self._mark_ended(n, "refused")
            case Accepted():
                self.accepted = event
                self._mark_ended(n, "answered")
            case Stopped():
                self.stopped = self.stopped or event
                self._mark_ended(n, "stopped")
            case Sealed():
                self.sealed = event
                self._mark_ended(n, "sealed")
            case _:
                return

    def _mark_ended(self, n: int, ended_by: str) -> None:
        if not self.ended_n:
            self.ended_n, self.ended_by = n, ended_by

    def _gate(  # noqa: C901 - one arm an event
        self, n: int, event: Asked | Cleared | Granted | Edited | Resolved
    ) -> None:
        match event:
            case Asked():
                self.spend_asked = event.spend or self.spend_asked
                for line in event.calls:
                    self.calls[line.call].asked, self.calls[line.call].votes = line, set()
            case Cleared():
                for cleared in event.calls:
                    call = self.calls[cleared.call]
                    call.gate_n, call.passed_by_person, call.agreed = n, self.is_approved_by_edit(call), None
            case Granted() if event.call:
                call = self.calls[event.call]
                call.votes.add(event.by)
                if call.asked is not None and len(call.votes) >= call.asked.quorum:
                    call.gate_n, call.passed_by_person, call.agreed = n, True, None
            case Granted():
                self.spend_asked = None
            case Edited():
                call = self.calls[event.call]
                call.raw_args, call.edited, call.asked, call.judged = event.args, True, None, None
                call.edit = event
                call.agreed = None if event.approves else call.agreed
            case Resolved():
                self.person_input_ns.add(n)
                if event.action == "retry":
                    self.calls[event.call].retry_decided_n = n
                    self.calls[event.call].retries_decided += 1

    def _widened(self, event: Widened) -> None:
        for line in event.calls:
            call = self.calls[line.call]
            call.agreed, call.grant = call.agreed or call.grant, line.grant
            call.gate_n, call.passed_by_person, call.asked = 0, False, None
            call.votes = set()

    def _started(self, n: int, event: ModelStarted | EffectStarted) -> None:
        if isinstance(event, ModelStarted):
            before = [start for start in self.open_starts if not start.call]
            self.turn = event.turn
            self.had_closing_turn = event.purpose == "close"
            new_start = Start(
                n=n,
                attempt=event.attempt,
                worker=event.worker,
                done_by=event.done_by,
                cost_max_micros=event.cost_max_micros,
                turn=event.turn,
                model=event.model,
                base_url=event.base_url,
                purpose=event.purpose,
                tokens_max=(event.input_tokens_max + event.output_tokens_max) * event.charges_tokens,
            )
            self._enter(new_start, before)
            return
        for line in event.calls:
            call = self.calls[line.call]
            new_start = self._start_of(n, line, event)
            self._enter(new_start, [start for start in call.starts if start.open])
            call.starts.append(new_start)

    def _start_of(self, n: int, line: StartedCall, event: EffectStarted) -> Start:
        return Start(
            n=n,
            attempt=line.attempt,
            worker=event.worker,
            done_by=line.done_by,
            cost_max_micros=line.cost_max_micros,
            call=line.call,
            probe=event.purpose == "probe",
        )

    def _enter(self, entered: Start, before: list[Start]) -> None:
        for start in before:
            start.superseded, start.charged_micros = True, start.cost_max_micros
            self.tokens += start.tokens_max
            start.tokens = start.tokens_max
        self.starts.append(entered)

    def _result(self, n: int, event: Proposed | ModelFailedEvent | Compacted | Finished) -> None:
        if isinstance(event, Finished):
            self.finished[n] = event
            start = self.start_of_call(event.call, event.attempt)
            if start is not None:
                self._note_if_late(n)
                start.closed_n = n
                unknown = event.outcome == "unknown"
                start.outcome = event.outcome
                start.error = event.error
                start.begun = event.begun or event.outcome != "never_started"
                start.retry_safe = event.error is not None and event.error.retry_safe
                start.charged_micros = start.cost_max_micros if unknown else event.cost_micros
            return
        start = self.start_of_turn(event.turn, event.attempt)
        assert start is not None
        self._note_if_late(n)
        start.closed_n = n
        counted = start.open and not self.ended_n
        self.compactions += isinstance(event, Compacted) and counted
        counts = counted and start.purpose == "turn"
        used = (
            start.tokens_max
            if has_unreported_tokens(event) and start.tokens_max
            else event.usage.total
            if event.usage
            else 0
        )
        self.tokens += used - start.tokens
        start.tokens = used
        start.outcome = "failed" if isinstance(event, ModelFailedEvent) else "succeeded"
        start.begun = not isinstance(event, ModelFailedEvent) or event.begun
        start.charged_micros = event.charged_micros if isinstance(event, ModelFailedEvent) else event.cost_micros
        if isinstance(event, ModelFailedEvent) and event.kind in MODEL_DOWN_KINDS:
            start.down_until = down_until(event.at, event)
        if isinstance(event, Proposed):
            self.proposals[n] = event
            self.returned_in_a_row = 0 if counts and not event.final else self.returned_in_a_row
            if counts:
                self._propose(event, start)

    def _note_if_late(self, n: int) -> None:
        if self.sealed:
            self.late_results.append(n)

    def _propose(self, event: Proposed, start: Start) -> None:
        tools = self.opened.tools if self.opened else ()
        by_fallback = self.opened is not None and not self.opened.model.is_requested_by(start)
        for proposed in event.calls:
            grant = next((grant for grant in tools if grant.name == proposed.tool), None)
            self.calls[proposed.call] = Call(
                name=proposed.call, tool=proposed.tool, raw_args=proposed.args, grant=grant, is_by_fallback=by_fallback
            )
