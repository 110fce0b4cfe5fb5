"""Commits of one process, grouped: a writer thread takes what is waiting, one transaction, then wakes the callers.

At one caller at a time that is at once; at many, one flush serves them all, and fewer threads fight for the lock
(measured in ``docs/adr/0003-grouped-commits.md``). Nothing is answered before its commit. Where there are no threads
(uWSGI as on PythonAnywhere) an operation is committed directly.
"""

from __future__ import annotations

import _thread
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol, cast

from sqlalchemy import Engine

from flaskllm.errors import DomainError, Unavailable

log = logging.getLogger(__name__)

MOST_IN_A_GROUP = 256
WAIT_SECONDS = 5.0
"""How long a caller waits for its commit, at the most. Who comes while a group finds no database is told with it."""


class Operation(Protocol):
    """Something to be written: run inside a transaction, together with others of its kind."""

    result: Any

    def renew(self) -> None:
        """Before a second try: other row ids, in case another process drew the same."""

    def look(self) -> None:
        """Before a second try, where the first may have been committed after all: look for its rows."""


class _Waiting:
    """An operation and the lock its caller sleeps on. A bare lock is cheaper than an Event or a Condition."""

    __slots__ = ("done", "error", "given_up", "operation")

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.error: BaseException | None = None
        self.given_up = False
        self.done = _thread.allocate_lock()
        self.done.acquire()


class Connection:
    """The driver's own connection: SQLAlchemy, even with cached statements, costs too much for two commits a call.

    Statements are written with ``:name`` and turned into the driver's own style once.
    """

    def __init__(self, engine: Engine) -> None:
        self.is_sqlite = engine.dialect.name == "sqlite"
        pooled = engine.raw_connection()
        self.raw = cast("Any", pooled.dbapi_connection)
        pooled.detach()
        if self.is_sqlite:
            self.raw.isolation_level = None
        else:
            self.raw.autocommit = True

    def execute(self, statement: str, values: dict[str, Any] | None = None) -> Any:
        return self.raw.execute(statement if self.is_sqlite else to_psycopg(statement), values or {})

    def execute_many(self, statement: str, rows: Sequence[dict[str, Any]]) -> int:
        """The number of rows changed by all of them."""
        if len(rows) == 1:
            return int(self.execute(statement, rows[0]).rowcount)
        cursor = self.raw.cursor()
        cursor.executemany(statement if self.is_sqlite else to_psycopg(statement), rows)
        return int(cursor.rowcount)

    def each_changed(self, statement: str, rows: Sequence[dict[str, Any]]) -> list[bool]:
        """Of each row in turn, whether the statement changed something; PostgreSQL is not waited for in between."""
        if self.is_sqlite or len(rows) < 2:
            return [self.execute(statement, row).rowcount > 0 for row in rows]
        cursor = self.raw.cursor()
        cursor.executemany(to_psycopg(statement), rows, returning=True)
        changed = [cursor.rowcount > 0]
        while cursor.nextset():
            changed.append(cursor.rowcount > 0)
        return changed

    def begin(self) -> None:
        self.execute("BEGIN IMMEDIATE" if self.is_sqlite else "BEGIN")

    def commit(self) -> None:
        self.execute("COMMIT")

    def rollback(self) -> None:
        self.execute("ROLLBACK")

    def close(self) -> None:
        self.raw.close()


@cache
def to_psycopg(statement: str) -> str:
    """A statement with ``:name`` as the driver of PostgreSQL takes it."""
    return re.sub(r"(?<!:):(\w+)", r"%(\1)s", statement.replace("%", "%%"))


class _OutcomeUnknown(Exception):
    """The connection broke in COMMIT: it is written, or it is not."""


