"""For administrators (S5): every account, every token, all usage, and the audit trail."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from flaskllm.blueprints._doc import PAGE, documented, parameter
from flaskllm.blueprints._guard import current_actor
from flaskllm.blueprints._http import (
    json_body,
    json_response,
    listing,
    no_content,
    optional_json_body,
    page,
    whole,
)
from flaskllm.blueprints._reports import TABLES, report_parameters, send_report
from flaskllm.extensions import services
from flaskllm.services.usage import GROUPS
from flaskllm.wire import accounts, shapes
from flaskllm.wire import administration as wire
from flaskllm.wire import usage as usage_wire
from flaskllm.wire.administration import HIGHEST_NUMBER

bp = Blueprint("administration", __name__)

SPAN = (
    parameter("from", "The first day or moment, in ISO 8601; without a zone in UTC"),
    parameter("to", "The last day, or the moment after the last"),
)
FILTERS_OF_USERS = (
    parameter("search", "Looked for in names and e-mails"),
    parameter("role", "Only this role", shapes.one_of(*wire.ROLES)),
    parameter("status", "Only this status; closed accounts are listed by it alone", shapes.one_of(*wire.ALL_STATUSES)),
)
FILTERS_OF_AUDIT = (
    parameter("actor", "A user's id, or a name as the trail has it"),
    parameter("action", "Such as `user.change`"),
    parameter("target", "Such as `user:{id}`"),
)


# -- accounts ---------------------------------------------------------------------------------------------------------


@bp.get("/users")
@documented("Every account, oldest first", answer=shapes.listing(wire.USER), query=(*PAGE, *FILTERS_OF_USERS))
def list_users() -> Response:
    limit, after, given = page("search", "role", "status")
    rows, following = services.accounts.list_users(limit=limit, after=after, **wire.read_user_filters(given))
    return listing(wire.write_accounts(rows), following)


@bp.post("/users")
@documented("Make an account", body=wire.NEW_USER, answer=wire.USER, status=201, errors=(409,))
def create_user() -> Response:
    asked = wire.read_new_user(json_body())
    user = services.accounts.create_user(
        asked.username, asked.email, asked.password, fields=asked.fields, actor=current_actor()
    )
    return json_response(wire.write_account(user), status=201)


@bp.get("/users/<user_id>")
@documented("One account", answer=wire.USER)
def read_user(user_id: str) -> Response:
    return json_response(wire.write_account(services.accounts.get_user(user_id)))


@bp.patch("/users/<user_id>")
@documented("Change an account; what is not sent stays", body=wire.USER_CHANGES, answer=wire.USER, errors=(409,))
def change_user(user_id: str) -> Response:
    changes = wire.read_user_changes(json_body())
    return json_response(wire.write_account(services.accounts.change_user(user_id, changes, actor=current_actor())))


@bp.delete("/users/<user_id>")
@documented(
    "Close an account for good: its sessions and tokens end, its usage and its name stay", status=204, errors=(409,)
)
def delete_user(user_id: str) -> Response:
    services.accounts.close_user(user_id, actor=current_actor())
    return no_content()


# -- tokens -----------------------------------------------------------------------------------------------------------


@bp.get("/tokens")
@documented(
    "Every API token, newest first",
    answer=shapes.listing(wire.TOKEN),
    query=(*PAGE, parameter("user_id", "Only this owner's")),
)
def list_tokens() -> Response:
    limit, after, given = page("user_id")
    rows, following = services.tokens.list(given.get("user_id"), limit=limit, after=after)
    return listing(wire.write_any_tokens(rows), following)


@bp.post("/tokens")
@documented("Make a token for somebody", body=wire.NEW_TOKEN, answer=wire.MADE_TOKEN, status=201, errors=(404, 409))
def create_token() -> Response:
    user_id, fields = wire.read_new_token(json_body())
    row, text = services.tokens.issue_for(user_id, fields, actor=current_actor())
    return json_response(wire.write_any_token(row, text=text), status=201, no_store=True)


@bp.get("/tokens/<token_id>")
@documented("One token", answer=wire.TOKEN)
def read_token(token_id: str) -> Response:
    return json_response(wire.write_any_token(services.tokens.get(None, token_id)))


@bp.patch("/tokens/<token_id>")
@documented("Change a token; what is not sent stays", body=accounts.TOKEN_CHANGES, answer=wire.TOKEN, errors=(409,))
def change_token(token_id: str) -> Response:
    changes = accounts.read_token_changes(json_body())
    return json_response(wire.write_any_token(services.tokens.change_any(token_id, changes, actor=current_actor())))


@bp.delete("/tokens/<token_id>")
@documented("Revoke a token at once", status=204)
def revoke_token(token_id: str) -> Response:
    services.tokens.revoke_any(token_id, actor=current_actor())
    return no_content()


@bp.post("/tokens/<token_id>/rotate")
@documented(
    "Give a token a new text; the old one works on for `grace_s`",
    body=accounts.ROTATION,
    body_required=False,
    answer=wire.MADE_TOKEN,
    status=201,
    errors=(409,),
)
def rotate_token(token_id: str) -> Response:
    asked: dict[str, Any] = accounts.read_rotation(optional_json_body())
    row, text = services.tokens.rotate_any(token_id, **asked, actor=current_actor())
    return json_response(wire.write_any_token(row, text=text), status=201, no_store=True)


# -- usage and the trail ----------------------------------------------------------------------------------------------


@bp.get("/usage")
@documented(
    "What everybody used, in all and by group",
    answer=usage_wire.USAGE,
    or_as=TABLES,
    query=(*report_parameters(GROUPS), parameter("user_id", "Only this user's calls")),
)
def read_usage() -> Response:
    return send_report(None, GROUPS, json_response)


@bp.get("/audit")
@documented(
    "Who changed what, newest first",
    answer=shapes.listing(wire.ENTRY),
    query=(*PAGE, *SPAN, *FILTERS_OF_AUDIT),
)
def list_audit() -> Response:
    limit, after, given = page("actor", "action", "target", "from", "to")
    number = None if after is None else whole(after, "after", least=1, most=HIGHEST_NUMBER)
    rows, following = services.audit.list(limit=limit, after=number, **wire.read_audit_filters(given))
    return listing(wire.write_entries(rows), None if following is None else str(following))
