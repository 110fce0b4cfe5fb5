"""How many second tries a process may make, so that a provider that fails is not called twice as often for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

SHARE = 0.1
"""Of the calls that went out in the window."""
FLOOR = 3
"""A second, however few calls there are."""
WINDOW_S = 10


class RetryBudget:
    """Second tries of the same candidate, counted over the last ten seconds.

    Asking another candidate is no second try: what bounds it is the breaker of each (`CircuitBoard`), and a region
    that fails must not take answers from callers that another region has for them. ``clock``: monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds: deque[list[int]] = deque()
        self._calls = self._retries = 0

    def count(self) -> None:
        """A call goes out."""
        with self._lock:
            self._now()[1] += 1
            self._calls += 1

    def take(self) -> bool:
        """Whether there is room for one more; takes it."""
        with self._lock:
            now = self._now()
            if now[2] >= FLOOR and self._retries >= SHARE * self._calls:
                return False
            now[2] += 1
            self._retries += 1
            return True

    def _now(self) -> list[int]:
        """This second's row: its number, calls and retries. Those that have left the window are taken off."""
        second = int(self._clock())
        if not self._seconds or self._seconds[-1][0] != second:
            while self._seconds and self._seconds[0][0] <= second - WINDOW_S:
                _, calls, retries = self._seconds.popleft()
                self._calls -= calls
                self._retries -= retries
            self._seconds.append([second, 0, 0])
        return self._seconds[-1]
