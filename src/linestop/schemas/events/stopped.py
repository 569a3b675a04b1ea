"""The event that every role may append: a stop, with its receipt."""

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
    """A limit, the value that was reached, and its maximum. For an account also its period and the spent part."""

    name: str
    value: int
    max_value: int
    period: str = ""
    spent: int = 0


StopCode = Literal[
    "person",
    "budget",
    "limit",
    "loop",
    "policy",
    "deadline",
    "defect",
    "stuck",
    "squatted",
    "model_down",
    "refusal",
    "expired",
    "unknown_effect",
    "handed_off",
    "denied",
]


class StopMode(StrEnum):
    """The treatment of calls that were started before the stop. Nothing new starts in either mode.

    ``fence`` cancels them at once: a model's answer is not waited for, a tool's process is killed with all its
    children, a coroutine is cancelled, a thread is abandoned. ``drain`` lets them finish, until their ``done_by``.

    A mode that this version does not know is read as ``fence``, so that the stop still takes effect.
    """

    FENCE = "fence"
    DRAIN = "drain"

    @classmethod
    def _missing_(cls, value: object) -> StopMode | None:
        return cls.FENCE if isinstance(value, str) else None


class Stopped(Event, frozen=True, kw_only=True):
    """The run is over: nothing of it may start any more. Any role may append it; subject and ``by`` name the author."""

    by: str
    why: str
    code: StopCode = "person"
    mode: StopMode = StopMode.FENCE
    scope: str = "run"
    limit: LimitHit | None = None
    open: tuple[OpenStart, ...] = ()

    def overrides(self, standing: Stopped) -> bool:
        """Whether it changes a run that ``standing`` has stopped: draining calls are cancelled after all."""
        return standing.mode is StopMode.DRAIN and self.mode is StopMode.FENCE
