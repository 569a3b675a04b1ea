"""``python -m linestop.testing.playbook FILE... --port N``: serve playbooks until interrupted."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from linestop.errors import ConfigError
from linestop.testing.playbook import PlaybookServer, load_playbook


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="0 takes a free one.")
def main(files: tuple[Path, ...], port: int) -> None:
    """Serve scripted models from FILES on 127.0.0.1; the address is printed when they are ready."""
    try:
        server = PlaybookServer([load_playbook(file) for file in files], port=port)
        asyncio.run(_serve(server))
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"Port {port} cannot be listened on: {error}.", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(0)


async def _serve(server: PlaybookServer) -> None:
    async with server:
        click.echo(server.url)
        await asyncio.Event().wait()


if __name__ == "__main__":
    main()
