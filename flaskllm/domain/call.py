"""The context of one call: an argument of every service method that acts for a caller, never looked up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flaskllm.domain.principal import NO_CLAIMS, Claims, Principal

HIGHEST_ID = 2**63 - 1
"""Of a row of the ledger."""


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


@dataclass(frozen=True, slots=True)
class CallFilters:
    """Which calls; what is None does not matter.

    ``model``: asked for or asked. ``failed``: all that ended with an error. ``since``, ``until``: when they began, in
    milliseconds since 1970.
    """

    request_id: str | None = None
    user_id: str | None = None
    token_id: str | None = None
    model: str | None = None
    provider: str | None = None
    door: str | None = None
    tag: str | None = None
    error_code: str | None = None
    failed: bool | None = None
    since: int | None = None
    until: int | None = None


class CallKey(NamedTuple):
    """Where a page begins: after the call of this moment and id."""

    started_at: int
    id: int
