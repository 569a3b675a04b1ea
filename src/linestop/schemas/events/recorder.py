"""What the recorder says."""

from __future__ import annotations

from typing import Literal

import msgspec

from linestop.schemas.events.envelope import Event, Text

SealStatus = Literal["completed", "failed", "refused", "stopped", "over_budget", "denied", "expired", "handed_off"]


class Fate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one call: ``done``, ``failed``, ``unknown``, ``never_started``, ``not_started``."""

    call: str
    tool: str
    fate: str
    attempts: int = 0
    effect_key: str = ""


class Totals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the run took."""

    turns: int = 0
    calls: int = 0
    tokens: int = 0
    cost_micros: int = 0
    wait_s: float = 0.0
    events: int = 0


class Sealed(Event, frozen=True, kw_only=True):
    """The run is complete and its receipt final; only late facts and ``amended`` may follow."""

    status: SealStatus
    cause: str = ""
    why: str = ""
    answer: Text | None = None
    partial: str = ""
    """What there is of a run that did not complete: what ``partial_is`` says."""

    partial_is: Literal["", "summary", "results", "words"] = ""
    """``summary``: the closing turn's. ``results``: they are listed by name. ``words``: the model's last ones."""

    receipt: tuple[Fate, ...] = ()
    receipt_omits: int = 0
    """Calls that the receipt has no room for; the log has them all."""

    totals: Totals = Totals()
    head_sha256: str = ""
    artefacts: tuple[str, ...] = ()


class Amended(Event, frozen=True, kw_only=True):
    """Facts came after the seal; this is the receipt with them."""

    facts: tuple[int, ...]
    receipt: tuple[Fate, ...] = ()
    receipt_omits: int = 0
    totals: Totals = Totals()
