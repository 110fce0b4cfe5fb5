"""OpenAI's dialect (S4): ``/v1/chat/completions``, ``/v1/embeddings``, ``/v1/images/generations``, ``/v1/models``."""

from __future__ import annotations

from flask import Blueprint, Response

from flaskllm.blueprints._calls import answer_response, new_call, stream_response
from flaskllm.blueprints._doc import documented
from flaskllm.blueprints._guard import current_principal
from flaskllm.blueprints._http import json_body, json_response
from flaskllm.blueprints._once import once
from flaskllm.errors import NotFound
from flaskllm.extensions import services
from flaskllm.wire import embeddings as embeddings_wire
from flaskllm.wire import images as images_wire
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
@once
def create_chat_completion() -> Response:
    return answer_chat()


def answer_chat(model: str | None = None) -> Response:
    """``model``: the one in the path, where that names it."""
    ask = wire.read_chat(json_body(), model=model)
    call = new_call("openai", metadata=ask.metadata)
    if ask.stream:
        stream = services.chat.stream(ask, call)
        return stream_response(wire.write_chunks(stream, ask, call.request_id), stream)
    answer = services.chat.complete(ask, call)
    return answer_response(wire.write_answer(answer), answer)


@bp.post("/embeddings")
@documented("Turn texts into vectors", body=embeddings_wire.EMBEDDINGS, answer=embeddings_wire.VECTORS)
@once
def create_embeddings() -> Response:
    return answer_embeddings()


def answer_embeddings(model: str | None = None) -> Response:
    ask, form = embeddings_wire.read_embeddings(json_body(), model=model)
    answer = services.chat.embed(ask, new_call("embeddings"))
    return answer_response(embeddings_wire.write_embeddings(answer, form), answer)


@bp.post("/images/generations")
@documented("Draw images", body=images_wire.DRAW, answer=images_wire.DRAWN)
@once
def create_images() -> Response:
    return answer_images()


def answer_images(model: str | None = None) -> Response:
    ask = images_wire.read_images(json_body(), model=model)
    answer = services.chat.create_images(ask, new_call("images"))
    return answer_response(images_wire.write_images(answer, ask), answer)


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
