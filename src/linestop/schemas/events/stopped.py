"""What everybody may say: a stop, with its receipt."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from linestop.schemas.events.envelope import Event


class OpenStart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A start without a result when the run was stopped: a line of the receipt."""

    n: int
    what: str
    attempt: int


class LimitHit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which limit, how much of it, and its maximum. Of an account also its period, and what of it is spent."""

    name: str
    value: int
    max_value: int
    period: str = ""
    spent: int = 0


StopCode = Literal[
    "person", "budget", "limit", "loop", "policy", "deadline", "defect", "stuck", "squatted",
    "model_down", "refusal", "expired", "unknown_effect", "handed_off", "denied",
]  # fmt: skip


class StopMode(StrEnum):
    """What becomes of calls that were started before the stop. Nothing new starts in either mode.

    ``fence`` cancels them at once: a model's answer is not waited for, a tool's process is killed with all its
    children, a coroutine is cancelled, a thread is left behind. ``drain`` lets them end, until their ``done_by``.

    A mode that this version does not know is read as ``fence``: a stop is not lost over how it was meant.
    """

    FENCE = "fence"
    DRAIN = "drain"

    @classmethod
    def _missing_(cls, value: object) -> StopMode | None:
        return cls.FENCE if isinstance(value, str) else None


class Stopped(Event, frozen=True, kw_only=True):
    """The run is over: nothing of it may start any more. Said by anyone; who is in the subject and ``by``."""

    by: str
    why: str
    code: StopCode = "person"
    mode: StopMode = StopMode.FENCE
    scope: str = "run"
    wide_stop: str = ""
    limit: LimitHit | None = None
    open: tuple[OpenStart, ...] = ()

    def overrides(self, standing: Stopped) -> bool:
        """Whether it changes a run that ``standing`` has stopped: what was to drain is cancelled after all."""
        return standing.mode is StopMode.DRAIN and self.mode is StopMode.FENCE
