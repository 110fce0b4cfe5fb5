"""PostgreSQL that does not answer: how long it is waited for, and that not everybody waits for it in turn.

A server that hangs, or a network that swallows packets, obeys no ``statement_timeout``; so each statement has a
deadline of ours too. Where it is missed, and nothing else was heard of the server lately, the server counts as silent:
from then on everybody is told at once, and one connection at a time tries whether it is back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors
from psycopg.waiting import READY_R
from sqlalchemy import Engine, event

PATIENCE_S = 1.9
"""For one statement: so that its caller is told within 2 s (``docs/promises.md``)."""
STATEMENT_MS = 1700
"""The server's own time-out comes first: where the server lives its connection is kept."""
CONNECT_S = 2
"""The least that libpq takes."""
SHORT_PATIENCE_S = 0.1
"""For a statement on a connection that is still there, while the server counts as silent."""
HEARD_S = 1.0
"""Whoever was answered this shortly ago speaks for the server, where another connection misses its answer."""
REST_S = 0.5
"""Between two connections that are tried while none can be made."""

_patience = threading.local()


@contextmanager
def patience(seconds: float | None) -> Iterator[None]:
    """Statements of this thread may take so long; None: as long as they take (migrations)."""
    before = getattr(_patience, "seconds", PATIENCE_S)
    _patience.seconds = seconds
    try:
        yield
    finally:
        _patience.seconds = before


class Watch:
    """What one process has last heard of its server. Shared by threads; each field is one assignment."""

    def __init__(self) -> None:
        self.is_silent = False
        self._heard = 0.0
        self._rests_until = 0.0
        self._probing = threading.Lock()

    def heard(self) -> None:
        """The server has answered somebody."""
        self._heard = time.monotonic()
        self.is_silent = False

    def missed(self) -> None:
        """An answer did not come. One connection may be lost where others are answered; else the server is silent."""
        now = time.monotonic()
        if now - self._heard > HEARD_S:
            self.is_silent = True
            self._rests_until = now + REST_S  # who has waited does not wait for a connection too

    @contextmanager
    def connecting(self) -> Iterator[None]:
        """Round an attempt to connect. Raises `psycopg.OperationalError`, untried, where the last has just failed, or
        where somebody is at it since one has failed."""
        is_probe = self.is_silent or self._rests_until > 0
        if time.monotonic() < self._rests_until or (is_probe and not self._probing.acquire(blocking=False)):
            raise psycopg.OperationalError("the server could not be reached a moment ago")
        try:
            yield
            self._rests_until = 0.0
            self.heard()
        except psycopg.OperationalError:
            self._rests_until = time.monotonic() + REST_S
            raise
        finally:
            if is_probe:
                self._probing.release()


class BoundedConnection(psycopg.Connection[Any]):
    """A connection on which nothing is waited for longer than the thread's `patience`; one that was is closed."""

    watch: Watch | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg's own. Raises `psycopg.OperationalError` where the server keeps silent."""
        watch, most = self.watch, getattr(_patience, "seconds", PATIENCE_S)
        if watch is None or most is None:
            return super().wait(gen, interval, timeout)
        heeded = _heeded(gen, watch)
        try:
            return super().wait(heeded, interval, SHORT_PATIENCE_S if watch.is_silent else most)
        except errors._WaitTimeout:  # noqa: SLF001  (psycopg has no other name for it)
            self.pgconn.finish()
            watch.missed()
            raise psycopg.OperationalError("the server did not answer in time") from None


def _heeded(gen: Any, watch: Watch) -> Generator[Any, Any, Any]:
    """The same talk, where the watch hears what comes. Much is settled without a word from the server: a rollback of
    nothing does not show that it lives."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if ready & READY_R:
                watch.heard()
            wanted = gen.send(ready)
    except StopIteration as end:
        return end.value


def bound_waiting(engine: Engine) -> None:
    """Every connection of the pool: bounded, and under one `Watch`."""
    watch = Watch()

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> BoundedConnection:
        with watch.connecting():
            connection = BoundedConnection.connect(*arguments, **options)
        connection.watch = watch
        return connection
