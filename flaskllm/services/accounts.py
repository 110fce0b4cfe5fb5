"""Accounts: who may have one, who someone is, and what an operator may change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Unpack

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from flaskllm.domain.account import (
    ACTIVE,
    BARRED,
    CLOSED,
    ROLES,
    SERVICE_USER,
    STATUSES,
    WAITING,
    ProfileFields,
    UserFields,
    closed_email,
    faults_of,
    folded,
)
from flaskllm.domain.api_token import TokenBudget
from flaskllm.domain.audit import MASK, SYSTEM, Actor, difference
from flaskllm.domain.pricing import from_dollars, to_dollars
from flaskllm.domain.principal import PERIODS, SCOPES, Principal
from flaskllm.errors import Conflict, Detail, Forbidden, InvalidRequest, NotFound, Unauthenticated, invalid
from flaskllm.models.types import new_id, now
from flaskllm.repositories import tokens
from flaskllm.repositories import users as repository
from flaskllm.repositories.database import Database
from flaskllm.repositories.sessions import revoke_all_of
from flaskllm.repositories.users import User, UserFilters
from flaskllm.security import JwtCodec, Passwords
from flaskllm.services.audit import AuditTrail
from flaskllm.services.guessing import Guesses, Throttle
from flaskllm.services.sessions import Login, Sessions

WRONG_LOGIN = "User name or password is wrong."
UNIQUE = {"username": "username_key", "email": "email_key"}
PROVEN = ("username", "email", "password")
OF_THE_SERVICE_USER = frozenset({"status", "budget_amount", "budget_period"})
"""What an operator may change of it: what it spends, and whether it is there at all."""


class AccountService:
    """Who someone is; when a session dies. Registration is ``open``, ``approval`` or ``closed``."""

    def __init__(
        self,
        database: Database,
        *,
        audit: AuditTrail,
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
        self._audit = audit
        self._passwords = passwords
        self._guesses = Guesses(throttle)
        self._registration = registration
        self._default_scopes = list(default_scopes)
        self._default_budget = None if default_budget is None else from_dollars(default_budget)
        self._sessions = Sessions(database, jwt, access_seconds=access_seconds, refresh_seconds=refresh_seconds)
        self.identify = self._sessions.identify
        self.principal_of = self._sessions.principal_of
        self.identify_page = self._sessions.identify_page
        self.refresh = self._sessions.refresh
        self.sweep = self._sessions.sweep

    # -- anybody ------------------------------------------------------------------------------------------------------

    def register(
        self, username: str, email: str, password: str, *, address: str | None = None, request_id: str | None = None
    ) -> User:
        """A new account, never an administrator's. Where registration needs approval it waits for one."""
        if self._registration == "closed":
            raise Forbidden("Registration is closed; ask an administrator for an account.")
        self._guesses.count_address(address)
        status = WAITING if self._registration == "approval" else ACTIVE
        user = self._new(username, email, password, scopes=self._default_scopes, status=status)
        return self._add(user, Actor(user.id, username, address, request_id), "user.register")

    def login(self, login: str, password: str, *, address: str | None = None) -> Login:
        """By user name or e-mail. Who is unknown, disabled or wrong gets the same answer after the same time."""
        return self._sessions.open(self._proven(login, password, address))

    def enter_page(self, login: str, password: str, *, address: str | None = None) -> str:
        """An administrator's sign-in at ``/admin``: the secret for the browser's cookie. Others are `Forbidden`."""
        user = self._proven(login, password, address)
        if not _can_administrate(user):
            raise Forbidden("This page is for administrators.")
        return self._sessions.open_page(user)

    def _proven(self, login: str, password: str, address: str | None) -> User:
        with self._db.reading() as session:
            user = repository.find_by_login(session, login)
        self._guesses.count(user.id if user else folded(login), address)
        is_right = self._passwords.verify(password, user.password_hash if user else None)
        if user is None or not is_right or user.status in BARRED:
            raise Unauthenticated(WRONG_LOGIN)
        return user

    # -- the owner ----------------------------------------------------------------------------------------------------

    def logout(self, principal: Principal) -> None:
        """End this session, its access tokens and its refresh tokens."""
        if principal.session_id is None:
            raise InvalidRequest("An API token has no session to end; revoke it at /api/tokens.")
        self._sessions.revoke(principal.session_id)

    def logout_everywhere(self, principal: Principal) -> None:
        """End every session of this account, in browsers and programs; API tokens live on."""
        self._sessions.revoke_all(principal.user_id)

    def profile(self, principal: Principal) -> User:
        return self.get_user(principal.user_id)

    def change_profile(
        self,
        principal: Principal,
        changes: ProfileFields,
        *,
        old_password: str | None,
        address: str | None = None,
        actor: Actor = SYSTEM,
    ) -> User:
        """E-mail and password need the old password. A new password ends every session: all log in again."""
        if principal.token_id is not None:
            raise Forbidden("An API token cannot change its owner's account; log in.")
        _refuse(faults_of(**changes))
        user = self.get_user(principal.user_id)
        if "email" in changes or "password" in changes:
            self._prove(user, old_password, address)
        columns = self._columns(changes)
        return self._write(user, columns, actor)

    def _prove(self, user: User, old_password: str | None, address: str | None) -> None:
        if old_password is None:
            raise invalid("old_password", "is needed to change e-mail or password")
        self._guesses.count(user.id, address)
        if not self._passwords.verify(old_password, user.password_hash):
            raise Forbidden("The old password is wrong.", details=[{"field": "old_password", "message": "is wrong"}])

    def _columns(self, changes: ProfileFields | UserFields) -> dict[str, Any]:
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

    def _write(self, user: User, columns: Mapping[str, Any], actor: Actor) -> User:
        """Only on what was looked at: whoever changed the password meanwhile has not shown it here."""
        try:
            with self._db.transaction() as session:
                repository.lock_user(session, user.id)
                row = _found(repository.get_user(session, user.id))
                if row.password_hash != user.password_hash:
                    raise Conflict("The account was changed at the same moment; look at it and try again.")
                self._change(session, row, columns, actor)
        except IntegrityError:
            raise _taken() from None
        self._sessions.forget()
        return row

    # -- the operator -------------------------------------------------------------------------------------------------

    def create_user(
        self,
        username: str,
        email: str,
        password: str | None,
        *,
        admin: bool = False,
        fields: UserFields | None = None,
        actor: Actor = SYSTEM,
    ) -> User:
        """By an operator: needs no approval, and may be an administrator, who has every scope.

        ``fields`` says the rest. Without a password nobody logs in until one is given.
        """
        asked: UserFields = {"role": ROLES[admin], **(fields or {})}
        columns = _checked(asked)
        scopes = columns.pop("scopes", list(SCOPES) if asked["role"] == "admin" else self._default_scopes)
        return self._add(self._new(username, email, password, scopes=scopes, **columns), actor, "user.create")

    def has_administrator(self) -> bool:
        """Whether anybody could sign in and change things."""
        with self._db.reading() as session:
            return repository.count_other_admins(session, "") > 0

    def make_first_administrator(self, username: str, email: str, password: str, actor: Actor) -> User:
        """On a gateway that has none; of two who try at once one is told `Conflict`."""
        user = self._new(username, email, password, scopes=list(SCOPES), role="admin")
        return self._add(user, actor, "user.create", only_the_first=True)

    def get_user(self, user_id: str) -> User:
        with self._db.reading() as session:
            return _found(repository.get_user(session, user_id))

    def find_user(self, username: str) -> User:
        with self._db.reading() as session:
            return _found(repository.find_by_name(session, username))

    def named(self, text: str) -> User:
        """By name or id, also where the account is closed: what it used stays under its name. Raises `NotFound`."""
        with self._db.reading() as session:
            user = repository.find_by_name(session, text) or repository.get_user(session, text)
        if user is None:
            raise NotFound("There is no such user.")
        return user

    def list_users(
        self, *, limit: int | None = None, after: str | None = None, **filters: Unpack[UserFilters]
    ) -> tuple[Sequence[User], str | None]:
        """A page, oldest first, and where the next one begins."""
        with self._db.reading() as session:
            if after is not None and repository.get_user(session, after) is None:
                raise invalid("after", "is not the id of a user")
            rows = repository.list_users(session, filters, limit=None if limit is None else limit + 1, after=after)
        if limit is None or len(rows) <= limit:
            return rows, None
        return rows[:limit], rows[limit - 1].id

    def change_user(self, user_id: str, changes: UserFields, *, actor: Actor = SYSTEM) -> User:
        """There is always an administrator left who can log in. Barring, or a new password, ends the sessions."""
        _refuse(faults_of(**{name: changes[name] for name in PROVEN if name in changes}))  # type: ignore[literal-required]
        columns = _checked(changes) | self._columns(changes)
        try:
            with self._db.transaction() as session:
                row = self._locked(session, user_id)
                if row.username_key == SERVICE_USER and not columns.keys() <= OF_THE_SERVICE_USER:
                    raise Conflict("Of the built-in service user only status and budget can be changed.")
                was_admin = _can_administrate(row)
                self._change(session, row, columns | _scopes_of_role(row, columns), actor)
                if was_admin and not _can_administrate(row):
                    _refuse_the_last(session, row)
        except IntegrityError:
            raise _taken() from None
        self._sessions.forget()
        return row

    def reset_password(self, user_id: str, password: str, *, actor: Actor = SYSTEM) -> User:
        """Give a new password, and end every session of the old one."""
        _refuse(faults_of(password=password))
        user = self.get_user(user_id)
        if user.username_key == SERVICE_USER:
            raise Conflict("The service user has no password and cannot log in.")
        return self._write(user, {"password_hash": self._passwords.hash(password)}, actor)

    def close_user(self, user_id: str, *, actor: Actor = SYSTEM) -> None:
        """For good: sessions and tokens end, usage stays under the name, and nobody else is ever given that name."""
        with self._db.transaction() as session:
            row = self._locked(session, user_id)
            if row.username_key == SERVICE_USER:
                raise Conflict("The built-in service user cannot be removed; disable it.")
            if _can_administrate(row):
                _refuse_the_last(session, row)
            before, freed = _facts(row), closed_email(row.id)
            columns = {"status": CLOSED, "password_hash": None, "email": freed, "email_key": folded(freed)}
            self._apply(session, row, columns)
            revoke_all_of(session, row.id, now())
            tokens.revoke_all_of(session, row.id, now())
            self._audit.record(session, actor, "user.delete", f"user:{row.id}", before, None)
        self._sessions.forget()

    @staticmethod
    def _locked(session: Session, user_id: str) -> User:
        """An open account, and with it every administrator's: whether one is left is a rule over all of them."""
        repository.lock_users(session)
        repository.lock_user(session, user_id)
        return _found(repository.get_user(session, user_id))

    # -- all of them --------------------------------------------------------------------------------------------------

    def _new(self, username: str, email: str, password: str | None, **columns: Any) -> User:
        """A sound account that is not written yet; its budget is the usual one unless ``columns`` have another."""
        _refuse(faults_of(username=username, email=email, password=password))
        self._refuse_taken(username, email)
        return User(
            id=new_id(),
            username=username,
            username_key=folded(username),
            email=email,
            email_key=folded(email),
            password_hash=None if password is None else self._passwords.hash(password),
            **{"budget_amount": self._default_budget, "budget_period": "month", **columns},
        )

    def _add(self, user: User, actor: Actor, action: str, *, only_the_first: bool = False) -> User:
        try:
            with self._db.transaction() as session:
                if only_the_first:
                    repository.lock_users(session)
                    if repository.count_other_admins(session, user.id):
                        raise Conflict("There is an administrator already; sign in.")
                repository.add_user(session, user)
                self._audit.record(session, actor, action, f"user:{user.id}", None, _facts(user))
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

    def _change(self, session: Session, row: User, columns: Mapping[str, Any], actor: Actor) -> None:
        """Write it, end the sessions that must end, and tell the trail what differs."""
        before = _facts(row)
        self._apply(session, row, columns)
        if row.status in BARRED or "password_hash" in columns:
            revoke_all_of(session, row.id, now())
        old, new = difference(before, _facts(row))
        if "password_hash" in columns:
            new["password"] = MASK
        if new:
            self._audit.record(session, actor, "user.change", f"user:{row.id}", old, new)

    @staticmethod
    def _apply(session: Session, row: User, columns: Mapping[str, Any]) -> None:
        for name, key in UNIQUE.items():
            if key in columns and repository.is_taken(session, key, columns[key], but=row.id):
                raise _taken(name)
        for name, value in columns.items():
            setattr(row, name, value)
        session.flush()


