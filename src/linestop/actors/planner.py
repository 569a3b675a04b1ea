"""Planner: what next?

It protects the run from half an answer. It reads the whole run to assemble a prompt. It says ``started``
(which model, what the call may cost, until when), calls the model, and says ``proposed`` for a complete
answer, ``failed`` for none, ``compacted`` for a summary; and ``stopped`` when no model will answer.

A plain function may stand in for the model (``planner = "python:…"``): it gets the same guarantees.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec

from linestop.actors.facts import (
    DeadWorkers,
    Facts,
    KillSwitches,
    Performing,
    PinnedAgent,
    Secrets,
    Worker,
    kill_switch_message,
)
from linestop.actors.own_starts import about_to_be_said, stop_out_of_time, unacknowledged_start
from linestop.actors.prompt import Prompt, assemble, request
from linestop.actors.prompt_exact_values import covered_texts, exact_values
from linestop.actors.unusable_calls import clean_call
from linestop.off_loop import off_loop
from linestop.schemas.defaults import ARGUMENTS_BYTES_MAX, INLINE_BYTES_MAX, START_WITHIN_S
from linestop.schemas.events import (
    AnyEvent,
    Compacted,
    Cue,
    LimitHit,
    ModelChoice,
    ModelFailedEvent,
    ModelStarted,
    Proposed,
    ProposedCall,
    Stopped,
)
from linestop.schemas.model_messages import ModelFailed, ModelReply, Usage
from linestop.schemas.performer_interfaces import ModelRequester, ModelWork
from linestop.schemas.redaction import Redactor
from linestop.schemas.run.active_time import DECIDING_MAX_S
from linestop.schemas.run.call_states import Attempt, dead_workers_relied_on
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.run.next_action import Exhausted, NextStart, next_start
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.prompt_size import last_covered_n
from linestop.schemas.run.state import Run
from linestop.schemas.run.tool_mode import JSON_MODE_ID_PREFIX, observed_mode
from linestop.schemas.subjects import RoleName
from linestop.schemas.tool_contracts import canonical
from linestop.schemas.visible_text import is_blank

PROMPTS_CACHED_MAX = 64
CALL_ID_CHARS_MAX = 64
"""Longest id of a provider that is kept: it must fit into the framing a prompt's size bound counts for a call."""

CALLS_MAX = 64
"""More calls in one answer than this are no answer: they would not fit into the event that judges them."""

NAME_CHARS_MAX = 200
"""What is kept of a name that a provider made up; no tool's is as long."""

REASON_CHARS_MAX = 500
"""What a person is shown, beside a call, of what the model said with it."""

REASON_SOURCE_CHARS_MAX = 4_000
"""Characters of a text, blanks included, in which its reason is looked for."""

NOT_BEGUN = "The call was not begun; nothing was asked."

GRACE_S = 5.0
"""Seconds a performer has, after the call's own deadline, to say what became of it."""


