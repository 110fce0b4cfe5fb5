"""Quotas: ``/quotas``, limits and budgets of users, models, tags and the installation, for administrators."""

from __future__ import annotations

from flask import Blueprint, Response

from flaskllm.blueprints._doc import PAGE, documented
from flaskllm.blueprints._guard import current_actor
from flaskllm.blueprints._http import json_body, json_response, listing, no_content, page
from flaskllm.extensions import services
from flaskllm.wire import quotas as wire
from flaskllm.wire import shapes

bp = Blueprint("quotas", __name__)


@bp.get("")
@documented("Every quota, by subject", answer=shapes.listing(wire.QUOTA_SHOWN), query=PAGE)
def list_quotas() -> Response:
    limit, after, _ = page()
    found, following = services.quotas.page(limit=limit, after=after)
    return listing(wire.write_quotas(found), following)


@bp.get("/<path:subject>")
@documented("A quota, with what is spent", answer=wire.QUOTA_SHOWN)
def read_quota(subject: str) -> Response:
    return json_response(wire.write_quota(services.quotas.get(subject)))


@bp.put("/<path:subject>")
@documented(
    "Set a quota, in place of the one there was",
    body=wire.QUOTA,
    answer=wire.QUOTA_SHOWN,
    also={201: wire.QUOTA_SHOWN},
    errors=(404, 409),
    description="What is spent stays. 201 where the subject had no quota.",
)
def put_quota(subject: str) -> Response:
    view, is_new = services.quotas.put(subject, wire.read_quota(json_body()), current_actor())
    return json_response(wire.write_quota(view), status=201 if is_new else 200)


@bp.delete("/<path:subject>")
@documented("Delete a quota", status=204)
def delete_quota(subject: str) -> Response:
    services.quotas.remove(subject, current_actor())
    return no_content()
