"""People in a browser: the cookie of a sign-in, and proof that a form is ours.

The cookie is a random text of which the database keeps the hash, so that a sign-out is real. It opens ``/admin`` and
nothing else. A form's token is drawn from the cookie, so it dies with the sign-in and fits no other.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from urllib.parse import urlsplit

from flask import Response, current_app, g, request

from flaskllm.blueprints._http import READS
from flaskllm.errors import Forbidden

SIGNED_IN, SIGNING_IN = "flaskllm-admin", "flaskllm-form"
"""The cookie of who is signed in, and of who has only been shown a form yet."""
TOKEN_HEADER, TOKEN_FIELD = "X-CSRF-Token", "csrf"
MOST_FORM_BYTES, MOST_TEXT_BYTES = 256 * 1024, 2 * 2**20
"""Of a form's body; the second where somebody signed in may paste long texts."""
LONGEST_COOKIE = 100
NOT_OURS = "This form does not belong to your sign-in any more, or comes from another site. Load the page again."


def page_secret() -> str | None:
    """What the browser shows of its sign-in."""
    return _cookie(SIGNED_IN)


def sign_in(response: Response, secret: str) -> None:
    """Always a new secret: one that was planted before is worth nothing."""
    _set(response, SIGNED_IN, secret)
    _forget(response, SIGNING_IN)


def sign_out(response: Response) -> None:
    _forget(response, SIGNED_IN)


def form_token() -> str:
    """What every form of this answer carries; before the sign-in it is bound to a cookie of its own."""
    secret = page_secret() if "principal" in g else _cookie(SIGNING_IN) or g.get("signing_in")
    if secret is None:
        secret = g.signing_in = secrets.token_urlsafe(32)
    return _drawn(secret)


def keep_form_cookie(response: Response) -> Response:
    """Hand out the cookie that `form_token` has just made up."""
    if "signing_in" in g:
        _set(response, SIGNING_IN, g.signing_in)
    return response


def check_form(most: int = MOST_FORM_BYTES) -> None:
    """Whatever changes something has to come from a page of ours, in at most so many bytes. Raises `Forbidden`."""
    if request.method in READS:
        return
    request.max_content_length = request.max_form_memory_size = most
    secret = page_secret() if "principal" in g else _cookie(SIGNING_IN)
    shown = request.headers.get(TOKEN_HEADER) or request.form.get(TOKEN_FIELD, "")
    if not _is_same_origin() or secret is None or not hmac.compare_digest(shown.encode(), _drawn(secret).encode()):
        raise Forbidden(NOT_OURS)


def _is_same_origin() -> bool:
    """By the browser's own word. A proxy may have changed ``Host``; then ``Sec-Fetch-Site`` decides."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if site not in (None, "same-origin", "none") or origin == "null":
        return False
    return origin is None or urlsplit(origin).netloc.lower() == request.host.lower() or site == "same-origin"


def _drawn(secret: str) -> str:
    return hmac.new(secret.encode(), b"flaskllm form", hashlib.sha256).hexdigest()


def is_secure() -> bool:
    """Whether cookies are kept to HTTPS: in production always."""
    return request.is_secure or current_app.config["ENVIRONMENT"] == "production"


def _named(name: str) -> str:
    return f"__Host-{name}" if is_secure() else name


def _cookie(name: str) -> str | None:
    value = request.cookies.get(_named(name), "")
    return value if 0 < len(value) <= LONGEST_COOKIE else None


def _set(response: Response, name: str, value: str) -> None:
    response.set_cookie(_named(name), value, path="/", secure=is_secure(), httponly=True, samesite="Lax")


def _forget(response: Response, name: str) -> None:
    """With the attributes it was set with, or the browser keeps it."""
    response.delete_cookie(_named(name), path="/", secure=is_secure(), httponly=True, samesite="Lax")
