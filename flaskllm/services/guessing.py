"""How often a password may be tried (``docs/promises.md``)."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable

from flaskllm.errors import RateLimited

Throttle = Callable[[str, int, int], float]
"""``throttle(key, limit, seconds)``: 0.0 where there is room for one more, else the seconds to wait."""

PER_ACCOUNT = 10
PER_ADDRESS = 60
MINUTE = 60


class Guesses:
    """Tries a minute: ten on an account, sixty from an address.

    Who guesses at somebody's password must not lock the owner out: on an account that has had its ten, an address
    that has not tried yet still has one.
    """

    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle

    def count(self, account: str, address: str | None) -> None:
        """Count one try, before the password is looked at. Raises `RateLimited`."""
        place = network_of(address)
        self.count_address(address)
        name = hashlib.sha256(account.encode()).hexdigest()[:32]
        first_from_here = self._throttle(f"guess:{name}:{place}", 1, MINUTE)
        wait = self._throttle(f"guess:{name}", PER_ACCOUNT, MINUTE)
        if wait and first_from_here:
            raise _too_many(wait)

    def count_address(self, address: str | None) -> None:
        """Count what is no try on an account, such as a registration."""
        if wait := self._throttle(f"guess:from:{network_of(address)}", PER_ADDRESS, MINUTE):
            raise _too_many(wait)


def network_of(address: str | None) -> str:
    """What one caller has: an IPv4 address, or the 64 bits of an IPv6 network."""
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return "nowhere"
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False).network_address)


def _too_many(wait: float) -> RateLimited:
    return RateLimited("Too many tries; wait a moment.", retry_after=wait)
