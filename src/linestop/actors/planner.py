"""Planner: what next?

It protects the run from incomplete replies. It reads the whole run to assemble a prompt. It appends ``started``
(which model, what the request may cost, until when), sends the request, and appends ``proposed`` for a complete
reply, ``failed`` for none, ``compacted`` for a summary; and ``stopped`` when no model can be asked any more.

A plain function may replace the model (``planner = "python:…"``): it gets the same guarantees.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from functools import partial

import msgspec

from linestop.actors.facts import kill_switch_message
from linestop.actors.model_turn.exact_values import covered_texts
from linestop.actors.model_turn.prompt import Conversations, Prompt, assemble, request
from linestop.actors.model_turn.reply_events import closing_event, compacted_event, failed_event, proposed_event
from linestop.actors.performing_role import PerformingRole, has_unreported_result
from linestop.actors.role_facts import PlannerFacts
from linestop.off_loop import off_loop
from linestop.schemas.defaults import MODEL_GRACE_S, START_WITHIN_S
from linestop.schemas.events import (
    AnyEvent,
    LimitHit,
    ModelChoice,
    ModelFailedEvent,
    ModelStarted,
    Stopped,
)
from linestop.schemas.model_messages import ModelFailed
from linestop.schemas.performer_interfaces import ModelRequester, ModelWork
from linestop.schemas.run.active_time import DECIDING_MAX_S
from linestop.schemas.run.call_states import Attempt, dead_workers_relied_on
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.run.starting.compaction import last_covered_n
from linestop.schemas.run.starting.next_start import Exhausted, NextStart, next_start
from linestop.schemas.run.starting.observed_tool_mode import is_found_out, observed_mode
from linestop.schemas.subjects import RoleName
from linestop.schemas.text.redaction import Redactor

PROMPTS_CACHED_MAX = 64
NOT_BEGUN = "The request was not begun; nothing was asked."


class Planner(PerformingRole[PlannerFacts]):
    """The planner role. ``requester`` reaches the models; it is handed in, so that this module imports none."""

    name: RoleName = "planner"
    wakes: frozenset[str] = frozenset(
        {
            "validator.opened",
            "validator.judged",
            "validator.checked",
            "validator.returned",
            "budget.held",
            "approver.denied",
            "approver.answered",
            "approver.resolved",
            "approver.granted",
            "approver.resumed",
            "executor.finished",
            "planner.proposed",
            "planner.failed",
            "planner.compacted",
            "stopped",
        }
    )
    facts_type = PlannerFacts

    def __init__(self, requester: ModelRequester | None = None) -> None:
        self._requester = requester
        self._prompts: dict[str, Prompt] = {}
        self._conversations = Conversations()

    def _cache_prompt(self, prompt: Prompt) -> Prompt:
        """Cache the prompt of a decision by its digest, for when the request is performed.

        Only the digest is a safe key: an event number may belong to an event that was folded but never stored.
        """
        self._prompts[prompt.sha256] = prompt
        if len(self._prompts) > PROMPTS_CACHED_MAX:
            del self._prompts[next(iter(self._prompts))]
        return prompt

    # --- deciding ----------------------------------------------------------------------------------------

    def decide(self, run: Run, facts: PlannerFacts, now: datetime) -> AnyEvent | None:
        """Decide nothing while a reply waits for the broker; else as every role that starts something."""
        return None if has_unreported_result(run.model_attempt, facts.performing) else super().decide(run, facts, now)

    def _report_unacknowledged(self, attempt: Attempt) -> ModelFailedEvent:
        """Report that a request of this process never began."""
        return _no_reply(attempt.turn, attempt.attempt, 0, kind="cancelled")

    def _report_abandoned(self, run: Run, facts: PlannerFacts, now: datetime) -> ModelFailedEvent | None:
        """Report a model request of a run that is over, if the worker that made it is gone."""
        worker, dead = facts.worker.id, facts.dead_workers.workers
        for attempt in run.open_attempts:
            if not attempt.call and attempt.expired(now, worker, dead):
                return _report_no_reply(attempt, now, worker, dead)
        return None

    def _next_event(self, run: Run, facts: PlannerFacts, now: datetime) -> AnyEvent | None:
        """Start the next model request if it is covered; stop the run if no model can be asked any more."""
        worker_id, dead = facts.worker.id, facts.dead_workers.workers
        start = next_start(run, now, worker_id, dead)
        if not isinstance(start, NextStart):
            return _report_dead_worker(run, now, worker_id, dead) or (
                _stop_exhausted(run, start) if start is not None else None
            )
        if start.kind != "model" or start.at > now or start.model is None:
            return None
        if start.cost_max_micros > run.available_micros:
            return _report_uncovered_takeover(run, now, worker_id, dead) if start.takeover else None
        if closed := facts.kill_switches.first_closed_for(run):
            return stop_event(run, by="planner", why=kill_switch_message(closed), code="policy")
        agent = facts.pinned_agent.version
        if agent is None:
            return stop_event(run, by="planner", why="The agent's version is not in the store.", code="defect")
        prompt = self._cache_prompt(
            assemble(
                run,
                agent,
                purpose=start.purpose,
                model=start.model,
                dropped_to=start.dropped_to,
                limit=start.limit,
                conversations=self._conversations,
            )
        )
        return _started_event(run, start, start.model, worker_id, dead=dead, now=now, prompt=prompt)

    # --- performing --------------------------------------------------------------------------------------

    def prepare(self, run: Run, started: AnyEvent, facts: PlannerFacts) -> ModelWork:
        """Collect the prompt and everything that the reply will be checked with."""
        assert isinstance(started, ModelStarted)
        assert run.opened is not None
        agent = facts.pinned_agent.version
        assert agent is not None
        prompt = self._prompts.pop(started.prompt_sha256, None)
        choice = _pinned_model(run, started)
        prompt = prompt or assemble(run, agent, purpose=started.purpose, model=choice, limit=started.limit)
        settings = agent.settings(choice)
        granted = {tool.name for tool in run.opened.tools}
        tool_mode = settings.tool_mode
        if is_found_out(started.model, tool_mode):
            tool_mode = observed_mode(run, started.model, settings.base_url)
        compacts = started.purpose == "compact"
        covers_to = last_covered_n(run) if compacts else 0
        return ModelWork(
            tenant=run.tenant,
            run=run.run,
            turn=started.turn,
            attempt=started.attempt,
            request=request(
                prompt,
                model=started.model,
                output_tokens_max=started.output_tokens_max,
                deadline_s=_deadline_s(run, started),
            ),
            base_url=settings.base_url,
            api_key_env=settings.api_key_env,
            tool_mode=tool_mode,
            planner=agent.planner,
            price=choice.price,
            cost_max_micros=started.cost_max_micros,
            used_ids=frozenset(run.calls),
            covers_to=covers_to,
            covered_texts=covered_texts(run, covers_to) if compacts else (),
            contracts=tuple(c for c in agent.tools if c.name in granted),
            calls_max=run.limits.proposal_calls_max,
            redactor=Redactor(facts.secrets.values),
            prompt_sha256=started.prompt_sha256,
            start_by=started.start_by,
        )

    async def perform(self, work: ModelWork, started: AnyEvent) -> AsyncIterator[AnyEvent]:
        """Send the request once and yield the event that its outcome becomes."""
        assert isinstance(started, ModelStarted)
        assert self._requester is not None
        try:
            reply, duration_s = await self._requester.request(work)
        except ModelFailed as failed:
            yield failed_event(work, failed)
        else:
            size = (
                len(reply.text)
                + sum(len(call.args) for call in reply.calls)
                + sum(len(t) for _, t in work.covered_texts)
            )
            match started.purpose:
                case "compact":
                    make_event = partial(compacted_event, work, reply)
                case "close":
                    make_event = partial(closing_event, work, reply, duration_s)
                case _:
                    make_event = partial(proposed_event, work, reply, duration_s)
            yield await off_loop(size, make_event)

    def report_cancelled(self, work: ModelWork, done: frozenset[tuple[str, int]], *, begun: bool) -> list[AnyEvent]:
        """Return the event of a cancelled model request: once begun it may be billed, so it is charged in full."""
        if done:
            return []
        charged = work.cost_max_micros if begun else 0
        failure = _no_reply(work.turn, work.attempt, charged, kind="cancelled")
        return [failure if begun else msgspec.structs.replace(failure, message=NOT_BEGUN, begun=False)]


def _no_reply(turn: int, attempt: int, charged: int, *, kind: str) -> ModelFailedEvent:
    sentence = (
        "The request was cancelled." if kind == "cancelled" else "The worker that made this request did not report."
    )
    return ModelFailedEvent(
        turn=turn,
        attempt=attempt,
        kind="cancelled" if kind == "cancelled" else "unknown",
        message=sentence,
        possibly_billed=charged > 0,
        charged_micros=charged,
    )


def _stop_exhausted(run: Run, reason: Exhausted) -> Stopped:
    """Return the stop of a run in which no model can be asked any more."""
    hit = LimitHit(name=reason.limit, value=reason.value, max_value=reason.max_value) if reason.limit else None
    return stop_event(run, by="planner", why=reason.why, code=reason.code, limit=hit)


def _report_uncovered_takeover(run: Run, now: datetime, worker: str, dead: frozenset[str]) -> ModelFailedEvent | None:
    """Report a request that died with its worker if its takeover is not covered.

    Budget cannot know that the worker was killed, and would hold money for another attempt only after ``done_by``.
    """
    attempt = run.model_attempt
    return None if attempt is None or attempt.expired(now) else _report_no_reply(attempt, now, worker, dead)


def _report_dead_worker(run: Run, now: datetime, worker: str, dead: frozenset[str]) -> ModelFailedEvent | None:
    """Report a request of a dead worker that is not repeated; then all that follows is decided from the log alone."""
    attempt = run.model_attempt
    if attempt is None or not dead_workers_relied_on([attempt], now, worker=worker, dead=dead):
        return None
    return _report_no_reply(attempt, now, worker, dead)


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
    # No request outlives the run's time: one that was lost with its worker must not be awaited for much longer.
    left_s = max(run.limits.wall_s - run.active_s(now) - START_WITHIN_S, 0.0)
    return ModelStarted(
        turn=start.turn,
        attempt=start.attempt,
        model=model.model,
        worker=worker,
        start_by=start_by,
        done_by=start_by + timedelta(seconds=min(run.limits.model_deadline_s, left_s) + MODEL_GRACE_S),
        purpose=start.purpose,
        prompt_sha256=prompt.sha256,
        input_tokens_max=start.input_tokens_max,
        output_tokens_max=start.output_tokens_max,
        cost_max_micros=start.cost_max_micros,
        fallback_of=start.fallback_of,
        base_url=model.base_url,
        params=prompt.params,
        dropped_to=start.dropped_to,
        limit=start.limit,
        charges_tokens=True,
        dead_workers=dead_workers_relied_on(before, now, worker=worker, dead=dead),
    )


def _deadline_s(run: Run, started: ModelStarted) -> float:
    """Return how long the request may take: its own limit, or a moment longer than the rest of the run's time.

    So the end of the run's time ends the request, and not a failure after which it would be repeated.
    """
    left_s = (started.done_by - started.start_by).total_seconds() - MODEL_GRACE_S + START_WITHIN_S + DECIDING_MAX_S
    return min(run.limits.model_deadline_s, left_s)


def _pinned_model(run: Run, started: ModelStarted) -> ModelChoice:
    assert run.opened is not None
    return next(choice for choice in (run.opened.model, *run.opened.fallbacks) if choice.is_requested_by(started))
