"""``flask users …``, ``tokens …``, ``dev-token`` and ``setup-code``; and the other modules' commands."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import AppGroup, with_appcontext

from flaskllm.cli_batch import register_batch_commands
from flaskllm.cli_catalogue import register_catalogue_commands
from flaskllm.cli_demo import register_demo_command
from flaskllm.cli_errors import told_plainly
from flaskllm.cli_usage import register_usage_commands
from flaskllm.cli_worker import register_worker_command
from flaskllm.domain.account import DISABLED
from flaskllm.domain.api_token import TokenFields
from flaskllm.domain.audit import at_the_shell
from flaskllm.domain.principal import PERIODS, SCOPES
from flaskllm.domain.text import on_one_line
from flaskllm.errors import DomainError
from flaskllm.extensions import services
from flaskllm.models.types import now
from flaskllm.services.tokens import GRACE_S, LONGEST_GRACE_S
from flaskllm.wire.accounts import write_token, write_user

DEV_TOKEN_FILE = "dev-token"  # noqa: S105
DEV_TOKEN_SCOPES = ("chat", "embeddings", "images", "batch", "webhook")

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
password_option = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
users_group = AppGroup("users", help="Make, see and change accounts.")
tokens_group = AppGroup("tokens", help="Make, see and revoke API tokens.")
audit_group = AppGroup("audit", help="The trail of who changed what.")


def register_commands(app: Flask) -> None:
    """Give an application its command line."""
    app.cli.add_command(users_group)
    app.cli.add_command(tokens_group)
    app.cli.add_command(audit_group)
    app.cli.add_command(dev_token)
    register_batch_commands(app)
    register_demo_command(app)
    app.cli.add_command(setup_code)
    register_catalogue_commands(app)
    register_usage_commands(app)
    register_worker_command(app)


# -- users ------------------------------------------------------------------------------------------------------------


@users_group.command("create")
@click.argument("name")
@click.argument("email")
@click.option("--admin", is_flag=True, help="An administrator, with every scope.")
@password_option
@told_plainly
def create_user(name: str, email: str, *, admin: bool, password_stdin: bool) -> None:
    """Make an account; prints its id."""
    password = _password(from_stdin=password_stdin)
    user = services.accounts.create_user(name, email, password, admin=admin, actor=at_the_shell())
    click.echo(user.id)


@users_group.command("list")
@as_json_option
@told_plainly
def list_users(*, as_json: bool) -> None:
    """Every account, oldest first."""
    users, _ = services.accounts.list_users()
    shown = [write_user(user) | {"status": user.status} for user in users]
    _print(shown, as_json, "{username:<24} {email:<32} {role:<6} {status:<9} {id}")


@users_group.command("approve")
@click.argument("name")
@told_plainly
def approve_user(name: str) -> None:
    """Let a waiting account spend, or a disabled one in again."""
    services.accounts.change_user(services.accounts.find_user(name).id, {"status": "active"}, actor=at_the_shell())
    click.echo(f"{name} is active.", err=True)


@users_group.command("disable")
@click.argument("name")
@told_plainly
def disable_user(name: str) -> None:
    """End an account's sessions and tokens at once."""
    services.accounts.change_user(services.accounts.find_user(name).id, {"status": DISABLED}, actor=at_the_shell())
    click.echo(f"{name} is disabled.", err=True)


@users_group.command("reset-password")
@click.argument("name")
@password_option
@told_plainly
def reset_password(name: str, *, password_stdin: bool) -> None:
    """Give an account a new password; its sessions end."""
    user = services.accounts.find_user(name)
    services.accounts.reset_password(user.id, _password(from_stdin=password_stdin), actor=at_the_shell())
    click.echo(f"{name} has a new password; its sessions are over.", err=True)


def _password(*, from_stdin: bool) -> str:
    """Never an argument: those stand in the shell's history and in the list of processes."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))


# -- tokens -----------------------------------------------------------------------------------------------------------


def _dollars(_context: click.Context, _option: click.Parameter, value: str | None) -> Decimal | None:
    if value is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value, re.ASCII):
        raise click.BadParameter("an amount in US dollars, such as 10 or 0.50")
    return Decimal(value)


def _moment(_context: click.Context, _option: click.Parameter, value: str | None) -> datetime | None:
    """``30d``, ``12h`` or ``90m`` from now."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})([mhd])", value)
    if not match:
        raise click.BadParameter("a time from now, such as 30d, 12h or 90m")
    unit = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}[match[2]]
    return now() + int(match[1]) * unit


