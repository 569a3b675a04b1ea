"""P4: neither the possible cost of a run nor its real bills exceed its hold, its limit or the accounts."""

from __future__ import annotations

from typing import Any

from tests.sim.evidence import Evidence, LoggedEvent, RunEvidence

Attempt = tuple[str, int]
"""A model request as ("turn 2", attempt), a tool call as (call, attempt)."""


def budget(evidence: Evidence, run: RunEvidence) -> list[str]:
    """Compare reservations and charges with the holds and the limit of the run, at every event."""
    wrong: list[str] = []
    charged: dict[Attempt, int] = {}
    reserved: dict[Attempt, int] = {}
    held = 0
    limit: int = run.opened["limits"].get("cost_max_micros", 500_000) if run.opened else 0
    for entry in run.entries:
        if entry.ignored:
            continue
        held += entry.event["amount_micros"] if entry.role_and_event == "budget.held" else 0
        if entry.role_and_event == "budget.queued":
            held -= sum(line["released_micros"] for line in entry.event.get("holds", []))
        for attempt, cost in starts(entry):
            charged[attempt] = reserved[attempt] = cost
        for attempt, cost in results(entry):
            if cost > reserved.get(attempt, 0):
                wrong.append(f"P4: {entry} of {run.name} costs {cost} of at most {reserved.get(attempt, 0)} reserved")
            charged[attempt] = reserved.get(attempt, 0) if cost < 0 else cost
        if sum(charged.values()) > held:
            wrong.append(f"P4: after {entry} {run.name} may cost {sum(charged.values())} but holds {held}")
        if held > limit:
            wrong.append(f"P4: after {entry} {run.name} holds {held} of at most {limit}")
    return wrong + _bills(evidence, run, charged)


def starts(entry: LoggedEvent) -> list[tuple[Attempt, int]]:
    """The reservations of a start."""
    event: dict[str, Any] = entry.event
    if entry.role_and_event == "planner.started":
        return [((f"turn {event['turn']}", event["attempt"]), event.get("cost_max_micros", 0))]
    if entry.role_and_event == "executor.started":
        return [((line["call"], line["attempt"]), line.get("cost_max_micros", 0)) for line in event["calls"]]
    return []


def results(entry: LoggedEvent) -> list[tuple[Attempt, int]]:
    """The charges of a result; -1 for the whole reservation, where the outcome is unknown."""
    event: dict[str, Any] = entry.event
    match entry.role_and_event:
        case "planner.proposed" | "planner.compacted":
            return [((f"turn {event['turn']}", event["attempt"]), event.get("cost_micros", 0))]
        case "planner.failed":
            return [((f"turn {event['turn']}", event["attempt"]), event.get("charged_micros", 0))]
        case "executor.finished" if event["attempt"]:
            cost = -1 if event["outcome"] == "unknown" else event.get("cost_micros", 0)
            return [((event["call"], event["attempt"]), cost)]
        case _:
            return []


def _bills(evidence: Evidence, run: RunEvidence, charged: dict[Attempt, int]) -> list[str]:
    """The charges in the log cover the real bills of the providers, request by request."""
    wrong: list[str] = []
    for request in evidence.outside.requests:
        if request.kind != "model" or (request.tenant, request.run) != (run.tenant, run.run):
            continue
        cost = charged.get((f"turn {request.call}", request.attempt), 0)
        if request.billed_micros > cost:
            what = f"model request {request.call}/{request.attempt} of {run.name}"
            wrong.append(f"P4: {what} was billed {request.billed_micros}, the log charges {cost}")
    return wrong


def accounts(evidence: Evidence) -> list[str]:
    """At the end nothing is held, and the accounts have exactly the spending of the logs."""
    wrong = [f"P4: account {key} still holds {holds}" for key, holds in evidence.ledger.open_holds().items()]
    spent: dict[str, int] = {}
    for run in evidence.runs:
        lines = {entry.event["hold"]: entry.event.get("accounts", []) for entry in run.events("budget.held")}
        for entry in run.events("budget.settled", "budget.queued"):
            for hold in entry.event.get("holds", []):
                for account in lines.get(hold["hold"], []):
                    key = f"{account['account']}.{account['period']}"
                    spent[key] = spent.get(key, 0) + hold["spent_micros"]
    spent_in_accounts = evidence.ledger.spent()
    return wrong + [
        f"P4: account {key} has {spent_in_accounts.get(key, 0)} spent, the logs have {micros}"
        for key, micros in spent.items()
        if spent_in_accounts.get(key, 0) < micros
        or (spent_in_accounts.get(key, 0) > micros and not evidence.ledger.holds_made_again.get(key))
    ]
