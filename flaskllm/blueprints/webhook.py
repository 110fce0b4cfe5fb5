"""The webhook (S3): ``/api/v1/webhook``, ``/api/v1/health``."""

from __future__ import annotations

from flask import Blueprint, Response, current_app

from flaskllm.blueprints._calls import call_headers, new_call
from flaskllm.blueprints._doc import documented
from flaskllm.blueprints._errors import render
from flaskllm.blueprints._http import json_body, json_response
from flaskllm.blueprints._once import once
from flaskllm.errors import ProviderTimeout
from flaskllm.extensions import services
from flaskllm.version import VERSION
from flaskllm.wire import webhook as wire

bp = Blueprint("webhook", __name__)


@bp.post("/webhook")
@documented(
    "Have a prompt answered: summed up, translated, taken apart, or as it is",
    body=wire.PromptSchema,
    answer=wire.ANSWER,
    errors=(409,),
    never=(504,),
)
@once
def process_prompt() -> Response:
    ask = wire.read_prompt(json_body(), longest=current_app.config["MAX_PROMPT_LENGTH"])
    call = new_call("webhook", metadata=wire.write_metadata(ask))
    told = services.prompts.answer(ask, call)
    response = json_response(wire.write_answer(told, call.request_id))
    response.headers.update(call_headers(told.answer))
    return response


@bp.errorhandler(ProviderTimeout)
def silent_provider(error: ProviderTimeout) -> Response:
    """S3 knows no 504: a provider that fails, is absent or stays silent is a 502 at this door."""
    return render(error, status=502)


@bp.get("/health")
@documented("Whether the gateway is up, as the spreadsheet scripts ask it", answer=wire.HEALTH)
def health() -> Response:
    return json_response(wire.write_health(VERSION, current_app.config["ENVIRONMENT"]))
