"""The parts of a process that come from the project."""

from __future__ import annotations

import msgspec
import pytest

from linestop.cli.serving.assemble_process import _result_check  # pyright: ignore[reportPrivateUsage]
from linestop.sandbox.tools.decorator import Context, tool


def find_faults(value: object) -> list[str]:
    """Find fault with everything but a text that begins with a bracket."""
    return [] if isinstance(value, str) and value.startswith("[") else [f"got {type(value).__name__}"]


@tool(tier="read", check=find_faults)
async def lookup(ctx: Context, what: str) -> str:
    """Look something up.

    Args:
        what: What.
    """
    del ctx
    return what


@pytest.mark.parametrize(
    ("result", "found"),
    [
        ('{"a":1}', ("got dict",)),
        ("[not json", ()),
        ("[" * 5_000, ("The result is nested too deeply to be checked: return one with fewer levels.",)),
    ],
)
def test_a_check_gets_every_result_or_says_why_not(result: str, found: tuple[str, ...]) -> None:
    """JSON as a value, plain text unchanged, and a result that is nested too deeply as a finding."""
    assert _result_check(lookup)(result) == found


def test_a_nested_result_is_what_the_decoder_gives_up_on() -> None:
    """Five thousand levels are more than it reads, from any depth of the stack."""
    with pytest.raises(RecursionError):
        msgspec.json.decode("[" * 5_000)
