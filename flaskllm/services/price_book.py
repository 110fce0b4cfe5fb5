"""What tokens cost: the catalogue's own price lists, and ``genai-prices`` for the vendors' models that state none.

The book's figures lie in its wheel; nothing is fetched. Loading it takes about 0.3 s, so it is opened on first need: an
installation with only `demo` or local models never does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any

from flaskllm.domain.pricing import PixelPrice, Price, from_dollars, per_million

SOURCES: Mapping[str, str] = {
    "openai": "openai",
    "azure_openai": "openai",
    "anthropic": "anthropic",
    "gemini": "google",
    "grok": "x-ai",
}
"""Kind of provider to the book's vendor; what is not here (own servers, tunnels) has no price unless it states one."""

BOOK = "genai-prices:"
"""Begins the version of a price that the book gives."""

TOKEN_FIELDS: Mapping[str, str] = {
    "inputValue": "input",
    "outputValue": "output",
    "cacheReadValue": "cache_read",
    "cacheWrite5mValue": "cache_write_5m",
    "cacheWrite1hValue": "cache_write_1h",
    "reasoningValue": "reasoning",
    "audioInputValue": "audio_input",
    "audioOutputValue": "audio_output",
    "imageInputValue": "image_input",
    "imageOutputValue": "image_output",
}
"""S2's two names, and ours beside them, to the buckets."""

BOOK_FIELDS: Mapping[str, str] = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write_5m": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "audio_input": "input_audio_mtok",
    "audio_output": "output_audio_mtok",
    "image_input": "input_image_mtok",
    "image_output": "output_image_mtok",
    "web_searches": "web_searches_kcount",
}
PER_THOUSAND = ("web_searches",)
"""What the book prices by the thousand; all else by the million."""


def price_of(
    kind: str, backend_model: str, type: str = "chat", prices: Sequence[Mapping[str, Any]] | None = None
) -> Price | None:
    """The catalogue's own price, else the vendor's, else None: an unknown price is never 0.

    A list of pixel prices alone says nothing of a chat model's tokens.
    """
    if _is_left_to_the_book(type, prices):
        return vendor_price(kind, backend_model, type)
    return stated_price(prices) if prices else None


def version_of(kind: str, type: str, prices: Sequence[Mapping[str, Any]] | None) -> str:
    """Where the figures of such a list come from, as `Price.version` says it; nothing where nobody knows a price."""
    if _is_left_to_the_book(type, prices):
        return book_version() if kind in SOURCES else ""
    return _digest(prices) if prices else ""


@cache
def book_version() -> str:
    """The price book's version, without opening it."""
    return BOOK + version("genai-prices")


def _is_left_to_the_book(type: str, prices: Sequence[Mapping[str, Any]] | None) -> bool:
    return prices is None or (type == "chat" and bool(prices) and not any(entry.get("token") for entry in prices))


def stated_price(entries: Sequence[Mapping[str, Any]]) -> Price:
    """A price list as S2 writes it, as a `Price`. Raises `ValueError` or `TypeError` for what is none."""
    rates: dict[str, int] = {"input": 0}
    pixels: list[PixelPrice] = []
    for entry in entries:
        if entry.get("currency", "USD") != "USD":
            raise ValueError("currency: only USD")
        if token := entry.get("token"):
            rates |= _rates(token, int(entry.get("unitOfMeasure") or 10**6))
        if pixel := entry.get("pixel"):
            pixels.append(_pixel(pixel))
    return Price(**rates, pixels=tuple(pixels), version=_digest(entries))  # type: ignore[arg-type]


def _digest(entries: Sequence[Mapping[str, Any]]) -> str:
    return f"catalogue:{hashlib.sha256(json.dumps(list(entries), sort_keys=True).encode()).hexdigest()[:12]}"


def _rates(token: Mapping[str, Any], unit: int) -> dict[str, int]:
    unknown = set(token) - set(TOKEN_FIELDS)
    if unknown or unit < 1:
        raise ValueError(f"{', '.join(sorted(unknown)) or 'unitOfMeasure'}: unknown")
    per_unit = {TOKEN_FIELDS[name]: per_million(value) for name, value in token.items() if value is not None}
    return {bucket: rate * 10**6 // unit for bucket, rate in per_unit.items()}


def _pixel(pixel: Mapping[str, Any]) -> PixelPrice:
    """``value`` is the price of one image, whatever ``unitOfMeasure`` says (``docs/api.md``, Configuration)."""
    return PixelPrice(
        width=int(pixel["width"]),
        height=int(pixel["height"]),
        value=from_dollars(pixel["value"]),
        quality=pixel.get("quality"),
    )


def vendor_price(kind: str, backend_model: str, type: str = "chat") -> Price | None:
    """The vendor's list price today; None where the book does not know it."""
    source = SOURCES.get(kind)
    return _looked_up(source, backend_model.lower(), type, datetime.now(UTC).date().isoformat()) if source else None


@lru_cache(maxsize=4096)
def _looked_up(source: str, model: str, type: str, day: str) -> Price | None:
    """``day``: prices may change with the date, so that a process of many days looks again."""
    from genai_prices.data_snapshot import get_snapshot

    try:
        _, found = get_snapshot().find_provider_model(model, None, source, None)
    except LookupError:
        return None
    rates = found.get_prices(datetime.fromisoformat(day).replace(hour=12, tzinfo=UTC))
    return _as_price(rates, type, book_version())


def _as_price(rates: Any, type: str, version: str) -> Price | None:
    found = {bucket: rate for bucket, name in BOOK_FIELDS.items() if (rate := getattr(rates, name)) is not None}
    if "input" not in found or (type == "chat" and "output" not in found):
        return None
    steps = sorted({tier.start for rate in found.values() for tier in getattr(rate, "tiers", ())})
    above = tuple((step, Price(**_at(found, step), version=version)) for step in steps)
    return Price(**_at(found, None), version=version, above=above)


def _at(rates: Mapping[str, Any], step: int | None) -> dict[str, Any]:
    """Each rate as it is for calls of more than ``step`` prompt tokens: crossing a step reprices the whole call."""
    chosen = {}
    for bucket, rate in rates.items():
        value = getattr(rate, "base", rate)
        for tier in getattr(rate, "tiers", ()):
            if step is not None and tier.start <= step:
                value = tier.price
        chosen[bucket] = per_million(value * 1000 if bucket in PER_THOUSAND else value)
    return chosen
