"""The caller's own usage (S1): ``/api/usage``."""

from __future__ import annotations

from flask import Blueprint, Response

from flaskllm.blueprints._guard import current_principal
from flaskllm.blueprints._http import query, success
from flaskllm.extensions import services
from flaskllm.wire import usage as wire

bp = Blueprint("usage", __name__)


@bp.get("")
def read_usage() -> Response:
    since, until = wire.read_span(query("from", "to"))
    totals = services.usage.totals(current_principal().user_id, since=since, until=until)
    return success(wire.write_totals(totals, since=since, until=until))
