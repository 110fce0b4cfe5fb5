"""Money: Decimal dollars in, integers of 10⁻⁹ dollar out.

Prices are held as integers of 10⁻⁹ dollar for a million tokens, so that $30 a million is 30_000_000_000 and the price
of one token is always exact. Rounding is half up, once for each attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

from flaskllm.domain.usage import PIECES, Usage

NANO = 10**9
MILLION = 10**6
MOST_COST = 2**62
"""A cost beyond this is nonsense and is clamped, so that sums stay inside 64 bits."""
MOST_RATE = 10**15
"""A million dollars for a million tokens: whoever types more has mistaken the unit."""
STANDARD = "standard"
"""The quality of an image for which none was asked (OpenAI's default)."""
MOST_IMAGE_TOKENS = 6240
"""Output tokens of the largest image that is paid by tokens (OpenAI's table: high quality, 1024x1536)."""


TEXT_INPUTS = ("input", "cache_read", "cache_write_5m", "cache_write_1h")
TEXT_OUTPUTS = ("output", "reasoning")
INPUTS = (*TEXT_INPUTS, "audio_input", "image_input")
OUTPUTS = (*TEXT_OUTPUTS, "audio_output", "image_output")


@dataclass(frozen=True, slots=True)
class PixelPrice:
    """USD for one image of this size and quality, in 10⁻⁹ dollar."""

    width: int
    height: int
    value: int
    quality: str | None = None

    def fits(self, width: int, height: int, quality: str | None) -> bool:
        """Whether it is the price of such an image; a picture on its side costs the same."""
        sides = {(self.width, self.height), (self.height, self.width)}
        asked = STANDARD if quality in (None, "auto") else str(quality)
        same_quality = self.quality is None or self.quality.lower() == asked.lower()
        return (width, height) in sides and same_quality


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens of each bucket cost, in 10⁻⁹ dollar; None: as the bucket it is part of.

    ``images``: what a million of them cost where they are paid by the piece; None where they are not.
    ``web_searches``: what a million of those cost that the provider makes by itself; None where nobody says.

    ``above``: (prompt tokens, price) in rising order; a call with more prompt tokens than that is priced by it as a
    whole, as OpenAI, Anthropic and Google bill long contexts. ``version`` says where the figures came from.
    """

    input: int
    output: int = 0
    cache_read: int | None = None
    cache_write_5m: int | None = None
    cache_write_1h: int | None = None
    reasoning: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None
    image_input: int | None = None
    image_output: int | None = None
    images: int | None = None
    web_searches: int | None = None
    version: str = ""
    pixels: tuple[PixelPrice, ...] = ()
    above: tuple[tuple[int, Price], ...] = ()

    def at(self, prompt_tokens: int) -> Price:
        """The price of a call with so many prompt tokens."""
        found = self
        for threshold, price in self.above:
            if prompt_tokens > threshold:
                found = price
        return found

    @property
    def is_free(self) -> bool:
        """Whether somebody typed zero everywhere (local models, `demo`)."""
        return not (self.pixels or self.above or any(self.of(bucket) for bucket in (*INPUTS, *OUTPUTS)))

    def of(self, bucket: str) -> int:
        own = getattr(self, bucket)
        if own is not None:
            return int(own)
        if bucket in PIECES:
            return 0
        return self.output if bucket in OUTPUTS else self.input


def per_million(dollars: Decimal | float | int | str) -> int:
    """Dollars for a million tokens as our integer. Raises `ValueError` for what is no such amount.

    >>> per_million("0.15")
    150000000
    """
    return _nano(dollars, MOST_RATE)


def _nano(dollars: Decimal | float | int | str, most: int) -> int:
    try:
        nano = Decimal(str(dollars)) * NANO
    except InvalidOperation:
        raise ValueError(f"{dollars!r} is no amount of dollars") from None
    if not nano.is_finite() or nano < 0 or nano > most:
        raise ValueError(f"{dollars!r} is no amount of dollars from 0 to {most // NANO}")
    return int(nano.to_integral_value(ROUND_HALF_UP))


def cost_of(usage: Usage, price: Price | None) -> int | None:
    """The cost of one attempt in 10⁻⁹ dollar; None where the price is unknown."""
    if price is None:
        return None
    price = price.at(usage.prompt_tokens)
    if usage.images and price.images is None and not price.is_free:
        return None
    total = sum(tokens * price.of(bucket) for bucket, tokens in usage.buckets().items())
    return min((total + MILLION // 2) // MILLION, MOST_COST)


def breakdown_of(usage: Usage, price: Price | None) -> dict[str, dict[str, int]]:
    """Tokens and rate of each bucket, kept on the ledger's row: later prices never change it."""
    price = price.at(usage.prompt_tokens) if price else None
    return {
        bucket: {"tokens": tokens, "rate": price.of(bucket) if price else 0}
        for bucket, tokens in usage.buckets().items()
    }


def cost_of_breakdown(kept: Mapping[str, Mapping[str, int]]) -> int:
    """What a kept breakdown of a priced attempt comes to: `cost_of` once more, from the row alone."""
    total = sum(part["tokens"] * part["rate"] for part in kept.values())
    return min((total + MILLION // 2) // MILLION, MOST_COST)


def bound_of(
    prompt_tokens: int, output_cap: int, price: Price | None, *, outputs: tuple[str, ...] = TEXT_OUTPUTS
) -> int:
    """What a call of text may cost at the most, in 10⁻⁹ dollar: the sum to reserve; 0 where the price is unknown.

    ``outputs``: the buckets that its output tokens may fall into.
    """
    if price is None:
        return 0
    reachable = (price, *(long for threshold, long in price.above if prompt_tokens > threshold))
    dearest_input = max(one.of(bucket) for one in reachable for bucket in TEXT_INPUTS)
    dearest_output = max(one.of(bucket) for one in reachable for bucket in outputs)
    total = prompt_tokens * dearest_input + output_cap * dearest_output
    return min(-(-total // MILLION), MOST_COST)


def image_price(price: Price | None, size: tuple[int, int] | None, quality: str | None = None) -> Price | None:
    """The price of images of this size and quality: by the piece where a row fits, else by tokens.

    ``size`` None: whichever is drawn, so the dearest. None where nobody knows the price, which is never 0 by guess.
    """
    if price is None or price.is_free:
        return price
    by_piece = [pixel.value for pixel in price.pixels if size is None or pixel.fits(*size, quality)]
    if by_piece:
        return Price(input=0, images=max(by_piece) * MILLION, version=price.version)
    return replace(price, pixels=()) if any(price.of(bucket) for bucket in (*INPUTS, *OUTPUTS)) else None


def image_bound(prompt_tokens: int, count: int, price: Price | None) -> int:
    """What ``count`` images may cost at the most, in 10⁻⁹ dollar; ``price`` as `image_price` gives it."""
    if price is None or price.images is None:
        return bound_of(prompt_tokens, count * MOST_IMAGE_TOKENS, price, outputs=(*TEXT_OUTPUTS, "image_output"))
    return min(count * price.images // MILLION, MOST_COST)


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
    """US dollars as 10⁻⁹ dollar. Raises `ValueError` for what is no amount."""
    return _nano(dollars, MOST_COST)
