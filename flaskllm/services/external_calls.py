"""S1's proxy: a call to the outside on a caller's word, by the transport that reaches public places only.

The gateway's own credentials stay here. Whoever calls may send whatever key the target asks for, but not the one that
he called with, nor any other of a gateway's: a target would be handed the right to spend somebody's money.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import unquote_plus

from flaskllm.domain import api_token
from flaskllm.domain.answer import RateStatus
from flaskllm.domain.external import ExternalAnswer, ExternalCall
from flaskllm.domain.principal import Principal
from flaskllm.errors import Unavailable, invalid
from flaskllm.net.addresses import MOST_NAMED, encoded_fields, parse_url
from flaskllm.net.egress import PublicSession
from flaskllm.security import JwtCodec
from flaskllm.services.limits import Limits

SHORTEST_CREDENTIAL = 8
"""Below this a credential would be found in many a text that has nothing to do with it."""
_TOKEN = re.compile(r"(?=(fl_[0-9A-Za-z]{49}))")
_REFRESH = re.compile(rf"{api_token.REFRESH_PREFIX}[0-9A-Za-z]{{{api_token.RANDOM_DIGITS}}}")
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{8,4096}\.([A-Za-z0-9_-]{8,4096})\.[A-Za-z0-9_-]{8,}")
_BASIC = re.compile(r"(?i:basic) +([A-Za-z0-9+/]{8,8192}={0,2})")


class ExternalCallService:
    """``seconds``: of one call, all its tries and redirects together. ``most_calls``: at once, in this process."""

    def __init__(
        self, session: PublicSession, limits: Limits, *, seconds: float, max_retries: int, most_calls: int | None
    ) -> None:
        self._session, self._limits = session, limits
        self._seconds, self._max_retries = seconds, max_retries
        self._slots = threading.BoundedSemaphore(most_calls) if most_calls else None

    def host(self, call: ExternalCall) -> str:
        """The host that is called, for the log. Raises `InvalidRequest` for an address that is none."""
        return parse_url(call.url).host

    def send(
        self, call: ExternalCall, principal: Principal, *, own: Collection[str]
    ) -> tuple[ExternalAnswer, tuple[tuple[str, RateStatus], ...]]:
        """The target's answer, and how the caller's limits stand; ``own``: the credentials of this very request.

        Raises `InvalidRequest` naming the field, `RateLimited`, `ForbiddenTarget`, `ExternalError` or
        `ExternalTimeout`; `Unavailable` where so many calls are under way that health checks would have to wait.
        """
        refuse_own_credentials(call, own)
        headers, body = _with_body(call)
        rates = self._limits.admit_request(principal)
        if self._slots is not None and not self._slots.acquire(blocking=False):
            raise Unavailable("This process has as many external calls under way as it may.", retry_after=1)
        try:
            found = self._session.request(
                call.method,
                call.url,
                headers=headers,
                body=body,
                params=call.params,
                timeout_s=self._seconds,
                max_retries=self._max_retries,
            )
        finally:
            if self._slots is not None:
                self._slots.release()
        return ExternalAnswer(found.status, dict(found.headers), found.body, found.elapsed_ms), rates


def _with_body(call: ExternalCall) -> tuple[dict[str, Any], bytes | None]:
    """The headers, with a type where the caller gave none, and the body. Raises `InvalidRequest` naming its field."""
    headers, payload = dict(call.headers), call.payload
    if payload is None:
        return headers, None
    if call.use_json:
        kind, text = "application/json", json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    elif isinstance(payload, str):
        kind, text = "text/plain; charset=utf-8", payload
    elif isinstance(payload, dict):
        kind, text = "application/x-www-form-urlencoded", encoded_fields(payload, "payload")
    else:
        raise invalid("payload", "must be an object or a string where use_json is false")
    if not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = kind
    return headers, text.encode()


def refuse_own_credentials(call: ExternalCall, own: Collection[str]) -> None:
    """Raises `InvalidRequest` naming the field that holds ``own``, or another credential of a gateway such as this."""
    searched = [credential for credential in own if len(credential) >= SHORTEST_CREDENTIAL]
    for field, text in _texts(call):
        if any(_holds(spelt, searched) for spelt in _spellings(text)):
            raise invalid(field, "holds a credential of this gateway, which is not passed on")


def _holds(text: str, own: Collection[str]) -> bool:
    return (
        any(credential in text for credential in own)
        or any(api_token.looks_valid(found[1]) for found in _TOKEN.finditer(text))
        or _REFRESH.search(text) is not None
        or any(_is_issued_here(found[1]) for found in _JWT.finditer(text))
    )


def _is_issued_here(claims: str) -> bool:
    """Whether the middle of a JWT names a gateway as who made it; whether the signature holds does not matter."""
    try:
        said = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("iss") == JwtCodec.NAME


def _spellings(text: str) -> Iterator[str]:
    """The text, and what it says to one who reads it as part of an address or as Basic authentication."""
    yield text
    if "%" in text or "+" in text:
        yield unquote_plus(text)
    for found in _BASIC.finditer(text):
        try:
            yield base64.b64decode(found[1] + "=" * (-len(found[1]) % 4)).decode("latin-1")
        except binascii.Error:
            continue


def _texts(call: ExternalCall) -> Iterator[tuple[str, str]]:
    """Each text of a call and the field it stands in; names are texts too."""
    yield "url", call.url
    for field in ("headers", "params", "payload"):
        yield from _inner_texts(field, getattr(call, field))


def _inner_texts(field: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield field, name
            yield from _inner_texts(f"{field}.{name}" if len(name) <= MOST_NAMED else field, inner)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _inner_texts(f"{field}[{place}]", inner)
