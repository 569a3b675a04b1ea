"""The tools of the agent ``desk``: one that a person must agree to, and one that takes too long."""

from __future__ import annotations

import asyncio

from linestop import Context, tool

LONG_S = 250


@tool(tier="irreversible", owner="desk", idempotent=True, calls_max=1)
async def pay(ctx: Context, amount: int) -> dict[str, int]:
    """Pay an amount.

    Args:
        ctx: The attempt.
        amount: How much.
    """
    ctx.require_fresh()
    return {"paid": amount}


@tool(tier="read", owner="desk", timeout_s=LONG_S)
async def hang(ctx: Context) -> str:  # noqa: ARG001 - every tool takes a context
    """Do something that takes minutes, until it is stopped.

    Args:
        ctx: The attempt.
    """
    await asyncio.sleep(LONG_S)
    return "done"
