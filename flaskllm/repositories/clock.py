"""The database's own clock: processes on several machines have several others. Milliseconds since 1970."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

from flaskllm.repositories.committer import Connection

SQLITE_NOW = "CAST((julianday('now') - 2440587.5) * 86400000 AS BIGINT)"
POSTGRESQL_NOW = "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


def with_now(connection: Connection, statement: str) -> str:
    """The statement with the moment of its running for ``{now}``."""
    return statement.replace("{now}", SQLITE_NOW if connection.is_sqlite else POSTGRESQL_NOW)


def now_of(session: Session) -> int:
    """The moment at which it is asked."""
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    return int(session.execute(text(f"SELECT {SQLITE_NOW if is_sqlite else POSTGRESQL_NOW}")).scalar_one())
