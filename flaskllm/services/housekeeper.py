"""What has to be done now and then: reap dead attempts, try late settlements again, sweep what has expired.

One thread of each web process, started by its first request after the fork. Without threads (uWSGI as on
PythonAnywhere) the request that finds it due does it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to do every ``every_s`` seconds."""

    name: str
    every_s: float
    do: Callable[[], object]


class Housekeeper:
    """Runs chores when they are due; a chore that fails is told in the log and tried again at its next time."""

    def __init__(self, chores: Sequence[Chore], *, threads: bool) -> None:
        self._chores = list(chores)
        self._threads = threads
        self._due = {chore.name: 0.0 for chore in chores}
        self._owner = 0
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def add(self, chore: Chore) -> None:
        """One more, due at once: for what only some processes do. Before the first `wake`."""
        self._chores.append(chore)
        self._due[chore.name] = 0.0

    def wake(self) -> None:
        """Called with each request: starts the thread once a process, or does what is due where there are none."""
        if self._threads:
            if self._owner != os.getpid():
                self._start()
        elif self._lock.acquire(blocking=False):
            try:
                self.run_due()
            finally:
                self._lock.release()

    def _start(self) -> None:
        with self._lock:
            if self._owner == os.getpid():
                return
            self._owner = os.getpid()
            self._stopped = threading.Event()
            self._thread = threading.Thread(target=self._work, args=(self._stopped,), name="housekeeper", daemon=True)
            self._thread.start()

    def _work(self, stopped: threading.Event) -> None:
        shortest = min((chore.every_s for chore in self._chores), default=1.0)
        while not stopped.wait(min(shortest, 1.0)):
            self.run_due()

    def run_due(self) -> None:
        """Do what is due now."""
        now = time.monotonic()
        for chore in self._chores:
            if now >= self._due[chore.name]:
                self._due[chore.name] = now + chore.every_s
                self._run(chore)

    def _run(self, chore: Chore) -> None:
        try:
            chore.do()
        except Exception as error:  # noqa: BLE001  (the next chore must still be done)
            log.warning("the chore %s failed: %s", chore.name, type(error).__name__)

    def stop(self) -> None:
        """No round is begun any more."""
        self._stopped.set()

    def finish(self, seconds: float) -> None:
        """Stop, and let the round that is at work end, for at most so long: for processes that end by themselves.

        The next `wake` begins anew.
        """
        self.stop()
        if self._owner == os.getpid() and self._thread is not None:
            self._thread.join(seconds)
            self._owner = 0
