"""Embeds JSON Schemas in another document so that every reference keeps its target. Pure.

A reference such as ``#/$defs/Address`` starts at the root of its document, so a schema that becomes a part of
another document loses its targets. Here its definitions move to the root of that document, each under a new and
unique name, because two schemas may use the same name. A schema that refers to itself, or to a part of itself
that is not a definition, becomes a definition as a whole. Identifiers and anchors are resolved and left out: servers
understand only ``#/$defs/…``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, cast
from urllib.parse import quote, unquote, urljoin

from linestop.schemas.json_values import JsonObject

Pointer = tuple[str, ...]
"""The keys and indexes that lead from a schema's root to a part of it."""

Visit = Callable[[JsonObject, Pointer], JsonObject]

DATA: Final = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose values are data and hold no schemas."""

NAMED: Final = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
"""Keywords whose values map names, which may be any text, to schemas."""

DEFINITIONS: Final = ("$defs", "definitions")
_IDENTITY: Final = ("$id", "$schema", "$anchor", "$dynamicAnchor")
_UNSAFE = re.compile(r"[^a-zA-Z0-9_-]+")


def transform_schema(schema: JsonObject, visit: Visit, at: Pointer = ()) -> JsonObject:
    """Copy a schema with ``visit`` applied to it and to every schema in it, the inner ones first."""
    fields = dict(schema)
    for key, value in cast("dict[str, object]", schema).items():
        if key in DATA:
            continue
        if key in NAMED and isinstance(value, dict):
            named = cast("dict[str, object]", value)
            fields[key] = {name: _transform_part(part, visit, (*at, key, name)) for name, part in named.items()}
        elif isinstance(value, list):
            parts = cast("list[object]", value)
            fields[key] = [_transform_part(part, visit, (*at, key, str(index))) for index, part in enumerate(parts)]
        else:
            fields[key] = _transform_part(value, visit, (*at, key))
    return visit(fields, at)


def _transform_part(part: object, visit: Visit, at: Pointer) -> object:
    return transform_schema(cast("JsonObject", part), visit, at) if isinstance(part, dict) else part


def embed_schema(schema: JsonObject, name: str, definitions: JsonObject) -> JsonObject:
    """The part to put into a document for ``schema``; its targets are added to the document's ``definitions``.

    The names of its definitions are derived from ``name``; each schema of a document needs another ``name``.
    """
    targets = _Targets(schema)
    new_names: dict[Pointer, str] = {
        (key, each): _free_name(f"{name}.{_UNSAFE.sub('_', each)}", definitions)
        for key in DEFINITIONS
        for each in cast("JsonObject", schema.get(key) or {})
    }
    needs_whole_schema = any(target[:2] not in new_names for target in targets.all())

    def moved_reference(reference: str, at: Pointer) -> str:
        target = targets.resolve(reference, at)
        if target is None:
            return reference
        definition_name = new_names.get(target[:2])
        return _reference(("$defs", definition_name, *target[2:]) if definition_name else ("$defs", name, *target))

    def visit(fields: JsonObject, at: Pointer) -> JsonObject:
        return _with_moved_references(fields, lambda reference: moved_reference(reference, at))

    body = transform_schema(schema, visit)
    for (key, each), new_name in new_names.items():
        definitions[new_name] = body[key].pop(each)
    for key in DEFINITIONS:
        if not body.get(key, True):
            del body[key]
    if not needs_whole_schema:
        return body
    definitions[name] = body
    return {"$ref": _reference(("$defs", name))}


class _Targets:
    """The targets of the references of a schema, as pointers from its root."""

    def __init__(self, schema: JsonObject) -> None:
        self._bases: dict[Pointer, str] = {}
        self._roots: dict[str, Pointer] = {"": ()}
        self._anchors: dict[tuple[str, str], Pointer] = {}
        self._references: list[tuple[str, Pointer]] = []
        self._enter(schema, (), "")

    def all(self) -> Iterator[Pointer]:
        """The targets of all references that can be resolved."""
        found = (self.resolve(reference, at) for reference, at in self._references)
        return (target for target in found if target is not None)

    def resolve(self, reference: str, at: Pointer) -> Pointer | None:
        """The target of a reference in the schema at ``at``; None if it is outside the document."""
        base = self._bases[at]
        uri, _, fragment = (base + reference if reference.startswith("#") else urljoin(base, reference)).partition("#")
        fragment = unquote(fragment)
        root = self._roots.get(uri)
        if root is None or (fragment and not fragment.startswith("/")):
            return self._anchors.get((uri, fragment))
        tokens = fragment.split("/")[1:]
        return (*root, *(token.replace("~1", "/").replace("~0", "~") for token in tokens))

    def _enter(self, schema: JsonObject, at: Pointer, base: str) -> None:
        identity = schema.get("$id")
        if isinstance(identity, str):
            base = urljoin(base, identity).partition("#")[0]
            self._roots.setdefault(base, at)
        self._bases[at] = base
        for key in ("$anchor", "$dynamicAnchor"):
            if isinstance(anchor := schema.get(key), str):
                # The outermost anchor is entered first, and a dynamic reference means that one.
                self._anchors.setdefault((base, anchor), at)
        self._references.extend((reference, at) for reference in _references(schema))
        for step, part in _subschemas(schema):
            self._enter(part, (*at, *step), base)


def _subschemas(schema: JsonObject) -> Iterator[tuple[Pointer, JsonObject]]:
    """The schemas directly inside a schema, each with its pointer from there."""
    for key, value in cast("dict[str, object]", schema).items():
        if key in DATA:
            continue
        inner: Iterator[tuple[Pointer, object]]
        if key in NAMED and isinstance(value, dict):
            inner = (((key, name), part) for name, part in cast("dict[str, object]", value).items())
        elif isinstance(value, list):
            inner = (((key, str(index)), part) for index, part in enumerate(cast("list[object]", value)))
        else:
            inner = iter([((key,), value)])
        yield from ((step, cast("JsonObject", part)) for step, part in inner if isinstance(part, dict))


def _references(fields: JsonObject) -> Iterator[str]:
    """Every reference of a schema itself, those of the discriminator of a union included."""
    yield from (value for key in ("$ref", "$dynamicRef") if isinstance(value := fields.get(key), str))
    yield from (value for value in _mapping(fields).values() if value.startswith("#"))


def _mapping(fields: JsonObject) -> dict[str, str]:
    discriminator = fields.get("discriminator")
    mapping = cast("JsonObject", discriminator).get("mapping") if isinstance(discriminator, dict) else None
    named = cast("JsonObject", mapping) if isinstance(mapping, dict) else {}
    return {key: value for key, value in named.items() if isinstance(value, str)}


def _with_moved_references(fields: JsonObject, moved_reference: Callable[[str], str]) -> JsonObject:
    """A schema with its own references moved, and without its identifiers."""
    moved_fields = {key: value for key, value in fields.items() if key not in _IDENTITY or not isinstance(value, str)}
    if isinstance(reference := moved_fields.get("$ref"), str):
        moved_fields["$ref"] = moved_reference(reference)
    if isinstance(dynamic := moved_fields.pop("$dynamicRef", None), str):
        moved_dynamic = {"$ref": moved_reference(dynamic)}
        moved_fields = (
            {**moved_fields, "allOf": [*moved_fields.get("allOf", []), moved_dynamic]}
            if "$ref" in moved_fields
            else moved_fields | moved_dynamic
        )
    if mapping := _mapping(fields):
        mapped = {key: moved_reference(value) if value.startswith("#") else value for key, value in mapping.items()}
        moved_fields["discriminator"] = fields["discriminator"] | {"mapping": mapped}
    return moved_fields


def _free_name(name: str, names_in_use: JsonObject) -> str:
    """``name``, with a number appended if it is taken."""
    found, count = name, 1
    while found in names_in_use:
        count += 1
        found = f"{name}_{count}"
    names_in_use[found] = {}
    return found


def _reference(pointer: Pointer) -> str:
    return "#/" + "/".join(quote(token.replace("~", "~0").replace("/", "~1"), safe="$~") for token in pointer)
