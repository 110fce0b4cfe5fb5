"""Ranges: what their jobs leave beside the batches' own tables. Nothing commits."""

from __future__ import annotations

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from flaskllm.models.batch import BatchJobRow
from flaskllm.models.ledger import BudgetRow


def holds_money(session: Session, budget_id: str) -> bool:
    """Whether calls are in flight for which this budget holds money."""
    row = BudgetRow
    return bool(session.scalar(select(exists().where(row.id == budget_id, row.reserved > 0))))


def forget_budget(session: Session, budget_id: str) -> None:
    """A cap that nobody spends from any more."""
    session.execute(delete(BudgetRow).where(BudgetRow.id == budget_id))


def ended_before(session: Session, door: str, moment: int, *, limit: int = 50) -> list[tuple[str, str]]:
    """Jobs of that door that ended before then (milliseconds since 1970), as ids of job and user."""
    row = BatchJobRow
    query = select(row.id, row.user_id).where(row.door == door, row.finished_at < moment).limit(limit)
    return [(job_id, user_id) for job_id, user_id in session.execute(query)]
