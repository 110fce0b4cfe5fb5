"""A PostgreSQL that does not answer is given up in time, by everybody."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError

from flaskllm.errors import Unavailable
from flaskllm.repositories.database import Database
from flaskllm.repositories.postgresql import HEARD_S, PATIENCE_S, bound_waiting, patience
from tests.databases import on_postgresql


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(on_postgresql(tmp_path), pool_pre_ping=True)
    bound_waiting(made)
    yield made
    made.dispose()


def sleep(engine: Engine, seconds: float) -> float:
    """How long it took to be told."""
    began = time.monotonic()
    with engine.connect() as connection:
        connection.execute(text(f"SELECT pg_sleep({seconds})"))
    return time.monotonic() - began


def test_a_statement_that_is_not_answered_is_given_up_and_its_connection_with_it(engine: Engine) -> None:
    began = time.monotonic()
    with pytest.raises(OperationalError) as caught:
        sleep(engine, 60)
    assert PATIENCE_S <= time.monotonic() - began < PATIENCE_S + 1
    assert caught.value.connection_invalidated


def test_behind_a_silent_server_nobody_waits_and_its_return_is_noticed(engine: Engine) -> None:
    database = Database(engine)
    with pytest.raises(OperationalError):
        sleep(engine, 60)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        database.ping()
    assert time.monotonic() - began < 0.4
    while time.monotonic() - began < 5:
        try:
            return database.ping()
        except Unavailable:
            time.sleep(0.05)
    raise AssertionError("not back")


def test_what_needs_no_word_of_the_server_does_not_show_that_it_lives(engine: Engine) -> None:
    idle = engine.raw_connection()
    with pytest.raises(OperationalError):
        sleep(engine, 60)
    idle.rollback()
    with pytest.raises(Unavailable):
        Database(engine).ping()
    idle.close()


def test_one_lost_connection_is_not_a_silent_server(engine: Engine) -> None:
    Database(engine).ping()
    with patience(HEARD_S / 4), pytest.raises(OperationalError):
        sleep(engine, 60)
    Database(engine).ping()


def test_migrations_and_reports_may_take_longer(engine: Engine) -> None:
    with patience(None):
        assert sleep(engine, PATIENCE_S + 0.3) >= PATIENCE_S
