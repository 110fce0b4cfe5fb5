"""Accounts (S1): ``/api/auth/*`` and ``/api/profile``."""

from __future__ import annotations

from flask import Blueprint, Response, g, request

from flaskllm.blueprints._doc import documented
from flaskllm.blueprints._guard import bearer, current_actor, current_principal
from flaskllm.blueprints._http import json_body, optional_json_body, success
from flaskllm.errors import InvalidRequest, invalid
from flaskllm.extensions import services
from flaskllm.wire import accounts as wire

bp = Blueprint("auth", __name__)

MOST_BYTES = 64 * 1024


@bp.post("/auth/register")
@documented(
    "Make an account",
    body=wire.REGISTRATION,
    answer=wire.REGISTERED,
    status=201,
    errors=(403, 409, 429),
    description="`REGISTRATION` says who may; where it is `approval` the account waits for an administrator.",
)
def register() -> Response:
    asked = wire.read_registration(json_body(limit=MOST_BYTES))
    user = services.accounts.register(**asked, address=request.remote_addr, request_id=g.request_id)
    return success({"user": wire.write_user(user)}, status=201)


@bp.post("/auth/login")
@documented(
    "Log in; an e-mail is taken as the name too", body=wire.LOGIN, answer=wire.LOGGED_IN, errors=(401, 403, 429)
)
def login() -> Response:
    asked = wire.read_login(json_body(limit=MOST_BYTES))
    opened = services.accounts.login(asked["username"], asked["password"], address=request.remote_addr)
    return success(wire.write_login(opened), no_store=True)


@bp.post("/auth/refresh")
@documented(
    "New tokens for a refresh token, given here or as the bearer; a second use ends its session",
    body=wire.REFRESH,
    body_required=False,
    answer=wire.LOGGED_IN,
    errors=(401, 403, 429),
    security=({}, {"refreshToken": ()}),
)
def refresh() -> Response:
    in_body, in_header = wire.read_refresh(optional_json_body(limit=MOST_BYTES)), bearer()
    if in_body and in_header and in_body != in_header:
        raise InvalidRequest("The request carries different credentials; send one.")
    token = in_body or in_header
    if token is None:
        raise invalid("refresh_token", "is required, here or as the bearer")
    return success(wire.write_login(services.accounts.refresh(token)), no_store=True)


@bp.post("/auth/logout")
@documented("End this session", answer=wire.LOGGED_OUT)
def logout() -> Response:
    services.accounts.logout(current_principal())
    return success({})


@bp.get("/profile")
@documented("One's own account", answer=wire.PROFILE_READ)
def read_profile() -> Response:
    return success(wire.write_user(services.accounts.profile(current_principal())))


@bp.patch("/profile")
@documented(
    "Change one's own account; a new e-mail or password needs the old password",
    body=wire.PROFILE,
    answer=wire.PROFILE_READ,
    errors=(409, 429),
)
def change_profile() -> Response:
    changes, old_password = wire.read_profile(json_body(limit=MOST_BYTES))
    user = services.accounts.change_profile(
        current_principal(), changes, old_password=old_password, address=request.remote_addr, actor=current_actor()
    )
    return success(wire.write_user(user))
