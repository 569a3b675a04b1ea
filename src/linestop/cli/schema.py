"""``schema``: print the schemas of everything on the bus, for programs in any language."""

from __future__ import annotations

from typing import Literal

import click
import msgspec

from linestop.bus.asyncapi import asyncapi
from linestop.project import package_version
from linestop.schemas.documents import Document, control_document, events_document, tasks_document

What = Literal["events", "asyncapi", "tasks", "control"]


@click.command("schema")
@click.argument("what", type=click.Choice(["events", "asyncapi", "tasks", "control"]), default="events")
@click.option("--json", "as_json", is_flag=True, help="On one line, for programs.")
def schema(what: What, *, as_json: bool) -> None:
    """Print JSON Schemas of events, tasks or control messages, or the AsyncAPI 3.1 document of all."""
    text = msgspec.json.encode(document(what))
    click.echo((text if as_json else msgspec.json.format(text)).decode())


def document(what: What) -> Document:
    """The document of that name."""
    match what:
        case "events":
            return events_document()
        case "asyncapi":
            return asyncapi(package_version())
        case "tasks":
            return tasks_document()
        case "control":
            return control_document()
