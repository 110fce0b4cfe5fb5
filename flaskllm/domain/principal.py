"""Who is calling, however the credential came in."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

SCOPES = ("chat", "embeddings", "images", "batch", "webhook", "external", "admin")
GRANTED_ONLY = frozenset({"external", "admin"})
"""Scopes that only an administrator gives."""

PERIODS = ("day", "week", "month", "total")


@dataclass(frozen=True, slots=True)
class Budget:
    """``amount`` in 10⁻⁹ US dollars for each ``period``. One that is not ``hard`` refuses nothing; an alert is sent
    once ``alert`` of it is spent."""

    id: str
    amount: int
    period: str
    hard: bool = True
    alert: int | None = None


@dataclass(frozen=True, slots=True)
class RateLimits:
    """How fast; None: without a bound."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """A user, and the token or session that speaks for them; frozen, shared by threads, cached at most a second.

    ``of_user``: what holds for all tokens and sessions of the user together.
    """

    user_id: str
    username: str
    role: str = "user"
    scopes: frozenset[str] = frozenset()
    token_id: str | None = None
    session_id: str | None = None
    models: tuple[str, ...] | None = None
    templates: tuple[str, ...] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    budgets: tuple[Budget, ...] = ()
    of_user: RateLimits | None = None
    allowed_ips: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    drop_params: bool = False
    cache: bool = False
    approved: bool = True

    @property
    def is_admin(self) -> bool:
        """Administrators are what their account says and their token allows: one limited to templates never does."""
        return self.role == "admin" and (self.token_id is None or ("admin" in self.scopes and self.templates is None))

    @property
    def subject(self) -> str:
        """What limits are counted by: the token, or the user where a JWT speaks."""
        return f"token:{self.token_id}" if self.token_id else f"user:{self.user_id}"

    def may_call_from(self, address: str | None) -> bool:
        """Whether the token's IP rules let this address in; no rules let everybody in."""
        return not self.allowed_ips or in_ranges(address, self.allowed_ips)

    def may_use_template(self, name: str | None) -> bool:
        return self.templates is None or name in self.templates


def in_ranges(address: str | None, ranges: Iterable[str]) -> bool:
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return any(found in ipaddress.ip_network(known, strict=False) for known in ranges)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a caller says of itself (S2's headers): recorded, returned, never used for access."""

    correlation_id: str | None = None
    user_id: str | None = None
    client_id: str | None = None


NO_CLAIMS = Claims()
