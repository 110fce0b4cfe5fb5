"""API tokens: every query. Nothing commits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session, joinedload

from flaskllm.models.account import ApiToken

__all__ = [
    "ApiToken",
    "add_token",
    "count_live",
    "find_by_hash",
    "find_by_token_name",
    "get_token",
    "list_tokens",
    "lock_token",
    "revoke_all_of",
    "touch",
]


def add_token(session: Session, token: ApiToken) -> None:
    session.add(token)
    session.flush()


def find_by_hash(session: Session, digest: str) -> ApiToken | None:
    """By its hash, or by the one it had before its last rotation; with its owner, in one query."""
    known = or_(ApiToken.hash == digest, ApiToken.previous_hash == digest)
    return session.scalar(select(ApiToken).options(joinedload(ApiToken.user)).where(known))


def get_token(session: Session, token_id: str, *, owner_id: str | None) -> ApiToken | None:
    """Somebody else's token is as good as none; ``owner_id`` None is the operator, who sees all."""
    query = select(ApiToken).options(joinedload(ApiToken.user)).where(ApiToken.id == token_id)
    return session.scalar(query if owner_id is None else query.where(ApiToken.user_id == owner_id))


def find_by_token_name(session: Session, name: str, *, most: int) -> Sequence[ApiToken]:
    """Whoever's; names are not unique."""
    query = select(ApiToken).options(joinedload(ApiToken.user)).where(ApiToken.name == name)
    return session.scalars(query.limit(most)).all()


def list_tokens(
    session: Session, *, owner_id: str | None, limit: int | None = None, after: str | None = None
) -> Sequence[ApiToken]:
    """Newest first; ``after`` is the id that the page before ended with."""
    query = select(ApiToken).options(joinedload(ApiToken.user))
    query = query.order_by(ApiToken.created_at.desc(), ApiToken.id.desc())
    if owner_id is not None:
        query = query.where(ApiToken.user_id == owner_id)
    start = get_token(session, after, owner_id=owner_id) if after else None
    if start:
        same, older = ApiToken.created_at == start.created_at, ApiToken.created_at < start.created_at
        query = query.where(older | (same & (ApiToken.id < start.id)))
    return session.scalars(query.limit(limit)).all()


def count_live(session: Session, owner_id: str, at: datetime) -> int:
    unexpired = or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > at)
    query = select(func.count()).select_from(ApiToken)
    return session.scalar(query.where(ApiToken.user_id == owner_id, ApiToken.revoked_at.is_(None), unexpired)) or 0


def lock_token(session: Session, token_id: str) -> None:
    """Begin by writing, so that two who change the same token come one after the other."""
    session.execute(update(ApiToken).where(ApiToken.id == token_id).values(hash=ApiToken.hash))


def revoke_all_of(session: Session, owner_id: str, at: datetime) -> None:
    """Every token of this owner; those that were revoked before keep their moment."""
    live = update(ApiToken).where(ApiToken.user_id == owner_id, ApiToken.revoked_at.is_(None))
    session.execute(live.values(revoked_at=at))


def touch(session: Session, token_id: str, *, at: datetime, unless_since: datetime) -> None:
    """Note the use, unless another process has done so since."""
    stale = or_(ApiToken.last_used_at.is_(None), ApiToken.last_used_at < unless_since)
    session.execute(update(ApiToken).where(ApiToken.id == token_id, stale).values(last_used_at=at))
