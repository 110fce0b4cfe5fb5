"""The money: one row for each attempt at a provider, one for each call, one for each budget and period.

These tables are written by `repositories/ledger.py` over the driver's own connection; their times are integers of
milliseconds since 1970 in UTC and their sums integers of 10⁻⁹ dollar.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from flaskllm.extensions import Model

IS_OPEN = text("state = 'reserved'")
"""Only the rows of calls in flight are in these indexes, so they stay small."""
IS_NEW = text("rolled IS NULL")
"""Only the calls that the roll-ups do not hold yet, those of the last seconds."""


HAS_FAILED, HAS_ERROR = text("status >= 400"), text("error_code IS NOT NULL")
"""Few calls fail, so that their indexes stay small too."""


class AttemptRow(Model):
    """One attempt at one provider: written before the call goes out, settled once after it.

    ``holds``: JSON of the budgets and periods it holds money in. ``lease_until``: when the reaper may take it.
    ``usage``: JSON of tokens and rate by bucket. ``tags``: JSON of the tags that the token had then.
    """

    __tablename__ = "attempts"
    __table_args__ = (
        Index("ix_attempts_open", "lease_until", sqlite_where=IS_OPEN, postgresql_where=IS_OPEN),
        Index("ix_attempts_in_flight", "token_id", sqlite_where=IS_OPEN, postgresql_where=IS_OPEN),
        Index("ix_attempts_request", "request_id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    request_id: Mapped[str] = mapped_column(String(64))
    number: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(12))
    user_id: Mapped[str] = mapped_column(String(36))
    token_id: Mapped[str | None] = mapped_column(String(36))
    door: Mapped[str] = mapped_column(String(24))
    model: Mapped[str] = mapped_column(String(160))
    backend_model: Mapped[str] = mapped_column(String(128))
    provider: Mapped[str] = mapped_column(String(64))
    endpoint: Mapped[str] = mapped_column(String(64))
    price_version: Mapped[str] = mapped_column(String(64))
    reserved: Mapped[int] = mapped_column(BigInteger)
    cost: Mapped[int | None] = mapped_column(BigInteger)
    priced: Mapped[bool] = mapped_column(Boolean)
    holds: Mapped[str] = mapped_column(Text)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    completion_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    usage: Mapped[str | None] = mapped_column(Text)
    estimated: Mapped[bool] = mapped_column(Boolean, default=False)
    error_code: Mapped[str | None] = mapped_column(String(48))
    started_at: Mapped[int] = mapped_column(BigInteger)
    settled_at: Mapped[int | None] = mapped_column(BigInteger)
    lease_until: Mapped[int] = mapped_column(BigInteger)
    tags: Mapped[str | None] = mapped_column(Text)


class CallRow(Model):
    """One model call as its caller sees it: S4's fields, and who and what it cost.

    The buckets from ``cache_read`` to ``image_output`` are parts of ``prompt_tokens`` and ``completion_tokens``, and
    null where they hold nothing; ``images`` are paid by the piece. ``tags``: JSON of what the token had at the call.
    ``first_token_ms``: from the call's start to the first content that was handed on, of streamed calls. ``rolled``:
    true from the transaction on that added it to the roll-ups, else null.
    """

    __tablename__ = "calls"
    __table_args__ = (
        Index("ix_calls_user_started", "user_id", "started_at"),
        Index("ix_calls_started", "started_at"),
        Index("ix_calls_token_started", "token_id", "started_at"),
        Index("ix_calls_model_started", "model", "started_at"),
        Index("ix_calls_backend_started", "backend_model", "started_at"),
        Index("ix_calls_provider_started", "provider", "started_at"),
        Index("ix_calls_failed", "started_at", sqlite_where=HAS_FAILED, postgresql_where=HAS_FAILED),
        Index("ix_calls_error", "error_code", "started_at", sqlite_where=HAS_ERROR, postgresql_where=HAS_ERROR),
        Index("ix_calls_request", "request_id"),
        Index("ix_calls_new", "rolled", "finished_at", sqlite_where=IS_NEW, postgresql_where=IS_NEW),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    request_id: Mapped[str] = mapped_column(String(64))
    user_id: Mapped[str] = mapped_column(String(36))
    token_id: Mapped[str | None] = mapped_column(String(36))
    door: Mapped[str] = mapped_column(String(24))
    model: Mapped[str] = mapped_column(String(160))
    backend_model: Mapped[str | None] = mapped_column(String(128))
    provider: Mapped[str | None] = mapped_column(String(64))
    started_at: Mapped[int] = mapped_column(BigInteger)
    finished_at: Mapped[int] = mapped_column(BigInteger)
    latency_ms: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    cost: Mapped[int | None] = mapped_column(BigInteger)
    saved: Mapped[int | None] = mapped_column(BigInteger)
    status: Mapped[int] = mapped_column(Integer)
    error_code: Mapped[str | None] = mapped_column(String(48))
    attempts: Mapped[int] = mapped_column(Integer)
    streamed: Mapped[bool] = mapped_column(Boolean)
    estimated: Mapped[bool] = mapped_column(Boolean)
    correlation_id: Mapped[str | None] = mapped_column(String(64))
    claimed_user: Mapped[str | None] = mapped_column(String(128))
    client_id: Mapped[str | None] = mapped_column(String(128))
    call_metadata: Mapped[str | None] = mapped_column("metadata", Text)
    tags: Mapped[str | None] = mapped_column(Text)
    cache_read: Mapped[int | None] = mapped_column(BigInteger)
    cache_write_5m: Mapped[int | None] = mapped_column(BigInteger)
    cache_write_1h: Mapped[int | None] = mapped_column(BigInteger)
    reasoning: Mapped[int | None] = mapped_column(BigInteger)
    audio_input: Mapped[int | None] = mapped_column(BigInteger)
    audio_output: Mapped[int | None] = mapped_column(BigInteger)
    image_input: Mapped[int | None] = mapped_column(BigInteger)
    image_output: Mapped[int | None] = mapped_column(BigInteger)
    images: Mapped[int | None] = mapped_column(BigInteger)
    first_token_ms: Mapped[int | None] = mapped_column(BigInteger)
    rolled: Mapped[bool | None] = mapped_column(Boolean)


class BudgetRow(Model):
    """What one budget has spent and holds reserved in one period (10⁻⁹ dollar). The cap comes with the caller."""

    __tablename__ = "budgets"

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    period: Mapped[str] = mapped_column(String(16), primary_key=True)
    spent: Mapped[int] = mapped_column(BigInteger, default=0)
    reserved: Mapped[int] = mapped_column(BigInteger, default=0)


class CounterRow(Model):
    """One window of one rate limit, where there is no Redis."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(BigInteger, index=True)
