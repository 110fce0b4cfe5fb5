"""Money (``docs/promises.md``): never negative, never NaN, never over, never rewritten."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaskllm.domain.pricing import (
    MOST_COST,
    MOST_RATE,
    PixelPrice,
    Price,
    bound_of,
    breakdown_of,
    cost_of,
    dollars_text,
    from_dollars,
    image_bound,
    image_price,
    per_million,
    to_dollars,
)
from flaskllm.domain.usage import Usage

TOKENS = st.integers(0, 10**18)
FREE = Price(input=0, output=0, version="free")
RATES = st.integers(0, MOST_RATE)
MAYBE = st.none() | RATES
PLAIN = st.builds(Price, RATES, RATES, MAYBE, MAYBE, MAYBE, MAYBE, MAYBE, MAYBE, MAYBE)
STEPS = st.lists(st.tuples(st.integers(1, 10**7), PLAIN), max_size=3, unique_by=lambda step: step[0])
PRICES = st.builds(
    lambda base, steps: Price(base.input, base.output, base.cache_read, above=tuple(sorted(steps, key=lambda s: s[0]))),
    PLAIN,
    STEPS,
)
USAGES = st.builds(Usage, *[TOKENS] * 9)
TEXT_USAGES = st.builds(Usage, *[st.integers(0, 10**7)] * 6)


@given(USAGES, PRICES)
def test_a_cost_is_a_whole_number_from_nothing_to_the_cap(usage: Usage, price: Price) -> None:
    cost = cost_of(usage, price)
    assert type(cost) is int
    assert 0 <= cost <= MOST_COST < 2**63


@given(st.lists(st.tuples(USAGES, PRICES), max_size=5))
def test_sums_of_costs_in_dollars_are_finite(calls: list[tuple[Usage, Price]]) -> None:
    total = sum(cost_of(usage, price) or 0 for usage, price in calls)
    assert Decimal(str(to_dollars(total))).is_finite()


@given(TEXT_USAGES, PRICES)
def test_a_text_call_never_costs_more_than_its_bound(usage: Usage, price: Price) -> None:
    cost = cost_of(usage, price)
    assert cost is not None
    assert cost <= bound_of(usage.prompt_tokens, usage.completion_tokens, price) + 1


@given(USAGES, PLAIN)
def test_the_kept_breakdown_gives_the_same_cost_whatever_prices_do_later(usage: Usage, price: Price) -> None:
    kept = breakdown_of(usage, price).values()
    exact = Decimal(sum(part["tokens"] * part["rate"] for part in kept)) / 10**6
    with_room = exact.to_integral_value(ROUND_HALF_UP) if exact < 10**27 else Decimal(MOST_COST)
    assert cost_of(usage, price) == min(int(with_room), MOST_COST)


@given(TOKENS, st.integers(0, 10**9), RATES)
def test_more_tokens_never_cost_less(tokens: int, more: int, rate: int) -> None:
    price = Price(rate)
    assert (cost_of(Usage(input=tokens), price) or 0) <= (cost_of(Usage(input=tokens + more), price) or 0)


@given(USAGES)
def test_an_unknown_price_is_no_price(usage: Usage) -> None:
    assert cost_of(usage, None) is None
    assert cost_of(usage, FREE) == 0


@given(st.integers(0, MOST_COST))
def test_dollars_are_text_without_exponent_and_come_back(nano: int) -> None:
    assert "e" not in dollars_text(nano).lower()
    assert from_dollars(dollars_text(nano)) == nano


@given(st.integers(0, 10**15))
def test_dollars_have_at_most_nine_decimals(nano: int) -> None:
    assert Decimal(str(to_dollars(nano))) * 10**9 == nano


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-0.1", "-1e-30", "1e30", "a dollar", float("nan")])
def test_what_is_no_amount_is_refused(amount: object) -> None:
    with pytest.raises(ValueError, match="no amount of dollars"):
        per_million(amount)  # type: ignore[arg-type]


def test_a_long_context_reprices_the_whole_call() -> None:
    price = Price(per_million(2), per_million(10), above=((272_000, Price(per_million(4), per_million(15))),))
    assert cost_of(Usage(input=272_000, output=1000), price) == from_dollars("0.554")
    assert cost_of(Usage(input=272_001, output=1000), price) == from_dollars("1.103004")


@pytest.mark.parametrize(
    "width,height,quality,dollars",
    [(1024, 1024, None, "0.04"), (1024, 1792, "standard", "0.08"), (1792, 1024, "hd", "0.12"), (512, 512, None, None)],
)
def test_an_image_is_priced_by_size_and_quality(width: int, height: int, quality: str | None, dollars: str) -> None:
    pixels = (
        PixelPrice(1024, 1024, from_dollars("0.04"), "Standard"),
        PixelPrice(1792, 1024, from_dollars("0.08"), "Standard"),
        PixelPrice(1792, 1024, from_dollars("0.12"), "HD"),
    )
    price = image_price(Price(0, pixels=pixels), (width, height), quality)
    cost = cost_of(Usage(input=9, images=2), price)
    assert cost == (None if dollars is None else 2 * from_dollars(dollars))
    assert image_bound(9, 2, price) == (cost or 0)


def test_images_of_a_free_model_cost_nothing_and_of_an_unpriced_one_nobody_knows() -> None:
    assert cost_of(Usage(images=1), image_price(FREE, (7, 7))) == 0
    assert cost_of(Usage(images=1), image_price(None, (7, 7))) is None


def test_what_is_drawn_and_what_is_said_beside_it_have_prices_of_their_own() -> None:
    price = Price(per_million(2), per_million(12), image_output=per_million(120))
    assert cost_of(Usage(input=1, output=10, image_output=1000), price) == 2_000 + 120_000 + 120_000_000
    assert image_bound(1, 2, price) == 2_000 + 2 * 6240 * 120_000
    assert bound_of(1, 10, price) == 2_000 + 120_000


def test_images_are_paid_by_tokens_where_the_price_is_of_tokens() -> None:
    price = image_price(Price(per_million(5), per_million(40)), (1024, 1024), "high")
    assert cost_of(Usage(input=10, output=1000), price) == from_dollars("0.04005")
    assert cost_of(Usage(images=1), price) is None  # the provider told no tokens
    assert image_bound(10, 1, price) >= from_dollars("0.04005")


def test_where_any_size_may_come_the_dearest_is_held() -> None:
    pixels = (PixelPrice(256, 256, from_dollars("0.016")), PixelPrice(1024, 1024, from_dollars("0.02")))
    assert image_bound(1, 3, image_price(Price(0, pixels=pixels), None)) == from_dollars("0.06")


def test_a_search_is_paid_beside_its_tokens_where_its_price_is_known() -> None:
    usage = Usage(input=10, web_searches=3)
    assert cost_of(usage, Price(per_million(1), web_searches=per_million(10_000))) == 10_000 + from_dollars("0.03")
    assert cost_of(usage, Price(per_million(1))) == 10_000
