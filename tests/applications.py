"""Gateways in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flask import Flask

from flaskllm.app import create_app
from flaskllm.config import Settings
from flaskllm.extensions import db


def dispose(app: Flask) -> None:
    """Nothing of a gateway is left: no thread, no connection."""
    app.extensions["flaskllm"].shutdown.stop()
    app.extensions["flaskllm"].housekeeper.finish(5)  # a chore may be at a query
    app.extensions["flaskllm"].factory.close()
    with app.app_context():
        db.session.remove()
        db.engine.dispose()


@contextmanager
def same_gateway(environment: Mapping[str, str], root: Path) -> Iterator[Flask]:
    """The gateway of another process once more in this one: its settings, its database."""
    app = create_app(Settings.load(environment, root=root), logs=False)
    try:
        yield app
    finally:
        dispose(app)
