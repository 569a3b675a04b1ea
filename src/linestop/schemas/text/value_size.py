"""The size of a Python value as JSON, computed without writing it: a user's function may return an endless value.

A value can share its parts: forty lists that each hold the one before twice are 2^40 values as JSON (YAML aliases
make that of 300 bytes), and a list can hold itself. Each container is therefore visited once, however often it is
used, and its sum is remembered: the time is linear in the memory of the value. Nothing here recurses, and the walk
ends as soon as a bound is passed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, ModuleType, SimpleNamespace
from typing import Any, Final, cast
from uuid import UUID

import msgspec

from linestop.schemas.text.redaction import DEPTH_MAX

_PLAIN: Final = frozenset({bool, type(None), float})
_ITEMS: Final = cast("Callable[[dict[object, object]], Iterable[tuple[object, object]]]", cast("Any", dict).items)
_ITERATORS: Final = tuple(
    (kind, cast("Callable[[object], Iterator[object]]", cast("Any", kind).__iter__))
    for kind in (list, tuple, set, frozenset)
)
_FIELDS_OF: Final = ("__struct_fields__", "__dataclass_fields__", "__attrs_attrs__")
_SHORT: Final = (
    str,
    bytes,
    bytearray,
    int,
    float,
    complex,
    msgspec.Raw,
    Decimal,
    Fraction,
    UUID,
    date,
    time,
    timedelta,
    tzinfo,
    PurePath,
    range,
    type,
    FunctionType,
    BuiltinFunctionType,
    ModuleType,
)
_CYCLE: Final = '"…"'
"""The text in the place where a value contains itself."""

RESULT_CONTAINERS_MAX: Final = 1_000_000
"""The most lists and objects in one result: reading ten times as many would block the process for seconds."""

SHOWN_BYTES_MAX: Final = 1024 * 1024
"""If the parts of an object add up to more than this, its ``repr`` is not called."""


class OversizedError(ValueError):
    """Raised for a value that must not be written as JSON; the message is the reason, for the end of a sentence."""


class _Open:
    """A container during the walk."""

    __slots__ = ("containers", "depth", "parts", "size", "value")

    def __init__(self, value: object, parts: Iterable[object]) -> None:
        # The reference keeps other values from getting its id before the walk ends.
        self.value, self.parts = value, iter(parts)
        self.size, self.containers, self.depth = 2, 1, 1

    def add(self, part: _Open) -> None:
        """Add a container that this one holds."""
        self.size += part.size + 1
        self.containers += part.containers
        self.depth = max(self.depth, part.depth + 1)


def json_size(
    value: object, *, bytes_max: int, containers_max: int = RESULT_CONTAINERS_MAX, inside: bool = False
) -> int:
    """Return a lower bound of the bytes of ``value`` as JSON; the true figure is at most six times as large.

    ``inside``: the contents of an object of an unknown class are counted too, for a caller that wants its ``repr``.

    Raises:
        OversizedError: the value has more bytes or lists and objects than the bounds, is nested deeper than
            ``DEPTH_MAX``, or contains itself.
    """
    top = _Open(None, (value,))
    top.containers = 0
    stack, known, within = [top], dict[int, _Open](), set[int]()
    while True:
        current = stack[-1]
        child = _step(current, known, bytes_max=bytes_max, inside=inside)
        if current.size > bytes_max:
            raise OversizedError(f"has too many bytes as JSON; at most {bytes_max}: return less")
        if current.containers > containers_max:
            raise OversizedError(f"holds too many lists and objects; at most {containers_max}: return fewer")
        if child is not None and id(child.value) in within:
            raise OversizedError("contains itself: return a copy of the parts that are needed")
        if current.depth + len(stack) - 2 > DEPTH_MAX or (child is not None and len(stack) > DEPTH_MAX):
            raise OversizedError(f"is nested deeper than {DEPTH_MAX} levels: return a flatter one")
        if child is not None:
            within.add(id(child.value))
            stack.append(child)
        elif len(stack) == 1:
            return top.size
        else:
            stack.pop()
            within.discard(id(current.value))
            known[id(current.value)] = current
            stack[-1].add(current)


def _step(current: _Open, known: dict[int, _Open], *, bytes_max: int, inside: bool) -> _Open | None:
    """Add parts to ``current`` up to the next unknown container, and return that container."""
    for part in current.parts:
        kind = type(part)
        if kind in _PLAIN:
            current.size += 2
        elif kind is str:
            current.size += len(cast("str", part)) + 3
        elif kind is int:
            current.size += cast("int", part).bit_length() // 4 + 2
        elif (found := known.get(id(part))) is not None:
            current.add(found)
        elif (parts := parts_of(part, inside=inside)) is not None:
            return _Open(part, parts)
        elif inside and not _is_short(part):
            raise OversizedError(f"is or holds a {kind.__name__}, which may show any amount: return plain values")
        else:
            current.size += len(part) + 2 if isinstance(part, str | bytes | bytearray | msgspec.Raw) else 2
        if current.size > bytes_max:
            break
    return None


def parts_of(value: object, *, inside: bool = False) -> Iterable[object] | None:
    """Return the parts of a value that is written as a list or an object, keys included; None for every other value."""
    # Through the built-in class: JSON gets the real contents, not those that a subclass reports.
    if isinstance(value, dict):
        fields = cast("dict[object, object]", value)
        return [part for pair in list(_ITEMS(fields)) for part in pair]
    for kind, iterator in _ITERATORS:
        if isinstance(value, kind):
            return iterator(cast("object", value))
    names = _field_names(value)
    if names is not None:
        return [getattr(value, name, None) for name in names]
    return _insides(value) if inside else None


def _field_names(value: object) -> Iterable[str] | None:
    if isinstance(value, type):
        return None
    for mark in _FIELDS_OF:
        if (declared := getattr(type(value), mark, None)) is not None:
            return [getattr(each, "name", each) for each in declared]
    return None


def _insides(value: object) -> list[object] | None:
    """Return the parts that the ``repr`` of an unknown class may show; not classes, functions or modules."""
    if isinstance(value, deque):
        return list(cast("deque[object]", value))
    if isinstance(value, type) or callable(value) or not (isinstance(value, BaseException) or _has_own_code(value)):
        return None
    held = list(cast("dict[str, object]", getattr(value, "__dict__", {})).values())
    for each in type(value).__mro__:
        slots = cast("str | Iterable[str]", each.__dict__.get("__slots__", ()))
        held += [getattr(value, name, None) for name in ((slots,) if isinstance(slots, str) else slots)]
    if isinstance(value, BaseException):
        held += value.args
    return held


def _has_own_code(value: object) -> bool:
    """Whether the ``repr`` of the value is Python code, which reads its attributes."""
    return isinstance(type(value).__repr__, FunctionType) or isinstance(value, SimpleNamespace)


def _is_short(value: object) -> bool:
    """Whether the ``repr`` of the value is short, whatever it holds; that of a built-in class may show all parts."""
    return isinstance(value, _SHORT) or type(value).__repr__ is object.__repr__


def shown(value: object, chars_max: int, *, show: Callable[[object], str] = repr, otherwise: str = "") -> str:
    """Return ``show`` of a value, cut; ``otherwise`` (or its class) if it is too large to be shown.

    Never raises: the value may have its own code.
    """
    try:
        if not (isinstance(value, BaseException) and _is_one_text(value)):
            json_size(value, bytes_max=SHOWN_BYTES_MAX, containers_max=SHOWN_BYTES_MAX // 8, inside=True)
        return show(value)[:chars_max]
    except BaseException:  # noqa: BLE001 - a broken __repr__ must not hide that a value was returned
        return otherwise or f"a {type(value).__name__}"


def _is_one_text(error: BaseException) -> bool:
    """Whether the message of an error is one existing text, of any length, which can be shown without being built."""
    return len(error.args) == 1 and type(error.args[0]) is str


def beginning(value: object, bytes_max: int) -> str:
    """Return about the first ``bytes_max`` bytes of ``value`` as JSON, whatever its size: the rest is not visited."""
    pieces, length = list[str](), 0
    stack: list[tuple[object, Iterator[str | tuple[object]]]] = [(None, iter(((value,),)))]
    within = set[int]()
    while stack and length < bytes_max:
        holder, rest = stack[-1]
        piece = next(rest, None)
        if piece is None:
            stack.pop()
            within.discard(id(holder))
            continue
        if not isinstance(piece, str):
            (part,) = piece
            if id(part) in within:
                piece = _CYCLE
            elif (parts := _written_parts(part, bytes_max)) is not None:
                stack.append((part, parts))
                within.add(id(part))
                continue
            else:
                piece = _leaf(part, bytes_max)
        pieces.append(piece)
        length += len(piece)
    return "".join(pieces).encode("utf-8", "replace")[:bytes_max].decode(errors="ignore")


def _written_parts(value: object, chars_max: int) -> Iterator[str | tuple[object]] | None:
    """Yield the pieces of a list or an object in order: finished text, and values that must still be written."""
    if isinstance(value, dict):
        pairs: Iterable[tuple[object, object]] = list(_ITEMS(cast("dict[object, object]", value)))
    elif (names := _field_names(value)) is not None:
        pairs = [(name, getattr(value, name, None)) for name in names]
    elif (parts := parts_of(value)) is not None:
        return _list_pieces(parts)
    else:
        return None
    return _object_pieces(pairs, chars_max)


def _list_pieces(parts: Iterable[object]) -> Iterator[str | tuple[object]]:
    yield "["
    for index, part in enumerate(parts):
        if index:
            yield ","
        yield (part,)
    yield "]"


def _object_pieces(pairs: Iterable[tuple[object, object]], chars_max: int) -> Iterator[str | tuple[object]]:
    yield "{"
    for index, (key, part) in enumerate(pairs):
        yield ("," if index else "") + _leaf(key if isinstance(key, str) else shown(key, chars_max), chars_max) + ":"
        yield (part,)
    yield "}"


def _leaf(value: object, chars_max: int) -> str:
    if isinstance(value, str | bytes | bytearray):
        value = value[:chars_max]
    if isinstance(value, str):
        value = value.encode("utf-8", "replace").decode()
    try:
        return msgspec.json.encode(value).decode()
    except Exception:  # noqa: BLE001 - a value may have its own code, which may raise anything
        return msgspec.json.encode(shown(value, chars_max).encode("utf-8", "replace").decode()).decode()