class Planner:
    """The planner role. ``caller`` reaches the models; it is handed in, so that this module imports none."""

    name: RoleName = "planner"
    wakes: frozenset[str] = frozenset({
        "validator.opened", "validator.judged", "validator.checked", "validator.returned", "budget.held",
        "approver.denied", "approver.answered", "approver.resolved", "approver.granted", "approver.resumed",
        "executor.finished", "planner.proposed", "planner.failed", "planner.compacted", "stopped",
    })  # fmt: skip
    needs: tuple[type[Any], ...] = (Worker, DeadWorkers, PinnedAgent, KillSwitches, Secrets, Performing)

    def __init__(self, requester: ModelRequester | None = None) -> None:
        self._requester = requester
        self._prompts: dict[str, Prompt] = {}

    def _cache_prompt(self, prompt: Prompt) -> Prompt:
        """Keep the prompt of a decision for its performance, by its digest.

        By nothing less: what a run says at some event may have been folded before it was stored, and is not stored.
        """
        self._prompts[prompt.sha256] = prompt
        if len(self._prompts) > PROMPTS_CACHED_MAX:
            del self._prompts[next(iter(self._prompts))]
        return prompt

    # --- deciding ----------------------------------------------------------------------------------------

    def decide(self, run: Run, cue: Cue, facts: Facts, now: datetime) -> AnyEvent | None:
        """Start the next model call if it is covered; stop the run if no model can be asked any more."""
        del cue
        waits = about_to_be_said(run.model_attempt, facts.get(Performing))
        if run.opened is None or run.has_unknown_events or run.phase is Phase.SEALED or waits:
            return None
        worker = facts.get(Worker)
        worker_id = worker.id if worker else ""
        dead = (facts.get(DeadWorkers) or DeadWorkers()).workers
        if unacknowledged := unacknowledged_start(run, worker_id, facts.get(Performing), effect=False):
            return _no_reply(unacknowledged.turn, unacknowledged.attempt, 0, kind="cancelled")
        if run.done:
            return _report_abandoned(run, now, worker_id, dead)
        if timeout_stop := stop_out_of_time(run, now, facts.get(Performing), by="planner"):
            return timeout_stop
        start = next_start(run, now, worker_id, dead)
        if not isinstance(start, NextStart):
            return _report_dead_worker(run, now, worker_id, dead) or (
                _stop_exhausted(run, start) if start is not None else None
            )
        if start.kind != "model" or start.at > now or start.model is None:
            return None
        if start.cost_max_micros > run.available_micros:
            return _report_uncovered_takeover(run, now, worker_id, dead) if start.takeover else None
        kill_switches = facts.get(KillSwitches) or KillSwitches()
        if closed := kill_switches.first_closed_for(run):
            return stop_event(run, by="planner", why=kill_switch_message(closed), code="policy")
        pinned = facts.get(PinnedAgent)
        if pinned is None or pinned.version is None:
            return stop_event(run, by="planner", why="The agent's version is not in the store.", code="defect")
        prompt = self._cache_prompt(
            assemble(
                run, pinned.version, purpose=start.purpose, model=start.model, dropped_to=start.dropped_to,
                limit=start.limit,
            )
        )  # fmt: skip
        return _started_event(run, start, start.model, worker_id, dead=dead, now=now, prompt=prompt)

    # --- performing --------------------------------------------------------------------------------------

    def prepare(self, run: Run, started: AnyEvent, facts: Facts) -> ModelWork:
        """Freeze the prompt and everything the answer will be checked with."""
        assert isinstance(started, ModelStarted)
        assert run.opened is not None
        pinned = facts.get(PinnedAgent)
        assert pinned is not None
        assert pinned.version is not None
        prompt = self._prompts.pop(started.prompt_sha256, None)
        choice = _pinned_model(run, started)
        prompt = prompt or assemble(run, pinned.version, purpose=started.purpose, model=choice, limit=started.limit)
        settings = pinned.version.settings(choice)
        granted = {tool.name for tool in run.opened.tools}
        tool_mode = settings.tool_mode
        if tool_mode == "auto" and started.model.startswith("openai/"):
            tool_mode = observed_mode(run, started.model, settings.base_url)
        compacts = started.purpose == "compact"
        covers_to = last_covered_n(run) if compacts else 0
        secrets = facts.get(Secrets) or Secrets()
        return ModelWork(
            tenant=run.tenant, run=run.run, turn=started.turn, attempt=started.attempt,
            request=request(
                prompt, model=started.model, output_tokens_max=started.output_tokens_max,
                deadline_s=_deadline_s(run, started),
            ),
            base_url=settings.base_url, api_key_env=settings.api_key_env, tool_mode=tool_mode,
            planner=pinned.version.planner, price=choice.price, cost_max_micros=started.cost_max_micros,
            used_ids=frozenset(run.calls), covers_to=covers_to,
            covered_texts=covered_texts(run, covers_to) if compacts else (),
            contracts=tuple(c for c in pinned.version.tools if c.name in granted),
            calls_max=run.limits.proposal_calls_max, redactor=Redactor(secrets.values),
            prompt_sha256=started.prompt_sha256, start_by=started.start_by,
        )  # fmt: skip

    async def perform(self, work: ModelWork, started: AnyEvent) -> AsyncIterator[AnyEvent]:
        """Call the model once and yield what came of it."""
        assert isinstance(started, ModelStarted)
        assert self._requester is not None
        try:
            reply, duration_s = await self._requester.request(work)
        except ModelFailed as failed:
            yield _failed_event(work, failed)
        else:
            size = (
                len(reply.text)
                + sum(len(call.args) for call in reply.calls)
                + sum(len(t) for _, t in work.covered_texts)
            )
            match started.purpose:
                case "compact":
                    make_event = partial(_compacted_event, work, reply)
                case "close":
                    make_event = partial(_closing_event, work, reply, duration_s)
                case _:
                    make_event = partial(_proposed_event, work, reply, duration_s)
            yield await off_loop(size, make_event)

    def report_cancelled(self, work: ModelWork, done: frozenset[tuple[str, int]], *, begun: bool) -> list[AnyEvent]:
        """What to say of a model call that was cancelled: once begun it may be billed, so it is charged in full."""
        if done:
            return []
        charged = work.cost_max_micros if begun else 0
        failure = _no_reply(work.turn, work.attempt, charged, kind="cancelled")
        return [failure if begun else msgspec.structs.replace(failure, message=NOT_BEGUN, begun=False)]


