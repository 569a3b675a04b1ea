"""The chosen values of arguments: leaves, field names that no schema declares, switches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec

from linestop.schemas.json_values import JsonObject, JsonValue

_DEPTH_MAX = 8
"""The most references and alternatives of a schema that are followed for one field."""

_NO_SCHEMAS: list[JsonObject] = []


class Leaf(msgspec.Struct, frozen=True, kw_only=True):
    """One value: its path (``$.to[0].email``), its path without indexes, and the schema's facts about it."""

    path: str
    place: str
    name: str
    value: JsonValue
    description: str = ""
    has_default: bool = False

    def within(self, places: tuple[str, ...]) -> bool:
        """Whether the leaf is one of these arguments (``body``, ``items[].note``) or a part of one."""
        return any(self.place == place or self.place.startswith((f"{place}.", f"{place}[")) for place in places)


def leaves(args: JsonValue, parameters: JsonObject | None) -> Iterator[Leaf]:
    """Yield the leaves of ``args`` in order, except those that the schema gives: defaults, constants, known names."""
    root = parameters or {}
    stack: list[tuple[str, str, str, Any, list[JsonObject]]] = [("$", "", "", args, _resolve_schemas(root, [root]))]
    while stack:
        path, place, name, item, schemas = stack.pop()
        if any(_is_fixed_by_schema(schema, item) for schema in schemas):
            continue
        if isinstance(item, dict):
            below: list[tuple[str, str, str, Any, list[JsonObject]]] = []
            for key, value in cast("JsonObject", item).items():
                declared = [s["properties"][key] for s in schemas if key in s.get("properties", {})]
                here = f"{place}.{key}".removeprefix(".")
                if parameters is not None and not declared:
                    yield Leaf(path=f"{path}.{key}", place=place or key, name=key, value=key)
                    declared = [
                        s["additionalProperties"] for s in schemas if isinstance(s.get("additionalProperties"), dict)
                    ]
                below.append((f"{path}.{key}", here, key, value, _resolve_schemas(root, declared)))
            stack.extend(reversed(below))
        elif isinstance(item, list):
            inner = _resolve_schemas(root, [s["items"] for s in schemas if isinstance(s.get("items"), dict)])
            items = items_of(item)
            stack.extend((f"{path}[{i}]", f"{place}[]", name, items[i], inner) for i in reversed(range(len(items))))
        else:
            description = next((str(s["description"]) for s in schemas if "description" in s), "")
            yield Leaf(
                path=path,
                place=place,
                name=name,
                value=item,
                description=description,
                has_default=any("default" in schema for schema in schemas),
            )


def items_of(value: Any) -> list[Any]:  # noqa: ANN401 - a JSON array
    """Return the items of a JSON array."""
    items: list[Any] = value
    return items


def _resolve_schemas(root: JsonObject, schemas: list[JsonObject]) -> list[JsonObject]:
    """Return the schemas with their references and alternatives, each once."""
    resolved: list[JsonObject] = []
    waiting = list(schemas)
    for _ in range(_DEPTH_MAX):
        if not waiting:
            break
        resolved += waiting
        below: list[JsonObject] = []
        for schema in waiting:
            reference = schema.get("$ref")
            if isinstance(reference, str) and reference.startswith("#/$defs/"):
                below.append(root.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {}))
            for kind in ("anyOf", "oneOf", "allOf"):
                below += [branch for branch in schema.get(kind, _NO_SCHEMAS) if isinstance(branch, dict)]
        waiting = below
    return resolved


def _is_fixed_by_schema(schema: JsonObject, value: JsonValue) -> bool:
    """Whether the schema itself gives this value: as the default, or as the only allowed one."""
    if "default" in schema and type(schema["default"]) is type(value) and schema["default"] == value:
        return True
    only = schema.get("enum", [])
    return ("const" in schema and schema["const"] == value) or (len(only) == 1 and only[0] == value)
