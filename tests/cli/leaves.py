"""Every command that is not a group, for tests of all of them."""

from __future__ import annotations

from collections.abc import Iterator

import click


def leaves(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    """The commands below a group, each with its full name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from leaves(found, *path, name)
        else:
            yield " ".join([*path, name]), found
