"""What administrators read and write: every account, every token, and the audit trail."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

from marshmallow import Schema, fields

from flaskllm.domain.account import CLOSED, ROLES, STATUSES, UserFields
from flaskllm.domain.api_token import TokenFields
from flaskllm.domain.pricing import to_dollars
from flaskllm.domain.principal import PERIODS, SCOPES
from flaskllm.errors import invalid
from flaskllm.wire import accounts
from flaskllm.wire.accounts import BudgetSchema, TokenSchema, write_token, write_user
from flaskllm.wire.fields import Choice, Several, Text, load
from flaskllm.wire.shapes import ANY_OBJECT, COUNT, MOMENT, STRING, maybe, one_of, record
from flaskllm.wire.usage import read_span

ALL_STATUSES = (*STATUSES, CLOSED)
HIGHEST_NUMBER = 999_999_999
"""Of a row of the trail that a list may begin after."""


class _User(Schema):
    # Only types and bounds: what a good name or password is, the service knows, for the command line too.
    username = Text(most=254, required=True)
    email = Text(most=254, required=True)
    password = Text(most=256)
    role = Choice(*ROLES)
    scopes = Several(Choice(*SCOPES), most=len(SCOPES))
    status = Choice(*STATUSES)
    budget = fields.Nested(BudgetSchema, allow_none=True)


class _TokenFor(TokenSchema):
    user_id = Text(least=1, most=64, required=True)


NEW_USER, USER_CHANGES, NEW_TOKEN = _User(), _User(partial=("username", "email")), _TokenFor()

BUDGET = record("Budget", amount={"type": "number", "minimum": 0}, period=one_of(*PERIODS))
USER = record("FullAccount", **accounts.USER["properties"], status=one_of(*ALL_STATUSES), budget=maybe(BUDGET))
OWNED = {**accounts.TOKEN_SHOWN["properties"], "user": record(id=STRING, username=STRING)}
TOKEN = record("AnyToken", **OWNED)
MADE_TOKEN = record("AnyNewToken", token=STRING, **OWNED)
ENTRY = record(
    "AuditEntry",
    number=COUNT,
    at=MOMENT,
    actor=record(id=maybe(STRING), name=STRING),
    action=STRING,
    target=STRING,
    address=maybe(STRING),
    request_id=maybe(STRING),
    before=maybe(ANY_OBJECT),
    after=maybe(ANY_OBJECT),
    mac=STRING,
)


class NewUser(NamedTuple):
    """An account to be made, as it was asked for; ``fields`` holds what nobody says of themselves."""

    username: str
    email: str
    password: str | None
    fields: UserFields


# -- accounts ---------------------------------------------------------------------------------------------------------


def read_new_user(body: dict[str, Any]) -> NewUser:
    said = load(NEW_USER, body)
    username, email, password = said.pop("username"), said.pop("email"), said.pop("password", None)
    return NewUser(username, email, password, cast("UserFields", said))


def read_user_changes(body: dict[str, Any]) -> UserFields:
    return cast("UserFields", load(USER_CHANGES, body))


def read_user_filters(given: Mapping[str, str]) -> dict[str, str]:
    """``search``, ``role`` and ``status`` of a list of accounts."""
    for name, words in (("role", ROLES), ("status", ALL_STATUSES)):
        if given.get(name, words[0]) not in words:
            raise invalid(name, f"must be one of {', '.join(words)}")
    return dict(given)


def write_account(user: Any) -> dict[str, Any]:
    bound = user.budget_amount
    budget = None if bound is None else {"amount": to_dollars(bound), "period": user.budget_period}
    return {**write_user(user), "status": user.status, "budget": budget}


def write_accounts(users: Iterable[Any]) -> list[dict[str, Any]]:
    return [write_account(user) for user in users]


# -- tokens -----------------------------------------------------------------------------------------------------------


def read_new_token(body: dict[str, Any]) -> tuple[str, TokenFields]:
    """Whose token it will be, and what it may do."""
    said = load(NEW_TOKEN, body)
    return said.pop("user_id"), cast("TokenFields", said)


def write_any_token(token: Any, *, text: str | None = None) -> dict[str, Any]:
    """A token with its owner; ``text`` is its secret, shown this once."""
    return {**write_token(token, text=text), "user": {"id": token.user.id, "username": token.user.username}}


def write_any_tokens(tokens: Iterable[Any]) -> list[dict[str, Any]]:
    return [write_any_token(token) for token in tokens]


# -- the audit trail --------------------------------------------------------------------------------------------------


def read_audit_filters(given: Mapping[str, str]) -> dict[str, Any]:
    """``actor``, ``action`` and ``target`` as they are; ``from`` and ``to`` as milliseconds since 1970."""
    since, until = read_span(given)
    plain = {name: given[name] for name in ("actor", "action", "target") if name in given}
    return {**plain, "since": _milliseconds(since), "until": _milliseconds(until)}


def write_entries(rows: Iterable[Any]) -> list[dict[str, Any]]:
    return [_entry(row) for row in rows]


def _entry(row: Any) -> dict[str, Any]:
    at = datetime.fromtimestamp(row.at / 1000, UTC)
    return {
        "number": row.number,
        "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "actor": {"id": row.actor_id, "name": row.actor_name},
        "action": row.action,
        "target": row.target,
        "address": row.address,
        "request_id": row.request_id,
        "before": None if row.before is None else json.loads(row.before),
        "after": None if row.after is None else json.loads(row.after),
        "mac": row.mac,
    }


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
