"""In and out: the sign-in, the sign-out, and the page of a gateway that has no administrator yet."""

from __future__ import annotations

from flask import Response, current_app, g, request

from flaskllm.blueprints._browser import is_secure, sign_in, sign_out
from flaskllm.blueprints._guard import current_principal
from flaskllm.blueprints._http import query
from flaskllm.blueprints.admin._forms import faults_of
from flaskllm.blueprints.admin._pages import HOME, bp, go, onward, page, safe_next
from flaskllm.domain.audit import Actor
from flaskllm.errors import DomainError, Unauthenticated
from flaskllm.extensions import services
from flaskllm.wire import accounts as wire


@bp.get("/")
@bp.get("")
def home() -> Response:
    return go(HOME)


# -- in and out -------------------------------------------------------------------------------------------------------


@bp.get("/sign-in")
def show_sign_in() -> Response:
    given = query("next")
    if services.first_run.is_open():
        return go("admin.show_first_run")
    return _sign_in_page(given.get("next"))


@bp.post("/sign-in")
def enter() -> Response:
    wanted = request.form.get("next")
    try:
        asked = wire.read_login({name: request.form.get(name, "") for name in ("username", "password")})
        secret = services.accounts.enter_page(**_as_login(asked), address=request.remote_addr)
    except DomainError as error:
        return _sign_in_page(wanted, error)
    response = onward(safe_next(wanted))
    sign_in(response, secret)
    return response


def _as_login(asked: dict[str, str]) -> dict[str, str]:
    return {"login": asked["username"], "password": asked["password"]}


def _sign_in_page(wanted: str | None, error: DomainError | None = None) -> Response:
    if error is not None:
        g.error_code = error.code
    return page(
        "sign_in.html",
        status=200 if error is None else error.status,
        next=wanted,
        username=request.form.get("username", ""),
        error=error,
        needs_https=is_secure() and not request.is_secure,
    )


@bp.post("/sign-out")
def leave() -> Response:
    services.accounts.logout(current_principal())
    return _out()


@bp.post("/sign-out-everywhere")
def leave_everywhere() -> Response:
    services.accounts.logout_everywhere(current_principal())
    return _out()


def _out() -> Response:
    response = go("admin.show_sign_in")
    sign_out(response)
    return response


@bp.get("/session")
def read_session() -> Response:
    user = services.accounts.profile(current_principal())
    return page("session.html", user=user, environment=current_app.config["ENVIRONMENT"])


# -- the first administrator ------------------------------------------------------------------------------------------


@bp.get("/first-run")
def show_first_run() -> Response:
    return _first_run_page() if services.first_run.is_open() else go("admin.show_sign_in")


@bp.post("/first-run")
def make_first_administrator() -> Response:
    """Makes the account and signs it in."""
    try:
        asked = wire.read_registration({name: request.form.get(name, "") for name in ("username", "email", "password")})
        actor = Actor(None, asked["username"], request.remote_addr, g.request_id)
        services.first_run.make_administrator(request.form.get("code", ""), **asked, actor=actor)
        secret = services.accounts.enter_page(asked["username"], asked["password"], address=request.remote_addr)
    except Unauthenticated:  # somebody changed the account in this very moment
        return go("admin.show_sign_in")
    except DomainError as error:
        g.error_code = error.code
        return _first_run_page(error)
    response = go(HOME)
    sign_in(response, secret)
    return response


def _first_run_page(error: DomainError | None = None) -> Response:
    given = {name: request.form.get(name, "") for name in ("username", "email", "code")}
    status = 200 if error is None else error.status
    return page("first_run.html", status=status, given=given, error=error, faults=faults_of(error))
