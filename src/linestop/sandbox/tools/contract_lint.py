"""Findings about a contract that an operator should know before an agent may use the tool."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Literal

import msgspec

from linestop.schemas.argument_validation import schema_error
from linestop.schemas.json_values import JsonObject
from linestop.schemas.tool_contracts import Contract

_DESCRIPTION_CHARS_MIN = 10
_DESCRIPTION_CHARS_MAX = 2_000
_REFERENCES_MAX = 100
_SENDING_WORDS = frozenset({"http", "url", "mail", "email", "send", "post", "notify", "webhook", "sms", "publish"})
_SENT_NAMES = frozenset({"url", "to", "recipient", "body", "message", "text", "subject", "payload", "address"})


class LintFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One finding. ``error``: do not use the tool like this; ``warning``: read it and decide."""

    tool: str
    rule: str
    level: Literal["error", "warning"]
    message: str


def lint_contracts(contracts: Iterable[Contract], *, without_tier: Collection[str] = ()) -> list[LintFinding]:
    """Check contracts by the rules of this module, in the order given.

    ``without_tier``: names of tools that declare no tier (``Registry.without_tier``); the contract cannot tell them
    from those declared destructive.
    """
    findings: list[LintFinding] = []
    for contract in contracts:
        if contract.name in without_tier:
            findings.append(
                LintFinding(
                    tool=contract.name,
                    rule="tier",
                    level="error",
                    message="declares no tier and so counts as destructive: declare one",
                )
            )
        for rule, level, find_fault in _RULES:
            if message := find_fault(contract):
                findings.append(LintFinding(tool=contract.name, rule=rule, level=level, message=message))
    return findings


def _schema(contract: Contract) -> str | None:
    reason = schema_error(contract.parameters)
    return f"its schema cannot be used: {reason}" if reason else None


def _loose(contract: Contract) -> str | None:
    if contract.parameters.get("additionalProperties") is False:
        return None
    return "accepts arguments it does not name: set additionalProperties to false"


def _unsafe_interruption(contract: Contract) -> str | None:
    if contract.tier in {"read", "reversible"} or contract.idempotent or contract.probe:
        return None
    return (
        f"is {contract.tier}, neither idempotent nor with a probe: an interrupted call needs a person. "
        f"Pass ctx.key on and declare idempotent, or write a probe"
    )


def _reversible(contract: Contract) -> str | None:
    if contract.tier != "reversible" or contract.idempotent or contract.probe:
        return None
    return "is reversible but neither idempotent nor with a probe: an interrupted call becomes unknown"


def _raising(contract: Contract) -> str | None:
    """An error of a tool leaves its effect open, unless the tool or its contract rules that out."""
    if contract.safe_to_repeat and contract.raises_before_effect:
        why = "only reads" if contract.tier == "read" else "is idempotent"
        return f"does not need raises_before_effect: a tool that {why} is simply called again"
    if contract.safe_to_repeat or contract.raises_before_effect or contract.probe:
        return None
    return (
        "becomes unknown, and a person is asked, whenever it raises anything but ToolFailed. Raise ToolFailed where "
        "nothing happened, or declare raises_before_effect=True if every error comes before the effect"
    )


def _repeatable(contract: Contract) -> str | None:
    if not contract.repeatable or contract.tier in {"read", "reversible"}:
        return None
    return f"is repeatable and {contract.tier}: the model may do the same thing twice in one run"


def _shared_key(contract: Contract) -> str | None:
    """Equal calls of one run share one effect key, and a probe is asked about a key."""
    if not (contract.repeatable and contract.probe) or contract.safe_to_repeat:
        return None
    return (
        "is repeatable, has a probe and is not idempotent: equal calls share one effect key, so the probe "
        "cannot say which of them took effect. Remove repeatable, or make it idempotent"
    )


def _idle_probe(contract: Contract) -> str | None:
    if not contract.probe or not contract.safe_to_repeat:
        return None
    why = "only reads" if contract.tier == "read" else "is idempotent"
    return f"has a probe that is never asked: a tool that {why} is simply called again"


def _repeated_once(contract: Contract) -> str | None:
    if not contract.repeatable or contract.calls_max != 1:
        return None
    return "is repeatable, but calls_max lets a run call it only once: remove one of the two"


def _egress_names(contract: Contract) -> str | None:
    known: JsonObject = contract.parameters.get("properties", {})
    unknown = [name for name in contract.egress if name not in known]
    return f"names {unknown[0]} as egress, which is not one of its arguments" if unknown else None


def _trusted(contract: Contract) -> str | None:
    """A trusted path that does not exist trusts nothing, and every value then needs a person."""
    if contract.returns is None:
        return None
    paths = {path: [] if path == "$" else path.replace("[]", ".[]").split(".") for path in contract.trusted}
    unknown = [path for path, steps in paths.items() if not _path_exists(contract.returns, steps)]
    return f"trusts {unknown[0]} of its result, which its return type does not have" if unknown else None


