"""Stored bodies: read one, seal them anew, and forget the old ones. They are written with the ledger's rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import CursorResult, delete, func, select, update
from sqlalchemy.orm import Session

from flaskllm.models.body import BodyRow
from flaskllm.models.ledger import CallRow

AT_ONCE = 1000
"""Rows that are forgotten in one transaction."""
BEGINNING = 32
"""Characters of a sealed body that tell which key sealed it."""


class Sealed(NamedTuple):
    """A body as it is stored, and whose call it is: None where the call is not there."""

    call_id: int
    sealed: str
    user_id: str | None
    request_id: str | None


def get_sealed(session: Session, call_id: int) -> str | None:
    return session.scalar(select(BodyRow.sealed).where(BodyRow.call_id == call_id))


def has_body(session: Session, call_id: int) -> bool:
    return session.scalar(select(BodyRow.call_id).where(BodyRow.call_id == call_id)) is not None


def beginnings(session: Session, after: int, limit: int) -> list[tuple[int, str]]:
    """Calls behind this one, in the order of their ids, that is of time, each with its body's `BEGINNING`."""
    query = select(BodyRow.call_id, func.substr(BodyRow.sealed, 1, BEGINNING)).where(BodyRow.call_id > after)
    return [(call_id, begins) for call_id, begins in session.execute(query.order_by(BodyRow.call_id).limit(limit))]


def sealed_of(session: Session, call_ids: Sequence[int]) -> list[Sealed]:
    """Those of these calls that are still there."""
    query = select(BodyRow.call_id, BodyRow.sealed, CallRow.user_id, CallRow.request_id)
    joined = query.outerjoin(CallRow, CallRow.id == BodyRow.call_id).where(BodyRow.call_id.in_(call_ids))
    return [Sealed(*row) for row in session.execute(joined)]


def swap_sealed(session: Session, call_id: int, old: str, new: str) -> bool:
    """Write a body that was sealed anew; False where it was forgotten, or sealed by somebody else, meanwhile."""
    statement = update(BodyRow).where(BodyRow.call_id == call_id, BodyRow.sealed == old).values(sealed=new)
    done = session.execute(statement)
    return isinstance(done, CursorResult) and done.rowcount == 1


def forget_before(session: Session, at: int) -> int:
    """Some of those made before this moment (ms since 1970); gives how many, at most `AT_ONCE`."""
    old = select(BodyRow.call_id).where(BodyRow.made_at < at).limit(AT_ONCE)
    done = session.execute(delete(BodyRow).where(BodyRow.call_id.in_(old)))
    return done.rowcount if isinstance(done, CursorResult) else 0
