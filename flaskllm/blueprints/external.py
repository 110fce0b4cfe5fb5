"""External calls (S1): ``/api/external/*``."""

from __future__ import annotations

from flask import Blueprint, Response, g

from flaskllm.blueprints._doc import documented
from flaskllm.blueprints._guard import current_principal, own_credentials
from flaskllm.blueprints._http import json_body, success
from flaskllm.extensions import services
from flaskllm.services.limits import rate_headers
from flaskllm.wire import external as wire

bp = Blueprint("external", __name__)

FAILURES = (502, 503, 504)


@bp.post("/get")
@documented("Call a public address with GET", body=wire.CallSchema, answer=wire.ANSWER, errors=FAILURES)
def external_get() -> Response:
    return _send("GET")


@bp.post("/post")
@documented("Call a public address with POST", body=wire.CallWithBodySchema, answer=wire.ANSWER, errors=FAILURES)
def external_post() -> Response:
    return _send("POST")


@bp.post("/put")
@documented("Call a public address with PUT", body=wire.CallWithBodySchema, answer=wire.ANSWER, errors=FAILURES)
def external_put() -> Response:
    return _send("PUT")


@bp.post("/delete")
@documented("Call a public address with DELETE", body=wire.CallSchema, answer=wire.ANSWER, errors=FAILURES)
def external_delete() -> Response:
    return _send("DELETE")


def _send(method: str) -> Response:
    call = wire.read_call(method, json_body())
    g.target_host = services.external_calls.host(call)
    answer, rates = services.external_calls.send(call, current_principal(), own=own_credentials())
    response = success(wire.write_answer(answer))
    response.headers.update(rate_headers(rates))
    return response
