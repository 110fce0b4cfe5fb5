"""Going down in order: after gunicorn's cut nothing of ours runs, so streams are ended before it.

On SIGTERM new work is refused at once, streams get what is left of the grace period, and then every open one is woken
through one descriptor that all of them poll (``docs/promises.md`` R7).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

MARGIN_S = 5.0
"""Gunicorn lingers 2 s for kept-alive connections; 3 s are for writing the last frames and settling."""


class Shutdown:
    """One process's way down. ``grace_s``: gunicorn's ``graceful_timeout``."""

    def __init__(self, *, grace_s: float) -> None:
        self._grace_s = grace_s
        self._pid = 0
        self._read_end = self._write_end = -1
        self._at_the_end: list[Callable[[], None]] = []
        self.draining = False
        self.cut = False

    @property
    def fd(self) -> int:
        """Readable once streams must end; written once and never read, so that it wakes all who poll it."""
        if self._pid != os.getpid():
            self._read_end, self._write_end = os.pipe()
            self._pid = os.getpid()
        return self._read_end

    def begin(self) -> None:
        """New work is refused from now on; streams are cut when the grace period is nearly over."""
        if self.draining:
            return
        self.draining = True
        timer = threading.Timer(max(0.0, self._grace_s - MARGIN_S), self.cut_streams)
        timer.daemon = True
        timer.start()

    def cut_streams(self) -> None:
        self.cut = True
        _ = self.fd
        os.write(self._write_end, b"x")

    def at_the_end(self, action: Callable[[], None]) -> None:
        """To be run when the process stops, after its last request."""
        self._at_the_end.append(action)

    def stop(self) -> None:
        """The worker exits."""
        for action in self._at_the_end:
            action()

    def watch(self, worker: Any) -> None:
        """In a gunicorn worker: hear SIGTERM too, and close the listening sockets.

        gunicorn gives the application no hook for it. A stopping worker leaves its sockets open, so that new
        connections hang in the backlog until it exits; closed, they are refused, which a proxy can try elsewhere.
        """
        import signal

        before = signal.getsignal(signal.SIGTERM)

        def on_term(number: int, frame: Any) -> None:
            self.begin()
            if callable(before):
                before(number, frame)
            for listener in getattr(worker, "sockets", ()):
                listener.close()

        signal.signal(signal.SIGTERM, on_term)
