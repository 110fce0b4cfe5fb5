"""Who is calling: every carrier of a credential ends in one `Principal`, and every rule is checked on that.

A rule checked for one carrier and forgotten for another is how gateways have been broken (CVE-2026-45339).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flask import current_app, g, request

from flaskllm.blueprints._http import raw_body
from flaskllm.blueprints._wsgi import KEY
from flaskllm.domain.principal import Principal
from flaskllm.errors import Forbidden, InvalidRequest, Unauthenticated, invalid
from flaskllm.extensions import services
from flaskllm.wire.json import decode

Policy = Callable[[Principal], None]
WEBHOOK_PREFIX = "/api/v1/"
MOST_CREDENTIAL = 4096


def open_to_all(_: Principal) -> None:
    """No credential is needed; one that is sent is not looked at."""


def signed_in(_: Principal) -> None:
    """Anybody we know."""


def needs(scope: str) -> Policy:
    """Whoever has this scope."""

    def check(principal: Principal) -> None:
        if scope not in principal.scopes:
            raise Forbidden(f"This credential does not have the scope {scope}.")

    return check


def admin_only(principal: Principal) -> None:
    """Administrators, by their account and by their token's scope."""
    if not principal.is_admin:
        raise Forbidden("Only administrators may do this.")


def enter(policy: Policy) -> None:
    """Let the request in, or raise. The principal stands in `flask.g` afterwards."""
    if policy is open_to_all:
        return
    principal = authenticate()
    g.principal = principal
    policy(principal)


def current_principal() -> Principal:
    """Who the guard let in."""
    principal: Principal = g.principal
    return principal


def authenticate() -> Principal:
    """The one credential of the request as a principal.

    Raises `Unauthenticated` for none or a bad one, `InvalidRequest` for two that differ, `Forbidden` for an address that
    the token's rules keep out.
    """
    found = {credential for credential in _credentials() if credential}
    if not found:
        raise Unauthenticated("A credential is needed: Authorization: Bearer, X-API-Token, api-key or x-api-key.")
    if len(found) > 1:
        raise InvalidRequest("The request carries two credentials that differ; send one.")
    principal = _identify(found.pop())
    if not principal.may_call_from(request.remote_addr):
        raise Forbidden("This token may not be used from this address.")
    return principal


def _identify(credential: str) -> Principal:
    """A JWT has two dots, which no token of ours has."""
    if len(credential) > MOST_CREDENTIAL:
        raise Unauthenticated("The credential is not one of ours.")
    if credential.count(".") == 2:
        return services.accounts.identify(credential)
    return services.tokens.identify(credential)


def _credentials() -> Iterator[str]:
    yield from _bearers()
    for name in ("X-API-Token", "api-key", "x-api-key"):
        yield from (value.strip() for value in request.headers.getlist(name))
    yield from _from_query()
    yield from _from_body()


def _bearers() -> Iterator[str]:
    for value in request.headers.getlist("Authorization"):
        scheme, _, credential = value.strip().partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("The Authorization header must be of the form: Bearer TOKEN.")
        yield credential.strip()


def _from_query() -> Iterator[str]:
    """Only on the webhook's paths, and only where the operator allows it: addresses end up in logs."""
    found = request.environ.get(KEY)
    if not found:
        return
    if not request.path.startswith(WEBHOOK_PREFIX) or not current_app.config["ALLOW_QUERY_TOKEN"]:
        raise invalid("api_token", "is taken in the query on /api/v1/* only, where ALLOW_QUERY_TOKEN is on")
    yield from found


def _from_body() -> Iterator[str]:
    """For spreadsheet runtimes that allow simple requests alone: JSON sent as ``text/plain``."""
    allowed = current_app.config["ALLOW_BODY_TOKEN"] and request.path.startswith(WEBHOOK_PREFIX)
    if not allowed or request.method != "POST" or request.mimetype != "text/plain":
        return
    body = decode(raw_body())
    token = body.pop("api_token", None)
    if not isinstance(token, str):
        raise invalid("api_token", "must be a string")
    g.body = body
    yield token
