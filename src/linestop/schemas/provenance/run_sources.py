"""Where the values of a call come from, asked of the texts of its run; and which of those are trusted.

Of an irreversible or destructive call every value is traced. Of any other call those that leave the system
(``egress``) are: they must stand in some text of the run as they are, or come from a trusted one, so that nothing
can be put together on its way out.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import Provenance
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
    from linestop.schemas.run.state import Run

_REFERENCE_KINDS = frozenset({"link", "address", "account"})


def provenance(
    run: Run,
    contract: Contract,
    args: Any,  # noqa: ANN401 - any JSON value
    agent: AgentVersion,
    *,
    rule: int = RULE,
) -> tuple[Provenance, ...]:
    """Where each value of a call comes from that is not of the task; empty if all are, or none matters."""
    if contract.tier not in TRACED_TIERS and not contract.egress:
        return ()
    only = () if contract.tier in TRACED_TIERS else contract.egress
    traced = TracedArguments(parameters=contract.parameters, content=contract.content, only=only, rule=rule)
    return trace(args, traced, sources_of(run, agent))


def sources_of(run: Run, agent: AgentVersion) -> Sources:
    """All texts of a run, newest first: task, trusted fields, people's answers, the developer's facts; and the rest."""
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
    """Whether a planner function made the calls in question, and not a model that it falls back to."""
    return run.proposal is not None and run.proposal.model.startswith(FUNCTION_MODEL_PREFIX)


def _outside_texts(run: Run) -> Iterator[str]:
    """All that a planner function was told and that somebody else than the operator or the task's sender may have said.

    What its agent declares trusted is not told apart here: it is trusted by itself.
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
