"""The parts of a shell: its roles, each with its own log, and its settings."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from linestop.actors.role_protocol import AnyPerformer, AnyRole
from linestop.bus.interfaces import Log, Publisher
from linestop.schemas.defaults import HEAD_CHECK_S, WorkerLimits

if TYPE_CHECKING:
    from linestop.bus.stores.signed_checkpoints import CheckpointSigner
    from linestop.runtime.tracing import Spans


@dataclass(slots=True)
class RoleBinding:
    """One role of this process, with the log as the role's own credential sees it."""

    role: AnyRole
    log: Log
    publisher: Publisher
    performer: AnyPerformer | None = None


def _always() -> bool:
    return True


@dataclass(slots=True)
class ShellConfig:
    """The settings of a shell."""

    worker: str
    now: Callable[[], datetime]
    drain_s: float
    may_decide: Callable[[], bool] = _always
    random_source: random.Random = field(default_factory=random.SystemRandom)
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    replicated: bool = False
    head_check_s: float = HEAD_CHECK_S
    spans: Spans | None = None
    signer: CheckpointSigner | None = None
