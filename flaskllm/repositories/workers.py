"""Workers: every query. Nothing commits."""

from __future__ import annotations

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from flaskllm.models.worker import WorkerRow
from flaskllm.repositories.clock import now_of

SEEN = """
INSERT INTO workers (id, seen_at) VALUES (:id, :at) ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at
"""


def beat(session: Session, name: str) -> None:
    """This worker is at work now."""
    session.execute(text(SEEN), {"id": name, "at": now_of(session)})


def count_seen(session: Session, *, within_ms: int) -> int:
    """How many workers were at work at some moment of that time."""
    since = now_of(session) - within_ms
    return session.scalar(select(func.count()).select_from(WorkerRow).where(WorkerRow.seen_at >= since)) or 0


def forget(session: Session, *, unseen_ms: int) -> None:
    """Those that have not been at work for so long."""
    session.execute(delete(WorkerRow).where(WorkerRow.seen_at < now_of(session) - unseen_ms))
