"""Commands that check a run's log without trusting anyone: ``verify``, and ``export``, which writes it to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from linestop.cli.options import common_options
from linestop.cli.run_argument import run_argument


@click.command()
@run_argument
@click.option(
    "--file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="An exported log; no broker is asked."
)
@click.option("--key", "keys", multiple=True, metavar="ID=HEX", help="Trust this key for checkpoints; repeatable.")
@common_options
def verify(run: str, *, file: Path | None, keys: Sequence[str], directory: Path, tenant: str, as_json: bool) -> None:
    """Check that the log of RUN is complete and follows the rules; exit code 9 if it is broken.

    The people whose signatures count are those of the project (`people` in linestop.toml). The recorder's
    checkpoint counts if its public key is in the state folder (credentials/checkpoint.pub) or given with --key.
    """
    from linestop.cli import broker_client, exit_codes
    from linestop.cli.runs import log_check
    from linestop.schemas.subjects import run_id, tenant_id
    from linestop.schemas.verify.check_log import verify as check
    from linestop.schemas.verify.export_bundle import read_bundle

    owner, name, trusted = tenant_id(tenant), run_id(run), log_check.trusted_keys(keys, directory)
    if file is not None:
        with file.open("rb") as lines:
            bundle = read_bundle(log_check.bounded_lines(lines))
        name = log_check.run_in_file(name, owner, bundle)
    else:
        bundle = broker_client.with_client(directory, lambda client: log_check.fetch_bundle(client, owner, name))
    verdict = check(owner, name, bundle.messages, checkpoints=bundle.checkpoints, keys=trusted, texts=bundle.texts)
    log_check.print_verdict(verdict, as_json=as_json)
    exit_codes.exit_with(exit_codes.EXIT_LOG_BROKEN if verdict.broken else exit_codes.EXIT_DONE)


@click.command()
@run_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file to write; it must not exist yet.",
)
@common_options
def export(run: str, *, out: Path, directory: Path, tenant: str, as_json: bool) -> None:
    """Write the log of RUN and its proof to a file, which `linestop verify RUN --file` checks without a broker.

    The file holds the run's events as they are stored, and long arguments and answers: protect it like the log.
    """
    from linestop.bus.access.credentials import write_private
    from linestop.cli import broker_client
    from linestop.cli.output import printing
    from linestop.cli.output.wording import counted
    from linestop.cli.runs import log_check
    from linestop.errors import InputError
    from linestop.schemas.subjects import run_id, tenant_id
    from linestop.schemas.verify.export_bundle import write_bundle

    if out.exists():
        raise InputError(f"{out} already exists: name another file, or remove it.")
    owner, name = tenant_id(tenant), run_id(run)
    bundle = broker_client.with_client(directory, lambda client: log_check.fetch_bundle(client, owner, name))
    lines = write_bundle(bundle.messages, checkpoints=bundle.checkpoints, texts=bundle.texts)
    try:
        write_private(out, b"".join(lines))
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}.") from None
    events, checkpoints, texts = len(bundle.messages), len(bundle.checkpoints), len(bundle.texts)
    if as_json:
        printing.print_json(
            {"run": run, "file": str(out), "events": events, "checkpoints": checkpoints, "texts": texts}
        )
    else:
        counts = f"{counted(events, 'event')}, {counted(checkpoints, 'checkpoint')} and {counted(texts, 'long text')}"
        printing.print_text(f"{run}: {counts} are in {out}")
