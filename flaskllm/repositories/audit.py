"""The audit trail: its head, its rows. Nothing commits, and nothing changes a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from sqlalchemy import ColumnElement, func, select, text, update
from sqlalchemy.orm import Session

from flaskllm.models.audit import AuditRow
from flaskllm.models.catalogue import Meta

__all__ = [
    "AuditFilters",
    "AuditRow",
    "add",
    "last_number",
    "list_rows",
    "lock_head",
    "read_head",
    "rows_after",
    "write_head",
]

HEAD = "audit_head"
OPEN_HEAD = "INSERT INTO meta (name, value) VALUES (:name, '') ON CONFLICT (name) DO NOTHING"


class AuditFilters(TypedDict, total=False):
    """Which rows a list shows: ``actor`` is an id or a name; ``since`` and ``until`` in milliseconds since 1970."""

    actor: str | None
    action: str | None
    target: str | None
    since: int | None
    until: int | None


def lock_head(session: Session) -> str:
    """The head as it stands; whoever else writes the trail waits for the end of this transaction.

    PostgreSQL locks the row, SQLite the file. Empty before the first row.
    """
    session.execute(text(OPEN_HEAD), {"name": HEAD})
    session.execute(update(Meta).where(Meta.name == HEAD).values(value=Meta.value))
    return session.execute(select(Meta.value).where(Meta.name == HEAD)).scalar_one()


def read_head(session: Session) -> str:
    return session.execute(select(Meta.value).where(Meta.name == HEAD)).scalar_one_or_none() or ""


def write_head(session: Session, value: str) -> None:
    session.execute(update(Meta).where(Meta.name == HEAD).values(value=value))


def last_number(session: Session) -> int:
    """0 where there is no row."""
    return session.scalar(select(func.max(AuditRow.number))) or 0


def add(session: Session, row: AuditRow) -> None:
    session.add(row)
    session.flush()


def rows_after(session: Session, number: int, *, up_to: int, limit: int) -> Sequence[AuditRow]:
    """The next rows in the order of their numbers."""
    query = select(AuditRow).where(AuditRow.number > number, AuditRow.number <= up_to)
    return session.scalars(query.order_by(AuditRow.number).limit(limit)).all()


def list_rows(session: Session, filters: AuditFilters, *, limit: int, before: int | None = None) -> Sequence[AuditRow]:
    """Newest first; ``before`` is the number that the page before ended with."""
    query = select(AuditRow).order_by(AuditRow.number.desc()).limit(limit)
    if before is not None:
        query = query.where(AuditRow.number < before)
    for name, value in filters.items():
        if value is not None:
            query = query.where(_CONDITIONS[name](value))
    return session.scalars(query).all()


_CONDITIONS: dict[str, Callable[[Any], ColumnElement[bool]]] = {
    "actor": lambda known: (AuditRow.actor_id == known) | (AuditRow.actor_name == known),
    "action": lambda known: AuditRow.action == known,
    "target": lambda known: AuditRow.target == known,
    "since": lambda at: AuditRow.at >= at,
    "until": lambda at: AuditRow.at < at,
}
