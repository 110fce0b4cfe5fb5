"""``flask users …``, ``flask tokens …`` and ``flask dev-token``."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask

from flaskllm.domain import api_token
from flaskllm.errors import Unauthenticated
from tests.conftest import MakeApp
from tests.people import NEW_PASSWORD, PASSWORD


def flask(app: Flask, *arguments: str, typed: str | None = None, status: int = 0) -> Result:
    result = app.test_cli_runner().invoke(args=list(arguments), input=typed)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result


def make_user(app: Flask, name: str = "alice", *more: str) -> str:
    made = flask(app, "users", "create", name, f"{name}@example.com", "--password-stdin", *more, typed=PASSWORD + "\n")
    return made.stdout.strip()


# -- users ------------------------------------------------------------------------------------------------------------


def test_a_user_is_made_with_a_password_from_standard_input(app: Flask):
    user_id = make_user(app)
    user = app.extensions["flaskllm"].accounts.login("alice", PASSWORD).user
    assert (user.id, user.role, user.status) == (user_id, "user", "active")


def test_a_password_is_asked_for_twice_and_not_shown(app: Flask):
    typed = f"{PASSWORD}\n{PASSWORD}\n"
    result = flask(app, "users", "create", "alice", "alice@example.com", typed=typed)
    assert PASSWORD not in result.output
    assert app.extensions["flaskllm"].accounts.login("alice", PASSWORD)


def test_an_administrator_is_made_on_the_command_line(app: Flask):
    make_user(app, "root", "--admin")
    accounts = app.extensions["flaskllm"].accounts
    assert accounts.identify(accounts.login("root", PASSWORD).access_token).is_admin


@pytest.mark.parametrize("name, password", [("a", PASSWORD), ("alice", "weak")])
def test_what_the_rules_refuse_is_told_in_a_line(app: Flask, name: str, password: str):
    result = flask(app, "users", "create", name, "a@b.cd", "--password-stdin", typed=password + "\n", status=1)
    assert result.stderr.startswith("Error: ")
    assert password not in result.stderr


def test_users_are_listed_for_people_and_for_programs(app: Flask):
    user_id = make_user(app)
    assert "alice@example.com" in flask(app, "users", "list").stdout
    listed = json.loads(flask(app, "users", "list", "--json").stdout)
    assert [(row["id"], row["status"]) for row in listed] == [(user_id, "active")]


def test_a_disabled_user_is_let_in_again_by_approval(app: Flask):
    make_user(app)
    accounts = app.extensions["flaskllm"].accounts
    flask(app, "users", "disable", "alice")
    with pytest.raises(Unauthenticated):
        accounts.login("alice", PASSWORD)
    flask(app, "users", "approve", "alice")
    assert accounts.login("alice", PASSWORD)


def test_the_last_administrator_is_not_disabled(app: Flask):
    make_user(app, "root", "--admin")
    assert "last administrator" in flask(app, "users", "disable", "root", status=1).stderr


def test_a_password_is_given_anew(app: Flask):
    make_user(app)
    flask(app, "users", "reset-password", "alice", "--password-stdin", typed=NEW_PASSWORD + "\n")
    assert app.extensions["flaskllm"].accounts.login("alice", NEW_PASSWORD)


def test_who_does_not_exist_is_told_in_a_line(app: Flask):
    for command in ("approve", "disable"):
        assert flask(app, "users", command, "nobody", status=1).stderr == "Error: There is no such user.\n"


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_a_token_stands_alone_on_standard_output(app: Flask):
    token = flask(app, "tokens", "create", "ci").stdout
    assert api_token.looks_valid(token.rstrip("\n"))
    principal = app.extensions["flaskllm"].tokens.identify(token.strip())
    assert principal.username == "service"
    assert principal.scopes == {"chat", "embeddings", "images", "batch", "webhook"}


def test_a_token_is_limited_as_asked(app: Flask):
    make_user(app)
    made = flask(
        app, "tokens", "create", "t", "--user", "alice", "--scope", "chat", "--scope", "webhook", "--model", "gpt-4o",
        "--template", "summary", "--rpm", "5", "--budget", "1.5", "--period", "day", "--expires", "30d",
    )  # fmt: skip
    principal = app.extensions["flaskllm"].tokens.identify(made.stdout.strip())
    assert (principal.username, principal.scopes, principal.models) == ("alice", {"chat", "webhook"}, ("gpt-4o",))
    assert (principal.templates, principal.requests_per_minute) == (("summary",), 5)
    assert (principal.budgets[0].amount, principal.budgets[0].period) == (1_500_000_000, "day")


@pytest.mark.parametrize(
    "option",
    [("--scope", "everything"), ("--budget", "-1"), ("--budget", "much"), ("--budget", "NaN"), ("--expires", "soon"),
     ("--expires", "30"), ("--rpm", "0"), ("--period", "year")],
)  # fmt: skip
def test_an_option_that_makes_no_sense_is_refused(app: Flask, option: tuple[str, str]):
    assert option[0] in flask(app, "tokens", "create", "t", *option, status=2).stderr


def test_a_token_for_nobody_is_refused(app: Flask):
    assert flask(app, "tokens", "create", "t", "--user", "nobody", status=1).stdout == ""


def test_a_name_cannot_write_on_the_terminal_beside_its_own_line(app: Flask):
    flask(app, "tokens", "create", "x\x1b]0;pwn\x07\nfl_another\u202e\x9b2J", "--scope", "chat")
    listed = flask(app, "tokens", "list").stdout
    assert listed.count("\n") == 1
    assert listed.strip("\n").isprintable()
    assert r"x\x1b]0;pwn\x07\nfl_another\u202e\x9b2J" in listed


def test_tokens_are_listed_without_themselves(app: Flask):
    token = flask(app, "tokens", "create", "ci").stdout.strip()
    for listed in (flask(app, "tokens", "list").stdout, flask(app, "tokens", "list", "--json").stdout):
        assert token[-4:] in listed
        assert token not in listed
    assert json.loads(flask(app, "tokens", "list", "--json", "--user", "service").stdout)[0]["state"] == "live"


def test_a_token_is_revoked(app: Flask):
    token = flask(app, "tokens", "create", "ci").stdout.strip()
    token_id = json.loads(flask(app, "tokens", "list", "--json").stdout)[0]["id"]
    flask(app, "tokens", "revoke", token_id)
    with pytest.raises(Unauthenticated):
        app.extensions["flaskllm"].tokens.identify(token)
    assert "revoked" in flask(app, "tokens", "list").stdout
    flask(app, "tokens", "rotate", token_id, status=1)


def test_a_token_is_rotated(app: Flask):
    old = flask(app, "tokens", "create", "ci").stdout.strip()
    token_id = json.loads(flask(app, "tokens", "list", "--json").stdout)[0]["id"]
    new = flask(app, "tokens", "rotate", token_id, "--grace", "0").stdout.strip()
    tokens = app.extensions["flaskllm"].tokens
    assert tokens.identify(new).token_id == token_id
    with pytest.raises(Unauthenticated):
        tokens.identify(old)


# -- development ------------------------------------------------------------------------------------------------------


def test_the_development_token_works_and_stays_the_same(app: Flask):
    first = flask(app, "dev-token").stdout.strip()
    assert flask(app, "dev-token").stdout.strip() == first
    principal = app.extensions["flaskllm"].tokens.identify(first)
    assert principal.scopes == {"chat", "embeddings", "images", "batch", "webhook"}
    kept = Path(app.instance_path) / "dev-token"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_a_development_token_that_died_is_made_anew(app: Flask):
    first = flask(app, "dev-token").stdout.strip()
    tokens = app.extensions["flaskllm"].tokens
    tokens.revoke_any(tokens.identify(first).token_id)
    second = flask(app, "dev-token").stdout.strip()
    assert second != first
    assert tokens.identify(second)


@pytest.mark.parametrize("found", [b"", b"\xff\xfe", b"nothing of the kind"])
def test_whatever_stands_in_its_file_a_development_token_comes(app: Flask, found: bytes):
    (Path(app.instance_path) / "dev-token").write_bytes(found)
    assert api_token.looks_valid(flask(app, "dev-token").stdout.strip())


def test_there_is_no_development_token_in_production(make_app: MakeApp):
    app = make_app(
        ENVIRONMENT="production", SECRET_KEY="aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xY",
        JWT_SECRET_KEY="bC4eF6gH8jK0lM2nP3qR5sT7uV9wX1yZ",
        LLM_GATEWAY_ENCRYPTION_KEY="cD5fG7hJ9kL1mN3pQ4rS6tU8vW0xY2zA", API_TOKEN="dE6gH8jK0lM2nP4qR5sT7uV9wX1yZ3aB",
    )  # fmt: skip
    assert flask(app, "dev-token", status=1).stdout == ""
