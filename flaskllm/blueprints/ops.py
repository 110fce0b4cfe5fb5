"""Health: ``/health``, ``/health/live``, ``/health/ready``, and S1's ``/api/health``."""

from __future__ import annotations

from flask import Blueprint, Response

from flaskllm.blueprints._http import json_response, success
from flaskllm.extensions import services
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
