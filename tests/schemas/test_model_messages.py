"""Prices and usage."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from linestop.schemas.model_messages import ModelFailed, Price, Usage

COUNTS = st.integers(0, 10**7)
RATES = st.integers(0, 10**8)


def test_a_cost_is_rounded_up() -> None:
    """A budget is never undercharged."""
    price = Price(input=3_000_000, output=15_000_000)
    assert price.cost_micros(Usage(fresh_in=1, out=1)) == 18
    assert Price(input=1, output=0).cost_micros(Usage(fresh_in=1)) == 1
    assert price.cost_micros(Usage()) == 0


def test_cached_tokens_have_their_own_price_or_that_of_input() -> None:
    """An unknown cache price is never zero."""
    usage = Usage(cache_read=1_000_000, cache_write=1_000_000)
    assert Price(input=10, output=0, cache_read=1, cache_write=12).cost_micros(usage) == 13
    assert Price(input=10, output=0).cost_micros(usage) == 20


def test_reasoning_is_part_of_the_output() -> None:
    """It is not counted twice."""
    assert Usage(fresh_in=1, cache_read=2, cache_write=3, out=4, reasoning=4).total == 10


@given(st.tuples(RATES, RATES, RATES, RATES, COUNTS, COUNTS, COUNTS, COUNTS))
def test_a_reservation_covers_every_usage_within_its_sizes(n: tuple[int, ...]) -> None:
    """This holds whatever part of the input was cached."""
    price = Price(input=n[0], output=n[1], cache_read=n[2], cache_write=n[3])
    usage = Usage(fresh_in=n[4], cache_read=n[5], cache_write=n[6], out=n[7])
    assert price.cost_micros(usage) <= price.cost_max_micros(n[4] + n[5] + n[6], n[7])


def test_a_failure_says_what_kind_it_is() -> None:
    """It also says whether it may have been billed."""
    failed = ModelFailed("rate_limit", "slow down", status=429, retry_after_s=2.5)
    assert (failed.kind, str(failed), failed.status, failed.retry_after_s) == ("rate_limit", "slow down", 429, 2.5)
    assert not failed.possibly_billed
