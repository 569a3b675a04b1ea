"""What a process is told about itself and its surroundings."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from linestop import clock
from linestop.runtime.fetch_facts import ResultCheck
from linestop.runtime.intake import Person
from linestop.schemas.defaults import AccountLimits, WorkerLimits
from linestop.schemas.tool_contracts import Contract

if TYPE_CHECKING:
    from linestop.bus.signed_checkpoints import CheckpointSigner
    from linestop.runtime.tracing import Spans


def utc_now() -> datetime:
    """The present moment in this process, aware."""
    return clock.now()


@dataclass(slots=True)
class ProcessSettings:
    """What a process is told: who it is, what it may spend, who may decide, what must stay secret.

    ``now`` is its wall clock, read once: time then passes as the event loop's does (``linestop.clock``). With
    ``compares_clock`` it is kept at the broker's.
    """

    worker: str
    build: str = ""
    account_limits: AccountLimits = field(default_factory=AccountLimits)
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    people: Mapping[str, Person] = field(default_factory=dict[str, Person])
    secrets: tuple[str, ...] = ()
    checks: Mapping[str, ResultCheck] = field(default_factory=dict[str, ResultCheck])
    tools: Sequence[Contract] = ()
    """The contracts of the tools that an executor here would call."""

    now: Callable[[], datetime] = utc_now
    compare_clock: bool = True
    random_source: random.Random = field(default_factory=random.SystemRandom)
    drain_s: float = 10.0
    sweep_every_s: float = 5.0
    sweeping: bool = True
    spans: Spans | None = None
    signer: CheckpointSigner | None = None
    directory: Path | None = None
    """The state folder: a recorder says when its disk is nearly full."""
