"""S1's documents of accounts and tokens."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from flaskllm.errors import InvalidRequest
from flaskllm.models.account import ApiToken, User
from flaskllm.services.sessions import Login
from flaskllm.wire import accounts as wire

AT = datetime(2026, 11, 21, 8, 0, 0, 123456, tzinfo=UTC)
REGISTRATION = {"username": "user", "email": "user@example.com", "password": "Password123"}


def faults(read: Any, body: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidRequest) as refused:
        read(body)
    return [detail["field"] for detail in refused.value.details]


def test_the_seeds_registration_is_read():
    assert wire.read_registration(REGISTRATION) == REGISTRATION


@pytest.mark.parametrize("field", ["username", "email", "password"])
@pytest.mark.parametrize("value", [None, [], {}, 7, True, {"$ne": None}, "a\x00", "x" * 300])
def test_fields_of_a_registration_are_bounded_texts(field: str, value: Any):
    assert faults(wire.read_registration, {**REGISTRATION, field: value}) == [field]


@pytest.mark.parametrize("extra", ["role", "id", "email_verified", "created_at", "status", "scopes"])
def test_nobody_assigns_what_is_not_theirs(extra: str):
    assert faults(wire.read_registration, {**REGISTRATION, extra: "admin"}) == [extra]
    assert faults(wire.read_profile, {extra: "admin"}) == [extra]


@pytest.mark.parametrize("value", [None, True, ["alice"], {"$ne": None}, 0])
def test_fields_of_a_login_are_texts(value: Any):
    assert faults(wire.read_login, {"username": value, "password": value}) == ["username", "password"]


@pytest.mark.parametrize("value", [None, 0, {}, "x" * 100_000])
def test_what_is_no_refresh_token_is_named(value: Any):
    assert faults(wire.read_refresh, {"refresh_token": value}) == ["refresh_token"]


def test_the_old_password_stands_apart_from_the_changes():
    assert wire.read_profile({"email": "a@b.cd", "old_password": "x"}) == ({"email": "a@b.cd"}, "x")
    assert wire.read_profile({}) == ({}, None)


def test_a_whole_token_document_is_read():
    assert wire.read_token(
        {
            "name": "t", "scopes": ["chat"], "models": ["m"], "templates": None, "requests_per_minute": 5,
            "tokens_per_minute": None, "concurrency": 1, "budget": {"amount": 0.1, "period": "day"},
            "expires_at": "2026-11-21T09:00:00+01:00", "allowed_ips": ["10.0.0.0/8"], "tags": ["x"],
        }
    ) == {
        "name": "t", "scopes": ["chat"], "models": ["m"], "templates": None, "requests_per_minute": 5,
        "tokens_per_minute": None, "concurrency": 1, "budget": {"amount": Decimal("0.1"), "period": "day"},
        "expires_at": datetime(2026, 11, 21, 8, tzinfo=UTC), "allowed_ips": ["10.0.0.0/8"], "tags": ["x"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "field, value",
    [("scopes", "chat"), ("scopes", []), ("scopes[0]", ["/*"]), ("owner_id", "b"),
     ("budget.amount", {"amount": -1, "period": "day"}),
     ("budget.period", {"amount": 1}), ("budget", 5), ("requests_per_minute", 2**63), ("requests_per_minute", 0),
     ("requests_per_minute", "5"), ("expires_at", "9999-12-31T23:59:59+99:99"), ("allowed_ips[0]", ["10.0.0.1/33"]),
     ("allowed_ips[0]", ["fe80::1%eth0"]), ("tags", ["x"] * 17), ("name", ""),
     ("token", "fl_x"), ("hash", "x"), ("id", "x")],
)  # fmt: skip
def test_what_makes_no_sense_in_a_token_is_named(field: str, value: Any):
    name = field.partition(".")[0].partition("[")[0]
    assert faults(wire.read_token, {"name": "t", name: value}) == [field]
    assert faults(wire.read_token_changes, {name: value}) == [field]


def test_a_new_token_needs_a_name_and_a_change_does_not():
    assert faults(wire.read_token, {}) == ["name"]
    assert wire.read_token_changes({}) == {}


@pytest.mark.parametrize("value", [-1, "1", 1.5, 10**9, None])
def test_a_grace_is_a_bounded_whole_number(value: Any):
    assert faults(wire.read_rotation, {"grace_s": value}) == ["grace_s"]


def a_user() -> User:
    return User(
        id="u", username="ada", email="a@b.cd", role="user", scopes=["chat"], created_at=AT, password_hash="secret"
    )


def test_an_account_is_written_without_its_secrets():
    assert wire.write_user(a_user()) == {
        "id": "u", "username": "ada", "email": "a@b.cd", "role": "user", "scopes": ["chat"],
        "created_at": "2026-11-21T08:00:00Z",
    }  # fmt: skip


def test_a_login_is_written():
    written = wire.write_login(Login(a_user(), "a.b.c", "fl_refresh", 900))
    assert {name: written[name] for name in ("access_token", "refresh_token", "token_type", "expires_in")} == {
        "access_token": "a.b.c", "refresh_token": "fl_refresh", "token_type": "Bearer", "expires_in": 900,
    }  # fmt: skip
    assert written["user"]["username"] == "ada"


def test_a_token_is_written_with_its_text_only_when_it_is_made():
    row = ApiToken(
        id="t", name="n", hash="h", prefix="fl_abcde", last4="wxyz", scopes=["chat"], allowed_ips=[], tags=[],
        settings={}, budget_amount=1_500_000_000, budget_period="day", created_at=AT,
    )  # fmt: skip
    written = wire.write_token(row)
    assert written["budget"] == {"amount": 1.5, "period": "day"}
    assert (written["prefix"], written["last4"], written["created_at"]) == ("fl_abcde", "wxyz", "2026-11-21T08:00:00Z")
    assert not {"token", "hash", "previous_hash"} & set(written)
    assert wire.write_token(row, text="fl_secret") == {**written, "token": "fl_secret"}
