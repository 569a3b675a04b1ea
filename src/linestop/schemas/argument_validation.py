"""Strict checking of the arguments that a model wrote, before any role acts on them.

A model's arguments are text from outside. They become *canonical* bytes (sorted keys, no spaces, integral
floats as integers), so that equal calls have equal digests and effect keys; or they are refused with every
error at once, so that the model can correct them in one turn. Besides violations of the schema, these are refused:
invalid JSON, keys given twice (readers disagree about which one counts), NaN and infinities, integers over 64 bits,
lone surrogates, nesting deeper than ``JSON_DEPTH_MAX``, and more values than ``ARGUMENT_VALUES_MAX``: checking a
value against a schema takes microseconds, so the number of values bounds the time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import cast

import jsonschema_rs
import msgspec

from linestop.schemas.defaults import ARGUMENT_VALUES_MAX, ARGUMENTS_BYTES_MAX
from linestop.schemas.json_values import JsonObject, JsonValue
from linestop.schemas.tool_contracts import Contract, canonical

JSON_DEPTH_MAX = 64
ERRORS_MAX = 20
"""The most errors reported at once; a model that has more than this to correct should start again."""

SENTENCE_CHARS_MAX = 240
VALUE_CHARS_MAX = 60
"""A value longer than this is not repeated in an error, which names its path instead."""

_SCHEMAS_CACHED_MAX = 512
_MASK = "the value"
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')


class ArgumentCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check: canonical ``args``, or ``errors`` while ``args`` is None."""

    args: bytes | None = None
    errors: tuple[str, ...] = ()


class _NotJsonError(ValueError):
    """Raised while decoding for text that JSON, or the stricter rules of this module, forbid."""


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


def decode_strict(raw: str | bytes) -> JsonValue:
    """Decode JSON text; refuse text that two readers could understand differently.

    Raises:
        ValueError: one short sentence; also for input that is too long or nested too deeply.
    """
    if len(raw) > ARGUMENTS_BYTES_MAX:
        raise _NotJsonError(f"the arguments are {len(raw)} long; at most {ARGUMENTS_BYTES_MAX} are read: send less")
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8")
        _require_few_values(text.encode("utf-8"))
        value = json.loads(
            text,
            object_pairs_hook=_with_unique_keys,
            parse_constant=_reject_constant,
            parse_float=_parse_float,
            parse_int=_parse_int,
        )
    except _NotJsonError:
        raise
    except json.JSONDecodeError as error:
        raise _NotJsonError(f"not valid JSON: {error.msg} at character {error.pos}") from None
    except UnicodeError:
        raise _NotJsonError("not valid UTF-8 text") from None
    except RecursionError:
        raise _NotJsonError(f"nested too deeply; at most {JSON_DEPTH_MAX} levels are read") from None
    _check_tree(value)
    return value


def _require_few_values(data: bytes) -> None:
    """Refuse JSON text of more than ``ARGUMENT_VALUES_MAX`` values: each has a comma or a bracket before it.

    They are counted before anything is decoded, and the count stops at the limit.
    """
    if _separators(data, 0, len(data)) < ARGUMENT_VALUES_MAX:
        return
    count = at = 0
    for string in _STRING.finditer(data):
        count += _separators(data, at, string.start())
        at = string.end()
        if count >= ARGUMENT_VALUES_MAX:
            break
    if count + _separators(data, at, len(data)) >= ARGUMENT_VALUES_MAX:
        raise _NotJsonError(f"the arguments hold more than {ARGUMENT_VALUES_MAX} values; send fewer at a time")


def _separators(data: bytes, start: int, end: int) -> int:
    return sum(data.count(mark, start, end) for mark in (b",", b"[", b"{"))


def _with_unique_keys(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    fields: JsonObject = {}
    for key, value in pairs:
        if key in fields:
            raise _NotJsonError(f"the key {_quote(key)} is given twice in one object; give it once")
        fields[key] = value
    return fields


def _reject_constant(name: str) -> float:
    raise _NotJsonError(f"{name} is not JSON; use null or leave the field out")


def _parse_float(text: str) -> float | int:
    number = float(text)
    if not math.isfinite(number):
        raise _NotJsonError(f"the number {text[:VALUE_CHARS_MAX]} is too large")
    # To JSON Schema and RFC 8785, 1.0 and 1 are the same number; so they must be to the effect key.
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _parse_int(text: str) -> int:
    # The length is checked first: converting a long literal takes quadratic time.
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise _NotJsonError(f"the integer {text[:VALUE_CHARS_MAX]} has more than 64 bits; send it as a string")
    return int(text)


def _check_tree(value: JsonValue) -> None:
    """Refuse deep nesting and lone surrogates, without recursion: the nesting is the sender's choice."""
    level: list[object] = [value]
    for _ in range(JSON_DEPTH_MAX + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                fields = cast("dict[str, object]", item)
                below.extend(fields)
                below.extend(fields.values())
            elif isinstance(item, list):
                below.extend(cast("list[object]", item))
            elif isinstance(item, str):
                _check_text(item)
        if not below:
            return
        level = below
    raise _NotJsonError(f"nested too deeply; at most {JSON_DEPTH_MAX} levels are read")


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _NotJsonError("a string holds half of a surrogate pair; send the whole character") from None


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


def _quote(key: str) -> str:
    return json.dumps(key if len(key) <= VALUE_CHARS_MAX else key[:VALUE_CHARS_MAX] + "…")


def _kind(value: JsonValue) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names[type(value)]
