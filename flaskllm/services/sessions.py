"""Login sessions: opened by a password, kept alive by refresh tokens that work once, ended everywhere at once.

A session is a row. Access tokens name it and refresh tokens belong to it, so that revoking the row is enough; nothing
hangs on a list of bad tokens that could be lost.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from flaskllm.domain import api_token
from flaskllm.domain.account import ACTIVE, BARRED
from flaskllm.domain.principal import Budget, Principal
from flaskllm.errors import DomainError, TokenExpired, TokenRevoked, Unauthenticated
from flaskllm.models.types import now
from flaskllm.repositories import sessions as repository
from flaskllm.repositories import users
from flaskllm.repositories.database import Database
from flaskllm.repositories.sessions import LoginSession, RefreshToken
from flaskllm.repositories.users import User, get_user, lock_user
from flaskllm.security import AccessClaims, JwtCodec
from flaskllm.services.recent import Recent

log = logging.getLogger(__name__)

OVER = "This session is over; log in again."
NO_REFRESH = "The refresh token is not valid."
PAGE_IDLE, PAGE_MOST = timedelta(hours=1), timedelta(hours=12)
"""How long a browser may be left alone, and how long a sign-in lasts however busy it is."""
PAGE_NOTED_EVERY = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Login:
    """What a person is given: shown once, stored nowhere in clear."""

    user: User
    access_token: str
    refresh_token: str
    expires_in: int


def budgets_of(user: User) -> tuple[Budget, ...]:
    """The bound on all that an account spends, whatever speaks for it."""
    if user.budget_amount is None:
        return ()
    return (Budget(f"user:{user.id}", user.budget_amount, user.budget_period),)


class Sessions:
    """Who a person is, and when their session dies."""

    def __init__(self, database: Database, jwt: JwtCodec, *, access_seconds: int, refresh_seconds: int) -> None:
        self._db = database
        self._jwt = jwt
        self._access_seconds = access_seconds
        self._refresh_life = timedelta(seconds=refresh_seconds)
        self._recent: Recent[Principal] = Recent()

    def open(self, user: User) -> Login:
        """For who has just shown this user's password, which is looked at again: it may have changed meanwhile."""
        refresh = api_token.make_refresh()
        login = LoginSession(user_id=user.id, expires_at=now() + self._refresh_life)
        self._add(user, login, refresh_hash=api_token.hash_of(refresh))
        return self._given(user, login.id, refresh)

    def open_page(self, user: User) -> str:
        """The same in a browser: the secret for its cookie, which is all that it is given."""
        secret = secrets.token_urlsafe(32)
        login = LoginSession(user_id=user.id, expires_at=now() + PAGE_IDLE, page_hash=api_token.hash_of(secret))
        self._add(user, login, refresh_hash=None)
        return secret

    def _add(self, user: User, login: LoginSession, *, refresh_hash: str | None) -> None:
        with self._db.transaction() as session:
            lock_user(session, user.id)
            current = get_user(session, user.id)
            if current is None or current.status in BARRED or current.password_hash != user.password_hash:
                raise Unauthenticated(OVER)
            repository.add_session(session, login, refresh_hash=refresh_hash)

    def refresh(self, token: str) -> Login:
        """A new pair for an unused refresh token. A used one ends the session: either of its two users is a thief."""
        if not api_token.looks_like_refresh(token):
            raise Unauthenticated(NO_REFRESH)
        fresh = api_token.make_refresh()
        with self._db.transaction() as session:
            found = self._exchange(session, api_token.hash_of(token), api_token.hash_of(fresh))
        if isinstance(found, DomainError):  # raised only now, so that what it revoked is written
            self._recent.forget()
            raise found
        return self._given(found.user, found.id, fresh)

    def _exchange(self, session: Session, digest: str, fresh_digest: str) -> LoginSession | DomainError:
        at = now()
        is_first_use = repository.use_refresh(session, digest, at)
        known = repository.find_refresh(session, digest)
        login = repository.get_session(session, known.session_id) if known else None
        if known is None or login is None:
            return Unauthenticated(NO_REFRESH)
        if not is_first_use:
            repository.revoke_session(session, login.id, at)
            return TokenRevoked("The refresh token was used before; this session is over, log in again.")
        return self._next(session, known, login, fresh_digest, at)

    def _next(
        self, session: Session, known: RefreshToken, login: LoginSession, fresh_digest: str, at: datetime
    ) -> LoginSession | DomainError:
        if known.expires_at <= at:
            return TokenExpired("The refresh token has expired.")
        if login.user.status in BARRED:
            return Unauthenticated(NO_REFRESH)
        until = at + self._refresh_life
        if not repository.extend_session(session, login.id, until):
            return TokenRevoked(OVER)
        repository.next_generation(session, known, refresh_hash=fresh_digest, expires_at=until)
        return login

    def revoke(self, session_id: str) -> None:
        with self._db.transaction() as session:
            repository.revoke_session(session, session_id, now())
        self._recent.forget()

    def revoke_all(self, user_id: str) -> None:
        """Every session of this user: browsers, programs, refresh tokens."""
        with self._db.transaction() as session:
            repository.revoke_all_of(session, user_id, now())
        self._recent.forget()

    def forget(self) -> None:
        """A user has changed: what this process remembers of people is not to be trusted."""
        self._recent.forget()

    def identify(self, token: str) -> Principal:
        """Whose access token this is. Raises `TokenExpired`, `TokenRevoked` or `Unauthenticated`."""
        claims = self._jwt.read(token)
        principal = self._recent.get(claims.session_id, lambda: self._load(claims))
        if principal.user_id != claims.user_id:
            raise Unauthenticated(OVER)
        return principal

    def _load(self, claims: AccessClaims) -> Principal:
        with self._db.reading() as session:
            login = repository.get_session(session, claims.session_id)
        if login is None or login.user_id != claims.user_id:
            raise Unauthenticated(OVER)
        return _principal(_live(login).user, login.id)

    def identify_page(self, secret: str, *, attended: bool = True) -> Principal:
        """Whose browser has this in its cookie. Raises as `identify` does.

        ``attended``: a person is there; what a page asks by itself lengthens nobody's sign-in.
        """
        digest = api_token.hash_of(secret)
        key = digest if attended else f"unattended:{digest}"
        return self._recent.get(key, lambda: self._load_page(digest, attended=attended))

    def _load_page(self, digest: str, *, attended: bool) -> Principal:
        with self._db.reading() as session:
            login = repository.find_page(session, digest)
        if login is None:
            raise Unauthenticated(OVER)
        _live(login)
        if attended:
            self._stay(login)
        return _principal(login.user, login.id)

    def _stay(self, login: LoginSession) -> None:
        """Whoever is busy is not signed out; noted once a minute, and what fails here fails no page."""
        until = min(now() + PAGE_IDLE, login.created_at + PAGE_MOST)
        if until - login.expires_at < PAGE_NOTED_EVERY:
            return
        try:
            with self._db.transaction() as session:
                repository.extend_session(session, login.id, until)
        except (DomainError, SQLAlchemyError) as error:
            log.warning("a sign-in could not be lengthened: %s", type(error).__name__)

    def principal_of(self, user_id: str) -> Principal:
        """A person who was let in before and whose session may be over by now. Raises `Unauthenticated`."""
        return self._recent.get(f"user:{user_id}", lambda: self._read(user_id))

    def _read(self, user_id: str) -> Principal:
        with self._db.reading() as session:
            user = users.get_user(session, user_id)
        if user is None or user.status in BARRED:
            raise Unauthenticated("The account is closed.")
        return _principal(user, None)

    def _given(self, user: User, session_id: str, refresh: str) -> Login:
        access = self._jwt.write(user_id=user.id, session_id=session_id, seconds=self._access_seconds)
        return Login(user, access, refresh, self._access_seconds)

    def sweep(self) -> None:
        """Forget what ended a day ago and longer; until then a used refresh token is still known as used."""
        with self._db.transaction() as session:
            repository.sweep(session, before=now() - timedelta(days=1))


def _live(login: LoginSession) -> LoginSession:
    """The same where it still counts; else why it does not."""
    if login.user.status in BARRED:
        raise Unauthenticated(OVER)
    if login.revoked_at is not None:
        raise TokenRevoked(OVER)
    if login.expires_at <= now():
        raise TokenExpired(OVER)
    return login


def _principal(user: User, session_id: str | None) -> Principal:
    return Principal(
        user_id=user.id,
        username=user.username,
        role=user.role,
        scopes=frozenset(user.scopes),
        session_id=session_id,
        budgets=budgets_of(user),
        approved=user.status == ACTIVE,
    )
