"""The tools of the demo: real HTTP requests to the shop, whose address is in ``SHOP_URL``."""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import Annotated, Any

import msgspec

from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import tool
from linestop.sandbox.tools.failures import ToolFailed

Cents = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
OWNER = "support"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An order as the shop returns it."""

    order: str
    item: str
    total_cents: int
    state: str


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """A refund that was paid."""

    refund: str
    paid_cents: int


@tool(name="orders.lookup", tier="read", owner=OWNER, trusted=("total_cents",))
async def lookup(ctx: Context, order: str) -> Order:
    """Look an order up.

    Args:
        ctx: The attempt.
        order: The order's number.
    """
    return msgspec.convert(await _get(ctx, f"/orders/{order}"), Order)


@tool(name="refunds.create", tier="irreversible", owner=OWNER, idempotent=True, calls_max=1, timeout_s=15)
async def refund(ctx: Context, order: str, amount_cents: Cents) -> Refund:
    """Pay a customer back. It cannot be undone.

    Args:
        ctx: The attempt.
        order: The order's number.
        amount_cents: How much, in cents.
    """
    body = {"order": order, "amount_cents": amount_cents}
    response = await ctx.http.post(f"{_shop()}/refunds", json=body, headers={"Idempotency-Key": ctx.key})
    return msgspec.json.decode(response.content, type=Refund)


@tool(name="parcels.track", tier="read", owner=OWNER)
async def track(ctx: Context, parcel: str) -> dict[str, str]:
    """Say where a parcel is.

    Args:
        ctx: The attempt.
        parcel: The parcel's number.
    """
    return msgspec.convert(await _get(ctx, f"/parcels/{parcel}"), dict[str, str])


@tool(name="letters.send", tier="irreversible", owner=OWNER, calls_max=10, timeout_s=15, egress=("batch",))
async def send(ctx: Context, batch: int) -> dict[str, int]:
    """Send a batch of letters to customers. The shop knows no keys, so nobody may send a batch twice.

    Args:
        ctx: The attempt.
        batch: Number of the batch.
    """
    response = await ctx.http.post(f"{_shop()}/letters", json={"batch": batch})
    return msgspec.json.decode(response.content, type=dict[str, int])


async def _get(ctx: Context, path: str) -> Any:  # noqa: ANN401 - any JSON value
    response = await ctx.http.get(f"{_shop()}{path}")
    if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise ToolFailed(f"the shop answers {response.status_code}", type="transient", retry_safe=True)
    if response.status_code != HTTPStatus.OK:
        raise ToolFailed(f"the shop answers {response.status_code} to {path}", type="invalid", retry_safe=True)
    return msgspec.json.decode(response.content)


def _shop() -> str:
    return os.environ["SHOP_URL"]
