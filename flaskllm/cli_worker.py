"""``flask worker``: batches are answered, and the housekeeping is done, in a process of its own.

In *sql* mode it looks by itself; in *full* mode it is an RQ worker that is woken through Redis. Web processes do the
housekeeping beside their requests; where these have no threads, or sleep (a free account of PythonAnywhere), a
scheduled ``flask worker --once`` does what is due and answers what is open.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import with_appcontext

from flaskllm.extensions import db, services
from flaskllm.services.batch_worker import Bounds

TOLD_S = 60.0
"""How long ``--once`` stays for receivers of callbacks; who is slower is told again the next time."""


def register_worker_command(app: Flask) -> None:
    app.cli.add_command(worker)


@click.command("worker")
@click.option("--once", is_flag=True, help="Do what is due, answer what is open, and end.")
@with_appcontext
def worker(*, once: bool) -> None:
    """Answer batches, settle what dead processes left, sweep what has expired."""
    settings = current_app.extensions["flaskllm_settings"]
    if once:
        services.workers.beat()
        services.housekeeper.run_due()
        taken = services.batch_worker.work(Bounds())
        services.file_batches.deliver_all()
        services.outbox.deliver_all(TOLD_S)
        services.shutdown.stop()
        click.echo(f"done what was due; {taken} batch items")
    elif settings.redis_url:
        click.echo("worker: batches by Redis, until SIGTERM")
        _by_redis(settings.redis_url)
    else:
        click.echo("worker: batches and housekeeping, until SIGTERM")
        _by_itself()


def _by_itself() -> None:
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    services.housekeeper.add(services.workers.chore())
    services.housekeeper.wake()
    services.batch_worker.work(Bounds(lingers=True), stopped)
    services.shutdown.stop()


def _by_redis(url: str) -> None:
    """This process keeps no connection to the database: a fork must not inherit one."""
    from flaskllm.jobs.worker import work_forever

    app: Any = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001  (werkzeug's documented way)

    def before() -> None:
        with app.app_context():
            db.engine.dispose(close=False)

    before()
    work_forever(url, before=before)
