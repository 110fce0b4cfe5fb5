"""Anything that speaks OpenAI's wire, in one step: an address, a look at what it has, and one button that makes it."""

from __future__ import annotations

from typing import Any

from flask import Response, request

from flaskllm.blueprints._calls import new_call
from flaskllm.blueprints._guard import current_actor, current_principal
from flaskllm.blueprints.admin import _forms as forms
from flaskllm.blueprints.admin._connection import faults_of
from flaskllm.blueprints.admin._pages import bp, go, page, told_in_place
from flaskllm.blueprints.providers import tells_of_refusals
from flaskllm.domain.catalogue import ABILITIES
from flaskllm.domain.provider import MOST_MODELS
from flaskllm.domain.text import on_one_line
from flaskllm.errors import DomainError, invalid
from flaskllm.extensions import services
from flaskllm.services.provider_check import MOST_TOKENS
from flaskllm.services.provider_probe import KIND, LABELS, Found, Tried, proposed_id
from flaskllm.wire import providers as wire

ALL_TICKED = 30
"""Up to so many models are all ticked; of more, one chooses."""
SHOWN_UNFIT = 10


@bp.get("/providers/~compatible")
def show_compatible() -> Response:
    return _page()


@bp.post("/providers/~compatible")
def look_at_compatible() -> Response:
    """What is there; nothing is made."""

    def act() -> Response:
        address, key = request.form.get("api_base", "").strip(), _key()
        found = services.provider_probe.look(address, key, match=request.form.get("match", "").strip())
        tried = _tried(found, key) if forms.boxes("try") else []
        return _page(found=found, tried=tried, key=key)

    return told_in_place(_page, act)


def _tried(found: Found, key: str | None) -> list[Tried]:
    name = proposed_id(found.address)
    return services.provider_probe.try_out(found, key, new_call("admin"), provider_id=name)


@bp.post("/providers/~compatible/add")
def add_compatible() -> Response:
    """Provider and models at once, from a fresh list of what is there."""
    held: dict[str, Any] = {}

    @tells_of_refusals("provider.create")
    def act() -> Response:
        address, key = request.form.get("api_base", "").strip(), _key()
        held["key"] = key
        held["found"] = found = services.provider_probe.look(address, key, match=request.form.get("match", "").strip())
        made = services.providers.create(wire.read_provider(_document(found, key)), current_actor())
        return go("admin.show_provider", provider_id=made.row.id)

    return told_in_place(lambda error: _page(error, **held), act)


def _key() -> str | None:
    """The key as it was typed, or as the page before carried it."""
    sealed = forms.text("sealed")
    if sealed is None or forms.text("api_key"):
        return forms.text("api_key")
    address = request.form.get("api_base", "").strip()
    return services.provider_probe.opened(sealed, address, current_principal().user_id)


def _document(found: Found, key: str | None) -> dict[str, Any]:
    """The provider, as ``POST /providers`` takes it. Raises `InvalidRequest` where no model is chosen."""
    chosen = {model.name for model in found.models} if forms.boxes("all") else set(forms.boxes("models"))
    shown = {request.form.get("tried"): [ability for ability in ABILITIES if ability in forms.boxes("abilities")]}
    models = [
        forms.filled_in(
            {
                "model_id": model.name,
                "model_type": model.type,
                "context_window": model.context_window,
                "capabilities": shown.get(model.name),
            }
        )
        for model in found.models
        if model.name in chosen
    ]
    if not models:
        raise invalid("models", "choose at least one")
    return {
        "provider_id": request.form.get("provider_id", "").strip(),
        "provider_type": KIND,
        "connection_params": {"api_base": found.address},
        "models": models,
        **forms.filled_in({"display_name": forms.text("display_name")}),
        **({} if key is None else {"api_key": {"key_value": key}}),
    }


# -- the page ---------------------------------------------------------------------------------------------------------


def _page(
    error: DomainError | None = None,
    *,
    found: Found | None = None,
    tried: list[Tried] | None = None,
    key: str | None = None,
) -> Response:
    given = forms.refilled(("api_base", "match", "provider_id", "display_name", "tried"))
    is_first = request.endpoint != "admin.add_compatible"
    if found is not None and is_first:
        given |= {"provider_id": proposed_id(found.address), "display_name": ""}
    chat = found.first("chat") if found else None
    shown = [one.ability for one in tried or () if chat and one.report.works and one.report.model == chat.name]
    return page(
        "compatible.html",
        status=200 if error is None else error.status,
        given={**given, "api_base": found.address if found else given["api_base"]},
        tries=is_first and (request.method == "GET" or bool(forms.boxes("try"))),
        found=found,
        ticked=set(_ticked(found, is_first=is_first)),
        unfit=[on_one_line(name) for name in found.unfit[:SHOWN_UNFIT]] if found else [],
        tried=[(LABELS[one.ability], wire.write_check(one.report)) for one in tried or ()],
        tried_model=(chat.name if chat and tried else "") if is_first else given["tried"],
        shown=shown if is_first else forms.boxes("abilities"),
        sealed=services.provider_probe.sealed(key, found.address, current_principal().user_id) if key and found else "",
        error=error,
        faults=faults_of(error),
        most_models=MOST_MODELS,
        most_tokens=MOST_TOKENS,
    )


def _ticked(found: Found | None, *, is_first: bool) -> list[str]:
    if not is_first:
        return forms.boxes("models")
    few = found is not None and len(found.models) <= ALL_TICKED
    return [model.name for model in found.models] if found and few else []
