"""Money: Decimal dollars in, integers of 10⁻⁹ dollar out.

Prices are held as integers of 10⁻⁹ dollar for a million tokens, so that $30 a million is 30_000_000_000 and the price of
one token is always exact. Rounding is half up, once for each attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from flaskllm.domain.usage import Usage

NANO = 10**9
MILLION = 10**6
MOST_COST = 2**62
"""A cost beyond this is nonsense and is clamped, so that sums stay inside 64 bits."""


@dataclass(frozen=True, slots=True)
class PixelPrice:
    """USD for one image of this size and quality, in 10⁻⁹ dollar."""

    width: int
    height: int
    value: int
    quality: str | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens of each bucket cost, in 10⁻⁹ dollar; None: as the bucket it is part of."""

    input: int
    output: int = 0
    cache_read: int | None = None
    cache_write_5m: int | None = None
    cache_write_1h: int | None = None
    reasoning: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None
    image_input: int | None = None
    version: str = ""
    pixels: tuple[PixelPrice, ...] = ()

    def of(self, bucket: str) -> int:
        own = getattr(self, bucket)
        if own is not None:
            return int(own)
        return self.output if bucket in ("reasoning", "audio_output") else self.input


FREE = Price(input=0, output=0, version="free")


def per_million(dollars: Decimal | float | int | str) -> int:
    """Dollars for a million tokens as our integer.

    >>> per_million("0.15")
    150000000
    """
    return int((Decimal(str(dollars)) * NANO).to_integral_value(ROUND_HALF_UP))


def cost_of(usage: Usage, price: Price | None) -> int | None:
    """The cost of one attempt in 10⁻⁹ dollar; None where the price is unknown."""
    if price is None:
        return None
    total = sum(tokens * price.of(bucket) for bucket, tokens in usage.buckets().items())
    return min((total + MILLION // 2) // MILLION, MOST_COST)


def breakdown_of(usage: Usage, price: Price | None) -> dict[str, dict[str, int]]:
    """Tokens and rate of each bucket, kept on the ledger's row: later prices never change it."""
    return {
        bucket: {"tokens": tokens, "rate": price.of(bucket) if price else 0}
        for bucket, tokens in usage.buckets().items()
    }


def bound_of(prompt_tokens: int, output_cap: int, price: Price | None) -> int:
    """What a call may cost at the most, in 10⁻⁹ dollar: the sum to reserve; 0 where the price is unknown."""
    if price is None:
        return 0
    dearest_input = max(price.input, price.of("cache_write_5m"), price.of("cache_write_1h"))
    dearest_output = max(price.output, price.of("reasoning"))
    total = prompt_tokens * dearest_input + output_cap * dearest_output
    return min(-(-total // MILLION), MOST_COST)


def to_dollars(nano: int | None) -> float | None:
    """10⁻⁹ dollar as the contract's JSON number: US dollars with at most nine decimals.

    >>> to_dollars(1_500_000)
    0.0015
    """
    return None if nano is None else round(nano / NANO, 9)


def dollars_text(nano: int | None) -> str:
    """The same as text without an exponent, for a header."""
    if nano is None:
        return ""
    text = f"{Decimal(nano) / NANO:.9f}".rstrip("0").rstrip(".")
    return text or "0"


def from_dollars(dollars: Decimal | float | int | str) -> int:
    """US dollars as 10⁻⁹ dollar."""
    return int((Decimal(str(dollars)) * NANO).to_integral_value(ROUND_HALF_UP))
