"""Is there room: requests and tokens a minute, exact over all processes.

One window a limit, beginning with its first hit, counted where every process sees it: in SQL through the ledger's
grouped commits, or in Redis where there is one. With Redis away it is counted in SQL until it is back
(``docs/promises.md``), never not at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from flaskllm.domain.answer import RateStatus
from flaskllm.domain.call import CallContext
from flaskllm.domain.principal import Principal
from flaskllm.errors import RateLimited
from flaskllm.repositories.ledger import Count

log = logging.getLogger(__name__)

MINUTE = 60


class Counters(Protocol):
    """Where windows are counted."""

    def add(self, name: str, amount: int, window_s: int) -> tuple[int, float]:
        """Add to a window that begins with its first hit: its value now, and the seconds until it ends."""


class SqlCounters:
    """Counters as rows, written together with the ledger's."""

    def __init__(self, run: Callable[[Any], Any]) -> None:
        self._run = run

    def add(self, name: str, amount: int, window_s: int) -> tuple[int, float]:
        value, ends_at = self._run(Count(name[:200], amount, window_s * 1000))
        return value, max(0.0, ends_at / 1000 - time.time())


class RedisCounters:
    """Counters in Redis; where it is away, ``fallback`` counts, and Redis is asked again after ``rest_s``."""

    SCRIPT = """
    local value = redis.call('INCRBY', KEYS[1], ARGV[1])
    local left = redis.call('PTTL', KEYS[1])
    if left < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]); left = tonumber(ARGV[2]) end
    return {value, left}
    """

    def __init__(self, redis: Any, fallback: Counters, *, rest_s: float = 1.0) -> None:
        self._script = redis.register_script(self.SCRIPT)
        self._fallback = fallback
        self._rest_s = rest_s
        self._rests_until = 0.0

    def add(self, name: str, amount: int, window_s: int) -> tuple[int, float]:
        if time.monotonic() >= self._rests_until:
            try:
                value, left = self._script(keys=[f"flaskllm:count:{name}"], args=[amount, window_s * 1000])
                return int(value), left / 1000
            except Exception as error:  # noqa: BLE001  (redis-py's tree and the socket's own)
                self._rests_until = time.monotonic() + self._rest_s
                log.warning("Redis is away, limits are counted in SQL: %s", type(error).__name__)
        return self._fallback.add(name, amount, window_s)


class Limits:
    """``per_minute``: requests for a token, or a user with a JWT, that has no limit of its own; None: no limit."""

    def __init__(self, counters: Counters, *, per_minute: int | None) -> None:
        self._counters = counters
        self._per_minute = per_minute

    def admit(self, call: CallContext, *, tokens: int = 0, requests: int = 1) -> tuple[tuple[str, RateStatus], ...]:
        """Count this call; gives how the caller's limits stand. Raises `RateLimited` with ``retry_after``."""
        principal = call.principal
        found = list(self.admit_request(principal, requests=requests))
        if principal.tokens_per_minute is not None:
            found.append(("tokens", self._take_tokens(call, tokens, principal.tokens_per_minute, found)))
        return tuple(found)

    def admit_request(self, principal: Principal, *, requests: int = 1) -> tuple[tuple[str, RateStatus], ...]:
        """Count a request that asks no model, by the same limit. Raises `RateLimited`."""
        if self._per_minute is None and principal.requests_per_minute is None:
            return ()
        limit = principal.requests_per_minute or self._per_minute or 0
        return (("requests", self._take(f"rpm:{principal.subject}", requests, limit, "requests", [])),)

    def _take_tokens(
        self, call: CallContext, tokens: int, limit: int, others: list[tuple[str, RateStatus]]
    ) -> RateStatus:
        """A refused prompt takes nothing: one that is too long must not lock out the short ones after it."""
        try:
            return self._take(f"tpm:{call.principal.subject}", tokens, limit, "tokens", others)
        except RateLimited:
            self.correct(call, tokens=-tokens)
            raise

    def _take(self, name: str, amount: int, limit: int, what: str, others: list[tuple[str, RateStatus]]) -> RateStatus:
        value, left = self._counters.add(name, amount, MINUTE)
        status = RateStatus(limit, max(0, limit - value), left)
        if value > limit:
            raise RateLimited(
                f"More than {limit} {what} a minute.",
                retry_after=max(1.0, left),
                headers=rate_headers((*others, (what, status))),
            )
        return status

    def correct(self, call: CallContext, *, tokens: int) -> None:
        """After the call: what it really took, beyond or below what was counted before it."""
        if call.principal.tokens_per_minute is not None and tokens:
            self._counters.add(f"tpm:{call.principal.subject}", tokens, MINUTE)

    def hit(self, name: str, limit: int, seconds: int) -> float:
        """For doors without a principal: 0.0 if there is room for one more, else the seconds to wait."""
        value, left = self._counters.add(f"guard:{name}", 1, seconds)
        return 0.0 if value <= limit else max(1.0, left)


def rate_headers(rates: tuple[tuple[str, RateStatus], ...]) -> dict[str, str]:
    """``x-ratelimit-*`` as OpenAI's clients read them; resets in seconds."""
    found = {}
    for what, status in rates:
        found[f"x-ratelimit-limit-{what}"] = str(status.limit)
        found[f"x-ratelimit-remaining-{what}"] = str(status.remaining)
        found[f"x-ratelimit-reset-{what}"] = f"{status.reset_s:.3f}s"
    return found
