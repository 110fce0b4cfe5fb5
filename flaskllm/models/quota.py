"""What administrators bind, and the alerts of its budgets."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from flaskllm.extensions import Model
from flaskllm.models.types import JsonText, UtcDateTime, now


class QuotaRow(Model):
    """The limits and budgets of one subject (`domain.quota.Quota`). ``budgets``: amounts in 10⁻⁹ dollar."""

    __tablename__ = "quotas"

    subject: Mapped[str] = mapped_column(String(256), primary_key=True)
    requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    tokens_per_minute: Mapped[int | None] = mapped_column(Integer)
    concurrency: Mapped[int | None] = mapped_column(Integer)
    budgets: Mapped[list[dict[str, Any]]] = mapped_column(JsonText, default=list)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class AlertRow(Model):
    """What became of one budget in one period, told once. Sums in 10⁻⁹ dollar, ``raised_at`` in ms since 1970.

    Written by `repositories.ledger` in the transaction that spent or refused, with its event in the outbox.
    """

    __tablename__ = "alerts"

    budget_id: Mapped[str] = mapped_column(String(80), primary_key=True)
    period: Mapped[str] = mapped_column(String(16), primary_key=True)
    event: Mapped[str] = mapped_column(String(32), primary_key=True)
    amount: Mapped[int] = mapped_column(BigInteger)
    alert: Mapped[int] = mapped_column(BigInteger)
    spent: Mapped[int] = mapped_column(BigInteger)
    raised_at: Mapped[int] = mapped_column(BigInteger)
