"""Prompt templates as administrators wrote them: one row a version, never changed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from flaskllm.extensions import Model
from flaskllm.models.types import JsonText, UtcDateTime, new_id, now


class PromptVersionRow(Model):
    """One version of a template; the newest counts. ``variables``: name to default, None where it must be given.

    ``removed``: from this version on there is no such template of an administrator's, and a shipped one of that name
    serves again. Rows stay, so that a version's number always means the same text.
    """

    __tablename__ = "prompt_versions"
    __table_args__ = (UniqueConstraint("name", "version"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(String(16))
    description: Mapped[str] = mapped_column(Text, default="")
    system_text: Mapped[str] = mapped_column(Text, default="")
    user_text: Mapped[str] = mapped_column(Text)
    variables: Mapped[dict[str, Any]] = mapped_column(JsonText, default=dict)
    model: Mapped[str | None] = mapped_column(String(256))
    parameters: Mapped[dict[str, Any]] = mapped_column(JsonText, default=dict)
    cache: Mapped[bool] = mapped_column(Boolean, default=False)
    removed: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
