"""The caller's own usage (S1): ``/api/usage``."""

from __future__ import annotations

from flask import Blueprint, Response

from flaskllm.blueprints._doc import documented, parameter
from flaskllm.blueprints._guard import current_principal
from flaskllm.blueprints._http import query, success
from flaskllm.extensions import services
from flaskllm.wire import shapes
from flaskllm.wire import usage as wire

bp = Blueprint("usage", __name__)


PARAMETERS = (
    parameter("from", "The first day or moment, in ISO 8601; without a zone in UTC"),
    parameter("to", "The last day, or the moment after the last"),
    parameter("group_by", f"One or two of {', '.join(wire.OWN_GROUPS)}, with a comma between; `day` if left out"),
)


@bp.get("")
@documented("Your own usage, in all and by day, model or token", answer=shapes.success(wire.USAGE), query=PARAMETERS)
def read_usage() -> Response:
    given = query("from", "to", "group_by")
    since, until = wire.read_span(given)
    groups = wire.read_groups(given, wire.OWN_GROUPS)
    return success(wire.write_report(services.usage.report(current_principal().user_id, since, until, by=groups)))
