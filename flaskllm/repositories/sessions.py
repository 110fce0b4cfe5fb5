"""Login sessions and the generations of their refresh tokens: every query. Nothing commits."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CursorResult, delete, select, update
from sqlalchemy.orm import Session, joinedload

from flaskllm.models.account import LoginSession, RefreshToken

__all__ = [
    "LoginSession",
    "RefreshToken",
    "add_session",
    "extend_session",
    "find_page",
    "find_refresh",
    "get_session",
    "next_generation",
    "revoke_all_of",
    "revoke_session",
    "sweep",
    "use_refresh",
]

_WITH_USER = select(LoginSession).options(joinedload(LoginSession.user))


def add_session(session: Session, login: LoginSession, *, refresh_hash: str | None) -> None:
    """``refresh_hash`` None: a browser's, which is not refreshed."""
    session.add(login)
    session.flush()
    if refresh_hash is not None:
        session.add(RefreshToken(hash=refresh_hash, session_id=login.id, expires_at=login.expires_at))


def get_session(session: Session, session_id: str) -> LoginSession | None:
    """With its user, in one query: every request of a person asks for both."""
    return session.scalar(_WITH_USER.where(LoginSession.id == session_id))


def find_page(session: Session, page_hash: str) -> LoginSession | None:
    """A browser's, with its user, by the hash of its cookie."""
    return session.scalar(_WITH_USER.where(LoginSession.page_hash == page_hash))


def find_refresh(session: Session, refresh_hash: str) -> RefreshToken | None:
    return session.get(RefreshToken, refresh_hash)


def use_refresh(session: Session, refresh_hash: str, at: datetime) -> bool:
    """Mark it used; of several at once exactly one is told True."""
    unused = update(RefreshToken).where(RefreshToken.hash == refresh_hash, RefreshToken.used_at.is_(None))
    return _count(session.execute(unused.values(used_at=at))) == 1


def next_generation(session: Session, used: RefreshToken, *, refresh_hash: str, expires_at: datetime) -> None:
    session.add(
        RefreshToken(
            hash=refresh_hash, session_id=used.session_id, generation=used.generation + 1, expires_at=expires_at
        )
    )


def extend_session(session: Session, session_id: str, expires_at: datetime) -> bool:
    """Let a live session live on; False where it was revoked in the meantime."""
    live = update(LoginSession).where(LoginSession.id == session_id, LoginSession.revoked_at.is_(None))
    return _count(session.execute(live.values(expires_at=expires_at))) == 1


def revoke_session(session: Session, session_id: str, at: datetime) -> bool:
    """False where it was revoked before; the first time counts."""
    live = update(LoginSession).where(LoginSession.id == session_id, LoginSession.revoked_at.is_(None))
    return _count(session.execute(live.values(revoked_at=at))) == 1


def revoke_all_of(session: Session, user_id: str, at: datetime) -> None:
    live = update(LoginSession).where(LoginSession.user_id == user_id, LoginSession.revoked_at.is_(None))
    session.execute(live.values(revoked_at=at))


def sweep(session: Session, *, before: datetime) -> int:
    """Forget sessions that ended before this moment, with all their refresh tokens."""
    ended = select(LoginSession.id).where(LoginSession.expires_at < before).scalar_subquery()
    session.execute(delete(RefreshToken).where(RefreshToken.session_id.in_(ended)))
    return _count(session.execute(delete(LoginSession).where(LoginSession.expires_at < before)))


def _count(result: object) -> int:
    assert isinstance(result, CursorResult)
    return result.rowcount
