"""Routes: every query. Nothing commits."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from flaskllm.models.catalogue import ModelRow, ProviderRow, RouteRow

__all__ = ["RouteRow", "add_route", "count_routes", "get_route", "load_routes", "names_a_model"]


def load_routes(
    session: Session, *, deleted: bool = False, after: str | None = None, limit: int | None = None
) -> Sequence[RouteRow]:
    """Routes by their names; deleted rows too where asked for."""
    query = select(RouteRow).order_by(RouteRow.name).limit(limit)
    if not deleted:
        query = query.where(RouteRow.deleted_at.is_(None))
    if after is not None:
        query = query.where(RouteRow.name > after)
    return session.scalars(query).all()


def count_routes(session: Session) -> int:
    """Those that are not deleted."""
    return session.scalar(select(func.count()).where(RouteRow.deleted_at.is_(None))) or 0


def get_route(session: Session, name: str, *, deleted: bool = False) -> RouteRow | None:
    """One route; a deleted one only where asked for."""
    row = session.get(RouteRow, name)
    return None if row is None or (row.deleted_at and not deleted) else row


def add_route(session: Session, row: RouteRow) -> RouteRow:
    session.add(row)
    session.flush()
    return row


def names_a_model(session: Session, name: str) -> str | None:
    """A model whose own name this is, as ``provider/name``; None where there is none."""
    query = (
        select(ModelRow.provider_id)
        .join(ProviderRow)
        .where(ModelRow.name == name, ModelRow.deleted_at.is_(None), ProviderRow.deleted_at.is_(None))
        .limit(1)
    )
    owner = session.scalar(query)
    return f"{owner}/{name}" if owner else None