def _checked(changes: UserFields) -> dict[str, Any]:
    """The columns of what only an administrator says."""
    columns: dict[str, Any] = {name: changes[name] for name in ("role", "status") if name in changes}
    if changes.get("role", "user") not in ROLES:
        raise invalid("role", f"must be one of {', '.join(ROLES)}")
    if changes.get("status", ACTIVE) not in STATUSES:
        raise invalid("status", f"must be one of {', '.join(STATUSES)}")
    if "scopes" in changes:
        if unknown := set(changes["scopes"]) - set(SCOPES):
            raise invalid("scopes", f"{min(unknown)!r} is no scope")
        columns["scopes"] = [scope for scope in SCOPES if scope in changes["scopes"]]
    if "budget" in changes:
        columns |= _budget(changes["budget"])
    return columns


def _budget(asked: TokenBudget | None) -> dict[str, Any]:
    if asked is None:
        return {"budget_amount": None}
    if asked["period"] not in PERIODS:
        raise invalid("budget.period", f"must be one of {', '.join(PERIODS)}")
    return {"budget_amount": from_dollars(asked["amount"]), "budget_period": asked["period"]}


def _scopes_of_role(row: User, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The scope ``admin`` comes and goes with the role, unless the scopes are said too."""
    if columns.get("role", row.role) == row.role or "scopes" in columns:
        return {}
    wanted = {*row.scopes, "admin"} if columns["role"] == "admin" else {*row.scopes} - {"admin"}
    return {"scopes": [scope for scope in SCOPES if scope in wanted]}


def _can_administrate(row: User) -> bool:
    return row.role == "admin" and row.status == ACTIVE and row.username_key != SERVICE_USER


def _refuse_the_last(session: Session, row: User) -> None:
    if not repository.count_other_admins(session, row.id):
        raise Conflict("The last administrator cannot be removed or demoted.")


def _facts(row: User) -> dict[str, Any]:
    """An account as the audit trail tells of it."""
    bound = row.budget_amount
    return {
        "username": row.username,
        "email": row.email,
        "role": row.role,
        "scopes": list(row.scopes),
        "status": row.status,
        "budget": None if bound is None else {"amount": to_dollars(bound), "period": row.budget_period},
    }


def _found(user: User | None) -> User:
    if user is None or user.status == CLOSED:
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
