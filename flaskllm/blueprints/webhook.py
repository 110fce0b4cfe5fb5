"""The webhook (S3): ``/api/v1/webhook``, the spreadsheet contract ``/api/v1/range``, ``/api/v1/health``."""

from __future__ import annotations

import orjson
from flask import Blueprint, Response, current_app, g

from flaskllm.blueprints._calls import CACHE, call_headers, new_call
from flaskllm.blueprints._doc import documented
from flaskllm.blueprints._errors import render
from flaskllm.blueprints._guard import current_principal
from flaskllm.blueprints._http import json_body, json_response
from flaskllm.blueprints._once import once
from flaskllm.domain.pricing import dollars_text
from flaskllm.domain.range import RangeState
from flaskllm.errors import ProviderTimeout
from flaskllm.extensions import services
from flaskllm.services.ranges import Unconfirmed
from flaskllm.version import VERSION
from flaskllm.wire import ranges
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


@bp.post("/range")
@documented(
    "Have a column of cells answered: the same rows come back, as many as are ready",
    body=ranges.RangeSchema,
    answer={"anyOf": [ranges.RANGE, ranges.ESTIMATE]},
    errors=(404,),
    never=(502, 504),
    description="Equal rows are asked once, a row that was answered before costs nothing, and what fails fails in its "
    "row. With `dry_run` the estimate alone. `X-FlaskLLM-Cache: none` asks rows anew that were answered before.",
)
@once
def ask_range() -> Response:
    ask = ranges.read_range(json_body())
    call = new_call("range", metadata=wire.write_metadata(ask.prompt("")))
    g.pop("model_call")  # each row has a line of its own, and the request too
    if ask.dry_run:
        return json_response(ranges.write_estimate(services.ranges.estimate(ask, call)))
    return _answered(services.ranges.ask(ask, call))


@bp.get("/range/<continuation>")
@documented(
    "The same rows again, as many as are ready by now",
    answer=ranges.RANGE,
    description="Works on open rows itself until the deadline of the range. Kept until a day after all is done.",
)
def continue_range(continuation: str) -> Response:
    return _answered(services.ranges.go_on(current_principal(), continuation))


def _answered(state: RangeState) -> Response:
    response = json_response(ranges.write_range(state))
    response.headers["X-FlaskLLM-Cost"] = dollars_text(state.cost)
    response.headers[CACHE] = "miss" if state.estimate.new_rows else "hit"
    return response


@bp.errorhandler(Unconfirmed)
def unconfirmed(error: Unconfirmed) -> Response:
    """The refusal with what it would take beside it, so that a script can ask its user."""
    response = render(error)
    response.set_data(orjson.dumps({**response.get_json(), "estimate": ranges.write_estimate(error.estimate)}))
    return response


@bp.errorhandler(ProviderTimeout)
def silent_provider(error: ProviderTimeout) -> Response:
    """S3 knows no 504: a provider that fails, is absent or stays silent is a 502 at this door."""
    return render(error, status=502)


@bp.get("/health")
@documented("Whether the gateway is up, as the spreadsheet scripts ask it", answer=wire.HEALTH)
def health() -> Response:
    return json_response(wire.write_health(VERSION, current_app.config["ENVIRONMENT"]))
