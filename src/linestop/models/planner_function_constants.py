"""The constants of a planner function: the values that the operator wrote in its code, as JSON.

These are the constants in the function's own code and in the functions of its module that it uses, and the simple
values of its module that it names. Computed values and docstrings are not constants.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any, Final, cast

from linestop.schemas.tool_contracts import canonical

CONSTANTS_MAX: Final = 500
CONSTANT_BYTES_MAX: Final = 4_096
FUNCTIONS_MAX: Final = 100
DEPTH_MAX: Final = 8


def constants_of(function: object) -> tuple[str, ...]:
    """Return the constants of a planner function, sorted and without duplicates; at most ``CONSTANTS_MAX``."""
    found: set[str] = set()
    functions_to_read, functions_seen = [inspect.unwrap(cast("Any", function))], set[int]()
    while functions_to_read and len(functions_seen) < FUNCTIONS_MAX:
        current = functions_to_read.pop()
        if not isinstance(current, FunctionType) or id(current) in functions_seen:
            continue
        functions_seen.add(id(current))
        values: list[Any] = [*(current.__defaults__ or ()), *(current.__kwdefaults__ or {}).values()]
        for code in _codes(current.__code__):
            # The first constant of a function with a docstring is the docstring.
            values += code.co_consts[1:] if code.co_consts[:1] == (current.__doc__,) else code.co_consts
            for name in code.co_names:
                global_value = current.__globals__.get(name)
                if isinstance(global_value, FunctionType) and global_value.__module__ == current.__module__:
                    functions_to_read.append(global_value)
                else:
                    values.append(global_value)
        values += [cell.cell_contents for cell in current.__closure__ or () if _is_filled(cell)]
        functions_to_read += [value for value in values if isinstance(value, FunctionType)]
        found.update(text for value in values for text in _texts(value, 0))
    return tuple(sorted(found)[:CONSTANTS_MAX])


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _is_filled(cell: Any) -> bool:  # noqa: ANN401 - the type of a closure's cell
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _texts(value: object, depth: int) -> Iterator[str]:
    """The simple values inside a value, each as JSON."""
    if isinstance(value, str | int | float | bool):
        try:
            text = canonical(value).decode()
        except (ValueError, TypeError, OverflowError):
            return
        if len(text) <= CONSTANT_BYTES_MAX:
            yield text
    elif depth < DEPTH_MAX and isinstance(value, dict):
        for each in cast("dict[object, object]", value).values():
            yield from _texts(each, depth + 1)
    elif depth < DEPTH_MAX and isinstance(value, list | tuple | set | frozenset):
        for each in cast("list[object]", value):
            yield from _texts(each, depth + 1)
