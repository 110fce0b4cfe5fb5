"""OpenAI's Responses API: ``/v1/responses``."""

from __future__ import annotations

import orjson
from flask import Blueprint, Response, request

from flaskllm.blueprints._calls import answer_response, new_call, stream_response
from flaskllm.blueprints._doc import documented, parameter
from flaskllm.blueprints._guard import current_principal
from flaskllm.blueprints._http import json_body, json_response
from flaskllm.blueprints._once import once
from flaskllm.extensions import services
from flaskllm.wire import response_answers as answers
from flaskllm.wire import responses as wire
from flaskllm.wire.response_checks import LONGEST_ID
from flaskllm.wire.response_forms import BODY

bp = Blueprint("responses", __name__)

ITEMS_QUERY = (
    parameter(
        "limit",
        "Most items",
        {"type": "integer", "minimum": 1, "maximum": wire.MOST_LISTED, "default": wire.USUALLY_LISTED},
    ),
    parameter("order", "Newest first or oldest first", {"enum": ["asc", "desc"], "default": "desc"}),
    parameter("after", "The id of the last item of the page before", {"type": "string", "maxLength": LONGEST_ID}),
)


@bp.post("/responses")
@documented("Have a model answer", body=BODY, answer=answers.RESPONSE, streams=True, errors=(404, 409))
@once
def create_response() -> Response:
    asked = wire.read_response(json_body())
    call = new_call("responses", metadata=asked.request.metadata)
    if asked.request.stream:
        stream = services.responses.stream(asked, call)
        return stream_response(answers.write_events(stream, call.request_id), stream)
    response, answer = services.responses.create(asked, call)
    return answer_response(orjson.dumps(answers.write_response(response)), answer)


@bp.get("/responses/<response_id>")
@documented("A stored response", answer=answers.RESPONSE, errors=(400, 404))
def read_response(response_id: str) -> Response:
    wire.read_retrieval(request.args)
    response, _ = services.responses.read(response_id, current_principal())
    return json_response(answers.write_response(response))


@bp.get("/responses/<response_id>/input_items")
@documented("What a stored response answers", answer=answers.ITEMS, query=ITEMS_QUERY, errors=(400, 404))
def list_input_items(response_id: str) -> Response:
    page = wire.read_items_page(request.args)
    _, items = services.responses.read(response_id, current_principal())
    return json_response(answers.write_items(items, **page))


@bp.delete("/responses/<response_id>")
@documented("Forget a stored response", answer=answers.DELETED, errors=(404,))
def delete_response(response_id: str) -> Response:
    services.responses.delete(response_id, current_principal())
    return json_response(answers.write_deleted(response_id))
