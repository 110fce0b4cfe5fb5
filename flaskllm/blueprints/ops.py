"""Health: ``/health``, ``/health/live``, ``/health/ready``, S1's ``/api/health``; and ``/metrics`` for Prometheus."""

from __future__ import annotations

from flask import Blueprint, Response

from flaskllm.blueprints._doc import documented
from flaskllm.blueprints._http import json_response, success
from flaskllm.extensions import services
from flaskllm.services.metrics import CONTENT_TYPE
from flaskllm.version import VERSION
from flaskllm.wire import shapes

bp = Blueprint("ops", __name__)

HEALTH = shapes.record("Health", status={"const": "ok"}, version=shapes.STRING)
_STATE = shapes.one_of("ok", "down", "off")
READY = shapes.record(
    "Readiness",
    status=shapes.one_of("ok", "degraded", "down"),
    checks=shapes.record(database=_STATE, redis=_STATE, worker=_STATE, providers=shapes.one_of("ok", "degraded")),
    mode=shapes.one_of("sql", "full"),
)


@bp.get("/health")
@bp.get("/health/live")
@documented("Whether the gateway is up", answer=HEALTH)
def live() -> Response:
    return json_response({"status": "ok", "version": VERSION})


@bp.get("/health/ready")
@documented("Whether the gateway can take calls, and what is away", answer=READY, also={503: READY})
def ready() -> Response:
    found = services.health.ready()
    return json_response(found, status=503 if found["status"] == "down" else 200)


@bp.get("/api/health")
@documented("Whether the gateway is up", answer=shapes.success(HEALTH))
def api_health() -> Response:
    return success({"status": "ok", "version": VERSION})


@bp.get("/metrics")
@documented("Counts for Prometheus", answer={"type": "string"}, media="text/plain")
def metrics() -> Response:
    return Response(services.metrics.text(), content_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})
