"""API tokens: made and shown once, found by their hash, dead at once when revoked."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from flaskllm.domain import api_token
from flaskllm.domain.account import ACTIVE, BARRED, CLOSED, SERVICE_EMAIL, SERVICE_USER
from flaskllm.domain.api_token import TokenFields
from flaskllm.domain.audit import SYSTEM, Actor, difference
from flaskllm.domain.pricing import from_dollars, to_dollars
from flaskllm.domain.principal import GRANTED_ONLY, PERIODS, SCOPES, Budget, Principal
from flaskllm.errors import (
    Conflict,
    DomainError,
    Forbidden,
    NotFound,
    TokenExpired,
    TokenRevoked,
    Unauthenticated,
    invalid,
)
from flaskllm.models.types import now
from flaskllm.repositories import tokens as repository
from flaskllm.repositories import users
from flaskllm.repositories.database import Database
from flaskllm.repositories.tokens import ApiToken
from flaskllm.repositories.users import User
from flaskllm.services.audit import AuditTrail
from flaskllm.services.recent import Recent
from flaskllm.services.sessions import budgets_of

log = logging.getLogger(__name__)

MOST_LIVE = 100
GRACE_S = 86_400
LONGEST_GRACE_S = 30 * 86_400
USE_NOTED_EVERY = timedelta(seconds=60)
ENVIRONMENT_ID = "environment"
ENVIRONMENT_SCOPES = frozenset({"webhook", "chat"})
NOT_VALID = "The API token is not valid."
SETTINGS = ("drop_params", "cache")
"""What of a token's document stands in its row's ``settings``."""
NOTHING_SET: Mapping[str, Any] = {}
COPIED = ("name", "templates", "models", "requests_per_minute", "tokens_per_minute", "concurrency", "expires_at")


class TokenService:
    """When a token lives, what it may do, and whose it is."""

    def __init__(self, database: Database, *, audit: AuditTrail, environment_token: str | None = None) -> None:
        self._db = database
        self._audit = audit
        self._environment_hash = api_token.hash_of(environment_token) if environment_token else None
        self._recent: Recent[Principal] = Recent()
        self._use_noted: dict[str, float] = {}

    # -- who is calling -----------------------------------------------------------------------------------------------

    def identify(self, token: str) -> Principal:
        """Whose token this is. Raises `TokenExpired`, `TokenRevoked` or `Unauthenticated`."""
        digest = api_token.hash_of(token)
        if self.is_environment_token(token):
            return self._recent.get(digest, self._environment_principal)
        if not api_token.looks_valid(token):
            raise Unauthenticated(NOT_VALID)
        return self._recent.get(digest, lambda: self._load(digest))

    def is_environment_token(self, token: str) -> bool:
        """``API_TOKEN`` is the operator's own text and may look like anything."""
        known = self._environment_hash
        return known is not None and hmac.compare_digest(known, api_token.hash_of(token))

    def principal_of(self, token_id: str) -> Principal:
        """Whom a token speaks for that was accepted before, as of now. Raises as `identify` does."""
        if token_id == ENVIRONMENT_ID:
            return self._recent.get(token_id, self._environment_principal)
        return self._recent.get(token_id, lambda: self._read(token_id))

    def _read(self, token_id: str) -> Principal:
        with self._db.reading() as session:
            row = repository.get_token(session, token_id, owner_id=None)
        return _principal(_live_one(row, row.hash if row else ""))

    def _load(self, digest: str) -> Principal:
        with self._db.reading() as session:
            row = _live_one(repository.find_by_hash(session, digest), digest)
        self._note_use(row)
        return _principal(row)

    def _note_use(self, row: ApiToken) -> None:
        """Once a minute; what fails here never fails the call."""
        at = now()
        if row.last_used_at is not None and at - row.last_used_at < USE_NOTED_EVERY:
            return
        if time.monotonic() - self._use_noted.get(row.id, -1e9) < USE_NOTED_EVERY.total_seconds():
            return
        if len(self._use_noted) > 10_000:
            self._use_noted = {}
        self._use_noted[row.id] = time.monotonic()
        try:
            with self._db.transaction() as session:
                repository.touch(session, row.id, at=at, unless_since=at - USE_NOTED_EVERY)
        except (DomainError, SQLAlchemyError) as error:
            log.warning("the use of a token could not be noted: %s", type(error).__name__)

    def _environment_principal(self) -> Principal:
        return replace(self.service_principal(), scopes=ENVIRONMENT_SCOPES, token_id=ENVIRONMENT_ID)

    def service_principal(self) -> Principal:
        """The built-in user without a token: who speaks where the gateway is used in its own process.

        Raises `Unauthenticated` where an administrator has barred it.
        """
        user = self._service_user()
        if user.status in BARRED:
            raise Unauthenticated(NOT_VALID)
        return Principal(
            user_id=user.id,
            username=user.username,
            scopes=frozenset(user.scopes) - {"admin"},
            budgets=budgets_of(user),
            approved=user.status == ACTIVE,
        )

    # -- the owner's tokens -------------------------------------------------------------------------------------------

    def issue(self, principal: Principal, fields: TokenFields, *, actor: Actor = SYSTEM) -> tuple[ApiToken, str]:
        """A fresh token and its text, which is never seen again."""
        _needs_a_person(principal)
        return self._issue(principal.user_id, fields, actor)

    def issue_for(self, user_id: str, fields: TokenFields, *, actor: Actor = SYSTEM) -> tuple[ApiToken, str]:
        """By an administrator, for somebody; never more than its owner has."""
        return self._issue(user_id, fields, actor)

    def issue_for_user(self, username: str, fields: TokenFields, *, actor: Actor = SYSTEM) -> tuple[ApiToken, str]:
        """The same by the owner's name."""
        with self._db.reading() as session:
            user = users.find_by_name(session, username)
        if user is None:
            raise NotFound("There is no such user.")
        return self._issue(user.id, fields, actor)

    def issue_for_service(
        self, *, name: str, document: TokenFields | Mapping[str, Any], actor: Actor = SYSTEM
    ) -> tuple[ApiToken, str]:
        """By the operator, for no person: owned by the built-in service user."""
        fields: TokenFields = {**document, "name": name}  # type: ignore[typeddict-item]
        return self._issue(self._service_user().id, fields, actor)

    def list(
        self, owner_id: str | None, *, limit: int | None = None, after: str | None = None
    ) -> tuple[Sequence[ApiToken], str | None]:
        """A page, newest first, and where the next one begins; ``owner_id`` None is the operator, who sees all."""
        with self._db.reading() as session:
            if after is not None and repository.get_token(session, after, owner_id=owner_id) is None:
                raise invalid("after", "is not the id of a token")
            most = None if limit is None else limit + 1
            rows = repository.list_tokens(session, owner_id=owner_id, limit=most, after=after)
        if limit is None or len(rows) <= limit:
            return rows, None
        return rows[:limit], rows[limit - 1].id

    def get(self, owner_id: str | None, token_id: str) -> ApiToken:
        with self._db.reading() as session:
            return _found(repository.get_token(session, token_id, owner_id=owner_id))

    def named(self, text: str) -> ApiToken:
        """By id or name, also where it is revoked. Raises `NotFound`, and `Conflict` for a name that several have."""
        with self._db.reading() as session:
            token = repository.get_token(session, text, owner_id=None)
            found = [token] if token else repository.find_by_token_name(session, text, most=2)
        if len(found) > 1:
            raise Conflict("Several tokens have this name.")
        return _found(found[0] if found else None)

    def change(self, principal: Principal, token_id: str, fields: TokenFields, *, actor: Actor = SYSTEM) -> ApiToken:
        _needs_a_person(principal)
        return self.change_any(token_id, fields, owner_id=principal.user_id, actor=actor)

    def change_any(
        self, token_id: str, fields: TokenFields, *, owner_id: str | None = None, actor: Actor = SYSTEM
    ) -> ApiToken:
        """By the operator, or of this owner."""
        with self._db.transaction() as session:
            row = self._live(session, owner_id, token_id)
            before = _facts(row)
            for name, value in _columns(fields, row.user, row.settings).items():
                setattr(row, name, value)
            old, new = difference(before, _facts(row))
            if new:
                self._audit.record(session, actor, "token.change", f"token:{row.id}", old, new)
        self._recent.forget()
        return row

    def revoke(self, principal: Principal, token_id: str, *, actor: Actor = SYSTEM) -> None:
        _needs_a_person(principal)
        self.revoke_any(token_id, owner_id=principal.user_id, actor=actor)

    def revoke_any(self, token_id: str, *, owner_id: str | None = None, actor: Actor = SYSTEM) -> None:
        """By the operator, or of this owner; revoking twice keeps the first moment."""
        with self._db.transaction() as session:
            row = self._locked(session, owner_id, token_id)
            if row.revoked_at is None:
                row.revoked_at = now()
                self._audit.record(session, actor, "token.revoke", f"token:{row.id}", _facts(row), None)
        self._recent.forget()

    def rotate(
        self, principal: Principal, token_id: str, *, grace_s: int = GRACE_S, actor: Actor = SYSTEM
    ) -> tuple[ApiToken, str]:
        """A new text for the same token; the old one works on for ``grace_s``, the one before it no more."""
        _needs_a_person(principal)
        return self.rotate_any(token_id, grace_s=grace_s, owner_id=principal.user_id, actor=actor)

    def rotate_any(
        self, token_id: str, *, grace_s: int = GRACE_S, owner_id: str | None = None, actor: Actor = SYSTEM
    ) -> tuple[ApiToken, str]:
        """By the operator, or of this owner."""
        if not 0 <= grace_s <= LONGEST_GRACE_S:
            raise invalid("grace_s", f"must be 0 to {LONGEST_GRACE_S}")
        token = api_token.make()
        with self._db.transaction() as session:
            row = self._live(session, owner_id, token_id)
            before = {"last4": row.last4}
            row.previous_hash = row.hash if grace_s else None
            row.previous_until = now() + timedelta(seconds=grace_s) if grace_s else None
            _show(row, token)
            after = {"last4": row.last4, "grace_s": grace_s}
            self._audit.record(session, actor, "token.rotate", f"token:{row.id}", before, after)
        self._recent.forget()
        return row, token

    # -- below --------------------------------------------------------------------------------------------------------

    def _issue(self, owner_id: str, fields: TokenFields, actor: Actor) -> tuple[ApiToken, str]:
        token = api_token.make()
        with self._db.transaction() as session:
            users.lock_user(session, owner_id)
            owner = users.get_user(session, owner_id)
            if owner is None or owner.status == CLOSED:
                raise NotFound("There is no such user.")
            if repository.count_live(session, owner_id, now()) >= MOST_LIVE:
                raise Conflict(f"There are {MOST_LIVE} live tokens already; revoke one first.")
            given: TokenFields = {"scopes": None, **fields}
            row = ApiToken(user_id=owner_id, **_columns(given, owner))
            _show(row, token)
            row.user = owner
            repository.add_token(session, row)
            self._audit.record(session, actor, "token.create", f"token:{row.id}", None, _facts(row))
        return row, token

    @staticmethod
    def _locked(session: Session, owner_id: str | None, token_id: str) -> ApiToken:
        repository.lock_token(session, token_id)
        return _found(repository.get_token(session, token_id, owner_id=owner_id))

    def _live(self, session: Session, owner_id: str | None, token_id: str) -> ApiToken:
        row = self._locked(session, owner_id, token_id)
        if not row.is_live(now()):
            raise Conflict("The token was revoked or has expired; make a new one.")
        return row

    def _service_user(self) -> User:
        """The built-in user, made where it is first needed; of two processes one makes it."""
        with self._db.reading() as session:
            user = users.find_by_name(session, SERVICE_USER)
        if user is not None:
            return user
        try:
            with self._db.transaction() as session:
                users.add_user(session, _new_service_user())
        except IntegrityError:
            log.info("another process has made the service user")
        return self._service_user()


