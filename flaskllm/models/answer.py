"""Answers that may serve a second time."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from flaskllm.extensions import Model
from flaskllm.models.types import JsonText, UtcDateTime


class AnswerRow(Model):
    """One answer, or the work that will be one: ``status`` is null until it is there.

    ``id``: a hash of its owner and of the name that the owner gave it. ``question``: a hash of what was asked; the
    question itself is not kept. ``holder``: who works on it; after ``lease_ends`` somebody else may. ``body`` is null
    for an answer that was too large to be kept.
    """

    __tablename__ = "answers"
    __table_args__ = (Index("ix_answers_expires", "expires_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    question: Mapped[str] = mapped_column(String(64))
    holder: Mapped[str] = mapped_column(String(36))
    lease_ends: Mapped[datetime] = mapped_column(UtcDateTime)
    status: Mapped[int | None] = mapped_column(Integer)
    headers: Mapped[Any] = mapped_column(JsonText, nullable=True)
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
