"""The price of a model, from the table that ships with ``genai-prices``, never from the network.

A price is an upper bound, because budgets depend on it: of several tiers of a model the dearest counts. An unknown
model has no price, rather than the price zero.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

from linestop.errors import Refused
from linestop.models.providers import PLAYBOOK, PROVIDERS
from linestop.schemas.model_messages import Price

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelPrice

_MICROS = Decimal(1_000_000)


def price_of(model: str, at: datetime | None = None) -> Price:
    """Price of ``<provider>/<name>`` in micro-dollars per million tokens, as of ``at`` (default: now).

    Cache writes are priced as five-minute ones, the only kind that the Anthropic adapter requests.

    Raises:
        Refused: when the table has no input price or no output price for the model.
    """
    table = f"genai-prices {version('genai-prices')}"
    provider, _, name = model.partition("/")
    prices = (
        _find(provider, name, at or datetime.now(UTC))
        if provider in PROVIDERS and provider != PLAYBOOK and name
        else None
    )
    input_rate = _highest_rate(prices, "input_mtok")
    output_rate = _highest_rate(prices, "output_mtok")
    if input_rate is None or output_rate is None:
        raise Refused(
            f'No price of "{model}" is known in {table}: set [price] with input and output '
            "(micro-dollars per million tokens) in the agent file."
        )
    return Price(
        input=input_rate,
        output=output_rate,
        cache_read=_highest_rate(prices, "cache_read_mtok") or 0,
        cache_write=_highest_rate(prices, "cache_write_mtok") or 0,
        table=table,
    )


def _find(provider: str, name: str, at: datetime) -> ModelPrice | None:
    try:
        _, found = _snapshot().find_provider_model(name, None, provider, None)
    except LookupError:
        return None
    return found.get_prices(at)


@cache
def _snapshot() -> DataSnapshot:
    # Built here, because the snapshot of the library may have been refreshed from the network.
    from genai_prices.data import providers  # noqa: PLC0415 - costs a quarter of a second and 32 MB
    from genai_prices.data_snapshot import DataSnapshot as Snapshot  # noqa: PLC0415 - as above

    return Snapshot(providers=providers, from_auto_update=False)


def _highest_rate(prices: ModelPrice | None, key: str) -> int | None:
    price = getattr(prices, key, None)
    if price is None:
        return None
    rates = [price] if isinstance(price, Decimal) else [price.base, *(tier.price for tier in price.tiers)]
    return int((max(rates) * _MICROS).to_integral_value(ROUND_CEILING))
