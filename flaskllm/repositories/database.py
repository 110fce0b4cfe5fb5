"""The only place that writes for good: sessions that commit when their block ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from flaskllm.errors import Unavailable

RETRY_AFTER = 2.0
STATEMENT_MS = 2000
"""How long a statement waits for SQLite's lock (``docs/promises.md``)."""
READ_ONLY = "25006"
"""PostgreSQL's state of a server that only reads: a standby, or one whose disk is full."""


class Database:
    """Sessions for services. A session is never held while a provider is asked."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._sessions = sessionmaker(engine, expire_on_commit=False)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that commits at the end of the block, and rolls back where it raises.

        Raises `Unavailable` where the database is away.
        """
        with _unavailable(), self._sessions() as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for queries alone."""
        with _unavailable(), self._sessions() as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A session for several queries that all see the same moment, whatever is committed meanwhile."""
        with self.reading() as session:
            if self.is_sqlite:
                session.connection().exec_driver_sql("BEGIN")
            else:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    def ping(self) -> None:
        """Raises `Unavailable` where the database does not answer."""
        with self.reading() as session:
            session.execute(text("SELECT 1"))

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("The database is busy.", retry_after=RETRY_AFTER) from error
    except OperationalError as error:
        raise Unavailable("The database cannot be reached or is locked.", retry_after=RETRY_AFTER) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable("The database closed the connection.", retry_after=RETRY_AFTER) from error
        if getattr(error.orig, "sqlstate", None) == READ_ONLY:
            raise Unavailable("The database takes no writes.", retry_after=RETRY_AFTER) from error
        raise


def set_sqlite_pragmas(engine: Engine, *, journal_mode: str, synchronous: str) -> None:
    """Every SQLite connection of the pool: foreign keys on, WAL where the disk is local, a busy time-out, and zeros
    over what is deleted."""

    @event.listens_for(engine, "connect")
    def _on_connect(connection, _record) -> None:  # type: ignore[no-untyped-def]
        for statement in sqlite_pragmas(journal_mode=journal_mode, synchronous=synchronous):
            connection.execute(statement)


def sqlite_pragmas(*, journal_mode: str, synchronous: str) -> list[str]:
    return [
        f"PRAGMA journal_mode={journal_mode}",
        f"PRAGMA synchronous={synchronous}",
        f"PRAGMA busy_timeout={STATEMENT_MS}",
        "PRAGMA foreign_keys=ON",
        "PRAGMA secure_delete=ON",
    ]


def tidy_log(database: Database) -> None:
    """Empty SQLite's write-ahead log, in which what was deleted still stands.

    At once or not at all: while somebody reads it stays as it is, and no writer is kept waiting for that.
    """
    if not database.is_sqlite:
        return
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=0")
        try:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={STATEMENT_MS}")
