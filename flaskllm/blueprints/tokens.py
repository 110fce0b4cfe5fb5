"""The caller's own API tokens (S1): ``/api/tokens``."""

from __future__ import annotations

from flask import Blueprint, Response

from flaskllm.blueprints._doc import PAGE, documented
from flaskllm.blueprints._guard import current_actor, current_principal
from flaskllm.blueprints._http import json_body, listing, no_content, optional_json_body, page, success
from flaskllm.extensions import services
from flaskllm.wire import accounts as wire

bp = Blueprint("tokens", __name__)


@bp.get("")
@documented("One's own API tokens", answer=wire.TOKEN_LIST, query=PAGE)
def list_tokens() -> Response:
    wanted = page()
    rows, following = services.tokens.list(current_principal().user_id, limit=wanted.limit, after=wanted.after)
    return listing(wire.write_tokens(rows), following)


@bp.post("")
@documented(
    "Make an API token; its secret is shown this once",
    body=wire.TOKEN,
    answer=wire.TOKEN_MADE,
    status=201,
    errors=(409,),
)
def create_token() -> Response:
    row, text = services.tokens.issue(current_principal(), wire.read_token(json_body()), actor=current_actor())
    return success(wire.write_token(row, text=text), status=201, no_store=True)


@bp.get("/<token_id>")
@documented("An API token", answer=wire.TOKEN_READ)
def read_token(token_id: str) -> Response:
    return success(wire.write_token(services.tokens.get(current_principal().user_id, token_id)))


@bp.patch("/<token_id>")
@documented("Change an API token", body=wire.TOKEN_CHANGES, answer=wire.TOKEN_READ, errors=(409,))
def change_token(token_id: str) -> Response:
    changes = wire.read_token_changes(json_body())
    row = services.tokens.change(current_principal(), token_id, changes, actor=current_actor())
    return success(wire.write_token(row))


@bp.delete("/<token_id>")
@documented("Revoke an API token", status=204)
def revoke_token(token_id: str) -> Response:
    services.tokens.revoke(current_principal(), token_id, actor=current_actor())
    return no_content()


@bp.post("/<token_id>/rotate")
@documented(
    "A new secret for an API token; the old one works on for `grace_s` seconds",
    body=wire.ROTATION,
    body_required=False,
    answer=wire.TOKEN_MADE,
    status=201,
    errors=(409,),
)
def rotate_token(token_id: str) -> Response:
    asked = wire.read_rotation(optional_json_body())
    row, text = services.tokens.rotate(current_principal(), token_id, **asked, actor=current_actor())
    return success(wire.write_token(row, text=text), status=201, no_store=True)
