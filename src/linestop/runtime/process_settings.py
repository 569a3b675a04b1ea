"""The settings of a process."""

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
from linestop.schemas.defaults import SHUTDOWN_DRAIN_S, SWEEP_EVERY_S, AccountLimits, WorkerLimits
from linestop.schemas.tool_contracts import Contract

if TYPE_CHECKING:
    from linestop.bus.stores.signed_checkpoints import CheckpointSigner
    from linestop.runtime.tracing import Spans


def utc_now() -> datetime:
    """Return the present moment in this process, with its time zone."""
    return clock.now()


@dataclass(slots=True)
class ProcessSettings:
    """The settings of a process: its name, its limits, the people who may decide, and the secrets.

    ``now`` is the wall clock, which is read once: from then on time passes as in the event loop (``linestop.clock``).
    With ``compare_clock`` the clock is kept in step with the broker's.
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
    drain_s: float = SHUTDOWN_DRAIN_S
    sweep_every_s: float = SWEEP_EVERY_S
    sweeping: bool = True
    spans: Spans | None = None
    signer: CheckpointSigner | None = None
    directory: Path | None = None
    """The state folder: a recorder alerts a person when its disk is nearly full."""
