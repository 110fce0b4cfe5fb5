"""From a request to a principal, whatever carried the credential; and who may enter which door.

A policy is a callable that takes the principal and raises `Forbidden`; `blueprints.DOORS` names one for every view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hmac import compare_digest

from flask import current_app, g, request

from flaskllm.blueprints._browser import page_secret
from flaskllm.blueprints._http import raw_body, takes_query_token
from flaskllm.blueprints._wsgi import KEY
from flaskllm.domain.audit import Actor
from flaskllm.domain.principal import Principal
from flaskllm.errors import Forbidden, InvalidRequest, Unauthenticated, invalid
from flaskllm.extensions import services
from flaskllm.wire.json import decode

Policy = Callable[[Principal], None]

TOKEN_HEADERS = ("X-API-Token", "api-key", "x-api-key")
UNATTENDED = "X-Unattended"
"""What a page of ours says of a request that it makes by itself, with nobody there."""
LONGEST_CREDENTIAL = 8192
TEMPLATES_SCOPE = "webhook"
"""The one scope whose doors know templates: a token limited to templates must not pass them by elsewhere."""


def enter(policy: Policy) -> None:
    """Let the caller of this request in, or raise `Unauthenticated` or `Forbidden`."""
    if policy is open_to_all or (policy is metrics_reader and _carries_metrics_token()):
        return
    g.principal = visitor() if policy is in_a_browser else authenticate()
    policy(g.principal)


def _carries_metrics_token() -> bool:
    """Whether it is the token that the operator made for Prometheus: it opens one door and is nobody."""
    wanted, found = current_app.config["METRICS_TOKEN"], set(_credentials())
    return wanted is not None and len(found) == 1 and compare_digest(found.pop().encode(), wanted.reveal().encode())


def current_principal() -> Principal:
    """Who is calling; only behind a guard that asks."""
    principal: Principal = g.principal
    return principal


def current_actor() -> Actor:
    """The same as the audit trail names them, with the address and the id of this request."""
    principal = current_principal()
    return Actor(principal.user_id, principal.username, request.remote_addr, g.request_id)


def authenticate() -> Principal:
    """The one principal of this request, from all carriers."""
    found = set(_credentials())
    if len(found) > 1:
        raise InvalidRequest("The request carries different credentials; send one.")
    if not found:
        raise Unauthenticated("A credential is needed: Authorization: Bearer, or X-API-Token.")
    principal = services.quotas.applied(_identify(found.pop()))
    if not principal.may_call_from(request.remote_addr):
        raise Forbidden("The API token may not be used from this address.")
    return principal


def visitor() -> Principal:
    """Who has signed in with this browser; no other credential is looked at. A page may ask a model, so they are held
    to the same limits and budgets."""
    secret = page_secret()
    if secret is None:
        raise Unauthenticated("Sign in first.")
    found = services.accounts.identify_page(secret, attended=UNATTENDED not in request.headers)
    return services.quotas.applied(found)


def bearer() -> str | None:
    """What stands behind ``Authorization: Bearer``; other schemes are somebody else's, such as a proxy's."""
    scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
    return rest.strip() or None if scheme.lower() == "bearer" else None


def _credentials() -> Iterator[str]:
    given = [bearer(), *(request.headers.get(name, "").strip() for name in TOKEN_HEADERS)]
    if current_app.config["ALLOW_QUERY_TOKEN"] and takes_query_token():
        given += request.environ.get(KEY, [])
    if current_app.config["ALLOW_BODY_TOKEN"] and takes_query_token() and _is_simple_post():
        given.append(_body_token())
    return (credential for credential in given if credential)


def own_credentials() -> set[str]:
    """What this very request was let in by, for whoever must not hand it on."""
    return set(_credentials())


def _is_simple_post() -> bool:
    return request.method == "POST" and request.mimetype == "text/plain"


def _body_token() -> str | None:
    """The token in a spreadsheet's simple request. The body is read here, once; `json_body` gives the rest of it."""
    body = decode(raw_body())
    token = body.pop("api_token", None)
    if token is not None and not isinstance(token, str):
        raise invalid("api_token", "must be a string")
    if token:
        g.body = body
    return token


def _identify(credential: str) -> Principal:
    if len(credential) > LONGEST_CREDENTIAL:
        raise Unauthenticated("The credential is not valid.")
    if credential.count(".") == 2 and not services.tokens.is_environment_token(credential):
        return services.accounts.identify(credential)
    return services.tokens.identify(credential)


# -- policies ---------------------------------------------------------------------------------------------------------


def open_to_all(_principal: Principal) -> None:
    """No credential is asked for, nor looked at."""


def signed_in(principal: Principal) -> None:
    """Anybody with a credential, also while the account waits for its approval."""
    _refuse_workbooks(principal)


def _refuse_workbooks(principal: Principal) -> None:
    """Whoever is sent a workbook has its token, and is neither its owner nor anybody who may look at their account."""
    if principal.templates is not None:
        raise Forbidden("This token may use its templates only, at /api/v1/webhook.")


def needs(scope: str) -> Policy:
    """The scope, on an account that is approved."""

    def policy(principal: Principal) -> None:
        if not principal.approved:
            raise Forbidden("The account waits for an administrator's approval.")
        if scope not in principal.scopes:
            raise Forbidden(f"The scope {scope!r} is needed.")
        if scope != TEMPLATES_SCOPE:
            _refuse_workbooks(principal)

    policy.scope = scope  # type: ignore[attr-defined]  # for the document
    return policy


def admin_only(principal: Principal) -> None:
    """Administrators: in person, or by a token with the scope ``admin``."""
    if not principal.is_admin or not principal.approved:
        raise Forbidden("Only administrators may do this.")


def in_a_browser(principal: Principal) -> None:
    """An administrator by the cookie of a sign-in, which is good for pages and for nothing else."""
    admin_only(principal)


def metrics_reader(principal: Principal) -> None:
    """Prometheus with ``METRICS_TOKEN``, or an administrator; from wherever, since behind a proxy all are loopback."""
    admin_only(principal)
