"""``flask worker``: the housekeeping in a process of its own.

Web processes do it beside their requests. Where these have no threads, or sleep (a free account of PythonAnywhere), a
scheduled ``flask worker --once`` does what is due.
"""

from __future__ import annotations

import signal
import threading

import click
from flask import Flask
from flask.cli import with_appcontext

from flaskllm.extensions import services

LOOK_EVERY_S = 1.0


def register_worker_command(app: Flask) -> None:
    app.cli.add_command(worker)


@click.command("worker")
@click.option("--once", is_flag=True, help="Do what is due, and end.")
@with_appcontext
def worker(*, once: bool) -> None:
    """Settle what dead processes left, and sweep what has expired."""
    keeper = services.housekeeper
    if once:
        keeper.run_due()
        click.echo("done what was due")
        return
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    click.echo("worker: housekeeping, until SIGTERM")
    while not stopped.wait(LOOK_EVERY_S):
        keeper.run_due()
