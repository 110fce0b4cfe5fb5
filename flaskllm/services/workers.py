"""Whether anybody looks after batches: workers say so every few seconds, and who looks sees the last time."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from flaskllm.repositories import workers as repository
from flaskllm.repositories.batches import count_waiting
from flaskllm.repositories.database import Database
from flaskllm.services.housekeeper import Chore

BEAT_S = 10.0
ABSENT_MS = 60_000
"""Who has said nothing for so long is not at work; what has waited so long waits in vain."""
FORGOTTEN_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Hands:
    """``workers``: how many are at work. ``waiting``: jobs that have waited for a minute and more."""

    workers: int
    waiting: int

    @property
    def state(self) -> str:
        """``ok``; ``off`` where nobody is there and nothing waits; ``down`` where something does."""
        return "ok" if self.workers else "down" if self.waiting else "off"


class WorkerWatch:
    """Who is at work on batches, in every process and on every machine alike. Each method raises `Unavailable`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def beat(self, pid: int | None = None) -> None:
        """This process (or the one of that number) is a worker, and at work now."""
        name = f"{socket.gethostname()[:100]}:{pid or os.getpid()}"
        with self._db.transaction() as session:
            repository.beat(session, name)
            repository.forget(session, unseen_ms=FORGOTTEN_MS)

    def chore(self, pid: int | None = None) -> Chore:
        """What a worker's housekeeper does, so that it is known to be there."""
        return Chore("heartbeat", BEAT_S, lambda: self.beat(pid))

    def look(self) -> Hands:
        """Who is there now; what waits is counted only where nobody is."""
        with self._db.reading() as session:
            workers = repository.count_seen(session, within_ms=ABSENT_MS)
            return Hands(workers, 0 if workers else count_waiting(session, for_ms=ABSENT_MS))
