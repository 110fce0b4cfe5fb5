"""Anthropic's dialect: ``/v1/messages`` and the count of a prompt's tokens."""

from __future__ import annotations

from flask import Blueprint, Response, g, request

from flaskllm.blueprints._calls import answer_response, new_call, stream_response
from flaskllm.blueprints._doc import documented
from flaskllm.blueprints._http import json_body, json_response
from flaskllm.blueprints._once import once
from flaskllm.errors import DomainError
from flaskllm.extensions import services
from flaskllm.wire import anthropic as wire
from flaskllm.wire import anthropic_answers as answers
from flaskllm.wire import anthropic_forms as forms

bp = Blueprint("messages", __name__)

BETA = {
    "name": "anthropic-beta",
    "in": "header",
    "description": "Goes on to Anthropic; means nothing to other providers",
    "required": False,
    "schema": {"type": "string", "maxLength": 2000, "pattern": "^[A-Za-z0-9 ,._-]*$"},
}
ANY_MODEL = "A model is asked for by name, `provider/name`, alias, tier (`small`, `medium`, `large`) or `auto`."


@bp.post("/messages")
@documented(
    "Have a model answer, in Anthropic's words",
    body=forms.MESSAGES,
    answer=answers.MESSAGE,
    headers=[BETA],
    streams=True,
    description=ANY_MODEL,
    tags=("Anthropic",),
)
@once
def create_message() -> Response:
    asked = wire.read_messages(json_body(), betas=request.headers.get("anthropic-beta"))
    call = new_call("messages", metadata=asked.chat.metadata)
    try:
        if asked.chat.stream:
            stream = services.chat.stream(asked.chat, call)
            return stream_response(answers.write_events(stream, asked, call.request_id), stream)
        answer = services.chat.complete(asked.chat, call)
    except DomainError as error:
        wire.in_callers_words(error, asked)
        raise
    return answer_response(answers.write_message(answer), answer)


@bp.post("/messages/count_tokens")
@documented(
    "Count a prompt's tokens",
    body=forms.COUNT,
    answer=forms.COUNTED,
    headers=[BETA],
    description=f"{ANY_MODEL} Anthropic counts for its own models, for others it is an estimate. It costs nothing.",
    tags=("Anthropic",),
)
def count_tokens() -> Response:
    asked = wire.read_count(json_body(), betas=request.headers.get("anthropic-beta"))
    call = new_call("messages")
    g.pop("model_call")  # it writes no line of its own
    try:
        return json_response({"input_tokens": services.chat.count_tokens(asked.chat, call)})
    except DomainError as error:
        wire.in_callers_words(error, asked)
        raise


@bp.after_app_request
def name_the_request(response: Response) -> Response:
    """Anthropic's SDKs read the id under this name, of failures too."""
    if request.path.startswith("/v1/messages"):
        response.headers["request-id"] = g.get("request_id", "")
    return response
