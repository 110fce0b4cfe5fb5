"""Going down in order: after gunicorn's cut nothing of ours runs, so streams are ended before it.

On SIGTERM new work is refused at once, streams get what is left of the grace period, and then every open one is woken
through one descriptor that all of them poll (``docs/promises.md``).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

MARGIN_S = 5.0
"""Gunicorn lingers 2 s for kept-alive connections; 3 s are for writing the last frames and settling."""


class Shutdown:
    """One process's way down. ``grace_s``: gunicorn's ``graceful_timeout``."""

    def __init__(self, *, grace_s: float) -> None:
        self._grace_s = grace_s
        self._pid = 0
        self._read_end = self._write_end = -1
        self._lock = threading.Lock()
        self._at_the_end: list[Callable[[], object]] = []
        self.draining = False
        self.cut = False

    @property
    def fd(self) -> int:
        """Readable once streams must end; written once and never read, so that it wakes all who poll it."""
        if self._pid != os.getpid():
            with self._lock:
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
        if self.cut:
            return
        self.cut = True
        _ = self.fd
        os.write(self._write_end, b"x")

    def at_the_end(self, action: Callable[[], object]) -> None:
        """To be run when the process stops, after its last request."""
        self._at_the_end.append(action)

    def stop(self) -> None:
        """The worker exits: what is still read on for its bill is cut, then all is put away."""
        self.draining = True
        self.cut_streams()
        for action in self._at_the_end:
            try:
                action()
            except Exception as error:  # noqa: BLE001  (the next one must still be done)
                log.warning("stopping: %s", type(error).__name__)
        self._close()

    def _close(self) -> None:
        with self._lock:
            if self._pid == os.getpid():
                self._pid = 0
                os.close(self._read_end)
                os.close(self._write_end)

    def watch(self, worker: Any) -> None:
        """In a gunicorn worker: hear SIGTERM too, and close the listening sockets.

        gunicorn gives the application no hook for it. A stopping worker leaves its sockets open, so that new
        connections hang in the backlog until it exits; closed, they are refused, which a proxy can try elsewhere.

        The handler may interrupt gunicorn while it starts a thread, with threading's own lock in its hands: a thread
        started there would wait for that lock for ever. So it only writes a byte, to a thread that waits for it.
        """
        import signal

        before = signal.getsignal(signal.SIGTERM)
        heard, tell = os.pipe()
        threading.Thread(target=self._await, args=(heard,), name="shutdown", daemon=True).start()

        def on_term(number: int, frame: Any) -> None:
            os.write(tell, b"x")
            if callable(before):
                before(number, frame)
            for listener in getattr(worker, "sockets", ()):
                listener.close()

        signal.signal(signal.SIGTERM, on_term)

    def _await(self, heard: int) -> None:
        os.read(heard, 1)
        self.begin()
