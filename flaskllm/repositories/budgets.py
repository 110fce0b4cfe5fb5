"""Budgets of accounts and tokens beside what they have spent: every query. Nothing commits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Float, Select, case, cast, literal, select
from sqlalchemy.orm import Session

from flaskllm.domain.account import CLOSED
from flaskllm.models.account import ApiToken, User
from flaskllm.models.ledger import BudgetRow


@dataclass(frozen=True, slots=True)
class Filled:
    """A budget as it stands in its period; sums in 10⁻⁹ dollar. ``kind``: ``user``, ``token`` or ``quota``, whose
    ``id`` is that of its account or token, or its subject."""

    kind: str
    id: str
    name: str
    amount: int
    period: str
    spent: int

    @property
    def share(self) -> float:
        return self.spent / max(1, self.amount)


def nearly_spent(session: Session, keys: Mapping[str, str], *, share: float, most: int) -> list[Filled]:
    """Accounts and live tokens of whose budget this share and more is spent: of each so many, the fullest first.

    ``keys``: the name of the period of now, by period.
    """
    of_users = _filled("user", User, User.username, keys, share).where(User.status != CLOSED)
    of_tokens = _filled("token", ApiToken, ApiToken.name, keys, share).where(ApiToken.revoked_at.is_(None))
    return [Filled(*row) for query in (of_users, of_tokens) for row in session.execute(query.limit(most))]


def _filled(kind: str, owner: Any, name: Any, keys: Mapping[str, str], share: float) -> Select[Any]:
    key = case(keys, value=owner.budget_period)
    filled = cast(BudgetRow.spent, Float) / cast(owner.budget_amount, Float)
    return (
        select(literal(kind), owner.id, name, owner.budget_amount, owner.budget_period, BudgetRow.spent)
        .join(BudgetRow, (BudgetRow.id == literal(f"{kind}:") + owner.id) & (BudgetRow.period == key))
        .where(owner.budget_amount > 0, filled >= share)
        .order_by(filled.desc())
    )
