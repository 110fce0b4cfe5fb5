"""``flask usage export``, ``flask usage reconcile`` and ``flask usage rebuild``."""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path

import click
from flask import Flask
from flask.cli import AppGroup

from flaskllm.cli_errors import told_plainly
from flaskllm.domain.pricing import from_dollars
from flaskllm.domain.text import on_one_line
from flaskllm.extensions import services
from flaskllm.services.usage import GROUPS
from flaskllm.wire import usage as wire
from flaskllm.wire.provider_exports import read_exports
from flaskllm.wire.reconciliation import told_in_lines, write_reconciled

usage_group = AppGroup("usage", help="What was used: take it out, or hold it against a provider's own account.")
from_option = click.option("--from", "since", metavar="DAY", help="The first day.")
to_option = click.option("--to", "until", metavar="DAY", help="The last day.")
EXPORTED_BY = "day,user,token,model,provider"


def register_usage_commands(app: Flask) -> None:
    """Give an application its commands of usage."""
    app.cli.add_command(usage_group)


@usage_group.command("export")
@from_option
@to_option
@click.option("--by", default=EXPORTED_BY, show_default=True, help=f"Some of {', '.join(GROUPS)}, with commas between.")
@click.option("--format", "form", type=click.Choice(wire.FORMATS), default="csv", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A file; without it standard output.")
@told_plainly
def export_usage(since: str | None, until: str | None, *, by: str, form: str, out: Path | None) -> None:
    """The report of `GET /usage`, as a file. Days are BUDGET_TIMEZONE's."""
    given = {name: value for name, value in (("from", since), ("to", until)) if value}
    first, last = wire.read_span(given, services.usage.zone)
    report = services.usage.report(None, first, last, by=wire.read_groups({"group_by": by}, GROUPS))
    if form == "json":
        written = (json.dumps(wire.write_report(report), indent=2, ensure_ascii=False) + "\n").encode()
    else:
        written = wire.write_csv(report).encode() if form == "csv" else wire.write_xlsx(report)
    if out is None and form == "xlsx" and sys.stdout.isatty():
        raise click.ClickException("A workbook is no text for a terminal; name a file with --out.")
    _write(written, out)


def _write(written: bytes, out: Path | None) -> None:
    if out is None:
        click.echo(written, nl=False)
        return
    try:
        out.write_bytes(written)
    except OSError as error:
        raise click.ClickException(f"{out}: {error.strerror}") from None


def _day(_context: click.Context, _option: click.Parameter, value: str | None) -> date | None:
    try:
        return date.fromisoformat(value) if value else None
    except ValueError:
        raise click.BadParameter("a day such as 2026-11-21") from None


def _amount(_context: click.Context, _option: click.Parameter, value: str) -> int:
    try:
        return from_dollars(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@usage_group.command("reconcile")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--provider", "providers", multiple=True, help="Only this provider's attempts; else all of its kind.")
@click.option("--from", "since", callback=_day, metavar="DAY", help="The first day, in UTC.")
@click.option("--to", "until", callback=_day, metavar="DAY", help="The last day, in UTC.")
@click.option("--tolerance", callback=_amount, default="0", metavar="USD", help="What a day and model may differ by.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@told_plainly
def reconcile_usage(
    context: click.Context,
    files: tuple[Path, ...],
    *,
    providers: tuple[str, ...],
    since: date | None,
    until: date | None,
    tolerance: int,
    as_json: bool,
) -> None:
    """Hold the ledger against OpenAI's or Anthropic's own export (CSV or JSON, of usage or of cost), day by day.

    Exit status 1 where they differ. Attempts whose usage is estimated or interrupted are counted beside each
    difference, since they explain it. docs/usage.md says where the exports are had.
    """
    export = read_exports([(path.name, _content(path)) for path in files])
    found = services.reconciliation.reconcile(
        export, providers=providers, since=since, until=until, tolerance=tolerance
    )
    if as_json:
        click.echo(json.dumps(write_reconciled(found), indent=2, ensure_ascii=False))
    else:
        for line in told_in_lines(found):
            click.echo(on_one_line(line))
    context.exit(0 if found.agrees else 1)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None


@usage_group.command("rebuild")
@told_plainly
def rebuild_usage() -> None:
    """Make the sums that reports read of the ledger again. Until that is done they read the ledger itself.

    The gateway may run meanwhile. Should this be broken off, the gateway goes on with it.
    """
    if not services.rollups.begin_anew():
        raise click.ClickException("Other processes are adding up all the time; try again.")
    for _ in services.rollups.finish():
        pass
    click.echo("The sums are made anew.")
