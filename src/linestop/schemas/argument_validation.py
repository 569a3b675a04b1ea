"""The check of the arguments that a model wrote against the contract of the tool, before any role acts on them.

A model's arguments are text from outside. They become *canonical* bytes (sorted keys, no spaces, integral
floats as integers), so that equal calls have equal digests and effect keys; or they are refused with every
error at once, so that the model can correct them in one turn: what ``strict_json`` refuses, and violations of the
schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache

import jsonschema_rs
import msgspec

from linestop.schemas.json_values import JsonObject, JsonValue
from linestop.schemas.strict_json import VALUE_CHARS_MAX, decode_strict
from linestop.schemas.tool_contracts import Contract, canonical

ERRORS_MAX = 20
"""The most errors reported at once; a model that has more than this to correct should start again."""

SENTENCE_CHARS_MAX = 240
_SCHEMAS_CACHED_MAX = 512
_MASK = "the value"


class ArgumentCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check: canonical ``args``, or ``errors`` while ``args`` is None."""

    args: bytes | None = None
    errors: tuple[str, ...] = ()


def check_arguments(raw: str | bytes, contract: Contract) -> ArgumentCheck:
    """Check ``raw`` JSON text against the parameters of ``contract``.

    Pure apart from a bounded cache of compiled schemas. Never raises, whatever ``raw`` contains.
    """
    try:
        value = decode_strict(raw)
    except ValueError as error:
        return ArgumentCheck(errors=(_short(str(error)),))
    if not isinstance(value, dict):
        return ArgumentCheck(errors=(f"$: the arguments must be a JSON object, not {_kind(value)}",))
    try:
        validator = _validator(canonical(contract.parameters))
    except ValueError as error:
        return ArgumentCheck(errors=(_short(f"the contract of tool {contract.name} is unusable: {error}"),))
    errors = tuple(_sentences(validator.iter_errors(value)))
    if errors:
        return ArgumentCheck(errors=errors)
    return ArgumentCheck(args=canonical(value))


def schema_error(parameters: JsonObject) -> str | None:
    """Return why a schema cannot be used for arguments (a remote ``$ref``, a pattern with look-around), or None."""
    try:
        _validator(canonical(parameters))
    except ValueError as error:
        return _short(str(error))
    return None


@lru_cache(maxsize=_SCHEMAS_CACHED_MAX)
def _validator(schema: bytes) -> jsonschema_rs.Draft202012Validator:
    """Compile a schema, keyed by its canonical bytes, which the contract's digest covers.

    Offline, because a remote ``$ref`` would let a contract make requests; linear-time patterns only,
    because the text they are run on comes from a model.
    """
    try:
        return jsonschema_rs.Draft202012Validator(
            msgspec.json.decode(schema),
            offline=True,
            mask=_MASK,
            pattern_options=jsonschema_rs.RegexOptions(),
            validate_formats=True,
        )
    except jsonschema_rs.ValidationError as error:
        where = ".".join(str(step) for step in error.instance_path if step != "properties")
        problem = str(error).split("\n", 1)[0]
        if "regex" in problem:
            problem += " that can be used (no look-around, no back-references; it must match in linear time)"
        raise ValueError(f"{where}: {problem}" if where else problem) from None
    except jsonschema_rs.ReferencingError as error:
        raise ValueError(str(error).split("\n", 1)[0]) from None


def _sentences(errors: Iterable[jsonschema_rs.ValidationError]) -> Iterable[str]:
    for count, error in enumerate(errors):
        if count == ERRORS_MAX:
            yield f"more errors follow; only the first {ERRORS_MAX} are listed"
            return
        yield _short(_sentence(error))


def _sentence(error: jsonschema_rs.ValidationError) -> str:
    path = "$" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.instance_path)
    message = _message(error)
    instance = error.instance
    if message.startswith(_MASK) and not isinstance(instance, dict | list):
        shown = json.dumps(instance, default=str)
        if len(shown) <= VALUE_CHARS_MAX:
            message = shown + message.removeprefix(_MASK)
    return f"{path}: {message}"


def _message(error: jsonschema_rs.ValidationError) -> str:
    """Return the message, with the alternatives of a failed ``anyOf``: the bare one does not help a model."""
    kind = error.kind
    if not isinstance(kind, jsonschema_rs.ValidationErrorKind.AnyOf | jsonschema_rs.ValidationErrorKind.OneOfNotValid):
        return error.message
    branches = [branch[0].message.removeprefix(_MASK).strip() for branch in kind.context if branch]
    return f"{_MASK} fits no alternative: {'; '.join(branches[:4])}"


def _short(sentence: str) -> str:
    clean = "".join(c if c.isprintable() else "?" for c in sentence)
    return clean if len(clean) <= SENTENCE_CHARS_MAX else clean[: SENTENCE_CHARS_MAX - 1] + "…"


def _kind(value: JsonValue) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names[type(value)]