def _no_reply(turn: int, attempt: int, charged: int, *, kind: str) -> ModelFailedEvent:
    sentence = "The call was cancelled." if kind == "cancelled" else "Whoever made this call did not report."
    return ModelFailedEvent(
        turn=turn, attempt=attempt, kind="cancelled" if kind == "cancelled" else "unknown", message=sentence,
        possibly_billed=charged > 0, charged_micros=charged,
    )  # fmt: skip


def _stop_exhausted(run: Run, reason: Exhausted) -> Stopped:
    """The stop of a run in which no model can be asked any more."""
    hit = LimitHit(name=reason.limit, value=reason.value, max_value=reason.max_value) if reason.limit else None
    return stop_event(run, by="planner", why=reason.why, code=reason.code, limit=hit)


def _report_uncovered_takeover(run: Run, now: datetime, worker: str, dead: frozenset[str]) -> ModelFailedEvent | None:
    """Speak for a call that died with its worker, where its takeover is not covered.

    Budget cannot know that the worker was killed, and would hold for another attempt only after ``done_by``.
    """
    attempt = run.model_attempt
    return None if attempt is None or attempt.expired(now) else _report_no_reply(attempt, now, worker, dead)


def _report_dead_worker(run: Run, now: datetime, worker: str, dead: frozenset[str]) -> ModelFailedEvent | None:
    """Speak for a call of a dead worker that is not made again: what follows then follows from the log alone."""
    attempt = run.model_attempt
    if attempt is None or not dead_workers_relied_on([attempt], now, worker=worker, dead=dead):
        return None
    return _report_no_reply(attempt, now, worker, dead)


def _report_abandoned(run: Run, now: datetime, worker: str, dead: frozenset[str]) -> ModelFailedEvent | None:
    """Speak for a model call of a run that is over and whose maker is gone."""
    for attempt in run.open_attempts:
        if not attempt.call and attempt.expired(now, worker, dead):
            return _report_no_reply(attempt, now, worker, dead)
    return None


def _report_no_reply(attempt: Attempt, now: datetime, worker: str, dead: frozenset[str]) -> ModelFailedEvent:
    failure = _no_reply(attempt.turn, attempt.attempt, attempt.cost_max_micros, kind="unknown")
    return msgspec.structs.replace(
        failure, dead_workers=dead_workers_relied_on([attempt], now, worker=worker, dead=dead)
    )


