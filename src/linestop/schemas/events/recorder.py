"""Events of the recorder."""

from __future__ import annotations

from typing import Literal

import msgspec

from linestop.schemas.events.envelope import Event, Text

SealStatus = Literal["completed", "failed", "refused", "stopped", "over_budget", "denied", "expired", "handed_off"]


class Fate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of one call: ``done``, ``failed``, ``unknown``, ``never_started``, ``not_started``."""

    call: str
    tool: str
    fate: str
    attempts: int = 0
    effect_key: str = ""


class Totals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The totals of the run."""

    turns: int = 0
    calls: int = 0
    tokens: int = 0
    cost_micros: int = 0
    wait_s: float = 0.0
    events: int = 0


class Sealed(Event, frozen=True, kw_only=True):
    """The run is over and its receipt final; only late results and ``amended`` may follow."""

    status: SealStatus
    cause: str = ""
    why: str = ""
    answer: Text | None = None
    partial: str = ""
    """The partial answer of a run that did not complete; ``partial_is`` is its kind."""

    partial_is: Literal["", "summary", "results", "words"] = ""
    """``summary``: that of the closing turn. ``results``: a list of names. ``words``: the model's last text."""

    receipt: tuple[Fate, ...] = ()
    receipt_omits: int = 0
    """The number of calls that the receipt has no room for; the log has them all."""

    totals: Totals = Totals()
    head_sha256: str = ""


class Amended(Event, frozen=True, kw_only=True):
    """Results came after the seal; this is the receipt with them."""

    facts: tuple[int, ...]
    receipt: tuple[Fate, ...] = ()
    receipt_omits: int = 0
    totals: Totals = Totals()
