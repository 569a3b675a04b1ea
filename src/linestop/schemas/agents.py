"""An agent's version: its prompt, models, tools, limits and policy, as one value with one digest.

A version is stored once under its digest and never changed; a run pins the digest when it opens.
"""

from __future__ import annotations

import hashlib
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from linestop.schemas.defaults import LIMITS_MAX, Limits, excessive_limit
from linestop.schemas.events import ModelChoice, Policy
from linestop.schemas.json_values import JsonObject
from linestop.schemas.model_messages import ToolMode
from linestop.schemas.tool_contracts import Contract, canonical


class AgentVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one agent.

    ``planner`` is ``model`` or ``python:<module>.<function>`` for a plain function. ``output_schema`` is the
    JSON Schema of the final answer; without one the answer is any non-empty text. ``scopes``
    are those that its tools may need, patterns included; None in older versions.
    ``constants`` are the values, as JSON, in the code of a planner function.
    ``base_url``, ``tool_mode`` and ``params`` belong to ``model``: older versions, in which a model had none of its
    own, have them here (see ``settings``).
    """

    name: str
    prompt: str
    model: ModelChoice
    version: str = "1"
    description: str = ""
    base_url: str = ""
    tool_mode: ToolMode = "auto"
    fallbacks: tuple[ModelChoice, ...] = ()
    on_model_down: Literal["queue", "fall_back", "fail", "hand_off"] = "fall_back"
    tools: tuple[Contract, ...] = ()
    limits: Limits = Limits()
    policy: Policy = Policy()
    output_schema: JsonObject | None = None
    planner: str = "model"
    pinned: tuple[str, ...] = ()
    scopes: tuple[str, ...] | None = None
    params: JsonObject = {}
    constants: tuple[str, ...] = ()

    def settings(self, choice: ModelChoice) -> ModelChoice:
        """Return ``choice``, one of this version's models, with exactly its own configuration."""
        if choice != self.model:
            return choice
        return msgspec.structs.replace(
            choice,
            base_url=choice.base_url or self.base_url,
            params=choice.params or self.params,
            tool_mode=self.tool_mode if choice.tool_mode == "auto" else choice.tool_mode,
        )

    def stored_bytes(self) -> bytes:
        """Return the version in its stored form: canonical JSON of every field, so that no later default changes it."""
        return canonical(msgspec.convert(msgspec.to_builtins(self), type=AgentVersion))

    def digest(self) -> str:
        """Return the SHA-256 of the stored form."""
        return hashlib.sha256(self.stored_bytes()).hexdigest()

    def has_scopes_for(self, contract: Contract) -> bool:
        """Whether the agent has every scope that the tool needs."""
        scopes = self.scopes
        return scopes is None or all(any(fnmatchcase(need, has) for has in scopes) for need in contract.scopes)

    def excessive_limit(self) -> str:
        """Return which limit or timeout is too large, as a part of a sentence; empty if none is."""
        if reason := excessive_limit(self.limits):
            return reason
        timeout_max_s = LIMITS_MAX["tool_timeout_s"]
        too_long = next((contract for contract in self.tools if not 0 <= contract.timeout_s <= timeout_max_s), None)
        return (
            f"timeout_s of the tool '{too_long.name}': {too_long.timeout_s:g} is not between 0 and {timeout_max_s:,}"
            if too_long
            else ""
        )

    def tool(self, name: str) -> Contract | None:
        """Return the contract of the tool of that name, or None if the agent does not have it."""
        return next((contract for contract in self.tools if contract.name == name), None)