def _new_service_user() -> User:
    """No password, so that nobody logs in; every scope, since its tokens are the operator's, each with its own."""
    return User(
        username=SERVICE_USER,
        username_key=SERVICE_USER,
        email=SERVICE_EMAIL,
        email_key=SERVICE_EMAIL,
        role="admin",
        scopes=list(SCOPES),
    )


def _needs_a_person(principal: Principal) -> None:
    """A token that could make tokens would have no limits: it could give itself better ones."""
    if principal.token_id is not None and not principal.is_admin:
        raise Forbidden("An API token cannot make or change tokens; log in.")


def _show(row: ApiToken, token: str) -> None:
    row.hash = api_token.hash_of(token)
    row.prefix = api_token.shown_start(token)
    row.last4 = api_token.last4(token)


def _facts(row: ApiToken) -> dict[str, Any]:
    """A token as the audit trail tells of it: by its first and last characters."""
    bound = row.budget_amount
    return {name: getattr(row, name) for name in COPIED} | {
        "user_id": row.user_id,
        "last4": row.last4,
        "scopes": list(row.scopes),
        "budget": None if bound is None else {"amount": to_dollars(bound), "period": row.budget_period},
        "allowed_ips": list(row.allowed_ips or ()),
        "tags": list(row.tags or ()),
        **{name: bool((row.settings or {}).get(name)) for name in SETTINGS},
    }


