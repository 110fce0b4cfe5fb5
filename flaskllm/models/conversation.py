"""Conversations in SQL, where there is no Redis."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Boolean, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from flaskllm.extensions import Model
from flaskllm.models.types import UtcDateTime, new_id, now


class ConversationRow(Model):
    """One conversation of one owner; ``name`` is the id the owner knows it by.

    ``folded``: the title as a search compares it, because databases fold cases differently.
    """

    __tablename__ = "conversations"
    __table_args__ = (
        UniqueConstraint("owner_id", "name"),
        Index("ix_conversations_owner_updated", "owner_id", "updated_at"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    owner_id: Mapped[str] = mapped_column(String(36))
    name: Mapped[str] = mapped_column(String(64))
    title: Mapped[str] = mapped_column(String(200), default="")
    folded: Mapped[str] = mapped_column(Text, default="")
    system: Mapped[str | None] = mapped_column(Text)
    length: Mapped[int] = mapped_column(Integer, default=0)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class TurnRow(Model):
    """One message; ``place`` counts from 0 and is given out by one UPDATE of the conversation, so that no two meet.

    ``carried``: JSON of what has to be sent back to the provider that answered.
    """

    __tablename__ = "conversation_turns"

    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True)
    place: Mapped[int] = mapped_column(Integer, primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    content: Mapped[str] = mapped_column(Text)
    interrupted: Mapped[bool] = mapped_column(Boolean, default=False)
    carried: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
