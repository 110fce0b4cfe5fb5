"""The caller's own usage (S1): ``/api/usage``."""

from __future__ import annotations

from flask import Blueprint, Response

from flaskllm.blueprints._doc import documented
from flaskllm.blueprints._guard import current_principal
from flaskllm.blueprints._http import success
from flaskllm.blueprints._reports import TABLES, report_parameters, send_report
from flaskllm.wire import shapes
from flaskllm.wire import usage as wire

bp = Blueprint("usage", __name__)


@bp.get("")
@documented(
    "Your own usage, in all and by day, token, model, provider or tag",
    answer=shapes.success(wire.USAGE),
    or_as=TABLES,
    query=report_parameters(wire.OWN_GROUPS),
)
def read_usage() -> Response:
    return send_report(current_principal().user_id, wire.OWN_GROUPS, success)