def _columns(fields: TokenFields, owner: User, settings: Mapping[str, Any] = NOTHING_SET) -> dict[str, Any]:
    """The row's columns for what was said; what was not said stays as it is."""
    given: Mapping[str, Any] = fields
    columns: dict[str, Any] = {name: given[name] for name in COPIED if name in given}
    if "scopes" in given:
        columns["scopes"] = _scopes(given["scopes"], owner)
    if "budget" in given:
        columns |= _budget(given["budget"])
    if given.get("expires_at") is not None and given["expires_at"] <= now():
        raise invalid("expires_at", "must lie in the future")
    if not given.keys().isdisjoint(SETTINGS):
        columns["settings"] = {**settings, **{name: given[name] for name in SETTINGS if name in given}}
    return columns | {name: list(given[name]) for name in ("allowed_ips", "tags") if name in given}


def _scopes(asked: Sequence[str] | None, owner: User) -> list[str]:
    """What is asked for, never beyond the owner; without a word the owner's, less what is only ever granted."""
    if asked is None:
        return [scope for scope in owner.scopes if scope not in GRANTED_ONLY]
    if unknown := set(asked) - set(SCOPES):
        raise invalid("scopes", f"{min(unknown)!r} is no scope")
    if beyond := set(asked) - set(owner.scopes):
        words = f"{min(beyond)!r} is beyond what the account may do"
        raise Forbidden(f"scopes: {words}", details=[{"field": "scopes", "message": words}])
    return [scope for scope in SCOPES if scope in asked]


