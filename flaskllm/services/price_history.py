"""Price lists through time: a change opens a row with the moment from which it holds, and rewrites nothing.

What an attempt costs hangs on none of this afterwards: its own row keeps the rates it was paid at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from flaskllm.domain.pricing import Price
from flaskllm.errors import invalid
from flaskllm.models.types import now
from flaskllm.repositories.prices import PriceRow, add_price, drop_scheduled, in_force
from flaskllm.repositories.providers import ModelRow
from flaskllm.services.price_book import version_of

PriceList = Sequence[Mapping[str, Any]] | None
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Since when a price holds that was there before histories were kept."""
SLACK = timedelta(minutes=1)
"""How far a moment that is given may lie back and still be meant as now."""


@dataclass(frozen=True, slots=True)
class PricePeriod:
    """One row as administrators see it. ``price``: its rates; None where nobody knows them any more, or ever did.

    ``state``: ``past``, ``in_force`` or ``scheduled``.
    """

    row: PriceRow
    until: datetime | None
    state: str
    price: Price | None


class PriceDesk:
    """One provider's prices inside a transaction."""

    def __init__(self, session: Session, provider_id: str, kind: str) -> None:
        self._session = session
        self._provider_id = provider_id
        self._kind = kind
        self._held: dict[tuple[str, str], PriceRow] | None = None

    def open(self, model: ModelRow, prices: PriceList, *, was: PriceList = None, is_new: bool = False) -> None:
        """From now on these. ``was``: what held before, for a model whose history begins only here."""
        last = self._last(model)
        if last is None and not is_new:
            last = self._add(model, was, BEGINNING)
        begins = now() if last is None else max(now(), last.valid_from + timedelta(milliseconds=1))
        self._add(model, prices, begins)

    def schedule(self, model: ModelRow, prices: PriceList, begins: datetime) -> None:
        """From a moment that lies ahead; another price that was to begin just then gives way."""
        if self._last(model) is None:
            self._add(model, model.prices, BEGINNING)
        drop_scheduled(self._session, (self._provider_id, model.name), begins)
        add_price(self._session, _row(self._provider_id, self._kind, model, prices, begins, scheduled=True))

    def keep(self, model: ModelRow) -> None:
        """After a seeding: a row where the model's price, or the price book that gives it, is another one."""
        row = self._last(model)
        version = version_of(self._kind, model.type, model.prices)
        if row is None or row.prices != model.prices or row.version != version:
            self.open(model, model.prices, is_new=row is None)

    def _last(self, model: ModelRow) -> PriceRow | None:
        if self._held is None:  # once: a provider may have hundreds of models
            self._held = in_force(self._session, now(), self._provider_id)
        return self._held.get((self._provider_id, model.name))

    def _add(self, model: ModelRow, prices: PriceList, begins: datetime) -> PriceRow:
        row = _row(self._provider_id, self._kind, model, prices, begins)
        add_price(self._session, row)
        if self._held is not None:
            self._held[self._provider_id, model.name] = row
        return row


def begins_ahead(valid_from: datetime, where: str) -> bool:
    """Whether it lies ahead; now where it does not. Raises `InvalidRequest` for a moment that has passed."""
    at = now()
    if valid_from < at - SLACK:
        raise invalid(f"{where}valid_from", "lies in the past; what was charged since then stays as it was charged")
    return valid_from > at


def _row(
    provider_id: str, kind: str, model: ModelRow, prices: PriceList, begins: datetime, *, scheduled: bool = False
) -> PriceRow:
    return PriceRow(
        provider_id=provider_id,
        model=model.name,
        valid_from=begins,
        scheduled=scheduled,
        prices=None if prices is None else [dict(entry) for entry in prices],
        version=version_of(kind, model.type, prices),
    )
