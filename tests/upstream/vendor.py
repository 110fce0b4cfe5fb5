"""What each vendor's wire must offer, and the keys it asks for."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from .core import Answer, Ask, Frame, Refusal
from .transport import Request

UNKNOWN_MODEL = "no-such-model"
"""A model with this in its name does not exist at any vendor."""


class Keys:
    """The keys each vendor takes: one main key, plus those a test adds; `revoked` wins."""

    def __init__(self, main: dict[str, str]) -> None:
        self.main = main
        self.more: dict[str, set[str]] = {}
        self.revoked: set[str] = set()

    def good(self, vendor: str, key: str | None) -> bool:
        known = key == self.main.get(vendor) or key in self.more.get(vendor, set())
        return key is not None and known and key not in self.revoked


class Wire:
    """One vendor's words. Subclasses read with `accept`, write with `plain` and `frames`, and refuse with `error`."""

    statuses: ClassVar[dict[int, tuple[str, str | None, str | None]]] = {}
    """status → (message, type, code) as the vendor says them."""

    def __init__(self, vendor: str, keys: Keys) -> None:
        self.vendor = vendor
        self.keys = keys

    def key(self, request: Request) -> str | None:
        return bearer(request)

    def accept(self, request: Request, path: str) -> Ask:
        """The request understood, or `Refusal`. `path` is what follows the vendor's prefix."""
        raise NotImplementedError

    def plain(self, ask: Ask, answer: Answer) -> Any:
        raise NotImplementedError

    def frames(self, ask: Ask, answer: Answer) -> list[Frame]:
        raise NotImplementedError

    def error(self, refusal: Refusal) -> dict[str, Any]:
        raise NotImplementedError

    def error_frame(self, refusal: Refusal) -> Frame:
        return Frame(self.error(refusal))

    def headers(self, number: int) -> dict[str, str]:
        return {"x-request-id": f"req_{number:012d}"}

    def typical(self, status: int) -> Refusal:
        message, kind, code = self.statuses.get(status, (f"The service answered {status}.", None, None))
        return Refusal(status, message, kind=kind, code=code)

    def out_of_quota(self) -> Refusal:
        return self.typical(429)

    def prompt_blocked(self, ask: Ask) -> Refusal | dict[str, Any]:
        return self.typical(400)


def bearer(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def masked(key: str) -> str:
    """A key as vendors quote it: the first and last few characters."""
    return f"{key[:8]}{'*' * 8}{key[-4:]}" if len(key) > 16 else "***"


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_name(value: Any) -> bool:
    """A function name as OpenAI and Anthropic take it."""
    return isinstance(value, str) and re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", value) is not None
