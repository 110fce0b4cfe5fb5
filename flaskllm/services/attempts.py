"""Who is asked next, and until when: the order of attempts for one call."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Protocol

from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate
from flaskllm.errors import (
    DomainError,
    ProviderError,
    ProviderFailure,
    ProviderRateLimited,
    ProviderTimeout,
    RateLimited,
)

MOST_PER_PROVIDER = 2
MOST_IN_ALL = 4
"""Upstream calls for one call of ours (``docs/promises.md`` M8)."""
MOST_TIMEOUT_S = 600.0
SHARE = 2 / 3
"""Of the time left, for an attempt that has others after it: a provider that hangs must leave room for them."""


class KeyWatch(Protocol):
    """Who is told how keys fare (`KeyRing`)."""

    def begun(self, candidate: Candidate) -> None: ...

    def failed(self, candidate: Candidate, failure: ProviderFailure) -> None: ...

    def worked(self, candidate: Candidate) -> None: ...


class Attempts:
    """The candidates of one call in order; a second try of the last one only where it may help and cannot be billed."""

    def __init__(self, candidates: Sequence[Candidate], call: CallContext, keys: KeyWatch | None = None) -> None:
        self._keys = keys
        self._waiting = deque(candidates)
        self._call = call
        self._by_provider: Counter[str] = Counter()
        self._retry: Candidate | None = None
        self._over = False
        self.failures: list[ProviderFailure] = []
        self.number = 0
        self.candidate: Candidate | None = None

    @property
    def others_left(self) -> bool:
        """Whether somebody else could still be asked."""
        return self.number < MOST_IN_ALL and any(self._may_ask(one) for one in self._waiting)

    @property
    def is_over(self) -> bool:
        """Nobody is left to ask."""
        return self._over or (self._retry is None and not self.others_left)

    def _may_ask(self, candidate: Candidate) -> bool:
        return self._by_provider[candidate.provider.id] < MOST_PER_PROVIDER

    def next(self) -> Candidate | None:
        """The next candidate to ask, or None."""
        if self.is_over or (self.number and self._call.remaining() <= 0):
            return None
        if self._retry is not None:
            candidate, self._retry = self._retry, None
            time.sleep(min(random.uniform(0.0, 0.25), self._call.remaining()))  # noqa: S311  (jitter, no secret)
        else:
            candidate = self._waiting.popleft()
            while not self._may_ask(candidate):
                candidate = self._waiting.popleft()
        self._by_provider[candidate.provider.id] += 1
        self.number += 1
        self.candidate = candidate
        if self._keys is not None:
            self._keys.begun(candidate)
        return candidate

    def failed(self, failure: ProviderFailure) -> None:
        """Take note; decides whether there is a next one."""
        self.failures.append(failure)
        candidate = self.candidate
        if self._keys is not None and candidate is not None:
            self._keys.failed(candidate, failure)
        if not failure.try_elsewhere:
            self._over = True
        elif not self.others_left and candidate is not None and self._helps_again(failure, candidate):
            self._retry = candidate

    def worked(self) -> None:
        """The last one answered."""
        if self._keys is not None and self.candidate is not None:
            self._keys.worked(self.candidate)

    def _helps_again(self, failure: ProviderFailure, candidate: Candidate) -> bool:
        once = self._by_provider[candidate.provider.id] < MOST_PER_PROVIDER and self.number < MOST_IN_ALL
        return failure.try_again and not failure.may_be_billed and once

    def deadline(self, candidate: Candidate) -> float:
        """Until when (monotonic seconds) this attempt may take: its own ``timeout_s``, or its share of what is left."""
        own = candidate.model.timeout_s or candidate.provider.timeout_s
        if own:
            return time.monotonic() + min(own, MOST_TIMEOUT_S)
        left = self._call.remaining()
        return time.monotonic() + (left * SHARE if self.others_left else left)

    def verdict(self) -> DomainError:
        """What to tell the caller when every attempt failed."""
        failures = self.failures
        if not failures:
            return ProviderTimeout("There was no time left to ask a provider.", may_be_billed=False)
        last = failures[-1]
        if not last.try_elsewhere:
            return last
        if all(isinstance(one, ProviderTimeout) for one in failures):
            return last
        if all(isinstance(one, ProviderRateLimited) for one in failures):
            waits = [one.retry_after for one in failures if one.retry_after]
            return RateLimited(last.message, retry_after=min(waits) if waits else 1.0)
        worst = next((one for one in reversed(failures) if one.code == ProviderError.code), last)
        return worst if worst.code == ProviderError.code else ProviderError(worst.message)
