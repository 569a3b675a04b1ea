"""JSON Schemas (2020-12) of events and messages, and the reference pages generated from the code.

Everything here is derived: from the event structs, and from the table of phases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from linestop.schemas.events import EVENTS, AnyEvent, Stopped
from linestop.schemas.json_values import JsonObject
from linestop.schemas.messages import Control, Reply, Task
from linestop.schemas.run.phases import LEGAL, STOPPED, TRANSITIONS, Phase
from linestop.schemas.subjects import ROLES

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
ENVELOPE: Final = ("id", "prev", "at")
"""Fields of every stored event that a decision leaves empty for the shell to fill in."""

Document = JsonObject
"""A JSON document: an open format."""

NAMED_EVENTS: Final[dict[str, type[AnyEvent]]] = {
    **{f"{role}.{event}": struct for (role, event), struct in EVENTS.items()},
    **{f"{role}.{STOPPED}": Stopped for role in ROLES},
}
"""``<role>.<event>`` → struct, for every role and all of its events."""


def components(types: Iterable[type[msgspec.Struct]], *, ref: str) -> Mapping[str, Document]:
    """Return the schemas of ``types`` and of all their parts, by name; ``ref`` is the reference to ``{name}``."""
    structs = list(dict.fromkeys(types))
    _, schemas = msgspec.json.schema_components(structs, ref_template=ref)
    events = {struct.__name__ for struct in NAMED_EVENTS.values()}
    for name, schema in schemas.items():
        schema["description"] = docstring_markdown(schema.get("description", ""))
        if name in events:
            schema["required"] = [*ENVELOPE, *schema.get("required", ())]
    return dict(sorted(schemas.items()))


def events_document() -> Document:
    """Return the schema of every event, by ``<role>.<event>``."""
    schemas = components(NAMED_EVENTS.values(), ref="#/$defs/{name}")
    return {
        "$schema": DIALECT,
        "title": "Events of a run",
        "description": "The schema of a payload on runs.<tenant>.<run>.<role>.<event>.<n>, by <role>.<event>.",
        "events": {name: {"$ref": f"#/$defs/{struct.__name__}"} for name, struct in NAMED_EVENTS.items()},
        "$defs": schemas,
    }


def tasks_document() -> Document:
    """Return the schema of a task and of its reply."""
    return _document("A task, on tasks.<tenant>.<agent>", Task)


def control_document() -> Document:
    """Return the schema of a control message and of its reply."""
    return _document("A control message, on control.<tenant>.<run>.<verb>", Control)


def _document(title: str, struct: type[msgspec.Struct]) -> Document:
    schemas = components([struct, Reply], ref="#/$defs/{name}")
    return {"$schema": DIALECT, "title": title, "$ref": f"#/$defs/{struct.__name__}", "$defs": schemas}


def docstring_markdown(docstring: str) -> str:
    """Return a docstring as Markdown: ``code`` becomes `code`, and the lines of a paragraph are joined."""
    paragraphs = re.split(r"\n\s*\n", docstring.replace("``", "`").strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


# --- docs/phases.md ----------------------------------------------------------------------------------------

_PHASES_INTRO: Final = """\
# Phases of a run

Generated from the tables in `schemas.run.phases`; do not edit. Write it again with
`python -c "from linestop.reference.json_schema import phases_markdown as m; print(m(), end='')" > docs/phases.md`.

A phase is derived from the log, never stored. If the calls of a proposal are in different stages, the phase is that of
the step that comes first.
"""


def phases_markdown() -> str:
    """Return ``docs/phases.md``: the diagram of phases, and the legal events of each phase."""
    return "\n".join([_PHASES_INTRO, *_diagram(), *_legality()]) + "\n"


def _diagram() -> list[str]:
    edges: dict[tuple[Phase, Phase], list[str]] = {}
    for source, event, target in TRANSITIONS:
        edges.setdefault((source, target), []).append(event)
    arrows = [f"    {source} --> {target}: {', '.join(events)}" for (source, target), events in edges.items()]
    return [
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> new",
        *arrows,
        "    sealed --> [*]",
        "```",
        "",
        "An event that does not change the phase has no arrow. `stopped` by any role leads from every phase before",
        "`settling` to `draining`, and from `settling` too; only some of these arrows are drawn.",
        "",
    ]


def _legality() -> list[str]:
    names = sorted({name for legal in LEGAL.values() for name in legal})
    lines = [
        "## Which event is legal in which phase",
        "",
        "An illegal event keeps its number in the chain, changes nothing, and is shown as ignored.",
        "",
        f"| event | {' | '.join(LEGAL)} |",
        f"|---|{'---|' * len(LEGAL)}",
    ]
    for name in names:
        marks = ["yes" if name in LEGAL[phase] else "" for phase in LEGAL]
        lines.append(f"| `{name}` | {' | '.join(marks)} |")
    return lines
