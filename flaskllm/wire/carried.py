"""Signatures of Gemini's in places of Anthropic's dialect that its SDKs send back: ids of calls, and thoughts.

Clients keep what they know and drop what they do not, so a field of our own would be lost. A call's id comes back
twice, with the call and with its result; it may hold letters, digits, ``_`` and ``-`` only. A thought's signature comes
back as it was.
"""

from __future__ import annotations

import base64
import binascii

MARK = "__google_"
"""Stands between a call's id and the signature in it."""
THOUGHT = "google:"
"""Begins the signature of a thought that is Google's and not Anthropic's."""


def signed_id(call_id: str, signature: str | None) -> str:
    """A call's id with the signature in it; without one, or with one that is no base64, the id alone.

    >>> signed_id("call_1", "+/8="), call_of("call_1__google_-_8")
    ('call_1__google_-_8', ('call_1', '+/8='))
    """
    raw = _decoded(signature) if signature else None
    if not raw:
        return call_id
    return call_id + MARK + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def call_of(given: str) -> tuple[str, str | None]:
    """The id of a call as its provider gave it, and the signature that was put into it."""
    call_id, mark, packed = given.rpartition(MARK)
    if not mark or not call_id:
        return given, None
    try:
        raw = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return given, None
    return call_id, base64.b64encode(raw).decode()


def signed_thought(signature: str) -> str:
    """What stands as the signature of a thought that Google signed."""
    return THOUGHT + signature


def google_signature(signature: str) -> str | None:
    """Google's signature of a thought; None where it is Anthropic's."""
    return signature.removeprefix(THOUGHT) if signature.startswith(THOUGHT) else None


def _decoded(signature: str) -> bytes | None:
    """Its bytes, where writing them again gives the same letters."""
    try:
        raw = base64.b64decode(signature, validate=True)
    except (ValueError, binascii.Error):
        return None
    return raw if base64.b64encode(raw).decode() == signature else None
