"""Stored responses of ``/v1/responses``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from flaskllm.extensions import Model
from flaskllm.models.types import JsonText, UtcDateTime


class ResponseRow(Model):
    """One response of one owner; ``previous_id`` is the one that it goes on from, which may be gone by now.

    ``items``: ``{"input": […], "output": […]}``. ``document``: the rest of the answer. ``size``: characters of
    ``items``; ``depth`` and ``thread_size``: how many responses and characters the thread has up to this one.
    """

    __tablename__ = "responses"
    __table_args__ = (Index("ix_responses_expires", "expires_at"), Index("ix_responses_owner", "owner_id"))

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner_id: Mapped[str] = mapped_column(String(36))
    previous_id: Mapped[str | None] = mapped_column(String(64))
    depth: Mapped[int] = mapped_column(Integer)
    size: Mapped[int] = mapped_column(BigInteger)
    thread_size: Mapped[int] = mapped_column(BigInteger)
    items: Mapped[Any] = mapped_column(JsonText)
    document: Mapped[Any] = mapped_column(JsonText)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
