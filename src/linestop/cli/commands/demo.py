"""The command that shows what linestop does: ``demo``."""

from __future__ import annotations

import click

from linestop.cli.options import json_option


@click.command()
@json_option
def demo(*, as_json: bool) -> None:
    """Three short stories on real parts: a refund that survives a kill, a loop that is ended, a stopped run.

    Needs no key and no configuration. The models are scripts behind real HTTP; prices are examples. With --json
    no question is asked: every event and every result is a line on stdout.
    """
    from linestop.cli.demo import tell_stories

    tell_stories(as_json=as_json)
