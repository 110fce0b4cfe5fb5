"""Health: ``/health``, ``/health/live``, ``/health/ready``, S1's ``/api/health``; and ``/metrics`` for Prometheus."""

from __future__ import annotations

from flask import Blueprint, Response

from flaskllm.blueprints._doc import documented
from flaskllm.blueprints._http import json_response, success
from flaskllm.extensions import services
from flaskllm.services.metrics import CONTENT_TYPE
from flaskllm.version import VERSION

bp = Blueprint("ops", __name__)


@bp.get("/health")
@bp.get("/health/live")
def live() -> Response:
    return json_response({"status": "ok", "version": VERSION})


@bp.get("/health/ready")
def ready() -> Response:
    found = services.health.ready()
    return json_response(found, status=503 if found["status"] == "down" else 200)


@bp.get("/api/health")
def api_health() -> Response:
    return success({"status": "ok", "version": VERSION})


@bp.get("/metrics")
@documented("Counts for Prometheus", answer={"type": "string"}, media="text/plain")
def metrics() -> Response:
    return Response(services.metrics.text(), content_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})
