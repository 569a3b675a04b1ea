"""What everybody may say: a stop, with its receipt."""

from __future__ import annotations

from typing import Literal

import msgspec

from linestop.schemas.events.envelope import Event


class OpenStart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A start without a result when the run was stopped: a line of the receipt."""

    n: int
    what: str
    attempt: int


class LimitHit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which limit, how much of it, and its maximum."""

    name: str
    value: int
    max_value: int


StopCode = Literal[
    "person", "budget", "limit", "loop", "policy", "deadline", "defect", "stuck", "squatted",
    "model_down", "refusal", "expired", "unknown_effect", "handed_off", "denied",
]  # fmt: skip


class Stopped(Event, frozen=True, kw_only=True):
    """The run is over: nothing of it may start any more. Said by anyone; who is in the subject and ``by``."""

    by: str
    why: str
    code: StopCode = "person"
    mode: Literal["fence", "kill", "drain"] = "fence"
    scope: str = "run"
    wide_stop: str = ""
    limit: LimitHit | None = None
    open: tuple[OpenStart, ...] = ()