def _started_event(  # noqa: PLR0913 - one event's fields
    run: Run,
    start: NextStart,
    model: ModelChoice,
    worker: str,
    *,
    dead: frozenset[str],
    now: datetime,
    prompt: Prompt,
) -> ModelStarted:
    before = [run.model_attempt] if run.model_attempt is not None else []
    start_by = now + timedelta(seconds=START_WITHIN_S)
    # No call outlives the run's time: what is lost with its worker must not be waited for much longer than that.
    left_s = max(run.limits.wall_s - run.active_s(now) - START_WITHIN_S, 0.0)
    return ModelStarted(
        turn=start.turn, attempt=start.attempt, model=model.model, worker=worker, start_by=start_by,
        done_by=start_by + timedelta(seconds=min(run.limits.model_deadline_s, left_s) + GRACE_S), purpose=start.purpose,
        prompt_sha256=prompt.sha256, input_tokens_max=start.input_tokens_max,
        output_tokens_max=start.output_tokens_max, cost_max_micros=start.cost_max_micros,
        fallback_of=start.fallback_of, base_url=model.base_url, params=prompt.params, dropped_to=start.dropped_to,
        limit=start.limit, charges_tokens=True,
        dead_workers=dead_workers_relied_on(before, now, worker=worker, dead=dead),
    )  # fmt: skip


def _deadline_s(run: Run, started: ModelStarted) -> float:
    """How long the call may take: its own limit, or a moment longer than what was left of the run's time.

    So it is the end of that time that ends the call, and not a failure after which it would be made again.
    """
    left_s = (started.done_by - started.start_by).total_seconds() - GRACE_S + START_WITHIN_S + DECIDING_MAX_S
    return min(run.limits.model_deadline_s, left_s)


def _pinned_model(run: Run, started: ModelStarted) -> ModelChoice:
    assert run.opened is not None
    return next(choice for choice in (run.opened.model, *run.opened.fallbacks) if choice.is_requested_by(started))


def _charge_micros(work: ModelWork, usage: Usage | None, *, reported: bool) -> int:
    """What the call costs: by reported usage, else its whole reservation."""
    if usage is None or not reported:
        return work.cost_max_micros
    return work.price.cost_micros(usage)


def _failed_event(work: ModelWork, failed: ModelFailed) -> ModelFailedEvent:
    known = failed.usage is not None or not failed.possibly_billed
    charged = _charge_micros(work, failed.usage or Usage(), reported=known)
    return ModelFailedEvent(
        turn=work.turn, attempt=work.attempt, kind=failed.kind, message=work.redactor.text(str(failed))[:1_000],
        status=failed.status, retry_after_s=failed.retry_after_s, usage=failed.usage,
        possibly_billed=failed.possibly_billed and failed.usage is None, charged_micros=charged, begun=failed.begun,
    )  # fmt: skip


def _invalid_reply(work: ModelWork, reply: ModelReply, sentence: str) -> ModelFailedEvent:
    """The failure of an answer that came whole but cannot be used; what it cost is known if the provider said it."""
    usage = reply.usage if reply.usage_reported else None
    return _failed_event(work, ModelFailed("malformed", sentence, usage=usage, possibly_billed=usage is None))


def _compacted_event(work: ModelWork, reply: ModelReply) -> AnyEvent:
    summary = work.redactor.text(reply.text)
    size = len(summary.encode())
    if is_blank(summary):
        return _invalid_reply(work, reply, "The summary was empty.")
    if size > INLINE_BYTES_MAX:
        return _invalid_reply(work, reply, f"The summary has {size} bytes; at most {INLINE_BYTES_MAX} can be kept.")
    cost = _charge_micros(work, reply.usage, reported=reply.usage_reported)
    return Compacted(
        turn=work.turn, attempt=work.attempt, covers_from=1, covers_to=work.covers_to, summary=summary,
        values=exact_values(work.covered_texts), usage=reply.usage, cost_micros=cost,
    )  # fmt: skip


