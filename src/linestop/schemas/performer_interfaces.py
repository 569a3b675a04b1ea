"""The data of one performance, frozen at its start, and the interfaces through which planner and executor perform."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Protocol

import msgspec

from linestop.schemas.events import Finished, ToolGrant
from linestop.schemas.model_messages import ModelReply, ModelRequest, Price, ToolMode
from linestop.schemas.text.redaction import Redactor
from linestop.schemas.tool_contracts import Contract, Tier, ToolResult


class CallWork(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at one call, frozen when its start was appended.

    ``grant`` is the run's grant of the tool from its opening. ``args`` is canonical JSON. ``key`` is the effect key.
    ``dry_run``: the call is described instead of performed.
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
    """A result that was cut for the log, with the full result, which is stored before ``event`` is appended."""

    event: Finished
    full_text: str
    type: str


class ToolRunner(Protocol):
    """Performs calls. Cancelling the iteration cancels coroutines and kills processes; threads cannot be cancelled."""

    def run(self, works: tuple[CallWork, ...]) -> AsyncIterator[tuple[CallWork, ToolResult, float]]:
        """Perform all at the same time; yield each with its result and its duration in seconds once it ends."""
        ...


class ModelWork(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at one model request.

    ``used_ids`` are the call ids that the run already has. ``covers_to`` is the last event that a summary replaces, and
    ``covered`` are the results, with their events, whose exact values it must not lose. ``redactor`` removes known
    secrets from the model's text, and from arguments that fit none of ``contracts``, the tools that the run may use.
    The validator rejects an answer with more than ``calls_max`` calls.
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
    """Sends requests to a model (or a planner function). One attempt a request: retries are events, not loops."""

    async def request(self, work: ModelWork) -> tuple[ModelReply, float]:
        """Return the complete answer and its duration in seconds.

        Raises:
            ModelFailed: no usable answer came.
        """
        ...
