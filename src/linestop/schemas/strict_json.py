"""Strict decoding of JSON that others wrote, such as the arguments of a call, before any role acts on it.

Refused are: invalid JSON, keys given twice (readers disagree about which one counts), NaN and infinities, integers over
64 bits, lone surrogates, nesting deeper than ``JSON_DEPTH_MAX``, and more values than ``ARGUMENT_VALUES_MAX``: checking
a value against a schema takes microseconds, so the number of values bounds the time.
"""

from __future__ import annotations

import json
import math
import re
from typing import cast

from linestop.schemas.defaults import ARGUMENT_VALUES_MAX, ARGUMENTS_BYTES_MAX
from linestop.schemas.json_values import JsonObject, JsonValue

JSON_DEPTH_MAX = 64
VALUE_CHARS_MAX = 60
"""A value longer than this is not repeated in an error."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')


class _NotJsonError(ValueError):
    """Raised while decoding for text that JSON, or the stricter rules of this module, forbid."""


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
        raise _NotJsonError("a string contains an unpaired surrogate; remove it") from None


def _quote(key: str) -> str:
    return json.dumps(key if len(key) <= VALUE_CHARS_MAX else key[:VALUE_CHARS_MAX] + "…")
