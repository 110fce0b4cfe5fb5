"""Accounts: who may have one, who someone is, and what an operator may change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from flaskllm.domain.account import (
    ACTIVE,
    DISABLED,
    ROLES,
    SERVICE_USER,
    WAITING,
    ProfileFields,
    UserFields,
    faults_of,
    folded,
)
from flaskllm.domain.pricing import from_dollars
from flaskllm.domain.principal import SCOPES, Principal
from flaskllm.errors import Conflict, Detail, Forbidden, InvalidRequest, NotFound, Unauthenticated, invalid
from flaskllm.models.types import now
from flaskllm.repositories import users as repository
from flaskllm.repositories.database import Database
from flaskllm.repositories.sessions import revoke_all_of
from flaskllm.repositories.users import User
from flaskllm.security import JwtCodec, Passwords
from flaskllm.services.guessing import Guesses, Throttle
from flaskllm.services.sessions import Login, Sessions

WRONG_LOGIN = "User name or password is wrong."
UNIQUE = {"username": "username_key", "email": "email_key"}


class AccountService:
    """Who someone is; when a session dies. Registration is ``open``, ``approval`` or ``closed``."""

    def __init__(
        self,
        database: Database,
        *,
        passwords: Passwords,
        jwt: JwtCodec,
        throttle: Throttle,
        registration: str,
        default_scopes: Sequence[str],
        default_budget: Decimal | None,
        access_seconds: int,
        refresh_seconds: int,
    ) -> None:
        self._db = database
        self._passwords = passwords
        self._guesses = Guesses(throttle)
        self._registration = registration
        self._default_scopes = list(default_scopes)
        self._default_budget = None if default_budget is None else from_dollars(default_budget)
        self._sessions = Sessions(database, jwt, access_seconds=access_seconds, refresh_seconds=refresh_seconds)
        self.identify = self._sessions.identify
        self.refresh = self._sessions.refresh
        self.sweep = self._sessions.sweep

    # -- anybody ------------------------------------------------------------------------------------------------------

    def register(self, username: str, email: str, password: str, *, address: str | None = None) -> User:
        """A new account, never an administrator's. Where registration needs approval it waits for one."""
        if self._registration == "closed":
            raise Forbidden("Registration is closed; ask an administrator for an account.")
        self._guesses.count_address(address)
        status = WAITING if self._registration == "approval" else ACTIVE
        return self._create(username, email, password, role="user", scopes=self._default_scopes, status=status)

    def login(self, login: str, password: str, *, address: str | None = None) -> Login:
        """By user name or e-mail. Who is unknown, disabled or wrong gets the same answer after the same time."""
        with self._db.reading() as session:
            user = repository.find_by_login(session, login)
        self._guesses.count(user.id if user else folded(login), address)
        is_right = self._passwords.verify(password, user.password_hash if user else None)
        if user is None or not is_right or user.status == DISABLED:
            raise Unauthenticated(WRONG_LOGIN)
        return self._sessions.open(user)

    # -- the owner ----------------------------------------------------------------------------------------------------

    def logout(self, principal: Principal) -> None:
        """End this session, its access tokens and its refresh tokens."""
        if principal.session_id is None:
            raise InvalidRequest("An API token has no session to end; revoke it at /api/tokens.")
        self._sessions.revoke(principal.session_id)

    def profile(self, principal: Principal) -> User:
        return self.get_user(principal.user_id)

    def change_profile(
        self, principal: Principal, changes: ProfileFields, *, old_password: str | None, address: str | None = None
    ) -> User:
        """E-mail and password need the old password. A new password ends every session: all log in again."""
        if principal.token_id is not None:
            raise Forbidden("An API token cannot change its owner's account; log in.")
        _refuse(faults_of(**changes))
        user = self.get_user(principal.user_id)
        if "email" in changes or "password" in changes:
            self._prove(user, old_password, address)
        columns = self._columns(changes)
        return self._write(user, columns, is_new_password="password" in changes)

    def _prove(self, user: User, old_password: str | None, address: str | None) -> None:
        if old_password is None:
            raise invalid("old_password", "is needed to change e-mail or password")
        self._guesses.count(user.id, address)
        if not self._passwords.verify(old_password, user.password_hash):
            raise Forbidden("The old password is wrong.", details=[{"field": "old_password", "message": "is wrong"}])

    def _columns(self, changes: ProfileFields) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for name, key in UNIQUE.items():
            if name in changes:
                value = changes[name]  # type: ignore[literal-required]
                columns |= {name: value, key: folded(value)}
        if columns.get("username_key") == SERVICE_USER:
            raise _taken("username")
        if "password" in changes:
            columns["password_hash"] = self._passwords.hash(changes["password"])
        return columns

    def _write(self, user: User, columns: Mapping[str, Any], *, is_new_password: bool) -> User:
        try:
            with self._db.transaction() as session:
                repository.lock_user(session, user.id)
                row = _found(repository.get_user(session, user.id))
                if row.password_hash != user.password_hash:
                    raise Conflict("The account was changed at the same moment; look at it and try again.")
                self._apply(session, row, columns)
                if is_new_password:
                    revoke_all_of(session, row.id, now())
        except IntegrityError:
            raise _taken() from None
        self._sessions.forget()
        return row

    # -- the operator -------------------------------------------------------------------------------------------------

    def create_user(self, username: str, email: str, password: str, *, admin: bool = False) -> User:
        """By an operator: needs no approval, and may be an administrator, who has every scope."""
        scopes = list(SCOPES) if admin else self._default_scopes
        return self._create(username, email, password, role=ROLES[admin], scopes=scopes, status=ACTIVE)

    def get_user(self, user_id: str) -> User:
        with self._db.reading() as session:
            return _found(repository.get_user(session, user_id))

    def find_user(self, username: str) -> User:
        with self._db.reading() as session:
            return _found(repository.find_by_name(session, username))

    def list_users(self, *, limit: int | None = None, after: str | None = None) -> tuple[Sequence[User], str | None]:
        """A page, oldest first, and where the next one begins."""
        with self._db.reading() as session:
            if after is not None and repository.get_user(session, after) is None:
                raise invalid("after", "is not the id of a user")
            rows = repository.list_users(session, limit=None if limit is None else limit + 1, after=after)
        if limit is None or len(rows) <= limit:
            return rows, None
        return rows[:limit], rows[limit - 1].id

    def change_user(self, user_id: str, changes: UserFields) -> User:
        """There is always an administrator left who can log in."""
        columns = _checked(changes)
        with self._db.transaction() as session:
            repository.lock_users(session)
            row = _found(repository.get_user(session, user_id))
            was_admin = row.role == "admin" and row.status == ACTIVE and row.username != SERVICE_USER
            self._apply(session, row, columns)
            is_admin = row.role == "admin" and row.status == ACTIVE
            if was_admin and not is_admin and not repository.count_other_admins(session, row.id):
                raise Conflict("The last administrator cannot be removed or demoted.")
            if row.status == DISABLED:
                revoke_all_of(session, row.id, now())
        self._sessions.forget()
        return row

    def reset_password(self, user_id: str, password: str) -> User:
        """Give a new password, and end every session of the old one."""
        _refuse(faults_of(password=password))
        user = self.get_user(user_id)
        if user.username_key == SERVICE_USER:
            raise Conflict("The service user has no password and cannot log in.")
        columns = {"password_hash": self._passwords.hash(password)}
        return self._write(user, columns, is_new_password=True)

    # -- all of them --------------------------------------------------------------------------------------------------

    def _create(
        self, username: str, email: str, password: str, *, role: str, scopes: Sequence[str], status: str
    ) -> User:
        _refuse(faults_of(username=username, email=email, password=password))
        self._refuse_taken(username, email)
        user = User(
            username=username,
            username_key=folded(username),
            email=email,
            email_key=folded(email),
            password_hash=self._passwords.hash(password),
            role=role,
            scopes=list(scopes),
            status=status,
            budget_amount=self._default_budget,
        )
        try:
            with self._db.transaction() as session:
                repository.add_user(session, user)
        except IntegrityError:
            raise _taken() from None
        return user

    def _refuse_taken(self, username: str, email: str) -> None:
        """Before the costly hash; the unique indexes have the last word."""
        if folded(username) == SERVICE_USER:
            raise _taken("username")
        with self._db.reading() as session:
            for name, value in (("username", username), ("email", email)):
                if repository.is_taken(session, UNIQUE[name], folded(value)):
                    raise _taken(name)

    @staticmethod
    def _apply(session: Session, row: User, columns: Mapping[str, Any]) -> None:
        for name, key in UNIQUE.items():
            if key in columns and repository.is_taken(session, key, columns[key], but=row.id):
                raise _taken(name)
        for name, value in columns.items():
            setattr(row, name, value)
        session.flush()


