"""Stored bodies: read one, and forget the old ones. They are written with the ledger's rows."""

from __future__ import annotations

from sqlalchemy import CursorResult, delete, select
from sqlalchemy.orm import Session

from flaskllm.models.body import BodyRow

AT_ONCE = 1000
"""Rows that are forgotten in one transaction."""


def get_sealed(session: Session, call_id: int) -> str | None:
    return session.scalar(select(BodyRow.sealed).where(BodyRow.call_id == call_id))


def has_body(session: Session, call_id: int) -> bool:
    return session.scalar(select(BodyRow.call_id).where(BodyRow.call_id == call_id)) is not None


def forget_before(session: Session, at: int) -> int:
    """Some of those made before this moment (ms since 1970); gives how many, at most `AT_ONCE`."""
    old = select(BodyRow.call_id).where(BodyRow.made_at < at).limit(AT_ONCE)
    done = session.execute(delete(BodyRow).where(BodyRow.call_id.in_(old)))
    return done.rowcount if isinstance(done, CursorResult) else 0
