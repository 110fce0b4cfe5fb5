"""Foreign failures in our words: the status decides before the wording (``docs/promises.md``, "Upstream faults")."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from flaskllm.adapters.http import Response
from flaskllm.errors import (
    PromptFiltered,
    PromptTooLong,
    ProviderError,
    ProviderFailure,
    ProviderKeyRejected,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    QuotaSpent,
)

MOST_MESSAGE = 1000
MOST_RETRY_AFTER = 3600.0
_KEY_SHAPES = re.compile(r"(?:sk|pk|rk|xai|gsk|key|fl)[-_][A-Za-z0-9_\-]{8,}|AIza[A-Za-z0-9_\-]{10,}|Bearer\s+\S+")
_TOO_LONG = re.compile(
    r"context.?(?:length|window)|maximum context|prompt is too long|token count.*exceeds", re.IGNORECASE
)
_FILTERED = re.compile(r"content.?(?:filter|management policy)|responsible.?ai", re.IGNORECASE)
_OUT_OF_QUOTA = re.compile(r"insufficient.?quota|exceeded your current quota|spending limit", re.IGNORECASE)


STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 529,
    "timeout_error": 408,
}
"""What a kind of error would have been as a status, where it came inside a 200."""


def mask_keys(text: str, secrets: Sequence[str] = ()) -> str:
    """The text without our keys, and without anything that looks like one."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "••••")
    return _KEY_SHAPES.sub("••••", text)


def failure_for(
    response: Response, secrets: Sequence[str], key_fault: re.Pattern[str] | None = None
) -> ProviderFailure:
    """What an answer with another status than 200 means. ``key_fault``: how a 400 that is about our own key begins.

    Its beginning alone counts: further on it may repeat what the caller sent, who must not put our keys aside.
    """
    status, headers = response.status, response.headers
    try:
        raw = response.read(cap=256 * 1024)
    except ProviderFailure:
        raw = b""
    message, kind = _message(raw)
    return _by_status(status, mask_keys(message, secrets), kind, wait=retry_after(headers), key_fault=key_fault)


def failure_in_body(body: Mapping[str, Any], secrets: Sequence[str]) -> ProviderFailure | None:
    """What an ``error`` object inside a 200, or inside a frame of a stream, means; None where there is none."""
    error = body.get("error")
    if not error:
        return None
    message, kind = _words(error)
    status = error.get("status_code") or error.get("code") if isinstance(error, dict) else None
    if not isinstance(status, int) or not 400 <= status <= 599:
        status = STATUS_OF.get(kind, 500)
    return _by_status(status, mask_keys(message, secrets), kind)


def _by_status(
    status: int,
    message: str,
    kind: str,
    *,
    wait: float | None = None,
    key_fault: re.Pattern[str] | None = None,
) -> ProviderFailure:
    said = f"The provider says: {message}" if message else f"The provider answered with status {status}."
    words = f"{kind} {message}"
    if status in (400, 413, 422):
        if key_fault and key_fault.match(message):
            return _of_the_key(ProviderKeyRejected("The provider refused the gateway's own key or account."))
        return _refusal(said, words)
    if status in (401, 402, 403, 404):
        rejected = ProviderKeyRejected(f"The provider refused the gateway's own call with status {status}.")
        return rejected if status == 404 else _of_the_key(rejected)
    if status == 408:
        return ProviderTimeout("The provider did not finish in time.", may_be_billed=False)
    if status == 429:
        if _OUT_OF_QUOTA.search(words):
            return QuotaSpent("The gateway's quota at the provider is used up.")
        return ProviderRateLimited("The provider's rate limit is reached.", retry_after=wait)
    if status in (503, 529) or status >= 500:
        return ProviderError(f"The provider failed with status {status}.", retry_after=wait)
    return ProviderError(f"The provider answered with the unexpected status {status}.")


def _of_the_key(failure: ProviderFailure) -> ProviderFailure:
    failure.key_at_fault = True
    return failure


def _refusal(said: str, words: str) -> ProviderRefused:
    if _FILTERED.search(words):
        return PromptFiltered(said)
    if _TOO_LONG.search(words):
        return PromptTooLong(said)
    return ProviderRefused(said)


def _message(raw: bytes) -> tuple[str, str]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return "", ""
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return "", ""
    return _words(body.get("error", body))


def _words(error: Any) -> tuple[str, str]:
    if isinstance(error, str):
        return error[:MOST_MESSAGE], ""
    if not isinstance(error, dict):
        return "", ""
    message = error.get("message") or error.get("detail") or ""
    kind = error.get("code") if isinstance(error.get("code"), str) else error.get("type") or error.get("status")
    return (message if isinstance(message, str) else "")[:MOST_MESSAGE], str(kind or "")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from any of the forms in use; between 1 and 3,600."""
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        if (value := headers.get(name)) and value.strip().replace(".", "", 1).isdigit():
            return _bounded(float(value) / 1000)
    value = (headers.get("retry-after") or "").strip()
    if value.replace(".", "", 1).isdigit():
        return _bounded(float(value))
    try:
        return _bounded(parsedate_to_datetime(value).timestamp() - time.time()) if value else None
    except (ValueError, TypeError):
        return None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 1.0), MOST_RETRY_AFTER)
