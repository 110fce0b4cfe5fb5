"""What calls added up to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from flaskllm.models.ledger import CallRow


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Sums over calls; ``cost`` in 10⁻⁹ dollar, ``unpriced`` counts calls without a price."""

    requests: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    cost: int
    unpriced: int
    estimated: int


def totals(session: Session, *, user_id: str, since: datetime | None, until: datetime | None) -> UsageTotals:
    """One user's sums between two moments; either may be left open."""
    query = select(
        func.count(),
        func.count().filter(CallRow.status >= 400),
        func.coalesce(func.sum(CallRow.prompt_tokens), 0),
        func.coalesce(func.sum(CallRow.completion_tokens), 0),
        func.coalesce(func.sum(CallRow.cost), 0),
        func.count().filter(CallRow.cost.is_(None)),
        func.count().filter(CallRow.estimated),
    ).where(CallRow.user_id == user_id)
    if since is not None:
        query = query.where(CallRow.started_at >= int(since.timestamp() * 1000))
    if until is not None:
        query = query.where(CallRow.started_at < int(until.timestamp() * 1000))
    return UsageTotals(*(int(value) for value in session.execute(query).one()))
