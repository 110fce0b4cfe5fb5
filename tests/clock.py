"""Times, measured so that a busy machine does not fail a test: what holds us up is no fault of what is measured."""

from __future__ import annotations

import time
from collections.abc import Callable


def quickest(act: Callable[[], object], *, tries: int = 3) -> float:
    """Seconds of the quickest of some tries: what it takes by itself. ``act`` can be done as often."""
    return min(_seconds(act) for _ in range(tries))


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began
