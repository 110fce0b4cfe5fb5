"""What was looked up a moment ago: the one cache between a credential and the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

SECONDS = 0.9
"""Below the second within which a revocation acts on every process (``docs/promises.md``)."""
MOST = 10_000


class Recent(Generic[T]):
    """Values by key, each for less than a second; bounded, and shared by threads."""

    def __init__(self, *, seconds: float = SECONDS, most: int = MOST) -> None:
        self._seconds = seconds
        self._most = most
        self._known: dict[str, tuple[float, T]] = {}

    def get(self, key: str, load: Callable[[], T]) -> T:
        """The value, loaded where it is not known or too old. What ``load`` raises is not remembered."""
        known, asked_at = self._known, time.monotonic()
        found = known.get(key)
        if found is not None and asked_at - found[0] < self._seconds:
            return found[1]
        value = load()
        if len(known) >= self._most:
            known.clear()
        known[key] = (asked_at, value)  # into the dictionary we began with: a `forget` meanwhile has dropped that one
        return value

    def forget(self) -> None:
        """Something has changed in this very process: nobody here waits for the second to pass."""
        self._known = {}
