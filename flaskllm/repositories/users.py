"""Users: every query. Nothing commits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

from sqlalchemy import ColumnElement, func, select, text, update
from sqlalchemy.orm import Session

from flaskllm.domain.account import ACTIVE, CLOSED, SERVICE_USER, folded
from flaskllm.models.account import User
from flaskllm.models.catalogue import Meta

__all__ = [
    "User",
    "UserFilters",
    "add_user",
    "count_other_admins",
    "count_users",
    "find_by_login",
    "find_by_name",
    "get_user",
    "is_taken",
    "list_users",
    "lock_user",
    "lock_users",
]


ADMINISTRATORS = "administrators"
OPEN_META = "INSERT INTO meta (name, value) VALUES (:name, '0') ON CONFLICT (name) DO NOTHING"


class UserFilters(TypedDict, total=False):
    """Which accounts a list shows: ``search`` is looked for in names and e-mails; closed ones only by ``status``."""

    search: str
    role: str
    status: str


def add_user(session: Session, user: User) -> None:
    """Raises SQLAlchemy's `IntegrityError` where somebody was faster with the name or the e-mail."""
    session.add(user)
    session.flush()


def get_user(session: Session, user_id: str) -> User | None:
    return session.get(User, user_id)


def find_by_name(session: Session, username: str) -> User | None:
    return session.scalar(select(User).where(User.username_key == folded(username)))


def find_by_login(session: Session, login: str) -> User | None:
    """By user name or e-mail: the two never meet, since no name has the form of an e-mail."""
    key = folded(login)
    return session.scalar(select(User).where((User.username_key == key) | (User.email_key == key)))


def is_taken(session: Session, column: str, key: str, *, but: str | None = None) -> bool:
    """Whether somebody else has this in ``username_key`` or ``email_key``."""
    query = select(User.id).where(getattr(User, column) == key)
    return session.scalar(query.where(User.id != but) if but else query) is not None


def list_users(
    session: Session, filters: UserFilters, *, limit: int | None = None, after: str | None = None
) -> Sequence[User]:
    """By age, oldest first; ``after`` is the id that the page before ended with."""
    query = select(User).where(*_conditions(filters)).order_by(User.created_at, User.id)
    start = session.get(User, after) if after else None
    if start:
        later = (User.created_at > start.created_at) | ((User.created_at == start.created_at) & (User.id > start.id))
        query = query.where(later)
    return session.scalars(query.limit(limit)).all()


def _conditions(filters: UserFilters) -> Iterator[ColumnElement[bool]]:
    yield User.status == filters["status"] if "status" in filters else User.status != CLOSED
    if "role" in filters:
        yield User.role == filters["role"]
    if "search" in filters:
        key = folded(filters["search"])
        yield User.username_key.contains(key, autoescape=True) | User.email_key.contains(key, autoescape=True)


def count_users(session: Session, filters: UserFilters) -> int:
    return session.scalar(select(func.count()).select_from(User).where(*_conditions(filters))) or 0


def count_other_admins(session: Session, user_id: str) -> int:
    """Administrators who could still log in without this one: who was given no password yet could not."""
    query = select(func.count()).select_from(User)
    others = query.where(User.role == "admin", User.status == ACTIVE, User.username_key != SERVICE_USER)
    return session.scalar(others.where(User.password_hash.is_not(None), User.id != user_id)) or 0


def lock_user(session: Session, user_id: str) -> None:
    """Begin by writing, so that two who change the same user come one after the other."""
    session.execute(update(User).where(User.id == user_id).values(status=User.status))


def lock_users(session: Session) -> None:
    """The same for a rule over all of them: that there is always an administrator.

    One row for all, not each administrator's: two who lock several rows in two orders would wait for one another.
    """
    session.execute(text(OPEN_META), {"name": ADMINISTRATORS})
    session.execute(update(Meta).where(Meta.name == ADMINISTRATORS).values(value=Meta.value))
