"""``flask batch …``: submit a file, watch it, fetch the results; as the built-in service user or as somebody."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from flask import Flask
from flask.cli import AppGroup

from flaskllm.domain.batch import MOST_CONCURRENCY, PROMPTS_DOOR, USUAL_CONCURRENCY, Job
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.principal import Principal
from flaskllm.errors import DomainError
from flaskllm.extensions import services
from flaskllm.wire import batches as wire

LOOK_EVERY_S = 0.5

batch_group = AppGroup("batch", help="Many questions in one job.")
user_option = click.option("--user", "username", help="Whose job it is; the built-in service user's if left out.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def register_batch_commands(app: Flask) -> None:
    app.cli.add_command(batch_group)


@contextmanager
def _told_plainly() -> Iterator[None]:
    """A refusal of the services as one line and exit status 1."""
    try:
        yield
    except DomainError as error:
        raise click.ClickException(error.message) from None


def _caller(username: str | None) -> Principal:
    if username is None:
        return services.tokens.service_principal()
    return services.accounts.principal_of(services.accounts.find_user(username).id)


@batch_group.command("submit")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", help="The model of lines that name none.")
@click.option("--max-concurrency", type=click.IntRange(1, MOST_CONCURRENCY), default=USUAL_CONCURRENCY)
@click.option("--callback-url", help="Where to tell, signed, that it is over.")
@click.option("--dry-run", is_flag=True, help="Only say how many, how dear and how long.")
@click.option("--wait", is_flag=True, help="Stay until it is over, with a progress bar.")
@user_option
@json_option
def submit(
    *,
    file: Path,
    model: str | None,
    max_concurrency: int,
    callback_url: str | None,
    dry_run: bool,
    wait: bool,
    username: str | None,
    as_json: bool,
) -> None:
    """Submit JSON lines, each with `prompt` or `messages`; or a text with a prompt a line (any name but .jsonl)."""
    with _told_plainly(), tempfile.TemporaryFile() as store, tempfile.TemporaryFile() as lines:
        caller = _caller(username)
        _as_lines(file, lines)
        envelope = {"model": model, "max_concurrency": max_concurrency, "callback_url": callback_url}
        given = wire.read_lines(lines, store, {name: held for name, held in envelope.items() if held is not None})
        for name in {model, *given.models}:
            services.batches.check_model(caller, ChatRequest(name, []))
        if dry_run:
            estimate = services.batches.estimate(caller, given.submission(), given.items())
            _say(wire.write_estimate(estimate), as_json)
            return
        job = services.batches.submit(caller, given.submission(), given.items())
        if wait:
            job = _watch(caller, job, quiet=as_json)
        _say(wire.write_job(job, _now()), as_json)


def _as_lines(file: Path, lines: Any) -> None:
    with file.open("rb") as source:
        for line in source:
            if file.suffix == ".jsonl":
                lines.write(line)
            elif text := line.decode("utf-8", "replace").strip():
                lines.write(json.dumps({"prompt": text}).encode() + b"\n")
    lines.seek(0)


@batch_group.command("status")
@click.argument("job_id")
@click.option("--wait", is_flag=True, help="Stay until it is over, with a progress bar.")
@user_option
@json_option
def status(*, job_id: str, wait: bool, username: str | None, as_json: bool) -> None:
    """How far a job is."""
    with _told_plainly():
        caller = _caller(username)
        job = services.batches.get(caller, job_id, door=PROMPTS_DOOR)
        if wait:
            job = _watch(caller, job, quiet=as_json)
        _say(wire.write_job(job, _now()), as_json)


@batch_group.command("results")
@click.argument("job_id")
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file; standard output if left out.")
@user_option
def results(*, job_id: str, form: str, output: Path | None, username: str | None) -> None:
    """The results so far, one a line, in the order of the input."""
    with _told_plainly():
        job = services.batches.get(_caller(username), job_id, door=PROMPTS_DOOR)
        items = services.batches.all_items(job)
        lines = wire.write_lines(items) if form == "jsonl" else wire.write_table(items)
        if output is None:
            for line in lines:
                click.echo(line.decode(), nl=False)
            return
        with output.open("wb") as target:
            target.writelines(lines)


def _watch(caller: Principal, job: Job, *, quiet: bool) -> Job:
    """Until it is over; the bar goes to standard error, so that the answer alone stands on standard output."""
    if quiet:
        return _until_over(caller, job, lambda _: None)
    with click.progressbar(length=job.total, label="answered", file=sys.stderr) as bar:
        return _until_over(caller, job, lambda found: bar.update(found.ended - bar.pos))


def _until_over(caller: Principal, job: Job, tell: Callable[[Job], None]) -> Job:
    while True:
        job = services.batches.get(caller, job.id, door=PROMPTS_DOOR)
        tell(job)
        if job.finished_at is not None:
            return job
        time.sleep(LOOK_EVERY_S)


def _now() -> int:
    return int(time.time() * 1000)


def _say(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(document))
        return
    for name, value in document.items():
        click.echo(f"{name}: {json.dumps(value) if isinstance(value, dict) else value}")
