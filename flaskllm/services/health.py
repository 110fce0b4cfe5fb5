"""Is it well: the database, Redis, who works on batches, and the process itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from flaskllm.errors import Unavailable
from flaskllm.repositories.database import Database
from flaskllm.services.shutdown import Shutdown

FRESH_S = 1.0
"""An answer is used again for this long, so that probes cannot become a load."""


class HealthService:
    """``redis``: the client, or None in *sql* mode. ``worker``: its state. ``breakers``: how many are open, by provider
    and endpoint."""

    def __init__(
        self,
        database: Database,
        *,
        redis: Any,
        mode: str,
        shutdown: Shutdown,
        worker: Callable[[], str],
        breakers: Callable[[], Mapping[tuple[str, str], int]] = dict,
    ) -> None:
        self._database, self._redis, self._mode, self._shutdown = database, redis, mode, shutdown
        self._breakers, self._worker = breakers, worker
        self._last: tuple[float, dict[str, Any]] = (0.0, {})

    def ready(self) -> dict[str, Any]:
        """``{"status": "ok" | "degraded" | "down", "checks": {…}, "mode"}``.

        Redis away, no worker for items that wait, or a provider's breaker open, is only degraded.
        """
        taken, answer = self._last
        if time.monotonic() - taken > FRESH_S or not answer:
            answer = self._look()
            self._last = (time.monotonic(), answer)
        return {**answer, "status": "down"} if self._shutdown.draining else answer

    def _look(self) -> dict[str, Any]:
        checks = {"database": state_of(self._database.ping), "redis": "off", "worker": "off", "providers": "ok"}
        if self._redis is not None:
            checks["redis"] = state_of(self._redis.ping)
        if checks["database"] == "ok":
            self._look_further(checks)
        is_less = "down" in (checks["redis"], checks["worker"]) or checks["providers"] != "ok"
        status = "down" if checks["database"] != "ok" else "degraded" if is_less else "ok"
        return {"status": status, "checks": checks, "mode": self._mode}

    def _look_further(self, checks: dict[str, str]) -> None:
        """What is asked of the database; one that goes away meanwhile is down."""
        try:
            checks["worker"] = self._worker()
            checks["providers"] = "degraded" if any(self._breakers().values()) else "ok"
        except Unavailable:
            checks["database"] = "down"


def state_of(ask: Callable[[], Any]) -> str:
    """``ok``, or ``down`` where it raises."""
    try:
        ask()
    except Unavailable:
        return "down"
    except Exception:  # noqa: BLE001  (redis-py's tree and the socket's own: all mean the same here)
        return "down"
    return "ok"
