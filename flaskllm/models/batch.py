"""Batches: jobs and their items, the queue of record.

Written by `repositories/batches.py` over the driver's own connection, as the ledger is: times are integers of
milliseconds since 1970 in UTC, by the database's clock where they are compared, and sums integers of 10⁻⁹ dollar.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from flaskllm.extensions import Model

IS_ACTIVE = text("finished_at IS NULL")
IS_UNDELIVERED = text("door = 'batches' AND finished_at IS NOT NULL AND delivered_at IS NULL")
IS_OPEN, IS_CLAIMED = text("state = 'open'"), text("state = 'claimed'")


class BatchJobRow(Model):
    """One job. ``ending``: why its open items are not asked any more (``cancelled``, ``expired``), else null.

    ``resumes_at``: nobody takes an item before. ``claimed_at``: when somebody last did, for taking turns. ``unpriced``:
    answers whose price is unknown. ``delivered_at``: when its files were written, where it came in as one.
    """

    __tablename__ = "batch_jobs"
    __table_args__ = (
        Index("ix_batch_jobs_active", "expires_at", sqlite_where=IS_ACTIVE, postgresql_where=IS_ACTIVE),
        Index("ix_batch_jobs_user", "user_id", "created_at"),
        Index("ix_batch_jobs_created", "created_at", "id"),
        Index("ix_batch_jobs_finished", "finished_at"),
        Index("ix_batch_jobs_undelivered", "finished_at", sqlite_where=IS_UNDELIVERED, postgresql_where=IS_UNDELIVERED),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    door: Mapped[str] = mapped_column(String(24))
    scope: Mapped[str] = mapped_column(String(16))
    user_id: Mapped[str] = mapped_column(String(36))
    token_id: Mapped[str | None] = mapped_column(String(36))
    status: Mapped[str] = mapped_column(String(12))
    ending: Mapped[str | None] = mapped_column(String(12))
    priority: Mapped[int] = mapped_column(Integer)
    max_concurrency: Mapped[int] = mapped_column(Integer)
    total: Mapped[int] = mapped_column(Integer)
    completed: Mapped[int] = mapped_column(Integer, default=0)
    failed: Mapped[int] = mapped_column(Integer, default=0)
    cancelled: Mapped[int] = mapped_column(Integer, default=0)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    completion_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    cost: Mapped[int] = mapped_column(BigInteger, default=0)
    unpriced: Mapped[int] = mapped_column(Integer, default=0)
    model: Mapped[str | None] = mapped_column(String(256))
    job_metadata: Mapped[str] = mapped_column("metadata", Text)
    callback_url: Mapped[str | None] = mapped_column(Text)
    details: Mapped[str] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[int | None] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(BigInteger)
    resumes_at: Mapped[int] = mapped_column(BigInteger, default=0)
    claimed_at: Mapped[int] = mapped_column(BigInteger, default=0)
    delivered_at: Mapped[int | None] = mapped_column(BigInteger)


class BatchItemRow(Model):
    """One question and its one result.

    ``owner`` has it until ``lease_until``; ``fence`` counts who had it, so that a late write is refused. ``tries``:
    workers that died with it in their hands. ``ready_at``: it is not asked before. ``response``: the answer whole.
    """

    __tablename__ = "batch_items"
    __table_args__ = (
        Index(
            "ix_batch_items_open", "job_id", "tries", "ready_at", "idx", sqlite_where=IS_OPEN, postgresql_where=IS_OPEN
        ),
        Index("ix_batch_items_claimed", "job_id", sqlite_where=IS_CLAIMED, postgresql_where=IS_CLAIMED),
        Index("ix_batch_items_leases", "lease_until", sqlite_where=IS_CLAIMED, postgresql_where=IS_CLAIMED),
    )

    job_id: Mapped[str] = mapped_column(String(36), ForeignKey("batch_jobs.id", ondelete="CASCADE"), primary_key=True)
    idx: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    custom_id: Mapped[str | None] = mapped_column(String(128))
    question: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(12))
    tries: Mapped[int] = mapped_column(Integer, default=0)
    ready_at: Mapped[int] = mapped_column(BigInteger, default=0)
    owner: Mapped[str | None] = mapped_column(String(64))
    fence: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[int] = mapped_column(BigInteger, default=0)
    text: Mapped[str | None] = mapped_column(Text)
    finish_reason: Mapped[str | None] = mapped_column(String(64))
    model: Mapped[str | None] = mapped_column(String(256))
    prompt_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    completion_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    cost: Mapped[int | None] = mapped_column(BigInteger)
    error_code: Mapped[str | None] = mapped_column(String(48))
    error_message: Mapped[str | None] = mapped_column(Text)
    response: Mapped[str | None] = mapped_column(Text)
