"""Tool contracts: the rights of a tool, agreed before a run begins and pinned by digest when it opens.

The contract is enforced, not the prompt. A tool that declares nothing is treated as the worst case: ``destructive``
and not safe to repeat.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from typing import Any, Literal, NewType

import msgspec

from linestop.schemas.json_values import JsonObject, JsonValue

Tier = Literal["read", "reversible", "irreversible", "destructive"]
"""How bad a mistake would be. ``read`` is free, ``reversible`` is keyed and logged, ``irreversible`` needs an
approval unless policy clears it, ``destructive`` always needs a person."""

TIERS: tuple[Tier, ...] = ("read", "reversible", "irreversible", "destructive")

TRACED_TIERS: frozenset[Tier] = frozenset({"irreversible", "destructive"})
"""Tiers of calls of which every value is traced to its origin."""

ToolKind = Literal["async", "thread", "process", "wait"]
"""How a tool is performed. ``thread`` cannot be cancelled; ``process`` can be killed; ``wait`` never runs:
it is a wait (for a date, an event or a person) that the log itself carries out."""

ErrorType = Literal["transient", "permanent", "rate_limit", "invalid"]
Digest = NewType("Digest", str)


class Contract(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The promises and the rights of one tool.

    ``idempotent``: the tool passes its effect key on, so the same key twice is one effect: repeating an
    interrupted attempt is safe. ``repeatable``: the same call may make sense twice in one run (a read, a
    search), so the model may make it again. ``probe``: the tool can be asked whether a key took effect.
    ``egress``: names of arguments whose value leaves the system. ``trusted``: dotted paths of the result
    (``order.mail``, ``contacts[].email``) whose values count as trusted sources. ``content``: arguments that people
    read (``body``), in which only links, addresses and identifiers need an origin. ``price_micros``: the most that one
    call costs.
    ``raises_before_effect``: the tool raises only before it acts, so a call that raised had no effect.
    """

    name: str
    description: str
    parameters: JsonObject
    returns: JsonObject | None = None
    tier: Tier = "destructive"
    kind: ToolKind = "async"
    owner: str = ""
    timeout_s: float = 5.0
    retries_max: int = 2
    idempotent: bool = False
    repeatable: bool = False
    probe: bool = False
    checks: bool = False
    scopes: tuple[str, ...] = ()
    egress: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    calls_max: int = 0
    price_micros: int = 0
    ordered: bool = False
    raises_before_effect: bool = False

    @property
    def safe_to_repeat(self) -> bool:
        """Whether an interrupted attempt may be repeated without asking a person."""
        return self.tier == "read" or self.idempotent

    def digest(self) -> Digest:
        """Return the SHA-256 of the whole contract in canonical JSON; ``opened`` and every grant pin it."""
        return Digest(digest_of(self))


class ToolError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a call failed. ``retry_safe``: trying again cannot repeat an effect.

    ``known_by`` says how it is known that the call failed, if its tool is not safe to repeat: the ``tool`` reported it,
    its function was ``not_begun``, or its ``contract`` says that it raises before it acts. Empty in logs of versions
    before 0.2, and if repeating is safe. ``widened``: the tool was not called, since its present contract allows more
    than the one that the run was opened with; a person is told.
    """

    type: ErrorType
    message: str
    retry_safe: bool = False
    retry_after_s: float | None = None
    known_by: Literal["", "tool", "not_begun", "contract"] = ""
    widened: bool = False


_OLD_FAILURE_MESSAGE = re.compile(r"tool \S+(?: raised \S+: |: its result |: it returned )")


def may_have_taken_effect(error: ToolError | None) -> bool:
    """Whether this "failure" of a call that is not safe to repeat may have taken effect after all.

    Versions without ``known_by`` recorded everything that a function raised or returned as ``failed``, in these words.
    """
    return error is not None and not error.known_by and _OLD_FAILURE_MESSAGE.match(error.message) is not None


class Egress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One outgoing request of a tool, with the facts that a reader of the log needs to trace it."""

    host: str
    method: str
    status: int = 0
    bytes: int = 0


class ToolResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of performing a call: ``value`` (any JSON) or ``error``; ``unknown`` if the effect is unknown.

    ``never_started`` is a probe's result that the key took no effect, and the outcome of a call that was not ``begun``.
    ``findings``: the defects of a value that was returned by a call that took effect. ``bytes`` is the length of
    ``value`` as JSON, if it is so long (``OFF_LOOP_BYTES``) that it is not processed on the event loop.
    ``ended``: the function has ended although its effect is unknown; a function that was cut off may still act.
    """

    outcome: Literal["succeeded", "failed", "unknown", "never_started"]
    value: JsonValue = None
    bytes: int = 0
    error: ToolError | None = None
    findings: tuple[str, ...] = ()
    egress: tuple[Egress, ...] = ()
    cost_micros: int = 0
    begun: bool = True
    ended: bool = False


def canonical(value: JsonValue) -> bytes:
    """Encode as JSON with sorted keys and no spaces, so that equal values have equal bytes."""
    return msgspec.json.encode(value, order="deterministic")


def digest_of(value: msgspec.Struct) -> str:
    """Return the SHA-256 of a struct's meaning: equal structs have equal digests, however they were made.

    ``5`` given for a float counts as ``5.0``, and an explicit default value as the default.
    """
    read_back = msgspec.convert(msgspec.to_builtins(value), type=type(value))
    return hashlib.sha256(canonical(_without_defaults(read_back))).hexdigest()


def _without_defaults(value: Any) -> Any:  # noqa: ANN401 - any field
    """Return structs as objects of the fields that differ from their defaults (msgspec itself compares by identity)."""
    if isinstance(value, msgspec.Struct):
        return {
            field.encode_name: _without_defaults(present)
            for field in _fields(type(value))
            if (present := getattr(value, field.name)) != _default(field)
        }
    return [_without_defaults(item) for item in _items(value)] if isinstance(value, tuple) else value


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


def _items(value: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any tuple
    items: tuple[Any, ...] = value
    return items


def _default(field: msgspec.structs.FieldInfo) -> Any:  # noqa: ANN401 - any field
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
