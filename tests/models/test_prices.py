"""Prices from the table that ships with genai-prices."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from linestop.errors import Refused
from linestop.models.prices import price_of
from linestop.schemas.model_messages import Usage

AT = datetime(2026, 6, 1, tzinfo=UTC)


def test_a_known_model_has_integer_micro_dollars_and_names_its_table() -> None:
    """Three dollars per million tokens are 3,000,000; the version of the table is part of the price."""
    price = price_of("openai/gpt-4o", AT)
    assert (price.input, price.output, price.cache_read) == (2_500_000, 10_000_000, 1_250_000)
    assert price.table.startswith("genai-prices 0.2.")
    assert price.cost_micros(Usage(fresh_in=1_000, out=100, cache_read=10)) == 3_513


def test_the_dearest_of_several_tiers_counts() -> None:
    """A reservation made at the first tier would not bound a long prompt."""
    price = price_of("anthropic/claude-sonnet-4-5", AT)
    assert (price.input, price.output) == (6_000_000, 22_500_000)
    assert (price.cache_read, price.cache_write) == (600_000, 7_500_000)


@pytest.mark.parametrize(
    "model", ["openai/no-such-model", "playbook/support", "openai/", "gpt-4o", "google/gemini-2.5-pro"]
)
def test_an_unknown_model_has_no_price_rather_than_zero(model: str) -> None:
    """The sentence names the setting, because nothing else will help."""
    with pytest.raises(Refused, match=r"set \[price\]") as refused:
        price_of(model, AT)
    assert f'"{model}"' in str(refused.value)
