"""The values that a key of a configuration file may have, if the choice is closed."""

from __future__ import annotations

import re
from typing import Any

_STEP = re.compile(r"[^.\[\]]+")


def known_values(kind: type[Any], key: str, *, of_keys: bool) -> str:
    """The keys or values that ``key`` (a path as msgspec writes it) may have, if the choice is closed; else empty."""
    # Imported here: only error messages need it.
    from msgspec import inspect  # noqa: PLC0415

    types: tuple[inspect.Type, ...] = (inspect.type_info(kind),)
    for step in _STEP.findall(key):
        inner_types: list[inspect.Type] = []
        for each in types:
            match each:
                case inspect.StructType(fields=fields):
                    inner_types += [field.type for field in fields if field.encode_name == step]
                case inspect.DictType(value_type=inner) | inspect.VarTupleType(item_type=inner):
                    inner_types.append(inner)
                case _:
                    pass
        types = tuple(
            one for each in inner_types for one in (each.types if isinstance(each, inspect.UnionType) else (each,))
        )
    names: list[str] = []
    for each in types:
        match each:
            case inspect.LiteralType(values=values):
                names += [str(value) for value in values]
            case inspect.StructType(fields=fields):
                names += [field.encode_name for field in fields]
            case inspect.DictType(key_type=inspect.LiteralType(values=values)) if of_keys:
                names += [str(value) for value in values]
            case _:
                pass
    return ", ".join(names)
