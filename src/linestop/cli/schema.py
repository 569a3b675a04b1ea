"""``schema``: print the schemas of everything on the bus, for programs in any language."""

from __future__ import annotations

from typing import Literal

import click
import msgspec

from linestop.cli.output import printing
from linestop.config.project_file import package_version
from linestop.reference.asyncapi import asyncapi
from linestop.reference.json_schema import Document, control_document, events_document, tasks_document

DocumentName = Literal["events", "asyncapi", "tasks", "control"]


def schema(what: DocumentName, *, as_json: bool) -> None:
    """Print JSON Schemas of events, tasks or control messages, or one AsyncAPI 3.1 document of everything."""
    found = document(what)
    if as_json:
        printing.print_json(found)
    else:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())


def document(what: DocumentName) -> Document:
    """The document with this name."""
    match what:
        case "events":
            return events_document()
        case "asyncapi":
            return asyncapi(package_version())
        case "tasks":
            return tasks_document()
        case "control":
            return control_document()