@tokens_group.command("create")
@click.argument("name")
@click.option("--user", "username", help="The owner; without it the built-in service user.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="May be given several times.")
@click.option("--model", "models", multiple=True, help="Only this model; may be given several times.")
@click.option("--template", "templates", multiple=True, help="Only this template; may be given several times.")
@click.option("--rpm", type=click.IntRange(1, 2**31 - 1), help="Requests a minute.")
@click.option("--budget", callback=_dollars, help="US dollars for each period.")
@click.option("--period", type=click.Choice(PERIODS), default="month", show_default=True)
@click.option("--expires", callback=_moment, help="A time from now: 30d, 12h, 90m.")
@told_plainly
def create_token(name: str, *, username: str | None, **options: Any) -> None:
    """Make an API token; the token alone on standard output, this once."""
    fields = _fields(name, options)
    if username is None:
        _, token = services.tokens.issue_for_service(name=name, document=fields, actor=at_the_shell())
    else:
        _, token = services.tokens.issue_for_user(username, fields, actor=at_the_shell())
    click.echo(token)


def _fields(name: str, options: dict[str, Any]) -> TokenFields:
    budget = options["budget"]
    return {
        "name": name,
        "scopes": list(options["scopes"]) or None,
        "models": list(options["models"]) or None,
        "templates": list(options["templates"]) or None,
        "requests_per_minute": options["rpm"],
        "budget": None if budget is None else {"amount": budget, "period": options["period"]},
        "expires_at": options["expires"],
    }


@tokens_group.command("list")
@click.option("--user", "username", help="Only this user's.")
@as_json_option
@told_plainly
def list_tokens(*, username: str | None, as_json: bool) -> None:
    """Every API token, newest first; never the tokens themselves."""
    owner_id = services.accounts.find_user(username).id if username else None
    rows, _ = services.tokens.list(owner_id)
    shown = [write_token(row) | {"user": row.user.username, "state": _state(row)} for row in rows]
    _print(shown, as_json, "{prefix}…{last4}  {state:<8} {user:<24} {name:<32} {id}")


def _state(row: Any) -> str:
    if row.revoked_at:
        return "revoked"
    return "live" if row.is_live(now()) else "expired"


@tokens_group.command("revoke")
@click.argument("token_id", metavar="ID")
@told_plainly
def revoke_token(token_id: str) -> None:
    """End a token at once."""
    services.tokens.revoke_any(token_id, actor=at_the_shell())
    click.echo("Revoked.", err=True)


@tokens_group.command("rotate")
@click.argument("token_id", metavar="ID")
@click.option(
    "--grace", "grace_s", type=click.IntRange(0, LONGEST_GRACE_S), default=GRACE_S, show_default=True,
    help="Seconds for which the old one works on.",
)  # fmt: skip
@told_plainly
def rotate_token(token_id: str, *, grace_s: int) -> None:
    """Give a token a new text; the new one alone on standard output, this once."""
    _, token = services.tokens.rotate_any(token_id, grace_s=grace_s, actor=at_the_shell())
    click.echo(token)


# -- audit ------------------------------------------------------------------------------------------------------------


@audit_group.command("verify")
@as_json_option
@click.pass_context
@told_plainly
def verify_audit(context: click.Context, *, as_json: bool) -> None:
    """Check the trail from its first row to its head; exit status 1 at the first row that somebody has been at.

    Note the head that is printed somewhere else: against it even an old copy of the whole database is seen.
    """
    found = services.audit.verify()
    if as_json:
        click.echo(json.dumps({"ok": found.is_sound, **asdict(found)}, indent=2))
    elif found.is_sound:
        click.echo(f"{found.count} rows, all sound; head {found.head}")
    else:
        click.echo(f"Row {found.broken} is not sound: {found.fault}. {found.count} rows before it are.", err=True)
    context.exit(0 if found.is_sound else 1)


# -- development ------------------------------------------------------------------------------------------------------


@click.command("setup-code")
@with_appcontext
@told_plainly
def setup_code() -> None:
    """Print the code with which /admin makes the first administrator; only while there is none."""
    if not services.first_run.is_open():
        raise click.ClickException("There is an administrator; `flask users create NAME EMAIL --admin` makes another.")
    click.echo(services.first_run.code)


@click.command("dev-token")
@with_appcontext
@told_plainly
def dev_token() -> None:
    """Print a working token; in development only. It is kept in instance/dev-token and made anew when it is dead."""
    if current_app.config["ENVIRONMENT"] == "production":
        raise click.ClickException("There is no development token in production; `flask tokens create NAME` makes one.")
    path = Path(current_app.instance_path) / DEV_TOKEN_FILE
    token = _kept(path)
    if token is None:
        _, token = services.tokens.issue_for_service(
            name="development", document={"scopes": DEV_TOKEN_SCOPES}, actor=at_the_shell()
        )
        _keep(path, token)
    click.echo(token)


def _kept(path: Path) -> str | None:
    try:
        token = path.read_text(encoding="ascii").strip()
        services.tokens.identify(token)
    except (OSError, UnicodeDecodeError, DomainError):
        return None
    return token


def _keep(path: Path, token: str) -> None:
    """Beside it first: a file that others could read for a moment would be one too many."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(token + "\n")
    fresh.replace(path)


# -- printing ---------------------------------------------------------------------------------------------------------


def _print(rows: Iterable[dict[str, Any]], as_json: bool, form: str) -> None:
    if as_json:
        click.echo(json.dumps(list(rows), indent=2, ensure_ascii=False))
        return
    for row in rows:
        click.echo(on_one_line(form.format(**row)))
