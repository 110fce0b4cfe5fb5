"""Routes: ``/routes``, one name for several models, for administrators."""

from __future__ import annotations

from flask import Blueprint, Response

from flaskllm.blueprints._doc import PAGE, documented
from flaskllm.blueprints._guard import current_actor
from flaskllm.blueprints._http import json_body, json_response, listing, no_content, page
from flaskllm.extensions import services
from flaskllm.wire import routes as wire
from flaskllm.wire import shapes

bp = Blueprint("routes", __name__)


@bp.get("")
@documented("Every route, by name", answer=shapes.listing(wire.ROUTE_SHOWN), query=PAGE)
def list_routes() -> Response:
    limit, after, _ = page()
    found, following = services.routes.page(limit=limit, after=after)
    return listing(wire.write_routes(found), following)


@bp.post("")
@documented("Add a route", body=wire.ROUTE, answer=wire.ROUTE_SHOWN, status=201, errors=(409,))
def create_route() -> Response:
    made = services.routes.create(wire.read_route(json_body()), current_actor())
    return json_response(wire.write_route(made), status=201)


@bp.get("/<name>")
@documented("A route", answer=wire.ROUTE_SHOWN)
def read_route(name: str) -> Response:
    return json_response(wire.write_route(services.routes.get(name)))


@bp.put("/<name>")
@documented("Change what is sent of a route", body=wire.ROUTE_CHANGES, answer=wire.ROUTE_SHOWN)
def change_route(name: str) -> Response:
    changes = wire.read_route_changes(json_body())
    return json_response(wire.write_route(services.routes.change(name, changes, current_actor())))


@bp.delete("/<name>")
@documented("Delete a route", status=204)
def delete_route(name: str) -> Response:
    services.routes.remove(name, current_actor())
    return no_content()
