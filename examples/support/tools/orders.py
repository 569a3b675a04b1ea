"""The tools of a support desk, on a small SQLite file that is created when it is missing.

Each effect is stored under the effect key that the runtime hands over (``ctx.key``) in a unique column, so
that an attempt that was interrupted may simply be made again: ``idempotent=True`` says so.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import msgspec

from linestop import Context, ToolFailed, tool

OrderNumber = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,12}$")]
Cents = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
SCHEMA = """
create table if not exists orders (number text primary key, item text, total_cents integer, state text);
create table if not exists refunds (key text primary key, number text, amount_cents integer);
create table if not exists notes (key text primary key, number text, text text);
insert or ignore into orders values ('1042', 'teapot', 4250, 'delivered');
"""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An order of the shop."""

    order: str
    item: str
    total_cents: int
    state: str


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """A refund that was paid."""

    refund: str
    paid_cents: int


@tool(name="orders.lookup", tier="read", owner="support", trusted=("total_cents",))
def lookup(ctx: Context, order: OrderNumber) -> Order:  # noqa: ARG001 - every tool takes a context
    """Look an order up.

    Args:
        ctx: The attempt.
        order: The order's number.
    """
    with _shop() as shop:
        row = shop.execute("select item, total_cents, state from orders where number = ?", (order,)).fetchone()
    if row is None:
        raise ToolFailed(f"there is no order {order}", type="invalid", retry_safe=True)
    return Order(order=order, item=row[0], total_cents=row[1], state=row[2])


@tool(name="orders.note", tier="reversible", owner="support", idempotent=True, calls_max=5)
def note(ctx: Context, order: OrderNumber, text: Annotated[str, msgspec.Meta(max_length=500)]) -> None:
    """Leave a note at an order, for colleagues.

    Args:
        ctx: The attempt.
        order: The order's number.
        text: What to note.
    """
    ctx.require_fresh()
    with _shop() as shop:
        shop.execute("insert or ignore into notes values (?, ?, ?)", (ctx.key, order, text))


@tool(name="refunds.create", tier="irreversible", owner="support", idempotent=True, calls_max=1)
def refund(ctx: Context, order: OrderNumber, amount_cents: Cents) -> Refund:
    """Pay a customer back, at most the order's total. It cannot be undone.

    Args:
        ctx: The attempt.
        order: The order's number.
        amount_cents: How much, in cents.
    """
    ctx.require_fresh()
    with _shop() as shop:
        total = shop.execute("select total_cents from orders where number = ?", (order,)).fetchone()
        if total is None or amount_cents > total[0]:
            raise ToolFailed(f"order {order} has no {amount_cents} cents to refund", type="invalid", retry_safe=True)
        shop.execute("insert or ignore into refunds values (?, ?, ?)", (ctx.key, order, amount_cents))
    return Refund(refund=f"R-{ctx.key[:8]}", paid_cents=amount_cents)


@contextmanager
def _shop() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(os.environ.get("SHOP_DB", "shop.db"))) as shop:
        shop.executescript(SCHEMA)
        with shop:
            yield shop
