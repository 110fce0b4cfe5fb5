"""The context of one call: an argument of every service method that acts for a caller, never looked up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flaskllm.domain.principal import NO_CLAIMS, Claims, Principal


@dataclass(frozen=True, slots=True)
class CallContext:
    """Who asks, through which door, and until when.

    ``started`` and ``deadline`` are ``time.monotonic()`` seconds. ``client_fd`` is the descriptor of the caller's
    connection where the server tells it, so that a hang-up is seen while the provider is silent. ``uses_cache``: an
    answer that was given before will do; None: nobody said, and a template may. ``keep``: makes, out of a whole answer
    (`domain.answer.Told`), the write that has to be in one transaction with its settlement.
    """

    principal: Principal
    request_id: str
    door: str
    deadline: float
    started: float = field(default_factory=time.monotonic)
    claims: Claims = NO_CLAIMS
    address: str | None = None
    client_fd: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    uses_cache: bool | None = None
    keep: Callable[[Any], Any] | None = None

    def remaining(self) -> float:
        """Seconds left; never below zero."""
        return max(0.0, self.deadline - time.monotonic())
