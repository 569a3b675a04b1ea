"""The rules about the opening of a run: it gets the rights of its agent's version or fewer, never more (P4, P5).

A person deployed an agent's rights under a digest, and a run pins that digest. If the stored version is supplied, the
two are compared; without it, only the fields of the event are compared with each other.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from linestop.schemas.agents import AgentVersion
from linestop.schemas.defaults import CLOCK_SLACK_S, clamp
from linestop.schemas.events import Opened, ToolGrant
from linestop.schemas.tool_contracts import Contract
from linestop.schemas.verify.checker_state import Ledger
from linestop.schemas.verify.verdict import Rule

Violations = Iterator[tuple[Rule, str]]

_CONTRACT_FIELDS = (
    "tier",
    "kind",
    "repeatable",
    "idempotent",
    "probe",
    "checks",
    "ordered",
    "calls_max",
    "price_micros",
    "egress",
    "trusted",
)


def check_opened(ledger: Ledger, event: Opened) -> Violations:
    """Check the rights that a run got when it opened."""
    run_max_s = clamp(event.limits).run_max_s
    if (event.deadline_at - event.at).total_seconds() > run_max_s + CLOCK_SLACK_S:
        yield "opened", f"It may run until {event.deadline_at.isoformat()}, beyond its limit of {run_max_s} s."
    outside = [tool.name for tool in event.tools if event.task.scope is not None and tool.name not in event.task.scope]
    if outside:
        yield "opened", f"It grants the tool '{outside[0]}', which is outside the task's scope."
    text = event.task.text
    if isinstance(text, str) and len(text.encode()) > event.task.text_bytes:
        yield "budget", f"Its task has {len(text.encode())} bytes, and it counts {event.task.text_bytes}."
    if ledger.supplied_text(event.agent.digest) is None:
        return
    agent = agent_of(ledger, event)
    if agent is None:
        yield "opened", "The blob that its agent's digest names is not an agent."
        return
    yield from _check_agent(agent, event)
    yield from _check_tools(agent, event)


def agent_of(ledger: Ledger, event: Opened) -> AgentVersion | None:
    """Return the agent version that the run pinned, if it was supplied and can be decoded."""
    stored = ledger.supplied_text(event.agent.digest)
    try:
        return msgspec.json.decode(stored, type=AgentVersion) if stored is not None else None
    except msgspec.DecodeError:
        return None


def _check_agent(agent: AgentVersion, event: Opened) -> Violations:
    if event.agent.name != agent.name:
        yield "opened", f"It opens agent '{event.agent.name}', but its digest is that of '{agent.name}'."
    if event.policy != agent.policy:
        yield "opened", f"Its policy is not the one that agent '{agent.name}' was deployed with."
    models = (event.model, event.fallbacks, event.on_model_down)
    if models != (agent.model, agent.fallbacks, agent.on_model_down):
        yield "opened", f"Its models or their prices are not those that agent '{agent.name}' was deployed with."
    for name in agent.limits.__struct_fields__:
        run_value, agent_max = getattr(event.limits, name), getattr(agent.limits, name)
        if not run_value <= agent_max:
            yield "opened", f"Its limit '{name}' is {run_value}; agent '{agent.name}' has {agent_max}."
    if event.base_bytes < len(agent.prompt.encode()):
        yield "budget", f"It counts {event.base_bytes} bytes for a prompt of {len(agent.prompt.encode())}."


def _check_tools(agent: AgentVersion, event: Opened) -> Violations:
    for granted in event.tools:
        contract = agent.tool(granted.name)
        if contract is None or contract.digest() != granted.contract_digest:
            yield (
                "opened",
                f"It grants the tool '{granted.name}' with a contract that agent '{agent.name}' does not have.",
            )
        elif not agent.has_scopes_for(contract):
            yield "opened", f"It grants the tool '{granted.name}', for which agent '{agent.name}' has no scope."
        elif field := _first_difference(granted, contract):
            yield "opened", f"It grants the tool '{granted.name}' with another '{field}' than its contract's."


def _first_difference(granted: ToolGrant, contract: Contract) -> str:
    """Return the first field in which a grant differs from its contract; timeout and retries may be lower."""
    for field in _CONTRACT_FIELDS:
        if getattr(granted, field) != getattr(contract, field):
            return field
    if granted.scopes is not None and granted.scopes != contract.scopes:
        return "scopes"
    if granted.timeout_s > contract.timeout_s:
        return "timeout_s"
    return "retries_max" if granted.retries_max > contract.retries_max else ""
