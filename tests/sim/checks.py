"""The guarantees that every seed must keep, checked by the log and the world outside only.

They are those of ``docs/guarantees.md``.

The fold of production only decides whether an event counts. Everything else is computed again here.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from tests.sim import checks_effects, checks_money, checks_recovery, checks_times
from tests.sim.evidence import Evidence, RunEvidence

from linestop.actors.judging.task_acceptance import task_sha256
from linestop.actors.model_turn.prompt import assemble
from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import LimitHit
from linestop.schemas.messages import Task
from linestop.schemas.run.fold import Run
from linestop.schemas.verify.check_log import verify

STOP_BECOMES_EVENT_S = 20.0
"""An acknowledged stop becomes an event within this time after the last fault, if the run is still running."""


def problems_of_seed(evidence: Evidence) -> list[str]:
    """All problems, as sentences; empty if the seed is green."""
    wrong = [*evidence.wire_record.troubles, *evidence.ledger.problems]
    for run in evidence.runs:
        wrong += chain(run)
        wrong += ends(evidence, run)
        wrong += nothing_starts_after_a_stop(run)
        wrong += checks_money.budget(evidence, run)
        wrong += checks_effects.effects(evidence, run)
        wrong += checks_effects.probes(evidence, run)
        wrong += checks_effects.grants(evidence, run)
        wrong += proof(evidence, run)
        wrong += prompts(evidence, run)
    wrong += checks_times.moments(evidence)
    wrong += checks_recovery.recovery(evidence)
    wrong += acknowledged_is_stored(evidence)
    wrong += checks_money.accounts(evidence)
    wrong += checks_effects.outside(evidence)
    wrong += dead_letters(evidence)
    return wrong


def chain(run: RunEvidence) -> list[str]:
    """Numbers without a gap, no void messages, no ignored events, times that never go back."""
    wrong: list[str] = []
    before = datetime.min.replace(tzinfo=UTC)
    for index, entry in enumerate(run.entries, 1):
        if entry.n != index:
            wrong.append(f"chain: message {index} of {run.name} has number {entry.n} ({entry.ignored})")
        if entry.ignored:
            wrong.append(f"ignored: {entry} of {run.name}: {entry.ignored}")
        at = datetime.fromisoformat(entry.event["at"])
        if at < before:
            wrong.append(f"time: {entry} of {run.name} is before the event it follows")
        before = at
    return wrong


def ends(evidence: Evidence, run: RunEvidence) -> list[str]:
    """Every run is sealed once and has one outcome; none was ended by a failure of linestop."""
    wrong: list[str] = []
    sealed = list(run.events("recorder.sealed"))
    if len(sealed) != 1:
        wrong.append(f"liveness: {run.name} has {len(sealed)} seals; it is {run.fold.phase} after {run.fold.n} events")
    outcomes = evidence.broker.stream("OUTCOMES").matching(f"outcomes.{run.tenant}.*.{run.run}")
    if len(outcomes) != 1:
        wrong.append(f"outcome: {run.name} has {len(outcomes)} outcomes")
    wrong += [
        f"{entry.event['code']}: {entry} of {run.name}: {entry.event['why']}"
        for entry in run.events("stopped")
        if entry.event.get("code") in {"defect", "stuck", "squatted"}
    ]
    return wrong


def nothing_starts_after_a_stop(run: RunEvidence) -> list[str]:
    """P1 in the log: no start follows a stop."""
    stop = run.stop
    if stop is None:
        return []
    return [
        f"P1: {entry} of {run.name} is a start after the stop in event {stop.n}"
        for entry in run.entries
        if entry.name == "started" and entry.n > stop.n
    ]


def proof(evidence: Evidence, run: RunEvidence) -> list[str]:
    """P7: the checker, which sees only the log and the deployed agents, finds nothing broken."""
    found = verify(run.tenant, run.run, _messages(evidence, run), texts=_versions(evidence)).problems
    return [f"P7: event {p.n} of {run.name}: {p.sentence}" for p in found if p.level == "broken"]


def prompts(evidence: Evidence, run: RunEvidence) -> list[str]:
    """P8: every prompt comes from the log alone: assembled again from the events before, it is the same."""
    wrong: list[str] = []
    before, versions = Run(run.tenant, run.run), _versions(evidence)
    for entry, message in zip(run.entries, _messages(evidence, run), strict=True):
        if entry.role_and_event == "planner.started" and not entry.ignored and before.opened is not None:
            agent = msgspec.json.decode(versions[before.opened.agent.digest], type=AgentVersion)
            prompt = assemble(
                before,
                agent,
                purpose=entry.event.get("purpose", "turn"),
                dropped_to=entry.event.get("dropped_to", 0),
                limit=msgspec.convert(entry.event.get("limit"), LimitHit | None),
            )
            if prompt.sha256 != entry.event["prompt_sha256"]:
                wrong.append(f"P8: {entry} of {run.name} sends a prompt that does not follow from its log")
        before.apply(*message)
    return wrong


def _messages(evidence: Evidence, run: RunEvidence) -> list[tuple[str, bytes, int]]:
    stored = evidence.broker.stream("RUNS").matching(f"runs.{run.tenant}.{run.run}.>")
    ours = [message for message in stored if message.seq not in evidence.wire_record.taken_subjects]
    return [(message.subject, message.payload, message.seq) for message in ours]


def _versions(evidence: Evidence) -> dict[str, bytes]:
    """The deployed agents, by digest."""
    versions = evidence.broker.stream("KV_agents").matching("$KV.agents.version.*")
    return {message.subject.rpartition(".")[2]: message.payload for message in versions}


def acknowledged_is_stored(evidence: Evidence) -> list[str]:
    """P2 at the intake: every acknowledged task has its run, every acknowledged stop its event."""
    wrong: list[str] = []
    control_ids_in_log = {str(entry.event["cue"].get("id", "")) for run in evidence.runs for entry in run.entries}
    for tenant, agent, task in evidence.acknowledged.tasks if evidence.hardship.kind != "runs full" else ():
        if not any(run.tenant == tenant and _answers_task(run, agent, task) for run in evidence.runs):
            wrong.append(f"P2: the task '{task.text[:20]}…' (key '{task.key}') of {tenant} has no run")
    for tenant, name, at_s in evidence.acknowledged.stops:
        run = next((run for run in evidence.runs if (run.tenant, run.run) == (tenant, name)), None)
        if run is None or run.stop is None or run.stop.stored_s > at_s + 0.001:
            wrong.append(f"P2: the stop of {tenant}/{name} acknowledged at {at_s:.3f} s is not in the log")
    for stored in evidence.broker.stream("CONTROL").matching("control.*.*.stop"):
        run = next((r for r in evidence.runs if stored.subject.startswith(f"control.{r.tenant}.{r.run}.")), None)
        if run is None or run.stop is not None or f"control:{stored.seq}" in control_ids_in_log:
            continue
        sealed = next(run.events("recorder.sealed"), None)
        due_s = max(evidence.seconds(stored.stored_at), evidence.calm_s) + STOP_BECOMES_EVENT_S
        if sealed is None or sealed.stored_s > due_s:
            wrong.append(f"P2: the stop of {run.name} stored as message {stored.seq} of CONTROL never became an event")
    return wrong


def _answers_task(run: RunEvidence, agent: str, task: Task) -> bool:
    """Whether a run belongs to this task: opened for it, refusing it, or stopped before it came."""
    if run.opened is not None:
        task_in_log = run.opened["task"]
        is_same_task = task_in_log["text"] == task.text and run.opened["agent"]["name"] == agent
        return bool(is_same_task and (run.run == task.run or task_in_log.get("key", "") == task.key))
    if run.stop is not None and task.run == run.run:
        return True
    refused = next(run.events("validator.refused"), None)
    return refused is not None and bool(refused.event["task_sha256"] == task_sha256(_decoded(task), agent))


def _decoded(task: Task) -> Task:
    return msgspec.json.decode(msgspec.json.encode(task), type=Task)


def dead_letters(evidence: Evidence) -> list[str]:
    """No message in these worlds may become a dead letter."""
    found = evidence.broker.stream("DEAD").matching(">")
    return [f"dead letter: {stored.payload.decode()[:300]}" for stored in found]
