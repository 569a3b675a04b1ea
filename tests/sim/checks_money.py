"""P4: what a run may still cost never exceeds what it holds, nor its limit, nor the accounts; real bills neither."""

from __future__ import annotations

from typing import Any

from tests.sim.evidence import Evidence, RunEvidence, Said

Part = tuple[str, int]
"""A model call as ("turn 2", attempt), a tool call as (call, attempt)."""


def budget(evidence: Evidence, run: RunEvidence) -> list[str]:
    """Walk the log: reservations and charges against holds and the run's limit, at every event."""
    wrong: list[str] = []
    charged: dict[Part, int] = {}
    reserved: dict[Part, int] = {}
    held = 0
    limit: int = run.opened["limits"].get("cost_max_micros", 500_000) if run.opened else 0
    for said in run.said:
        if said.ignored:
            continue
        held += said.event["amount_micros"] if said.what == "budget.held" else 0
        if said.what == "budget.queued":
            held -= sum(line["released_micros"] for line in said.event.get("holds", []))
        for part, cost in starts(said):
            charged[part] = reserved[part] = cost
        for part, cost in results(said):
            if cost > reserved.get(part, 0):
                wrong.append(f"P4: {said} of {run.name} costs {cost} of at most {reserved.get(part, 0)} reserved")
            charged[part] = reserved.get(part, 0) if cost < 0 else cost
        if sum(charged.values()) > held:
            wrong.append(f"P4: after {said} {run.name} may cost {sum(charged.values())} but holds {held}")
        if held > limit:
            wrong.append(f"P4: after {said} {run.name} holds {held} of at most {limit}")
    return wrong + _bills(evidence, run, charged)


def starts(said: Said) -> list[tuple[Part, int]]:
    """What a start reserves."""
    event: dict[str, Any] = said.event
    if said.what == "planner.started":
        return [((f"turn {event['turn']}", event["attempt"]), event.get("cost_max_micros", 0))]
    if said.what == "executor.started":
        return [((line["call"], line["attempt"]), line.get("cost_max_micros", 0)) for line in event["calls"]]
    return []


def results(said: Said) -> list[tuple[Part, int]]:
    """What a result charges; -1 for the whole reservation, where the fate is unknown."""
    event: dict[str, Any] = said.event
    match said.what:
        case "planner.proposed" | "planner.compacted":
            return [((f"turn {event['turn']}", event["attempt"]), event.get("cost_micros", 0))]
        case "planner.failed":
            return [((f"turn {event['turn']}", event["attempt"]), event.get("charged_micros", 0))]
        case "executor.finished" if event["attempt"]:
            cost = -1 if event["outcome"] == "unknown" else event.get("cost_micros", 0)
            return [((event["call"], event["attempt"]), cost)]
        case _:
            return []


def _bills(evidence: Evidence, run: RunEvidence, charged: dict[Part, int]) -> list[str]:
    """What providers really billed is in the log's charges, call by call."""
    wrong: list[str] = []
    for request in evidence.outside.requests:
        if request.kind != "model" or (request.tenant, request.run) != (run.tenant, run.run):
            continue
        cost = charged.get((f"turn {request.call}", request.attempt), 0)
        if request.billed_micros > cost:
            what = f"model call {request.call}/{request.attempt} of {run.name}"
            wrong.append(f"P4: {what} was billed {request.billed_micros}, the log charges {cost}")
    return wrong


def accounts(evidence: Evidence) -> list[str]:
    """At the end nothing is held, and the accounts know what the logs say was spent: never less, and no more either."""
    wrong = [f"P4: account {key} still holds {holds}" for key, holds in evidence.ledger.open_holds().items()]
    spent: dict[str, int] = {}
    for run in evidence.runs:
        lines = {said.event["hold"]: said.event.get("accounts", []) for said in run.events("budget.held")}
        for said in run.events("budget.settled", "budget.queued"):
            for hold in said.event.get("holds", []):
                for account in lines.get(hold["hold"], []):
                    key = f"{account['account']}.{account['period']}"
                    spent[key] = spent.get(key, 0) + hold["spent_micros"]
    known = evidence.ledger.spent()
    return wrong + [
        f"P4: account {key} says {known.get(key, 0)} were spent, the logs say {micros}"
        for key, micros in spent.items()
        if known.get(key, 0) < micros or (known.get(key, 0) > micros and not evidence.ledger.remade.get(key))
    ]
