"""Quotas and alerts: every query. Nothing commits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from flaskllm.models.ledger import BudgetRow
from flaskllm.models.quota import AlertRow, QuotaRow

__all__ = [
    "AlertRow", "QuotaRow", "add_quota", "alerts_of", "count_quotas", "get_quota", "load_quotas", "spent_of",
    "sweep_alerts",
]  # fmt: skip


def load_quotas(session: Session, *, after: str | None = None, limit: int | None = None) -> Sequence[QuotaRow]:
    """Quotas by their subjects."""
    query = select(QuotaRow).order_by(QuotaRow.subject).limit(limit)
    if after is not None:
        query = query.where(QuotaRow.subject > after)
    return session.scalars(query).all()


def get_quota(session: Session, subject: str) -> QuotaRow | None:
    return session.get(QuotaRow, subject)


def count_quotas(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(QuotaRow)) or 0


def add_quota(session: Session, row: QuotaRow) -> QuotaRow:
    session.add(row)
    session.flush()
    return row


def spent_of(session: Session, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
    """What budgets have spent and hold (10⁻⁹ dollar), by id and period; those without a row are left out."""
    wanted = set(keys)
    query = select(BudgetRow).where(BudgetRow.id.in_({budget_id for budget_id, _ in wanted}))
    rows = session.scalars(query.where(BudgetRow.period.in_({period for _, period in wanted})))
    return {(row.id, row.period): (row.spent, row.reserved) for row in rows if (row.id, row.period) in wanted}


def alerts_of(session: Session, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """When an alert of each budget was raised for the first time in the period (ms since 1970)."""
    wanted = set(keys)
    query = select(AlertRow).where(AlertRow.budget_id.in_({budget_id for budget_id, _ in wanted}))
    found: dict[tuple[str, str], int] = {}
    for row in session.scalars(query.where(AlertRow.period.in_({period for _, period in wanted}))):
        found[row.budget_id, row.period] = min(row.raised_at, found.get((row.budget_id, row.period), row.raised_at))
    return {key: raised for key, raised in found.items() if key in wanted}


def sweep_alerts(session: Session, *, before: int) -> None:
    """Forget alerts of long ago; one of a budget without a period stands as long as the budget may."""
    session.execute(delete(AlertRow).where(AlertRow.raised_at < before, AlertRow.period != "total"))
