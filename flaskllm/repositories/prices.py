"""Price lists and since when each is in force. A row is opened and never changed. Nothing commits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from flaskllm.models.catalogue import ModelRow, PriceRow
from flaskllm.models.types import UtcDateTime

__all__ = ["PriceRow", "add_price", "bring_prices", "drop_scheduled", "in_force", "next_change", "price_page"]

Key = tuple[str, str]
"""A provider's id and a model's name."""


def in_force(session: Session, at: datetime, provider_id: str | None = None) -> dict[Key, PriceRow]:
    """The last row of each model that has begun, of all providers or of one."""
    begun = _begun(at)
    if provider_id is not None:
        begun = and_(begun, PriceRow.provider_id == provider_id)
    last = (
        select(PriceRow.provider_id, PriceRow.model, func.max(PriceRow.valid_from).label("valid_from"))
        .where(begun)
        .group_by(PriceRow.provider_id, PriceRow.model)
        .subquery()
    )
    same = and_(
        PriceRow.provider_id == last.c.provider_id,
        PriceRow.model == last.c.model,
        PriceRow.valid_from == last.c.valid_from,
    )
    rows = session.scalars(select(PriceRow).join(last, same)).all()
    return {(row.provider_id, row.model): row for row in rows}


def bring_prices(session: Session, models: Iterable[ModelRow], at: datetime, provider_id: str | None = None) -> None:
    """Give these models the prices in force, where a row says them; what is given so is not a change of theirs."""
    held = in_force(session, at, provider_id)
    for model in models:
        row = held.get((model.provider_id, model.name))
        if row is not None:
            set_committed_value(model, "prices", row.prices)


def next_change(session: Session, at: datetime) -> datetime | None:
    """When the next scheduled price begins."""
    later = select(func.min(PriceRow.valid_from)).where(PriceRow.scheduled, PriceRow.valid_from > at)
    return session.scalar(later)


def add_price(session: Session, row: PriceRow) -> None:
    session.add(row)


def drop_scheduled(session: Session, key: Key, valid_from: datetime) -> None:
    """Take back what was to begin at just that moment, which still lies ahead."""
    provider_id, model = key
    query = select(PriceRow).where(
        PriceRow.provider_id == provider_id, PriceRow.model == model, PriceRow.valid_from == valid_from
    )
    for row in session.scalars(query):
        session.delete(row)
    session.flush()


def price_page(session: Session, key: Key, *, limit: int, after: str | None) -> tuple[Sequence[Any], bool]:
    """The rows of one model with the end of each, the newest first, and whether there are more.

    ``after``: the id of the last row seen. Gives pairs of a row and its end, None for the last one.
    """
    provider_id, model = key
    mine = and_(PriceRow.provider_id == provider_id, PriceRow.model == model)
    following = func.lead(PriceRow.valid_from, type_=UtcDateTime()).over(order_by=PriceRow.valid_from)
    ends = select(PriceRow.id.label("id"), following.label("valid_until")).where(mine).subquery()
    query = select(PriceRow, ends.c.valid_until).join(ends, ends.c.id == PriceRow.id).where(mine)
    if after is not None:
        seen = select(PriceRow.valid_from).where(mine, PriceRow.id == after).scalar_subquery()
        query = query.where(PriceRow.valid_from < seen)
    rows = session.execute(query.order_by(PriceRow.valid_from.desc()).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def _begun(at: datetime) -> ColumnElement[bool]:
    """What was set for at once is in force from then on, also where this machine's clock is behind."""
    return or_(PriceRow.scheduled.is_(False), PriceRow.valid_from <= at)