def _proposed_event(work: ModelWork, reply: ModelReply, duration_s: float) -> AnyEvent:
    if len(reply.calls) > CALLS_MAX:
        sentence = f"The answer makes {len(reply.calls)} calls; at most {CALLS_MAX} can be judged at once."
        return _invalid_reply(work, reply, sentence)
    if (size := sum(len(call.args.encode(errors="replace")) for call in reply.calls)) > ARGUMENTS_BYTES_MAX:
        return _invalid_reply(
            work, reply, f"Its calls have {size} bytes of arguments; at most {ARGUMENTS_BYTES_MAX} are read."
        )
    names = unique_ids([call.id for call in reply.calls], work)
    renamed = {call.id: name for call, name in zip(reply.calls, names, strict=True) if call.id != name}
    usable = work.contracts if len(reply.calls) <= work.calls_max else ()
    cleaned_calls = tuple(clean_call(call, usable, work.redactor) for call in reply.calls)
    calls = tuple(
        ProposedCall(call=name, tool=call.name[:NAME_CHARS_MAX], args=call.args)
        for name, call in zip(names, cleaned_calls, strict=True)
    )
    text = work.redactor.text(reply.text)
    # A provider's blocks hold its calls, too, and as it wrote them.
    own = bool(reply.blocks) and not renamed and cleaned_calls == reply.calls
    blocks = "" if not own else canonical(_redacted_blocks(reply.blocks, work.redactor)).decode()
    return Proposed(
        turn=work.turn, attempt=work.attempt, text=text, calls=calls, final=not calls,
        reason=_reason_line(text) if calls else "", stop_reason=reply.stop_reason, blocks=blocks,
        blocks_of=work.request.model.split("/", 1)[0] if blocks else "",
        usage=reply.usage, usage_source="reported" if reply.usage_reported else "reserved",
        cost_micros=_charge_micros(work, reply.usage, reported=reply.usage_reported),
        model=reply.model[:NAME_CHARS_MAX],
        request_id=reply.request_id[:NAME_CHARS_MAX], duration_s=round(duration_s, 6),
    )  # fmt: skip


def _closing_event(work: ModelWork, reply: ModelReply, duration_s: float) -> AnyEvent:
    """The closing answer: its text alone. It was offered no tool, so a call in it is none."""
    if is_blank(reply.text):
        return _invalid_reply(work, reply, "The closing answer was empty.")
    return _proposed_event(work, msgspec.structs.replace(reply, calls=(), blocks=()), duration_s)


def _redacted_blocks(blocks: tuple[dict[str, Any], ...], redactor: Redactor) -> list[dict[str, Any]]:
    """The provider's blocks with its texts redacted; the others are signed, or their provider's to check."""
    return [
        block | {"text": redactor.text(block["text"])}
        if block.get("type") == "text" and isinstance(block.get("text"), str)
        else block
        for block in blocks
    ]


def _reason_line(text: str) -> str:
    """What the model said beside its calls, on one line and cut at a word, for the person who is asked about them."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[:REASON_SOURCE_CHARS_MAX]).split())
    if len(line) <= REASON_CHARS_MAX:
        return line
    head, _, rest = line[:REASON_CHARS_MAX].rpartition(" ")
    # Not every language puts spaces between its words.
    return (head if len(rest) < len(head) else head + " " + rest).strip() + " …"


def unique_ids(ids: list[str], work: ModelWork) -> list[str]:
    """Call ids that are unique in the run: the provider's own where they are, ours where it repeats one."""
    taken = set(work.used_ids)
    names: list[str] = []
    for index, provider_id in enumerate(ids):
        usable = provider_id and len(provider_id) <= CALL_ID_CHARS_MAX and provider_id not in taken
        prefix = JSON_MODE_ID_PREFIX if provider_id.startswith(JSON_MODE_ID_PREFIX) else "call-"
        name = provider_id if usable else f"{prefix}{work.turn}-{work.attempt}-{index + 1}"
        taken.add(name)
        names.append(name)
    return names
