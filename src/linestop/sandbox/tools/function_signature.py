"""From a function's signature to a strict JSON Schema, and from JSON arguments back to Python values."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable
from typing import Any, NamedTuple, get_type_hints

import msgspec

from linestop.errors import ConfigError
from linestop.schemas.json_values import JsonObject

_SECTION = re.compile(r"(Args|Arguments|Returns|Raises|Yields|Example|Examples|Note|Notes):\s*")
_ARGUMENT = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)")


class Signature(NamedTuple):
    """The declaration of a function: a Struct of its arguments, its return type and the schemas of both."""

    arguments: type[msgspec.Struct]
    returns: Any  # a type, or Any where the function declares none
    parameters: JsonObject
    result: JsonObject | None
    description: str


def read_signature(fn: Callable[..., Any], name: str) -> Signature:
    """Read the declaration of a tool's function.

    Raises:
        ConfigError: one sentence that names the tool, what is wrong with it and what to write instead.
    """
    doc = inspect.getdoc(fn)
    if not doc or not doc.strip():
        raise ConfigError(f"tool {name} has no docstring; the model chooses tools by it: write one")
    description, descriptions = read_docstring(doc)
    parameters = _parameters(fn, name)
    hints = _hints(fn, name, parameters)
    struct = _struct(name, parameters, hints)
    schema = _arguments_schema(name, struct, descriptions)
    returns = hints.get("return", Any)
    result = None if returns is Any else _schema(name, returns)
    return Signature(struct, returns, schema, result, description)


def read_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """Split a Google-style docstring into its text and the descriptions under ``Args:``."""
    text: list[str] = []
    descriptions: dict[str, str] = {}
    section = ""
    indent, current = -1, ""
    for line in doc.expandtabs().splitlines():
        depth = len(line) - len(line.lstrip())
        if depth == 0 and (found := _SECTION.fullmatch(line)):
            section, indent = found[1], -1
        elif not section:
            text.append(line)
        elif section in {"Args", "Arguments"} and line.strip():
            indent = depth if indent < 0 else indent
            argument = _ARGUMENT.fullmatch(line.strip()) if depth <= indent else None
            if argument:
                current = argument[1]
                descriptions[current] = argument[2]
            elif current:
                descriptions[current] = f"{descriptions[current]} {line.strip()}".strip()
    return "\n".join(text).strip(), descriptions


def _parameters(fn: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(fn).parameters.values())
    if not parameters or parameters[0].name != "ctx":
        raise ConfigError(f"tool {name} does not take a Context; make `ctx: Context` its first argument")
    for parameter in parameters[1:]:
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            raise ConfigError(f"tool {name} takes *{parameter.name}; name every argument, so that it has a schema")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ConfigError(f"tool {name}: argument {parameter.name} is positional only; calls name arguments")
        if parameter.annotation is parameter.empty:
            raise ConfigError(f"tool {name}: argument {parameter.name} has no type; annotate it")
    return parameters[1:]


def _hints(fn: Callable[..., Any], name: str, parameters: list[inspect.Parameter]) -> dict[str, Any]:
    """Resolve the annotations, except that of ``ctx``, which may be imported for type checking only."""
    names = {parameter.name for parameter in parameters} | {"return"}
    unwrapped = inspect.unwrap(fn)
    assert isinstance(unwrapped, types.FunctionType)
    proxy = types.FunctionType(
        unwrapped.__code__, unwrapped.__globals__, unwrapped.__name__, None, unwrapped.__closure__
    )
    proxy.__annotations__ = {key: hint for key, hint in unwrapped.__annotations__.items() if key in names}
    try:
        return get_type_hints(proxy, include_extras=True)
    except Exception as error:  # noqa: BLE001 - evaluating an annotation may raise anything
        raise ConfigError(
            f"tool {name}: a type cannot be resolved ({_one_line(error)}); import it at module level"
        ) from None


def _struct(name: str, parameters: list[inspect.Parameter], hints: dict[str, Any]) -> type[msgspec.Struct]:
    fields: list[Any] = [
        (p.name, hints[p.name]) if p.default is p.empty else (p.name, hints[p.name], p.default) for p in parameters
    ]
    try:
        return msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"tool {name}: its arguments cannot be described ({_one_line(error)})") from None


def _arguments_schema(name: str, struct: type[msgspec.Struct], descriptions: dict[str, str]) -> JsonObject:
    """The schema of the arguments as one object, with the descriptions of the docstring."""
    full = _schema(name, struct)
    definitions: JsonObject = full.pop("$defs")
    top: JsonObject = definitions.pop(str(full["$ref"]).rsplit("/", 1)[-1])
    top.pop("title", None)
    top.setdefault("required", [])
    properties: dict[str, JsonObject] = top["properties"]
    unknown = sorted(set(descriptions) - set(properties) - {"ctx"})
    if unknown:
        raise ConfigError(f"tool {name} describes {unknown[0]}, which is not one of its arguments; rename it")
    for argument, description in descriptions.items():
        if argument in properties and description:
            properties[argument].setdefault("description", description)
    for definition in definitions.values():
        # Nested objects are strict too: the model should learn of an argument that the tool never reads.
        if "properties" in definition:
            definition.setdefault("additionalProperties", False)
    if definitions:
        top["$defs"] = definitions
    return top


def _schema(name: str, kind: Any) -> JsonObject:  # noqa: ANN401 - a type
    try:
        return msgspec.json.schema(kind)
    except KeyError:
        # msgspec names each type by the letters, digits and dots of its name and does not notice when two collide.
        raise ConfigError(
            f"tool {name}: two of its types have names that differ in no ASCII letter; rename one"
        ) from None
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"tool {name}: a type cannot be expressed in JSON ({_one_line(error)}); use another"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
