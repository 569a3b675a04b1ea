"""The command that prints the schemas of everything on the bus, for programs in any language."""

from __future__ import annotations

from typing import Literal

import click

from linestop.cli.options import json_option

DocumentName = Literal["events", "asyncapi", "tasks", "control"]


@click.command()
@click.argument("what", type=click.Choice(["events", "asyncapi", "tasks", "control"]), default="events")
@json_option
def schema(what: DocumentName, *, as_json: bool) -> None:
    """Print JSON Schemas of events, tasks or control messages, or one AsyncAPI 3.1 document of everything."""
    import msgspec

    from linestop.cli.output import printing
    from linestop.config.project_file import package_version
    from linestop.reference.asyncapi import asyncapi
    from linestop.reference.json_schema import control_document, events_document, tasks_document

    match what:
        case "events":
            found = events_document()
        case "asyncapi":
            found = asyncapi(package_version())
        case "tasks":
            found = tasks_document()
        case "control":
            found = control_document()
    if as_json:
        printing.print_json(found)
    else:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
