"""OpenAI's dialect under Azure's paths, for Azure's client classes: the deployment is the model's name."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from flaskllm.blueprints import openai
from flaskllm.blueprints._doc import documented, parameter
from flaskllm.blueprints._http import query
from flaskllm.blueprints._once import once
from flaskllm.wire import embeddings as embeddings_wire
from flaskllm.wire import images as images_wire
from flaskllm.wire import openai as wire

bp = Blueprint("azure", __name__)
VERSION = parameter("api-version", "as Azure's clients send it; any is taken")


def _said(summary: str, **more: Any) -> Any:
    return documented(summary, query=[VERSION], description="`deployment`: a model as everywhere else.", **more)


@bp.post("/<path:deployment>/chat/completions")
@_said("Have a model answer a chat (Azure's path)", body=wire.CHAT, answer=wire.COMPLETION, streams=True)
@once
def create_chat_completion(deployment: str) -> Response:
    return openai.answer_chat(_alone(deployment))


@bp.post("/<path:deployment>/embeddings")
@_said("Turn texts into vectors (Azure's path)", body=embeddings_wire.EMBEDDINGS, answer=embeddings_wire.VECTORS)
@once
def create_embeddings(deployment: str) -> Response:
    return openai.answer_embeddings(_alone(deployment))


@bp.post("/<path:deployment>/images/generations")
@_said("Draw images (Azure's path)", body=images_wire.DRAW, answer=images_wire.DRAWN)
@once
def create_images(deployment: str) -> Response:
    return openai.answer_images(_alone(deployment))


def _alone(deployment: str) -> str:
    """The model's name, where nothing but the version stands in the query. Raises `InvalidRequest`."""
    query("api-version")
    return deployment