def _checked(changes: UserFields) -> dict[str, Any]:
    columns: dict[str, Any] = {name: value for name, value in changes.items() if name != "budget"}
    if changes.get("role", "user") not in ROLES:
        raise invalid("role", f"must be one of {', '.join(ROLES)}")
    if changes.get("status", ACTIVE) not in (ACTIVE, WAITING, DISABLED):
        raise invalid("status", f"must be one of {ACTIVE}, {WAITING}, {DISABLED}")
    if "scopes" in changes:
        if unknown := set(changes["scopes"]) - set(SCOPES):
            raise invalid("scopes", f"{min(unknown)!r} is no scope")
        columns["scopes"] = [scope for scope in SCOPES if scope in changes["scopes"]]
    if "budget" in changes:
        columns["budget_amount"] = None if changes["budget"] is None else from_dollars(changes["budget"])
    return columns


def _found(user: User | None) -> User:
    if user is None:
        raise NotFound("There is no such user.")
    return user


def _taken(field: str | None = None) -> Conflict:
    if field is None:
        return Conflict("The user name or the e-mail is taken.")
    words = {"username": "The user name is taken.", "email": "The e-mail is taken."}[field]
    return Conflict(words, details=[{"field": field, "message": "is taken"}])


def _refuse(faults: list[Detail]) -> None:
    if faults:
        words = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults)
        raise InvalidRequest(words, details=faults)
