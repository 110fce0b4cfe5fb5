"""Users, their sessions and their API tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from flaskllm.extensions import Model
from flaskllm.models.types import JsonText, UtcDateTime, new_id, now


class User(Model):
    """An account. ``username_key`` and ``email_key`` are the NFKC-casefolded forms in which both are unique.

    ``status``: ``active``, ``waiting`` (for an administrator's approval) or ``disabled``.
    ``budget_amount`` in 10⁻⁹ dollar for each ``budget_period``; None: no bound.
    """

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    username: Mapped[str] = mapped_column(String(64))
    username_key: Mapped[str] = mapped_column(String(64), unique=True)
    email: Mapped[str] = mapped_column(String(254))
    email_key: Mapped[str] = mapped_column(String(254), unique=True)
    password_hash: Mapped[str | None] = mapped_column(String(255))
    role: Mapped[str] = mapped_column(String(16), default="user")
    scopes: Mapped[list[str]] = mapped_column(JsonText, default=list)
    status: Mapped[str] = mapped_column(String(16), default="active")
    budget_amount: Mapped[int | None] = mapped_column(BigInteger)
    budget_period: Mapped[str] = mapped_column(String(8), default="month")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class LoginSession(Model):
    """One login: the family of its refresh tokens. An access token's ``sid`` names it.

    ``page_hash``: of the secret in a browser's cookie, for a sign-in at ``/admin``; such a login has no refresh token.
    """

    __tablename__ = "login_sessions"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    page_hash: Mapped[str | None] = mapped_column(String(64), unique=True)

    user: Mapped[User] = relationship()


class RefreshToken(Model):
    """One generation of a session's refresh token: used once; a second use revokes the session."""

    __tablename__ = "refresh_tokens"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("login_sessions.id", ondelete="CASCADE"), index=True)
    generation: Mapped[int] = mapped_column(Integer, default=0)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ApiToken(Model):
    """A program's credential; only its hash is kept.

    ``models``, ``templates``: None allows all. ``previous_hash`` answers until ``previous_until`` after a rotation.
    ``budget_amount`` in 10⁻⁹ dollar.
    """

    __tablename__ = "api_tokens"
    __table_args__ = (UniqueConstraint("previous_hash"), Index("ix_api_tokens_user_live", "user_id", "revoked_at"))

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(128))
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    prefix: Mapped[str] = mapped_column(String(12))
    last4: Mapped[str] = mapped_column(String(4))
    previous_hash: Mapped[str | None] = mapped_column(String(64))
    previous_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    scopes: Mapped[list[str]] = mapped_column(JsonText, default=list)
    models: Mapped[list[str] | None] = mapped_column(JsonText)
    templates: Mapped[list[str] | None] = mapped_column(JsonText)
    requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    tokens_per_minute: Mapped[int | None] = mapped_column(Integer)
    concurrency: Mapped[int | None] = mapped_column(Integer)
    budget_amount: Mapped[int | None] = mapped_column(BigInteger)
    budget_period: Mapped[str | None] = mapped_column(String(8))
    allowed_ips: Mapped[list[str]] = mapped_column(JsonText, default=list)
    tags: Mapped[list[str]] = mapped_column(JsonText, default=list)
    settings: Mapped[dict[str, Any]] = mapped_column(JsonText, default=dict)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    user: Mapped[User] = relationship()

    def is_live(self, at: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > at)
