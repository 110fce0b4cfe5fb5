"""``flask demo-data``: a month of plausible traffic, for looking around and for pictures."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click
from flask import Flask, current_app
from flask.cli import with_appcontext

from flaskllm.cli_errors import told_plainly
from flaskllm.domain.audit import at_the_shell
from flaskllm.domain.pricing import dollars_text
from flaskllm.extensions import services
from flaskllm.wiring import demo_data

if TYPE_CHECKING:
    from flaskllm.services.demo_data import Made

LAST_CALL = timedelta(minutes=2)
"""Nothing is made later than so long ago, for the longest calls last as long."""
MOST_DAYS, MOST_CALLS = 365, 1_000_000


def register_demo_command(app: Flask) -> None:
    """Give an application its command of demo data."""
    app.cli.add_command(make_demo_data)


@click.command("demo-data")
@click.option("--days", type=click.IntRange(2, MOST_DAYS), default=30, show_default=True, help="So many, until now.")
@click.option("--calls", type=click.IntRange(100, MOST_CALLS), default=20_000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed draws another month.")
@click.option("--password-stdin", is_flag=True, help="Read from standard input the password of all accounts made.")
@click.option("--beside-real-calls", is_flag=True, help="Also where there are real calls, which it stands among then.")
@with_appcontext
@told_plainly
def make_demo_data(*, days: int, calls: int, seed: int, password_stdin: bool, beside_real_calls: bool) -> None:
    """Fill an empty gateway with a month of invented people, tokens, templates, routes, calls, batches and audit.

    No provider is asked. The accounts have no password, so nobody can log in with them unless one is given. It cannot
    be taken out again: use a database of its own. Not in production.
    """
    if current_app.config["ENVIRONMENT"] == "production":
        raise click.ClickException("There is no demo data in production; start a gateway of its own for it.")
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else None
    made = demo_data(current_app._get_current_object()).make(  # type: ignore[attr-defined]  # noqa: SLF001
        until=datetime.now(services.usage.zone) - LAST_CALL,
        days=days,
        calls=calls,
        seed=seed,
        password=password,
        beside_real=beside_real_calls,
        actor=at_the_shell(),
    )
    for line in _told(made, can_log_in=password is not None):
        click.echo(line)


def _told(made: Made, *, can_log_in: bool) -> list[str]:
    words = "with the password given" if can_log_in else "without a password, so that nobody can log in as one of them"
    return [
        f"{made.people} people {words}; {made.tokens} tokens, whose texts nobody knows",
        f"{made.templates} templates, {made.routes} routes, {made.jobs} batches, {made.conversations} conversations",
        f"{made.calls} calls in {made.attempts} attempts, for ${dollars_text(made.spent)}",
    ]
