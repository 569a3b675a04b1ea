"""Commands that check: ``doctor`` and ``health``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from linestop.cli.commands.processes import ROLES
from linestop.cli.options import json_option, nats_option

if TYPE_CHECKING:
    from linestop.schemas.subjects import RoleName

LEVEL_WIDTH: Final = 9
COLOUR_BY_LEVEL: Final = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command()
@nats_option
@json_option
@click.option("--no-code", is_flag=True, help="Import no Python of the folder: skip tools and agents.")
def doctor(*, nats: str | None, as_json: bool, no_code: bool) -> None:
    """Check this machine and this project, one line per check; exit code 1 if one fails, 8 if only the broker does.

    To check tools and agents it imports the folder's Python, as `agents`, `tools` and `deploy` do: use --no-code in a
    folder that you do not trust.
    """
    from linestop.cli import exit_codes
    from linestop.cli.doctor.checks import machine_findings, project_findings
    from linestop.cli.output import printing
    from linestop.cli.output.terminal_escape import wrap_for
    from linestop.errors import Unreachable

    findings = [*machine_findings(), *project_findings(nats, code=not no_code)]
    if as_json:
        printing.print_json(findings)
    else:
        margin = " " * LEVEL_WIDTH
        for finding in findings:
            click.secho(f"{finding.level:<{LEVEL_WIDTH}}", fg=COLOUR_BY_LEVEL[finding.level], nl=False)
            line = wrap_for(sys.stdout, f"{margin}{finding.check}: {finding.sentence}", hang=LEVEL_WIDTH)
            click.echo(line[LEVEL_WIDTH:])
    errors = [found for found in findings if found.level == "error"]
    if errors:
        exit_codes.exit_with(Unreachable.exit_code if all(found.code == Unreachable.code for found in errors) else 1)


@click.command()
@click.option("--worker", metavar="NAME", help="Check only that the worker with this name is alive, and the broker.")
@click.option("--role", type=click.Choice(ROLES), help="The same for this host's workers that have this role.")
@nats_option
@json_option
def health(*, worker: str | None, role: RoleName | None, nats: str | None, as_json: bool) -> None:
    """Check that the broker answers and stores, and that every role has a worker; for health checks.

    With --worker or --role, check that worker of this state folder instead of all workers.
    """
    from linestop.cli.doctor.checks import Finding, health_checks, names_with_role
    from linestop.cli.output import printing
    from linestop.config.project_file import load_project

    project = load_project().with_broker(nats)
    workers = [
        *([] if worker is None else [worker]),
        *([] if role is None else names_with_role(project.directory, role)),
    ]
    for check, run_check in health_checks(project, workers):
        sentence = run_check()
        if as_json:
            printing.print_json(Finding(check=check, level="ok", sentence=sentence))
        else:
            click.echo(sentence)