class GroupCommitter:
    """Runs operations in groups.

    ``apply(connection, operations)`` does the work inside the transaction and sets each operation's ``result``.
    """

    def __init__(
        self, engine: Engine, apply: Callable[[Connection, Sequence[Any]], None], *, threads: bool = True
    ) -> None:
        self._engine = engine
        self._apply = apply
        self._threads = threads
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._writer: threading.Thread | None = None
        self._owner = 0
        self._busy_since: float | None = None

    def run(self, operation: Operation) -> Any:
        """Commit one operation and give its result.

        Raises `Unavailable` where the database is away or the outcome is unknown, or the operation's own error.
        """
        waiting = _Waiting(operation)
        if self._threads:
            self._hand_over(waiting)
        else:
            with self._lock:
                self._own_process()
                self._commit([waiting])
        if waiting.error is not None:
            raise waiting.error
        return operation.result

    def _hand_over(self, waiting: _Waiting) -> None:
        """To the writer, and sleep until it is done. Behind a database that hangs nobody queues up."""
        busy_since = self._busy_since
        if busy_since is not None and self._owner == os.getpid() and time.monotonic() - busy_since > WAIT_SECONDS:
            raise Unavailable("The database does not answer.", retry_after=2)
        with self._lock:
            self._ensure_writer()
            self._queue.put(waiting)
        if not waiting.done.acquire(timeout=WAIT_SECONDS):
            waiting.given_up = True
            late = Unavailable("The database did not answer in time.", retry_after=2)
            late.may_be_written = True
            raise late

    def stop(self) -> None:
        """After the last operation: who still waits is served. A later operation starts a new writer."""
        with self._lock:
            writer = self._writer
            if self._owner != os.getpid():
                return
            if writer is None:
                self._drop_connection()
                return
            self._queue.put(None)
        writer.join(WAIT_SECONDS)

    def _ensure_writer(self) -> None:
        if self._writer is not None and self._owner == os.getpid():
            return
        self._own_process()
        self._queue = queue.SimpleQueue()
        self._busy_since = None
        self._writer = threading.Thread(target=self._write, args=(self._queue,), name="committer", daemon=True)
        self._writer.start()

    def _own_process(self) -> None:
        """A connection that came over a fork is the parent's: it is neither used nor closed."""
        if self._owner != os.getpid():
            self._connection = None
            self._owner = os.getpid()

    def _write(self, waiting_room: queue.SimpleQueue[_Waiting | None]) -> None:
        while True:
            first = waiting_room.get()
            if first is None:
                if self._left(waiting_room):
                    return
                continue
            group = [first, *_take_waiting(waiting_room)]
            self._busy_since = time.monotonic()
            try:
                refusal = self._commit(group)
                if refusal is not None:  # who came meanwhile has waited for the same
                    late = _take_waiting(waiting_room)
                    _fail(late, refusal)
                    group += late
            except BaseException as error:  # noqa: BLE001  (a writer that died would leave every caller asleep)
                self._drop_connection()
                for waiting in group:
                    waiting.error = _as_domain(error)
            self._busy_since = None
            for waiting in group:
                waiting.done.release()

    def _left(self, waiting_room: queue.SimpleQueue[_Waiting | None]) -> bool:
        """A writer goes when nobody waits; decided under the lock, so that nobody is put into an empty room."""
        with self._lock:
            if not waiting_room.empty():
                waiting_room.put(None)
                return False
            self._drop_connection()
            self._writer = None
            return True

    def _commit(self, group: list[_Waiting]) -> Exception | None:
        """One transaction for all; if it fails, each in its own: a poisoned one must not fail its neighbours.

        What its caller has given up is left out: nobody would know of it. Gives why none could be begun.
        """
        connection = self._begin()
        if isinstance(connection, Exception):
            _fail(group, connection)
            return connection
        group = [waiting for waiting in group if not waiting.given_up]
        failed = self._try(connection, group)
        return self._commit_apart(group, failed) if failed is not None else None

    def _commit_apart(self, group: list[_Waiting], failed: Exception) -> Exception | None:
        for place, waiting in enumerate(group):
            if waiting.given_up:
                continue
            connection = self._begin()
            if isinstance(connection, Exception):
                _fail(group[place:], connection, may_be_written=isinstance(failed, _OutcomeUnknown))
                return connection
            if isinstance(failed, _OutcomeUnknown):
                waiting.operation.look()
            else:
                waiting.operation.renew()
            if error := self._try(connection, [waiting]):
                unknown = isinstance(failed, _OutcomeUnknown) or isinstance(error, _OutcomeUnknown)
                _fail([waiting], error, may_be_written=unknown)
        return None

    def _begin(self) -> Connection | Exception:
        """A connection inside a transaction. One that died while idle is made anew; a fresh one gets no second try."""
        was_idle = self._connection is not None
        try:
            connection = self._connected()
            connection.begin()
        except Exception as error:  # noqa: BLE001  (drivers have no common base class)
            again = was_idle and "locked" not in str(error)
            self._drop_connection()
            return self._begin() if again else error
        return connection

    def _try(self, connection: Connection, group: list[_Waiting]) -> Exception | None:
        try:
            self._apply(connection, [waiting.operation for waiting in group])
        except Exception as error:  # noqa: BLE001  (the same)
            self._roll_back(connection)
            return error
        try:
            connection.commit()
        except Exception as error:  # noqa: BLE001  (the same)
            self._drop_connection()
            unknown = _OutcomeUnknown(f"{type(error).__name__} in COMMIT")
            unknown.__cause__ = error
            return unknown
        return None

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(self._engine)
        return self._connection

    def _roll_back(self, connection: Connection) -> None:
        try:
            connection.rollback()
        except Exception:  # noqa: BLE001  (the same)
            self._drop_connection()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except Exception as error:  # noqa: BLE001  (the same)
                log.debug("closing the committer's connection failed: %s", type(error).__name__)


def _fail(group: Sequence[_Waiting], error: Exception, *, may_be_written: bool = False) -> None:
    told = _as_domain(error)
    if isinstance(told, Unavailable):
        told.may_be_written = may_be_written
    for waiting in group:
        waiting.error = told


def _take_waiting(waiting_room: queue.SimpleQueue[_Waiting | None]) -> list[_Waiting]:
    """What is there already, without waiting for more; a stop sign goes back to the end."""
    taken: list[_Waiting] = []
    while len(taken) < MOST_IN_A_GROUP:
        try:
            waiting = waiting_room.get_nowait()
        except queue.Empty:
            break
        if waiting is None:
            waiting_room.put(None)
            break
        taken.append(waiting)
    return taken


def _as_domain(error: BaseException) -> DomainError:
    if isinstance(error, DomainError):
        return error
    log.error("a commit failed: %s: %s", type(error).__name__, error)
    unavailable = Unavailable("The database cannot be written.", retry_after=2)
    unavailable.__cause__ = error
    return unavailable
