"""``docs/events.md``: every subject and every event, with all fields, generated from the code."""

from __future__ import annotations

from typing import Final, cast

from linestop.reference.asyncapi_channels import CHANNELS, PARAMETERS
from linestop.reference.json_schema import NAMED_EVENTS, Document, components, docstring_markdown
from linestop.schemas.events import Stopped
from linestop.schemas.json_values import JsonValue
from linestop.schemas.messages import Control, Reply, Task
from linestop.schemas.run.phases import STOPPED

_REF: Final = "#{name}"
_DIRECTIONS: Final = {"in": "to linestop", "out": "from linestop", "inside": "inside"}
_ENVELOPE: Final = frozenset({"id", "prev", "at", "cue", "build", "trace"})
_INTRO: Final = """\
# Subjects and events

Generated from the code; do not edit. Write it again with
`python -c "from linestop.reference.events_page import events_markdown as m; print(m(), end='')" > docs/events.md`.
`linestop schema events` prints the same as JSON Schema, `linestop schema asyncapi` as an AsyncAPI document.

Money is in integer micro-dollars (`_micros`), durations in seconds (`_s`), digests are SHA-256 in hex. A field
without a default is always present. Readers must ignore unknown fields.
"""


def events_markdown() -> str:
    """Return the whole page."""
    structs = [struct for name, struct in NAMED_EVENTS.items() if not name.endswith(f".{STOPPED}")]
    schemas = components([*structs, Stopped, Task, Control, Reply], ref=_REF)
    shown_above = {struct.__name__ for struct in (*structs, Stopped)} | {"Task", "Control", "Reply"}
    lines = [_INTRO, *_subjects(), "## Messages", ""]
    for name in ("Task", "Control", "Reply"):
        lines += _section(name, schemas[name])
    lines += ["## Events", "", "### Envelope", "", "Every event has these fields; they are not repeated below.", ""]
    stop = schemas["Stopped"]
    lines += _fields({key: stop["properties"][key] for key in stop["properties"] if key in _ENVELOPE}, stop)
    for name, struct in NAMED_EVENTS.items():
        if not name.endswith(f".{STOPPED}"):
            lines += _section(struct.__name__, schemas[struct.__name__], title=f"{name}")
    lines += _section("Stopped", stop, title=f"*any role*.{STOPPED}")
    lines += ["## Parts", ""]
    for name, schema in schemas.items():
        if name not in shown_above:
            lines += _section(name, schema)
    return "\n".join(lines).rstrip() + "\n"


def _subjects() -> list[str]:
    lines = ["## Subjects", "", "| subject | way | stream | what |", "|---|---|---|---|"]
    log = "| `runs.{tenant}.{run}.{role}.{event}.{n}` | from linestop | RUNS | The run log: one event, see below. |"
    rows = [
        f"| `{c.address}` | {_DIRECTIONS[c.direction]} | {c.stream or 'none (core NATS)'} | {c.description} |"
        for c in CHANNELS
    ]
    parts = [f"- `{{{name}}}`: {text}" for name, text in PARAMETERS.items()]
    return [*lines, log, *rows, "", *parts, ""]


def _section(name: str, schema: Document, *, title: str = "") -> list[str]:
    lines = [f"### {title or name}", "", f'<a id="{name}"></a>', docstring_markdown(schema.get("description", "")), ""]
    if "properties" not in schema:
        return [*lines, f"One of: {', '.join(f'`{value}`' for value in schema.get('enum', ()))}.", ""]
    own = {key: value for key, value in schema["properties"].items() if not title or key not in _ENVELOPE}
    return [*lines, *_fields(own, schema)]


def _fields(fields: dict[str, Document], schema: Document) -> list[str]:
    required = schema.get("required", ())
    lines = ["| field | type | default |", "|---|---|---|"]
    for name, field in fields.items():
        default = "" if name in required else _default(field.get("default"))
        lines.append(f"| `{name}` | {_type(field)} | {default} |")
    return [*lines, ""]


def _default(value: JsonValue) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if value in ("", [], {}):
        return "empty"
    return f"`{value}`" if isinstance(value, str | int | float) else "see there"


def _type(field: Document) -> str:
    """Return a short description of a schema."""
    if "$ref" in field:
        name = field["$ref"].removeprefix("#")
        return f"[{name}](#{name})"
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    if "enum" in field:
        return " \\| ".join(f"`{value}`" if value else "empty" for value in field["enum"])
    if "prefixItems" in field:
        return "list"
    match field.get("type"):
        case "array":
            return f"list of {_type(field['items'])}" if field.get("items") else "list"
        case "object":
            values = field.get("additionalProperties")
            return f"map of {_type(cast('Document', values))}" if isinstance(values, dict) else "object"
        case "string" if field.get("format") == "date-time":
            return "moment"
        case str() as kind:
            return {"string": "text", "number": "number", "integer": "integer", "null": "none"}.get(kind, kind)
        case _:
            return "any JSON"
