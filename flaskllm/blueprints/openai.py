"""OpenAI's dialect (S4): ``/v1/chat/completions`` and ``/v1/models``."""

from __future__ import annotations

from flask import Blueprint, Response

from flaskllm.blueprints._calls import answer_response, new_call, stream_response
from flaskllm.blueprints._doc import documented
from flaskllm.blueprints._guard import current_principal
from flaskllm.blueprints._http import json_body, json_response
from flaskllm.errors import NotFound
from flaskllm.extensions import services
from flaskllm.wire import models as models_wire
from flaskllm.wire import openai as wire

bp = Blueprint("openai", __name__)


@bp.post("/chat/completions")
@documented(
    "Have a model answer a chat",
    body=wire.CHAT,
    answer=wire.COMPLETION,
    streams=True,
    errors=(409,),
    description="A model is asked for by name, `provider/name`, alias, tier (`small`, `medium`, `large`) or `auto`.",
)
def create_chat_completion() -> Response:
    ask = wire.read_chat(json_body())
    call = new_call("openai", metadata=ask.metadata)
    if ask.stream:
        stream = services.chat.stream(ask, call)
        return stream_response(wire.write_chunks(stream, ask, call.request_id), stream)
    answer = services.chat.complete(ask, call)
    return answer_response(wire.write_answer(answer), answer)


@bp.get("/models")
@documented("The models that the caller may use", answer=models_wire.MODELS)
def list_models() -> Response:
    return json_response(models_wire.write_models(services.router.visible(current_principal())))


@bp.get("/models/<path:name>")
@documented("A model", answer=models_wire.MODEL, description="`name` may have slashes, as in `openai/gpt-4o`.")
def read_model(name: str) -> Response:
    for entry in services.router.visible(current_principal()):
        if entry[0] == name:
            return json_response(models_wire.write_model(entry))
    raise NotFound(f"There is no model {name!r} that you may use.")
