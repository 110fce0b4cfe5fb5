"""The gate (S2): ``/llm-gate/v1/*``, under whatever path ``HEIMDALL_API_PATH`` says."""

from __future__ import annotations

import orjson
from flask import Blueprint, Response, request

from flaskllm.blueprints._calls import answer_response, new_call
from flaskllm.blueprints._claims import require_claims
from flaskllm.blueprints._doc import documented
from flaskllm.blueprints._guard import current_principal
from flaskllm.blueprints._http import json_body, json_response
from flaskllm.blueprints._once import once
from flaskllm.extensions import services
from flaskllm.version import VERSION
from flaskllm.wire import gate as wire

bp = Blueprint("gate", __name__)

CLAIMS = (
    {
        "name": "X-Correlation-Id",
        "in": "header",
        "required": True,
        "description": "A UUID to correlate requests; returned",
        "schema": {"type": "string", "format": "uuid"},
    },
    {
        "name": "X-User-Id",
        "in": "header",
        "required": True,
        "description": "Who uses the application, in its own words; recorded and returned",
        "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    },
    {
        "name": "X-Client-Id",
        "in": "header",
        "required": True,
        "description": "The application, in its own words; recorded and returned. `client_id` is the same header",
        "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    },
)


@bp.before_request
def ask_for_the_three_headers() -> None:
    """On every path but health, once the guard has let the caller in."""
    if request.endpoint != "gate.health" and request.method != "OPTIONS":
        require_claims()


@bp.get("/providers")
@documented("Providers and models that the caller may use", answer=wire.PROVIDERS, headers=CLAIMS)
def list_providers() -> Response:
    return json_response(wire.write_providers(services.router.offered(current_principal())))


@bp.post("/chat")
@documented("Ask a model", body=wire.ChatSchema(), answer=wire.CHAT, headers=CLAIMS)
@once
def chat() -> Response:
    answer = services.chat.complete(wire.read_chat(json_body()), new_call("gate"))
    return answer_response(orjson.dumps(wire.write_answer(answer)), answer)


@bp.post("/images/generations")
@documented("Draw an image", body=wire.ImageSchema(), answer=wire.IMAGES, headers=CLAIMS)
@once
def create_images() -> Response:
    answer = services.chat.create_images(wire.read_images(json_body()), new_call("gate"))
    return answer_response(orjson.dumps(wire.write_images(answer.result)), answer)


@bp.post("/embeddings")
@documented("Embed texts", body=wire.EmbedSchema(), answer=wire.EMBEDDINGS, headers=CLAIMS)
@once
def create_embeddings() -> Response:
    answer = services.chat.embed(wire.read_embeddings(json_body()), new_call("gate"))
    return answer_response(orjson.dumps(wire.write_embeddings(answer.result, answer.usage)), answer)


@bp.get("/health")
@documented("Whether the gate is up", answer=wire.HEALTH)
def health() -> Response:
    return json_response({"status": "ok", "version": VERSION})
