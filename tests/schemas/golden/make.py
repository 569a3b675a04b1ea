"""Writes the golden wire forms beside it: ``python -m tests.schemas.golden.make``.

Every struct that is stored or sent, once with every field set and once with its required fields only, and the
defaults of all of them: a field that a stored event leaves out always means its default. A golden file changes
only by a decision: this version and all later ones will read the events stored in its form.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import EVENTS, BlobRef, Proposed, ProposedCall, Stopped
from linestop.schemas.messages import Control, Reply, Task

HERE = Path(__file__).parent
WIRE: dict[str, type[msgspec.Struct]] = {
    **{f"{role}.{name}": kind for (role, name), kind in EVENTS.items()},
    "stopped": Stopped,
    "task": Task,
    "control": Control,
    "reply": Reply,
    "agent": AgentVersion,
}
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def example(kind: type[msgspec.Struct], *, full: bool) -> Any:
    """Return an instance with every field set to a distinct value (``full``), or with its required fields only."""
    fields = msgspec.structs.fields(kind)
    chosen = [field for field in fields if full or field.required]
    types = {field.name: field.type for field in _struct(inspect.type_info(kind)).fields}
    values = {field.name: _value(types[field.name], field.name, full=full) for field in chosen}
    # A boolean at its default would be left out, and so not be tested.
    return kind(**{f.name: not f.default if isinstance(f.default, bool) else values[f.name] for f in chosen})


def _struct(kind: inspect.Type) -> inspect.StructType:
    assert isinstance(kind, inspect.StructType)
    return kind


def _value(kind: inspect.Type, name: str, *, full: bool) -> Any:  # noqa: C901, PLR0912 - one arm a type
    match kind:
        case inspect.Metadata():
            return _value(kind.type, name, full=full)
        case inspect.UnionType():
            options = [option for option in kind.types if not isinstance(option, inspect.NoneType)]
            return _value(options[-1] if name.endswith("_ref") else options[0], name, full=full)
        case inspect.StrType():
            return f"<{name}>"
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return 1_000 + sum(name.encode())
        case inspect.FloatType():
            return sum(name.encode()) / 8
        case inspect.DateTimeType():
            return AT
        case inspect.LiteralType():
            return kind.values[-1]
        case inspect.EnumType():
            return list(kind.cls)[-1]
        case inspect.VarTupleType():
            return (_value(kind.item_type, name, full=full),)
        case inspect.DictType():
            value = {"any": [1, None]} if isinstance(kind.value_type, inspect.AnyType) else None
            return value or {"key": _value(kind.value_type, name, full=full)}
        case inspect.StructType():
            return example(kind.cls, full=full)
        case inspect.AnyType():
            return {"any": ["JSON", 1.5]}
        case _:
            raise TypeError(f"no example for {kind}")


def defaults() -> dict[str, dict[str, Any]]:
    """Return the meaning of omitted fields: struct → field → default, for all structs that can be reached."""
    found: dict[str, dict[str, Any]] = {}
    todo: list[type[msgspec.Struct]] = list(WIRE.values())
    while todo:
        kind = todo.pop()
        if kind.__name__ in found:
            continue
        plain = {f.name: f.default for f in msgspec.structs.fields(kind) if f.default is not msgspec.NODEFAULT}
        made = {
            f.name: f.default_factory()
            for f in msgspec.structs.fields(kind)
            if f.default_factory is not msgspec.NODEFAULT
        }
        found[kind.__name__] = plain | made
        for field in _struct(inspect.type_info(kind)).fields:
            todo += _structs_in(field.type)
    return found


def _structs_in(kind: inspect.Type) -> list[type[msgspec.Struct]]:
    match kind:
        case inspect.StructType():
            return [kind.cls]
        case inspect.UnionType():
            return [cls for option in kind.types for cls in _structs_in(option)]
        case inspect.VarTupleType():
            return _structs_in(kind.item_type)
        case inspect.Metadata():
            return _structs_in(kind.type)
        case _:
            return []


def files() -> dict[str, bytes]:
    """Return all golden files by name."""
    made: dict[str, bytes] = {}
    for name, kind in WIRE.items():
        made[f"{name}.json"] = msgspec.json.encode(example(kind, full=True)) + b"\n"
        made[f"{name}.least.json"] = msgspec.json.encode(example(kind, full=False)) + b"\n"
    blob = BlobRef(sha256="0" * 64, bytes=70_000, type="text/plain")
    long = Proposed(turn=1, attempt=1, text=blob, calls=(ProposedCall(call="c", tool="t", args=blob),))
    made["planner.proposed.blob.json"] = msgspec.json.encode(long) + b"\n"
    table = msgspec.json.encode(defaults(), order="deterministic")
    made["defaults.json"] = msgspec.json.format(table, indent=1) + b"\n"
    return made


def main() -> None:
    """Write them."""
    for name, data in files().items():
        (HERE / name).write_bytes(data)
    sys.stdout.write(f"{len(files())} files\n")


if __name__ == "__main__":
    main()
