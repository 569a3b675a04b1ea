"""Commands about tools: ``tools ls``, ``tools inspect``, ``tools lint``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from linestop.cli.options import json_option

if TYPE_CHECKING:
    from linestop.schemas.json_values import JsonObject


@click.group()
def tools() -> None:
    """List, inspect and lint tools."""


@tools.command("ls")
@json_option
def tools_ls(*, as_json: bool) -> None:
    """List all tools, each with its tier and its source."""
    from linestop.cli.output import printing
    from linestop.cli.project_contents import load_tools
    from linestop.config.project_file import load_project

    registry = load_tools(load_project())
    contracts = registry.contracts()
    if as_json:
        printing.print_json(contracts)
        return
    width = max((len(contract.name) for contract in contracts), default=0)
    for contract in contracts:
        repeat = "safe to repeat" if contract.safe_to_repeat else "not safe to repeat"
        click.echo(f"{contract.name:<{width}}  {contract.tier:<12}  {repeat:<18}  {registry.source(contract.name)}")


@tools.command("inspect")
@click.argument("name", metavar="TOOL")
@json_option
def tools_inspect(name: str, *, as_json: bool) -> None:
    """Show the contract of TOOL, which is enforced when an agent calls it."""
    import msgspec

    from linestop.cli.output import printing
    from linestop.cli.project_contents import load_tools
    from linestop.config.project_file import load_project

    registry = load_tools(load_project())
    contract = registry.contract(name)
    if as_json:
        printing.print_json(contract)
        return
    click.echo(f"{contract.name}: {contract.description}")
    shown: JsonObject = msgspec.to_builtins(contract)
    for field in ("name", "description", "parameters", "returns"):
        shown.pop(field, None)
    shown = {"tier": contract.tier, "kind": contract.kind, "timeout_s": contract.timeout_s, **shown}
    for field, value in shown.items():
        click.echo(f"  {field:<14} {msgspec.json.encode(value).decode()}")
    click.echo(f"  {'source':<14} {registry.source(name)}")
    click.echo(f"  {'digest':<14} {contract.digest()}")
    click.echo(msgspec.json.format(msgspec.json.encode(contract.parameters)).decode())


@tools.command("lint")
@json_option
def tools_lint(*, as_json: bool) -> None:
    """Check the contracts of all tools; exit code 1 if one has an error."""
    from linestop.cli import exit_codes
    from linestop.cli.output import printing, wording
    from linestop.cli.project_contents import load_tools
    from linestop.config.project_file import load_project
    from linestop.sandbox.tools.contract_lint import lint_contracts

    registry = load_tools(load_project())
    findings = lint_contracts(registry.contracts(), without_tier=registry.without_tier())
    if as_json:
        printing.print_json(findings)
    else:
        for finding in findings:
            printing.print_text(f"{finding.level:<7}  {finding.tool}  {finding.rule}: {finding.message}", hang=9)
        click.echo(f"{wording.counted(len(registry), 'tool')}, {wording.counted(len(findings), 'finding')}", err=True)
    if any(found.level == "error" for found in findings):
        exit_codes.exit_with(1)