def _path_exists(returns: JsonObject, path: list[str]) -> bool:
    """Whether a value of the declared type may have something at ``path``; ``[]`` is every item of a list."""
    schemas: list[JsonObject] = [returns]
    for key in path:
        if key == "[]":
            schemas = [found for place in schemas for found in _items_of(returns, place)]
            continue
        steps = [step for place in schemas for step in _objects(returns, place)]
        schemas = [step["properties"][key] for step in steps if key in step.get("properties", {})]
        more = [step.get("additionalProperties", "properties" not in step) for step in steps]
        schemas += [found if isinstance(found, dict) else {} for found in more if found is not False]
    return bool(schemas)


def _items_of(returns: JsonObject, schema: JsonObject) -> list[JsonObject]:
    """The schemas of a list's items, through references and alternatives."""
    below = [returns.get("$defs", {}).get(str(schema["$ref"]).rsplit("/", 1)[-1], {})] if "$ref" in schema else []
    below += schema.get("anyOf", [])
    found: list[JsonObject] = [schema.get("items", {})] if schema.get("type", "array") == "array" and not below else []
    return found + [item for branch in below if "$ref" not in branch for item in _items_of(returns, branch)]


def _objects(returns: JsonObject, schema: JsonObject) -> list[JsonObject]:
    """The parts of a schema that describe an object: the schema, its reference, or some of its alternatives."""
    schemas_to_read, found = [schema], list[JsonObject]()
    for _ in range(_REFERENCES_MAX):
        if not schemas_to_read:
            break
        current = schemas_to_read.pop()
        if "$ref" in current:
            schemas_to_read.append(returns.get("$defs", {}).get(str(current["$ref"]).rsplit("/", 1)[-1], {}))
        elif "anyOf" in current:
            schemas_to_read.extend(current["anyOf"])
        elif current.get("type", "object") == "object" or "object" in current["type"]:
            found.append(current)
    return found


def _owner(contract: Contract) -> str | None:
    return None if contract.owner else "has no owner: declare whom to ask when it misbehaves"


def _timeout(contract: Contract) -> str | None:
    if contract.kind == "wait" or 0 < contract.timeout_s <= 300:
        return None
    return f"has a timeout of {contract.timeout_s:g} s: give it one of at most 300 s, or make it a wait"


def _thread(contract: Contract) -> str | None:
    if contract.kind != "thread" or contract.safe_to_repeat:
        return None
    return "runs in a thread, which a stop cannot cancel: its outcome will be unknown. Use async or process"


def _description(contract: Contract) -> str | None:
    length = len(contract.description.strip())
    if length < _DESCRIPTION_CHARS_MIN:
        return "has too short a description: the model chooses tools by it"
    if length > _DESCRIPTION_CHARS_MAX:
        return f"has {length} characters of description, sent in every turn: at most {_DESCRIPTION_CHARS_MAX}"
    return None


def _arguments(contract: Contract) -> str | None:
    properties: dict[str, JsonObject] = contract.parameters.get("properties", {})
    undescribed = [name for name, schema in properties.items() if not schema.get("description")]
    return f"describes no argument {', '.join(undescribed[:5])}: add them to the docstring" if undescribed else None


def _egress(contract: Contract) -> str | None:
    """A tool that seems to send something, without declaring which arguments leave the system."""
    if contract.egress or contract.kind == "wait":
        return None
    words = set(contract.name.replace(".", "_").split("_"))
    words |= {word for scope in contract.scopes for word in scope.lower().replace(":", "_").split("_")}
    if not words & _SENDING_WORDS:
        return None
    likely = sorted(_SENT_NAMES & set(contract.parameters.get("properties", {})))
    suggestion = f" (perhaps {', '.join(likely)})" if likely else ""
    return f"seems to send something but declares no egress arguments{suggestion}: name those that leave the system"


def _calls(contract: Contract) -> str | None:
    if contract.tier in {"read", "reversible"} or contract.calls_max:
        return None
    return f"is {contract.tier} without calls_max: declare how often a run may call it at most"


_RULES: tuple[tuple[str, Literal["error", "warning"], Callable[[Contract], str | None]], ...] = (
    ("schema", "error", _schema),
    ("loose_arguments", "warning", _loose),
    ("fate", "error", _unsafe_interruption),
    ("reversible_fate", "warning", _reversible),
    ("raising", "warning", _raising),
    ("repeatable", "warning", _repeatable),
    ("shared_key", "error", _shared_key),
    ("idle_probe", "warning", _idle_probe),
    ("repeated_once", "error", _repeated_once),
    ("egress_names", "error", _egress_names),
    ("trusted", "error", _trusted),
    ("owner", "warning", _owner),
    ("timeout", "warning", _timeout),
    ("thread", "warning", _thread),
    ("description", "error", _description),
    ("arguments", "warning", _arguments),
    ("egress", "warning", _egress),
    ("calls_max", "warning", _calls),
)
