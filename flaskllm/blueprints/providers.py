"""Provider management (S5): ``/providers``, for administrators."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from flask import Blueprint, Response, request

from flaskllm.blueprints._calls import new_call
from flaskllm.blueprints._doc import PAGE, documented, parameter
from flaskllm.blueprints._guard import current_actor
from flaskllm.blueprints._http import json_body, json_response, listing, no_content, optional_json_body, page
from flaskllm.errors import Conflict, InvalidRequest
from flaskllm.extensions import services
from flaskllm.wire import providers as wire
from flaskllm.wire.shapes import listing as listing_of
from flaskllm.wire.shapes import several

bp = Blueprint("providers", __name__)

View = TypeVar("View", bound=Callable[..., Response])


def tells_of_refusals(action: str) -> Callable[[View], View]:
    """What an administrator tries in vain is a row of the audit trail too: whose address was it to be?"""

    def wrap(view: View) -> View:
        @wraps(view)
        def told(**place: str) -> Response:
            try:
                return view(**place)
            except (InvalidRequest, Conflict) as error:
                services.providers.note_refusal(current_actor(), action, f"path:{request.path}"[:200], error)
                raise

        return told  # type: ignore[return-value]

    return wrap


# -- providers --------------------------------------------------------------------------------------------------------


@bp.get("")
@documented("Every provider", answer=several(wire.PROVIDER_SHOWN))
def list_providers() -> Response:
    return json_response(wire.write_providers(services.providers.all()))


@bp.post("")
@documented("Add a provider", body=wire.PROVIDER, answer=wire.PROVIDER_SHOWN, status=201, errors=(409,))
@tells_of_refusals("provider.create")
def create_provider() -> Response:
    made = services.providers.create(wire.read_provider(json_body()), current_actor())
    return json_response(wire.write_provider(made), status=201)


@bp.get("/<provider_id>")
@documented("A provider", answer=wire.PROVIDER_SHOWN)
def read_provider(provider_id: str) -> Response:
    return json_response(wire.write_provider(services.providers.get(provider_id)))


@bp.put("/<provider_id>")
@documented("Change what is sent of a provider", body=wire.PROVIDER_CHANGES, answer=wire.PROVIDER_SHOWN, errors=(409,))
@tells_of_refusals("provider.update")
def change_provider(provider_id: str) -> Response:
    changes = wire.read_provider_changes(json_body())
    return json_response(wire.write_provider(services.providers.change(provider_id, changes, current_actor())))


@bp.delete("/<provider_id>")
@documented("Delete a provider, its models and its keys", status=204)
def delete_provider(provider_id: str) -> Response:
    services.providers.remove(provider_id, current_actor())
    return no_content()


@bp.post("/<provider_id>/test")
@documented(
    "Make one real call, and say what works, how fast, or what is wrong",
    body=wire.CHECK,
    body_required=False,
    answer=wire.CHECK_SHOWN,
    errors=(429,),
)
def check_provider(provider_id: str) -> Response:
    model = wire.read_check(optional_json_body())
    return json_response(wire.write_check(services.provider_check.run(provider_id, new_call("providers"), model)))


# -- models -----------------------------------------------------------------------------------------------------------


@bp.get("/<provider_id>/models")
@documented("A provider's models", answer=several(wire.MODEL_SHOWN))
def list_models(provider_id: str) -> Response:
    return json_response(wire.write_models(services.provider_models.of(provider_id)))


@bp.post("/<provider_id>/models")
@documented("Add a model", body=wire.MODEL, answer=wire.MODEL_SHOWN, status=201, errors=(409,))
@tells_of_refusals("model.create")
def create_model(provider_id: str) -> Response:
    made = services.provider_models.add(provider_id, wire.read_model(json_body()), current_actor())
    return json_response(wire.write_model(made), status=201)


@bp.get("/<provider_id>/models/<path:model_id>")
@documented("A model; its id may hold slashes", answer=wire.MODEL_SHOWN)
def read_model(provider_id: str, model_id: str) -> Response:
    return json_response(wire.write_model(services.provider_models.get(provider_id, model_id)))


@bp.get("/<provider_id>/prices")
@documented(
    "What a model cost, costs and will cost, the newest first",
    answer=listing_of(wire.PRICE_SHOWN),
    query=(parameter("model", "The model's id, which may hold slashes", required=True), *PAGE),
)
def list_prices(provider_id: str) -> Response:
    limit, after, given = page("model")
    model_id = wire.read_priced_model(given)
    periods, following = services.provider_models.prices(provider_id, model_id, limit=limit, after=after)
    return listing(wire.write_prices(periods), following)


@bp.put("/<provider_id>/models/<path:model_id>")
@documented("Change what is sent of a model", body=wire.MODEL_CHANGES, answer=wire.MODEL_SHOWN, errors=(409,))
@tells_of_refusals("model.update")
def change_model(provider_id: str, model_id: str) -> Response:
    changes = wire.read_model_changes(json_body())
    changed = services.provider_models.change(provider_id, model_id, changes, current_actor())
    return json_response(wire.write_model(changed))


@bp.delete("/<provider_id>/models/<path:model_id>")
@documented("Delete a model", status=204)
def delete_model(provider_id: str, model_id: str) -> Response:
    services.provider_models.remove(provider_id, model_id, current_actor())
    return no_content()


# -- keys -------------------------------------------------------------------------------------------------------------


@bp.get("/<provider_id>/keys")
@documented("A provider's keys, as masks, and how they fare", answer=several(wire.KEY_SHOWN))
def list_keys(provider_id: str) -> Response:
    return json_response(wire.write_keys(services.provider_keys.of(provider_id)))


@bp.post("/<provider_id>/keys")
@documented("Add a key; several are used in turn", body=wire.KEY, answer=wire.KEY_SHOWN, status=201, errors=(409,))
@tells_of_refusals("key.create")
def create_key(provider_id: str) -> Response:
    made = services.provider_keys.add(provider_id, wire.read_key(json_body()), current_actor())
    return json_response(wire.write_key(made), status=201)


@bp.delete("/<provider_id>/keys/<key_id>")
@documented("Delete a key", status=204, errors=(409,))
def delete_key(provider_id: str, key_id: str) -> Response:
    services.provider_keys.remove(provider_id, key_id, current_actor())
    return no_content()
