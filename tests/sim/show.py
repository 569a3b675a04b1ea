"""Prints one seed: the requests outside, every event of every run, and the problems."""

from __future__ import annotations

import msgspec
from tests.sim.evidence import Evidence, LoggedEvent, RunEvidence
from tests.sim.simulate import Simulation, Verdict

SHOWN_CHARS_MAX = 260
HIDDEN = {"id", "prev", "build", "trace", "provenance"}


def show(verdict: Verdict, evidence: Evidence, simulation: Simulation) -> None:
    """Print everything in chronological order."""
    lines = [(float(line.split(" s", 1)[0]), line) for line in verdict.story]
    for run in evidence.runs:
        lines += [(entry.stored_s, _line(run, entry)) for entry in run.entries]
    for request in simulation.outside.requests:
        description = f"{request.kind} {request.tool} {request.tenant}/{request.run} {request.call}/{request.attempt}"
        times = f"sent {request.sent_s} ended {request.ended_s} key {request.key[:6]}"
        lines.append(
            (request.begun_s, f"{request.begun_s:9.3f} s     outside: {description} by {request.process} {times}")
        )
    for tenant, name, verb, at_s in simulation.people.acknowledged.controls:
        lines.append((at_s, f"{at_s:9.3f} s     person: {verb} {tenant}/{name}"))
    for tenant, agent, task in simulation.people.acknowledged.tasks:
        print("task", tenant, agent, msgspec.json.encode(task).decode()[:SHOWN_CHARS_MAX])
    print(
        *(f"worker {worker.name}: {' '.join(worker.roles)} skew {worker.skew_s:.2f}" for worker in simulation.workers),
        sep="\n",
    )
    print("weather", simulation.faults.plan)
    print(*(line for _, line in sorted(lines, key=lambda line: line[0])), sep="\n")
    print("holds", simulation.ledger.open_holds())
    for stored in simulation.broker.stream("DEAD").matching(">"):
        print("dead letter", stored.subject, stored.payload.decode()[:SHOWN_CHARS_MAX])
    print(
        f"seed {verdict.seed}: {verdict.events} events, {verdict.effects} effects, over after {verdict.ended_s:.0f} s"
    )
    print(*(verdict.problems or ["green"]), sep="\n")


def _line(run: RunEvidence, entry: LoggedEvent) -> str:
    fields = {name: value for name, value in entry.event.items() if name not in HIDDEN}
    if entry.name == "opened":
        fields = {name: fields[name] for name in ("limits", "policy") if name in fields}
    body = msgspec.json.encode(fields).decode()[:SHOWN_CHARS_MAX]
    ignored = f" IGNORED: {entry.ignored}" if entry.ignored else ""
    return f"{entry.stored_s:9.3f} s  {run.name} {entry.n} {entry.role_and_event}{ignored} {body}"
