"""The judged calls of a run, ordered by what limits and repeated effects are decided by. Only the fold changes it.

Without this order, each verdict would have to go through all calls of the run.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from typing import TYPE_CHECKING

from linestop.schemas.run.call_states import CallState, Stage

if TYPE_CHECKING:
    from linestop.schemas.events import JudgedCall


class JudgedCalls:
    """The calls that passed, counted by tool (``passed``), and the calls of each effect."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()
        self._by_effect: dict[str, list[CallState]] = {}

    def of_effect(self, effect_key: str) -> list[CallState]:
        """Return the calls that were last judged to have this effect, in the order in which they were proposed."""
        return self._by_effect.get(effect_key, [])

    def record(self, call: CallState, verdict: JudgedCall) -> None:
        """Record the verdict on a pending call, in place of that on its former arguments."""
        if call.judged is not None:
            key = call.judged.effect_key
            self._by_effect[key] = [other for other in self._by_effect[key] if other is not call]
        call.judged = verdict
        insort(self._by_effect.setdefault(verdict.effect_key, []), call, key=_place)
        self.passed[call.tool] += verdict.verdict == "pass"

    def judge_again(self, call: CallState) -> None:
        """Let the validator judge ``call`` again; until then it does not count as passed."""
        self.passed[call.tool] -= call.has_passed
        call.stage = Stage.PENDING


def _place(call: CallState) -> tuple[int, int]:
    """Return the place of ``call`` among the calls of its run."""
    return call.proposal_n, call.index
