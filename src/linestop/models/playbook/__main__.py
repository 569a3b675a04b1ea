"""``python -m linestop.models.playbook FILE... --port N``: serve playbooks until SIGINT or SIGTERM."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import anyio
import click

from linestop.errors import ConfigError
from linestop.models.playbook import PlaybookServer, load_playbook


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="0 takes a free one.")
def main(files: tuple[Path, ...], port: int) -> None:
    """Serve scripted models from FILES on 127.0.0.1; the address is printed when they are ready."""
    try:
        server = PlaybookServer([load_playbook(file) for file in files], port=port)
        anyio.run(_serve, server)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"Port {port} cannot be opened: {error}.", err=True)
        sys.exit(1)


async def _serve(server: PlaybookServer) -> None:
    # Both signals, because a background process of a shell script inherits an ignored SIGINT.
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with server:
            click.echo(server.url)
            await anext(signals)


if __name__ == "__main__":
    main()
