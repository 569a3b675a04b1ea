"""The command line of linestop with a model and a tool that return at once: all its CPU time is linestop's own.

The name of the model is its script: ``playbook/turns-10-text-900`` requests one call in each turn before the tenth,
with an argument and a result of 900 bytes. ``playbook/never`` never replies. ``playbook/asks`` requests a call that a
person must approve.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import anyio

from linestop.cli.main import main
from linestop.cli.serving import assemble_process
from linestop.schemas.model_messages import ModelReply, ToolCall, Usage
from linestop.schemas.performer_interfaces import CallWork, ModelWork
from linestop.schemas.tool_contracts import ToolResult


class InstantModel:
    """Replies at once with the next call, or with the final answer."""

    def __init__(self, **_options: object) -> None: ...

    async def request(self, work: ModelWork) -> tuple[ModelReply, float]:
        """The reply to this turn, after 0 seconds."""
        script = work.request.model.partition("/")[2]
        calls: tuple[ToolCall, ...] = ()
        if script == "never":
            await anyio.sleep_forever()
        elif script == "asks":
            calls = (ToolCall(id="c1", name="send", args='{"q":"hello"}'),)
        else:
            _, turns, _, text = script.split("-")
            if work.turn < int(turns):
                args = json.dumps({"q": f"{work.turn} {'x' * int(text)}"})
                calls = (ToolCall(id=f"c{work.turn}", name="look", args=args),)
        reply = ModelReply(
            text="" if calls else "done",
            calls=calls,
            stop_reason="calls" if calls else "end",
            usage=Usage(fresh_in=300, out=50),
            usage_reported=True,
            model="instant",
        )
        return reply, 0.0

    async def aclose(self) -> None:
        """Nothing is open."""


class InstantTool:
    """Returns as many bytes as its argument has, at once."""

    def __init__(self, *_parts: object, **_options: object) -> None: ...

    async def run(self, works: tuple[CallWork, ...]) -> AsyncIterator[tuple[CallWork, ToolResult, float]]:
        """The result of each call, after 0 seconds."""
        for work in works:
            yield work, ToolResult(outcome="succeeded", value="x" * (len(work.args) - 10)), 0.0


def replace_performers() -> None:
    """Let the processes of linestop use the model and the tool of this module."""
    for name, replacement in (("Requester", InstantModel), ("RegistryRunner", InstantTool)):
        assert hasattr(assemble_process, name), f"{assemble_process.__name__} has no {name} any more: adapt bench"
        setattr(assemble_process, name, replacement)


if __name__ == "__main__":
    replace_performers()
    main()
