"""``flask seed``, ``flask providers list|test`` and ``flask keys rotate``."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import with_appcontext

from flaskllm.domain.audit import at_the_shell
from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Provider
from flaskllm.domain.text import on_one_line
from flaskllm.errors import DomainError
from flaskllm.extensions import services
from flaskllm.models.types import new_id
from flaskllm.services.catalogue_file import CatalogueFileError
from flaskllm.services.provider_check import OPERATOR, TRY_SECONDS
from flaskllm.wire.providers import write_check
from flaskllm.wiring import seeder

NOT_OPENED = "cannot be opened by any key of LLM_GATEWAY_ENCRYPTION_KEY."
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def register_catalogue_commands(app: Flask) -> None:
    """Give an application its catalogue commands."""
    app.cli.add_command(seed_command)
    app.cli.add_command(providers_group)
    app.cli.add_command(keys_group)


@click.command("seed")
@with_appcontext
def seed_command() -> None:
    """Bring the shipped catalogue into the database; safe to run again."""
    try:
        done = seeder(current_app._get_current_object()).run()  # type: ignore[attr-defined]  # noqa: SLF001
    except (CatalogueFileError, DomainError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{done.added} added, {done.changed} changed, {done.removed} removed; catalogue version {done.version}.")


@click.group("providers")
def providers_group() -> None:
    """See and try the providers."""


@providers_group.command("list")
@as_json_option
@with_appcontext
def list_providers(*, as_json: bool) -> None:
    """Every provider: whether it is on, and what switches it on."""
    shown = [_shown(provider) for provider in services.catalogue.refresh().ordered]
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    for row in shown:
        state = "on " if row["on"] else "off"
        click.echo(f"{row['id']:<16} {state} {row['models']:>4} models  {row['default_model'] or '-':<28} {_hint(row)}")


def _shown(provider: Provider) -> dict[str, Any]:
    return {
        "id": provider.id,
        "kind": provider.kind,
        "display_name": provider.display_name,
        "on": provider.on,
        "switch": provider.switch or None,
        "default_model": provider.default_model,
        "models": sum(model.enabled for model in provider.models),
        "endpoints": [
            {"id": at.id, "base_url": at.base_url or None, "keys": [key.hint for key in at.keys]}
            for at in provider.endpoints
        ],
    }


def _hint(row: dict[str, Any]) -> str:
    if row["on"]:
        return ", ".join(at["base_url"] for at in row["endpoints"] if at["base_url"])
    return f"set {row['switch']}" if row["switch"] else "switched off"


@providers_group.command("test")
@click.argument("provider_id", metavar="PROVIDER")
@click.option("--model", help="Another model than the provider's default.")
@as_json_option
@click.pass_context
@with_appcontext
def test_provider(context: click.Context, provider_id: str, model: str | None, *, as_json: bool) -> None:
    """Make one real call and say what came of it; exit status 1 where it does not work."""
    try:
        report = services.provider_check.run(provider_id, _call(), model)
    except DomainError as error:
        raise click.ClickException(error.message) from None
    if as_json:
        click.echo(json.dumps(write_check(report), indent=2, ensure_ascii=False))
    else:
        click.echo(on_one_line(f"{report.provider}, {report.model}, {report.seconds} s: {report.message}"))
    context.exit(0 if report.works else 1)


def _call() -> CallContext:
    return CallContext(OPERATOR, new_id(), "cli", time.monotonic() + TRY_SECONDS)


@click.group("keys")
def keys_group() -> None:
    """The keys that encrypt what the database must not know."""


@keys_group.command("rotate")
@as_json_option
@click.pass_context
@with_appcontext
def rotate_keys(context: click.Context, *, as_json: bool) -> None:
    """Encrypt providers' keys, and what is stored of calls, anew under the first of LLM_GATEWAY_ENCRYPTION_KEY.

    Put the new key first, before the old one, and restart; then run this, under traffic and as often as you like. The
    old one may stay at the end of the list: older rows of the audit trail are verified with it. Exit status 1 where
    something cannot be opened by any key of the list.
    """
    try:
        keys = services.provider_keys.rotate(at_the_shell())
        bodies = services.bodies.rotate(at_the_shell())
    except DomainError as error:
        raise click.ClickException(error.message) from None
    if as_json:
        click.echo(json.dumps({**asdict(keys), "bodies": asdict(bodies)}, indent=2))
    else:
        click.echo(f"Keys of providers: {keys.renewed} encrypted anew, {keys.current} were so already.")
        click.echo(f"Questions and answers: {bodies.renewed} encrypted anew, {bodies.current} were so already.")
        for key_id in keys.lost:
            click.echo(f"{key_id} {NOT_OPENED}", err=True)
        if bodies.lost:
            click.echo(f"{bodies.lost} of the stored questions and answers {NOT_OPENED}", err=True)
    context.exit(1 if keys.lost or bodies.lost else 0)
