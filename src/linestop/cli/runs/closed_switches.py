"""The closed kill switches in words."""

from __future__ import annotations

from linestop.actors.facts import kill_switch_message
from linestop.cli.output import printing
from linestop.schemas.kill_switches import UNREADABLE


def print_closed_switches(closed: frozenset[str], *, as_json: bool) -> None:
    """Print the kill switches that are closed now."""
    if as_json:
        printing.print_json({"closed": sorted(closed)})
    elif closed:
        printing.print_text(closed_sentence(closed))
    else:
        printing.print_text("No kill switch is closed.")


def closed_sentence(closed: frozenset[str]) -> str:
    """The closed kill switches, in one sentence."""
    if UNREADABLE in closed:
        return kill_switch_message(UNREADABLE)
    return f"Closed: {', '.join(sorted(closed))}. Nothing that a closed kill switch names can start."
