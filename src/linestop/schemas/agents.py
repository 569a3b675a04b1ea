"""What an agent is: its prompt, models, tools, limits and policy, as one value with one digest.

A version is stored once under its digest and never changed; a run pins the digest when it opens.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from linestop.schemas.events import ModelChoice, Policy
from linestop.schemas.limits import Limits
from linestop.schemas.tools import Contract, canonical


class AgentVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one agent.

    ``planner`` is ``model`` or ``python:<module>.<function>`` for a plain function. ``output_schema`` is the
    JSON Schema of the final answer; without one the answer is any non-empty text. ``base_url`` points the
    model's SDK at another server.
    """

    name: str
    prompt: str
    model: ModelChoice
    version: str = "1"
    description: str = ""
    base_url: str = ""
    fallbacks: tuple[ModelChoice, ...] = ()
    on_model_down: Literal["queue", "fall_back", "fail", "hand_off"] = "fall_back"
    tools: tuple[Contract, ...] = ()
    limits: Limits = Limits()
    policy: Policy = Policy()
    output_schema: dict[str, Any] | None = None
    planner: str = "model"
    pinned: tuple[str, ...] = ()
    params: dict[str, Any] = {}

    def stored(self) -> bytes:
        """The version as it is stored: canonical JSON of every field, so that no later default changes it."""
        return canonical(msgspec.convert(msgspec.to_builtins(self), type=AgentVersion))

    def digest(self) -> str:
        """SHA-256 of what is stored."""
        return hashlib.sha256(self.stored()).hexdigest()

    def tool(self, name: str) -> Contract | None:
        """The contract of the tool of that name, if this agent has it."""
        return next((contract for contract in self.tools if contract.name == name), None)
