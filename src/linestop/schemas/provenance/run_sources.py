"""The origins of a call's values in the texts of its run, and which of these texts are trusted.

Every value of an irreversible or destructive call is traced. Of any other call only the values that leave the system
(``egress``) are: some text of the run must contain them unchanged, or they must come from a trusted one, so that no
data can be assembled on its way out.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING

from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import Provenance
from linestop.schemas.json_values import JsonValue
from linestop.schemas.model_messages import FUNCTION_MODEL_PREFIX
from linestop.schemas.provenance.argument_origins import (
    NO_CONSTANTS,
    RULE,
    Source,
    Sources,
    TracedArguments,
    trace,
    trusted_leaves,
)
from linestop.schemas.provenance.code_constants import CodeConstants
from linestop.schemas.provenance.dates import mentioned_times
from linestop.schemas.provenance.tokens import tokens
from linestop.schemas.tool_contracts import TRACED_TIERS, Contract

if TYPE_CHECKING:
    from linestop.schemas.run.fold import Run

_REFERENCE_KINDS = frozenset({"link", "address", "account"})


def provenance(
    run: Run,
    contract: Contract,
    args: JsonValue,
    agent: AgentVersion,
    *,
    rule: int = RULE,
) -> tuple[Provenance, ...]:
    """Return the origin of each value of a call that is not from the task; empty if all are, or if none is traced."""
    if contract.tier not in TRACED_TIERS and not contract.egress:
        return ()
    only = () if contract.tier in TRACED_TIERS else contract.egress
    traced = TracedArguments(parameters=contract.parameters, content=contract.content, only=only, rule=rule)
    return trace(args, traced, sources_of(run, agent))


def sources_of(run: Run, agent: AgentVersion) -> Sources:
    """Return a run's texts, newest first: task, trusted fields, people's answers, the developer's; then the rest."""
    task = run.opened.task if run.opened else None
    trusted = tuple(_trusted_sources(run))
    own = [*agent.pinned, " ".join(token.text for token in tokens(agent.prompt) if token.kind in _REFERENCE_KINDS)]
    days = {run.opened_at.date(), *(day for source in trusted for day in _dates(source.text))}
    return Sources(
        trusted=(
            *([Source(0, task.text)] if task and isinstance(task.text, str) else []),
            *(Source(0, text) for text in own if text),
            *trusted,
        ),
        untrusted=tuple(
            Source(call.finished_n, call.finished.result)
            for call in reversed(run.calls.values())
            if call.finished is not None and call.finished.result
        ),
        material=task.material if task else "",
        constants=CodeConstants(agent.constants, _outside_texts(run)) if _is_by_function(run) else NO_CONSTANTS,
        today=tuple(sorted(days)),
    )


def _is_by_function(run: Run) -> bool:
    """Whether a planner function made the calls, and not a model that the run fell back to."""
    return run.proposal is not None and run.proposal.model.startswith(FUNCTION_MODEL_PREFIX)


def _outside_texts(run: Run) -> Iterator[str]:
    """Yield the texts given to a planner function that may come from others than the operator or the task's sender.

    Fields that its agent declares trusted are included: they are trusted on their own.
    """
    if run.opened is not None:
        yield run.opened.task.material
    for call in run.calls.values():
        yield call.outcome_text
        if call.finished is not None:
            yield call.finished.result


def _trusted_sources(run: Run) -> Iterator[Source]:
    for call in reversed(run.calls.values()):
        if call.finished is not None:
            if call.grant is not None and call.grant.trusted and call.finished.result:
                for value in trusted_leaves(call.finished.result, call.grant.trusted):
                    yield Source(call.finished_n, value)
        elif call.asked is not None and not call.is_error and call.outcome_text and not call.reply_untrusted:
            yield Source(call.outcome_n, call.outcome_text)


def _dates(text: str) -> Iterator[date]:
    for year, month, day in mentioned_times(text).days:
        if year and day:
            try:
                yield date(year, month, day)
            except ValueError:
                continue
