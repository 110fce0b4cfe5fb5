"""`application` and `app`, for gunicorn, uWSGI and PythonAnywhere alike.

The start stops here, in plain words, when the settings are wrong or the database is behind.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
GIVE_UP = 4  # gunicorn's word for "the application does not load": after any other status it would try again for ever
if str(ROOT) not in sys.path:  # a server that imports this file by its path knows nothing of the package beside it
    sys.path.insert(0, str(ROOT))

gc.disable()  # what a start makes stays: a search for garbage in it finds none and takes a sixth of its time

import click  # noqa: E402
from flask import Flask  # noqa: E402
from sqlalchemy.exc import DBAPIError  # noqa: E402

from flaskllm.app import create_app  # noqa: E402
from flaskllm.config import Settings, SettingsError, shown_address  # noqa: E402
from flaskllm.wiring import database_is_current, prepare_database  # noqa: E402


def build() -> Flask:
    settings = _settings()
    for line in settings.warnings:
        print(f"warning: {line}", file=sys.stderr)
    made = create_app(settings)
    if _serves():
        _stop_unless_ready(made, settings)
    return made


def _settings() -> Settings:
    try:
        return Settings.load(root=ROOT)
    except SettingsError as error:
        _stop(error.told())


def _serves() -> bool:
    """False for `flask --app wsgi …`: those commands are what makes a database ready. `flask run` is a server."""
    return click.get_current_context(silent=True) is None or "run" in sys.argv[1:]


def _stop_unless_ready(made: Flask, settings: Settings) -> None:
    """A SQLite file that does not exist is made; any other database is the operator's, and only looked at."""
    try:
        with _alone(settings.instance_path / "prepare.lock"):
            if settings.database_file and not settings.database_file.exists():
                prepare_database(made)
            elif not database_is_current(made):
                _stop("the database is behind this version: flask --app wsgi db upgrade && flask --app wsgi seed")
    except DBAPIError as error:
        _stop(f"DATABASE_URL: {shown_address(settings.database_url)} does not answer ({type(error.orig).__name__})")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time, where several start at once; without locks (Windows) there is one process anyhow."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _stop(words: str) -> NoReturn:
    print(words, file=sys.stderr)
    raise SystemExit(GIVE_UP)


application = app = build()
gc.freeze()  # nor does a later search look at it, in this process or in those that are forked from it
gc.enable()
