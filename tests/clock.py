"""Times, measured so that a busy machine does not fail a test: what holds us up is no fault of what is measured."""

from __future__ import annotations

import time
from collections.abc import Callable


def quickest(act: Callable[[], object], *, tries: int = 3, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the quickest of some tries: what it takes by itself. ``act`` can be done as often.

    ``clock``: `time.thread_time` counts the work of this thread alone, where nothing is waited for.
    """
    return min(_seconds(act, clock) for _ in range(tries))


def _seconds(act: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    act()
    return clock() - began