def _budget(asked: Mapping[str, Any] | None) -> dict[str, Any]:
    if asked is None:
        return {"budget_amount": None, "budget_period": None}
    if asked["period"] not in PERIODS:
        raise invalid("budget.period", f"must be one of {', '.join(PERIODS)}")
    try:
        return {"budget_amount": from_dollars(asked["amount"]), "budget_period": asked["period"]}
    except ValueError:
        raise invalid("budget.amount", "must be an amount in US dollars") from None


def _live_one(row: ApiToken | None, digest: str) -> ApiToken:
    """Raises `Unauthenticated`, `TokenRevoked` or `TokenExpired`."""
    at = now()
    if row is None or row.user.status in BARRED:
        raise Unauthenticated(NOT_VALID)
    if row.revoked_at is not None or (row.hash != digest and (not row.previous_until or row.previous_until <= at)):
        raise TokenRevoked("The API token was revoked.")
    if row.expires_at is not None and row.expires_at <= at:
        raise TokenExpired("The API token has expired.")
    return row


def _found(token: ApiToken | None) -> ApiToken:
    if token is None:
        raise NotFound("There is no such token.")
    return token


def _principal(row: ApiToken) -> Principal:
    owner = row.user
    own_budget: tuple[Budget, ...] = ()
    if row.budget_amount is not None:
        own_budget = (Budget(f"token:{row.id}", row.budget_amount, row.budget_period or "total"),)
    return Principal(
        user_id=owner.id,
        username=owner.username,
        role=owner.role,
        scopes=frozenset(row.scopes) & frozenset(owner.scopes),
        token_id=row.id,
        models=_tuple(row.models),
        templates=_tuple(row.templates),
        requests_per_minute=row.requests_per_minute,
        tokens_per_minute=row.tokens_per_minute,
        concurrency=row.concurrency,
        budgets=own_budget + budgets_of(owner),
        allowed_ips=tuple(row.allowed_ips),
        tags=tuple(row.tags),
        drop_params=bool(row.settings.get("drop_params")),
        cache=bool(row.settings.get("cache")),
        approved=owner.status == ACTIVE,
    )


def _tuple(values: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)
