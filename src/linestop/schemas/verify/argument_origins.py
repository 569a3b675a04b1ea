"""Checks the origins that a judgement gives for the values of an irreversible call (P5).

The values are traced again by the rule version that the judgement names. For version 1 the check is only whether the
stated origins can be true: a value that the task does not contain must be named. For every version, a value that is
called trusted must occur in a trusted source, and every other value must have raised the flag that makes a person
decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from linestop.schemas.events import JudgedCall, Provenance
from linestop.schemas.json_values import JsonObject, JsonValue
from linestop.schemas.provenance.argument_origins import RULE
from linestop.schemas.provenance.run_sources import provenance
from linestop.schemas.run.fold import Run
from linestop.schemas.strict_json import decode_strict
from linestop.schemas.tool_contracts import TRACED_TIERS
from linestop.schemas.verify.call_records import Call
from linestop.schemas.verify.checker_state import Ledger
from linestop.schemas.verify.opening import agent_of
from linestop.schemas.verify.verdict import Rule

Violations = Iterator[tuple[Rule, str]]
_FLAG = "untrusted-value"
_LEAVES_MAX = 200
_FIRST_TRACED = 2
"""The first version of the rule by which values can be traced again."""


def check_origins(ledger: Ledger, run: Run, call: Call, verdict: JudgedCall, *, rule: int) -> Violations:
    """Check the stated origins of a call's values.

    ``rule`` is the version of the rule by which the call was judged. The values are traced again by it if the contract
    was supplied; for version 1 the check is only whether the stated origins can be true.
    """
    traced = call.grant is not None and (call.grant.tier in TRACED_TIERS or (rule > 1 and call.grant.egress))
    if call.grant is None or not traced:
        return
    untrusted = [line.path for line in verdict.provenance if line.field != "trusted"]
    if untrusted and _FLAG not in verdict.flags:
        yield "approval", f"It conceals that '{untrusted[0]}' of call '{call.name}' comes from no trusted source."
    for line in verdict.provenance:
        if line.field == "trusted" and not _may_be_trusted(ledger, line):
            yield (
                "approval",
                f"It takes '{line.path}' of call '{call.name}' from event {line.n} as trusted, but that event is not.",
            )
    args, task = ledger.bytes_of(verdict.args), ledger.bytes_of(ledger.opened.task.text) if ledger.opened else None
    if args is None or task is None:
        return
    if _FIRST_TRACED <= rule <= RULE:
        yield from _check_traced(ledger, run, call, verdict, rule=rule)
    elif rule == 1:
        yield from _check_named(call, verdict, args, task)


def _check_traced(ledger: Ledger, run: Run, call: Call, verdict: JudgedCall, *, rule: int) -> Violations:
    """Trace the values again, by the rule version of the judgement."""
    agent, args = agent_of(ledger, ledger.opened) if ledger.opened else None, ledger.bytes_of(verdict.args)
    contract = agent.tool(call.tool) if agent else None
    if agent is None or contract is None or args is None:
        return
    try:
        lines = provenance(run, contract, decode_strict(args), agent, rule=rule)
    except ValueError:
        return
    for line in lines:
        if line not in verdict.provenance:
            yield "approval", f"It gives no origin for '{line.path}' of call '{call.name}'."
    for line in verdict.provenance:
        if line not in lines:
            yield (
                "approval",
                f"The origin it gives for '{line.path}' of call '{call.name}' is not supported by any text of the run.",
            )


def _check_named(call: Call, verdict: JudgedCall, args: bytes, task: bytes) -> Violations:
    """Version 1 of the rule: a value that the task does not contain must be named."""
    named = {line.path for line in verdict.provenance}
    task_text = task.decode(errors="replace").lower()
    for path, value in _texts(args):
        if path not in named and value.strip().lower() not in task_text:
            yield "approval", f"It gives no origin for '{path}' of call '{call.name}'; it does not appear in the task."


def _may_be_trusted(ledger: Ledger, line: Provenance) -> bool:
    """Whether the event is a person's answer, or a result of a tool that declares trusted fields."""
    if line.n in ledger.person_input_ns:
        return True
    result = ledger.finished.get(line.n)
    origin = ledger.calls.get(result.call) if result else None
    return origin is not None and origin.grant is not None and bool(origin.grant.trusted)


def _items(value: Any) -> list[Any]:  # noqa: ANN401 - a JSON array
    items: list[Any] = value
    return items


def _texts(args: bytes) -> Iterator[tuple[str, str]]:
    """The texts among the leaves of arguments, each with its path; numbers are left out, having many spellings."""
    try:
        stack: list[tuple[str, JsonValue]] = [("$", decode_strict(args))]
    except ValueError:
        return
    count = 0
    while stack and count < _LEAVES_MAX:
        path, item = stack.pop()
        if isinstance(item, dict):
            fields = cast("JsonObject", item)
            stack.extend((f"{path}.{key}", child) for key, child in reversed(fields.items()))
        elif isinstance(item, list):
            stack.extend(reversed([(f"{path}[{index}]", child) for index, child in enumerate(_items(item))]))
        else:
            count += 1
            if isinstance(item, str) and item.strip():
                yield path, item
