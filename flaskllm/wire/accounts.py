"""S1's documents of accounts and tokens: register, log in, profile, API tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from marshmallow import Schema, fields

from flaskllm.domain.account import ROLES, ProfileFields
from flaskllm.domain.api_token import TokenFields
from flaskllm.domain.pricing import to_dollars
from flaskllm.domain.principal import PERIODS, SCOPES
from flaskllm.wire import shapes
from flaskllm.wire.fields import Choice, Dollars, Flag, Moment, Network, Several, Text, Whole, iso, load

MOST_RATE = 2**31 - 1
LONGEST_REFRESH = 4096


class _Registration(Schema):
    # Only types and bounds: what a good name or password is, the service knows, for the command line too.
    username = Text(most=254, required=True)
    email = Text(most=254, required=True)
    password = Text(most=256, required=True)


class _Login(Schema):
    username = Text(most=254, required=True)
    password = Text(most=256, required=True)


class _Refresh(Schema):
    refresh_token = Text(most=LONGEST_REFRESH)


class _Profile(Schema):
    username = Text(most=254)
    email = Text(most=254)
    password = Text(most=256)
    old_password = Text(most=256)


class BudgetSchema(Schema):
    amount = Dollars(required=True)
    period = Choice(*PERIODS, required=True)


class TokenSchema(Schema):
    name = Text(least=1, most=128, required=True)
    scopes = Several(Choice(*SCOPES), least=1, most=len(SCOPES))
    models = Several(Text(least=1, most=200), most=200, allow_none=True)
    templates = Several(Text(least=1, most=128), most=200, allow_none=True)
    requests_per_minute = Whole(least=1, most=MOST_RATE, allow_none=True)
    tokens_per_minute = Whole(least=1, most=MOST_RATE, allow_none=True)
    concurrency = Whole(least=1, most=100_000, allow_none=True)
    budget = fields.Nested(BudgetSchema, allow_none=True)
    expires_at = Moment(allow_none=True)
    allowed_ips = Several(Network(), most=100)
    tags = Several(Text(least=1, most=64), most=16)
    drop_params = Flag()
    cache = Flag()


class _Rotation(Schema):
    grace_s = Whole(least=0, most=30 * 86_400)


REGISTRATION, LOGIN, REFRESH, PROFILE = _Registration(), _Login(), _Refresh(), _Profile()
TOKEN, TOKEN_CHANGES, ROTATION = TokenSchema(), TokenSchema(partial=("name",)), _Rotation()


USER = shapes.record(
    "Account",
    id=shapes.STRING,
    username=shapes.STRING,
    email=shapes.STRING,
    role=shapes.one_of(*ROLES),
    scopes=shapes.several(shapes.one_of(*SCOPES)),
    created_at=shapes.MOMENT,
)
REGISTERED = shapes.success(shapes.record(user=USER))
PROFILE_READ = shapes.success(USER)
LOGGED_OUT = shapes.success(shapes.record())
LOGGED_IN = shapes.success(
    shapes.record(
        "Login",
        access_token=shapes.STRING,
        refresh_token=shapes.STRING,
        token_type={"const": "Bearer"},
        expires_in={"type": "integer", "description": "seconds until the access token ends"},
        user=USER,
    )
)
_TOKEN_FIELDS = {
    "id": shapes.STRING,
    "prefix": shapes.STRING,
    "last4": shapes.STRING,
    "name": shapes.STRING,
    "scopes": shapes.several(shapes.one_of(*SCOPES)),
    "models": shapes.maybe(shapes.several(shapes.STRING)),
    "templates": shapes.maybe(shapes.several(shapes.STRING)),
    "requests_per_minute": shapes.maybe(shapes.WHOLE),
    "tokens_per_minute": shapes.maybe(shapes.WHOLE),
    "concurrency": shapes.maybe(shapes.WHOLE),
    "budget": shapes.maybe(shapes.record(amount={"type": "number"}, period=shapes.one_of(*PERIODS))),
    "expires_at": shapes.maybe(shapes.MOMENT),
    "allowed_ips": shapes.several(shapes.STRING),
    "tags": shapes.several(shapes.STRING),
    "drop_params": shapes.FLAG,
    "cache": shapes.FLAG,
    "created_at": shapes.MOMENT,
    "last_used_at": shapes.maybe(shapes.MOMENT),
    "revoked_at": shapes.maybe(shapes.MOMENT),
}
TOKEN_SHOWN = shapes.record("ApiToken", **_TOKEN_FIELDS)
TOKEN_READ = shapes.success(TOKEN_SHOWN)
TOKEN_MADE = shapes.success(
    shapes.record(
        "NewApiToken", token={"type": "string", "description": "the secret, shown this once"}, **_TOKEN_FIELDS
    )
)
TOKEN_LIST = shapes.listing(TOKEN_SHOWN)
"""The answers' forms, for ``/openapi.json``."""


def read_registration(body: dict[str, Any]) -> dict[str, str]:
    return load(REGISTRATION, body)


def read_login(body: dict[str, Any]) -> dict[str, str]:
    return load(LOGIN, body)


def read_refresh(body: dict[str, Any]) -> str | None:
    """The refresh token, where it stands in the body."""
    return load(REFRESH, body).get("refresh_token")


def read_profile(body: dict[str, Any]) -> tuple[ProfileFields, str | None]:
    """The changes, and the old password that some of them need."""
    changes = load(PROFILE, body)
    old_password = changes.pop("old_password", None)
    return cast("ProfileFields", changes), old_password


def read_token(body: dict[str, Any]) -> TokenFields:
    return cast("TokenFields", load(TOKEN, body))


def read_token_changes(body: dict[str, Any]) -> TokenFields:
    return cast("TokenFields", load(TOKEN_CHANGES, body))


def read_rotation(body: dict[str, Any]) -> dict[str, int]:
    return load(ROTATION, body)


def write_user(user: Any) -> dict[str, Any]:
    return {
        "id": user.id,
        "username": user.username,
        "email": user.email,
        "role": user.role,
        "scopes": list(user.scopes),
        "created_at": iso(user.created_at),
    }


def write_login(login: Any) -> dict[str, Any]:
    return {
        "access_token": login.access_token,
        "refresh_token": login.refresh_token,
        "token_type": "Bearer",
        "expires_in": login.expires_in,
        "user": write_user(login.user),
    }


def write_token(token: Any, *, text: str | None = None) -> dict[str, Any]:
    """A token's document; ``text`` is its secret, shown this once."""
    shown = {} if text is None else {"token": text}
    return {"id": token.id, **shown, "prefix": token.prefix, "last4": token.last4} | {
        "name": token.name,
        "scopes": list(token.scopes),
        "models": token.models,
        "templates": token.templates,
        "requests_per_minute": token.requests_per_minute,
        "tokens_per_minute": token.tokens_per_minute,
        "concurrency": token.concurrency,
        "budget": _budget(token),
        "expires_at": iso(token.expires_at),
        "allowed_ips": list(token.allowed_ips),
        "tags": list(token.tags),
        "drop_params": bool(token.settings.get("drop_params")),
        "cache": bool(token.settings.get("cache")),
        "created_at": iso(token.created_at),
        "last_used_at": iso(token.last_used_at),
        "revoked_at": iso(token.revoked_at),
    }


def write_tokens(tokens: Iterable[Any]) -> list[dict[str, Any]]:
    return [write_token(token) for token in tokens]


def _budget(token: Any) -> dict[str, Any] | None:
    if token.budget_amount is None:
        return None
    return {"amount": to_dollars(token.budget_amount), "period": token.budget_period}
