"""What performing needs, frozen at the start, and the ports through which planner and executor perform."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Protocol

import msgspec

from linestop.schemas.events import Finished, ToolGrant
from linestop.schemas.model_messages import ModelReply, ModelRequest, Price, ToolMode
from linestop.schemas.redaction import Redactor
from linestop.schemas.tool_contracts import Contract, Tier, ToolResult


class CallWork(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at one call, frozen when its start was appended.

    ``grant`` is what the run was given of the tool when it was opened. ``args`` is canonical JSON. ``key`` is the
    effect key. ``dry_run`` describes instead of doing.
    """

    tenant: str
    run: str
    call: str
    attempt: int
    tool: str
    grant: ToolGrant
    args: bytes
    key: str
    user: str
    tier: Tier
    start_by: datetime
    timeout_s: float
    result_bytes_max: int
    cost_max_micros: int = 0
    probe: bool = False
    dry_run: bool = False
    untrusted: bool = True


class LongResult(msgspec.Struct, frozen=True, kw_only=True):
    """A result that was cut for the log, with the whole of it, which is stored before ``event`` is appended."""

    event: Finished
    full_text: str
    type: str


class ToolRunner(Protocol):
    """Performs calls. Cancelling the iteration cancels what can be cancelled and kills what can be killed."""

    def run(self, works: tuple[CallWork, ...]) -> AsyncIterator[tuple[CallWork, ToolResult, float]]:
        """Perform all at once; yield each with its result and its duration in seconds as it comes."""
        ...


class ModelWork(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at one model call.

    ``used_ids`` are the call ids the run already knows. ``covers_to`` is what a summary replaces, and ``covered`` the
    answers, with their events, whose exact values it must not lose. ``redactor`` takes known secrets out of what the
    model says, and out of arguments that fit none of ``contracts``, the tools that the run may use. Of an answer with
    more than ``calls_max`` calls the validator takes none.
    """

    tenant: str
    run: str
    turn: int
    attempt: int
    request: ModelRequest
    price: Price
    cost_max_micros: int
    start_by: datetime
    base_url: str = ""
    api_key_env: str = ""
    tool_mode: ToolMode = "auto"
    planner: str = "model"
    used_ids: frozenset[str] = frozenset()
    covers_to: int = 0
    covered_texts: tuple[tuple[int, str], ...] = ()
    redactor: Redactor = Redactor()
    contracts: tuple[Contract, ...] = ()
    calls_max: int = 0
    prompt_sha256: str = ""


class ModelRequester(Protocol):
    """Reaches a model (or a planner function). One attempt a call: retries are events, not loops."""

    async def request(self, work: ModelWork) -> tuple[ModelReply, float]:
        """Return the complete answer and its duration in seconds.

        Raises:
            ModelFailed: there is none.
        """
        ...
