"""A provider's models: what they are called, what they can do, what they cost, cost and will cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Response, request, url_for

from flaskllm.blueprints._guard import current_actor
from flaskllm.blueprints._http import page as paging
from flaskllm.blueprints.admin import _forms as forms
from flaskllm.blueprints.admin._connection import pairs
from flaskllm.blueprints.admin._pages import bp, go, page, told_in_place
from flaskllm.blueprints.providers import tells_of_refusals
from flaskllm.domain.catalogue import ABILITIES, MODEL_TYPES, TIERS
from flaskllm.domain.pricing import to_dollars
from flaskllm.errors import DomainError, invalid
from flaskllm.extensions import services
from flaskllm.wire import providers as wire

CHOICES: dict[str, Any] = {"types": MODEL_TYPES, "abilities": ABILITIES, "tiers": TIERS}
LINES = ("aliases", "params")
PLAIN = (
    "model_id", "display_name", "description", "model_type", "context_window", "max_tokens", "enabled", "backend_model",
    "tier", "tier_head", "timeout_s", "training_data",
)  # fmt: skip
NEW = {"model_type": "chat", "enabled": "true", "capabilities": ()}
RATES: Mapping[str, str] = {
    "inputValue": "Input", "outputValue": "Output", "cacheReadValue": "Read from its cache",
    "cacheWrite5mValue": "Written to its cache for 5 minutes", "cacheWrite1hValue": "Written to its cache for an hour",
    "reasoningValue": "Reasoning", "audioInputValue": "Audio in", "audioOutputValue": "Audio out",
    "imageInputValue": "Images in", "imageOutputValue": "Images out",
}  # fmt: skip
USUAL_RATES, RARE_RATES = tuple(RATES)[:3], tuple(RATES)[3:]
"""Those that stand open, and those that are folded away where they are empty."""
OWN, BOOK, UNKNOWN = "own", "book", "unknown"
SOURCES = (
    (OWN, "these prices"),
    (BOOK, "the vendor’s list price, from the price book"),
    (UNKNOWN, "nobody knows: calls are counted, not priced"),
)
PIXELS = re.compile(r"(\d{1,6})\s*[x×]\s*(\d{1,6})(?:\s+([A-Za-z][\w-]{0,31}))?\s+(\d{1,9}(?:\.\d{1,9})?)", re.ASCII)
"""``1024x1024 hd 0.08``: one image of this size, of this quality where it is said, in US dollars."""
MILLION = 10**6


# -- the list ---------------------------------------------------------------------------------------------------------


@bp.get("/providers/<provider_id>/models")
def list_models(provider_id: str) -> Response:
    limit, after, _ = paging()
    rows, following = services.provider_models.page(provider_id, limit=limit, after=after)
    view = services.providers.get(provider_id)
    prices = {model.name: _in_and_out(model.price) for model in view.state.models}
    return page("models.html", view=view, rows=wire.write_models(rows), prices=prices, following=following)


def _in_and_out(price: Any) -> tuple[float | None, float | None] | None:
    """US dollars for a million tokens of input and of output."""
    return None if price is None else (to_dollars(price.of("input")), to_dollars(price.of("output")))


# -- a new one --------------------------------------------------------------------------------------------------------


@bp.get("/providers/<provider_id>/~model")
def show_new_model(provider_id: str) -> Response:
    return _new_page(provider_id, NEW)


@bp.post("/providers/<provider_id>/~model")
def create_model(provider_id: str) -> Response:
    @tells_of_refusals("model.create")
    def act() -> Response:
        asked = {**forms.filled_in(_said()), "model_id": request.form.get("model_id", "").strip()}
        row = services.provider_models.add(provider_id, wire.read_model(asked), current_actor())
        return go("admin.show_model", provider_id=provider_id, model_id=row.name)

    return told_in_place(lambda error: _new_page(provider_id, _as_typed(), error), act)


def _new_page(provider_id: str, given: Mapping[str, Any], error: DomainError | None = None) -> Response:
    return page(
        "model_new.html", status=200 if error is None else error.status, row=services.providers.get(provider_id).row,
        given=given, error=error, faults=forms.faults_of(error), **CHOICES,
    )  # fmt: skip


# -- one --------------------------------------------------------------------------------------------------------------


@bp.get("/providers/<provider_id>/models/<path:model_id>")
def show_model(provider_id: str, model_id: str) -> Response:
    return _model_page(provider_id, model_id)


@bp.post("/providers/<provider_id>/models/<path:model_id>")
def change_model(provider_id: str, model_id: str) -> Response:
    @tells_of_refusals("model.update")
    def act() -> Response:
        known = wire.write_model(services.provider_models.get(provider_id, model_id))
        known["capabilities"] = [ability for ability in ABILITIES if ability in known["capabilities"]]
        _change(provider_id, model_id, forms.changed(_said(), known))
        return go("admin.show_model", provider_id=provider_id, model_id=model_id)

    return told_in_place(lambda error: _model_page(provider_id, model_id, error), act)


@bp.post("/providers/<provider_id>/switch-model/<path:model_id>")
def switch_model(provider_id: str, model_id: str) -> Response:
    """On or off, from the list."""

    def act() -> Response:
        _change(provider_id, model_id, {"enabled": request.form.get("enabled") == "true"})
        return go("admin.list_models", provider_id=provider_id)

    return told_in_place(lambda error: _model_page(provider_id, model_id, error), act)


def _change(provider_id: str, model_id: str, document: dict[str, Any]) -> None:
    if document:
        services.provider_models.change(provider_id, model_id, wire.read_model_changes(document), current_actor())


@bp.post("/providers/<provider_id>/delete-model/<path:model_id>")
def delete_model(provider_id: str, model_id: str) -> Response:
    services.provider_models.remove(provider_id, model_id, current_actor())
    return go("admin.list_models", provider_id=provider_id)


def _said() -> dict[str, Any]:
    """The form, as ``PUT /providers/{id}/models/{id}`` takes it."""
    params = request.form.get("params", "").strip()
    return {
        "display_name": request.form.get("display_name", "").strip(),
        "description": request.form.get("description", "").replace("\r\n", "\n").strip(),
        "model_type": forms.text("model_type"),
        "context_window": forms.whole("context_window"),
        "max_tokens": forms.whole("max_tokens"),
        "enabled": request.form.get("enabled") != "false",
        "backend_model": forms.text("backend_model"),
        "tier": forms.text("tier"),
        "tier_head": bool(forms.boxes("tier_head")),
        "aliases": forms.several("aliases"),
        "capabilities": [ability for ability in ABILITIES if ability in forms.boxes("capabilities")],
        "timeout_s": forms.amount("timeout_s"),
        "params": pairs(params),
        "training_data": forms.text("training_data"),
    }


def _as_typed() -> dict[str, Any]:
    return {**forms.refilled((*PLAIN, *LINES)), "capabilities": forms.boxes("capabilities")}


# -- prices -----------------------------------------------------------------------------------------------------------


@bp.post("/providers/<provider_id>/price/<path:model_id>")
def set_price(provider_id: str, model_id: str) -> Response:
    """At once, or from a day on."""

    @tells_of_refusals("model.update")
    def act() -> Response:
        held = services.provider_models.get(provider_id, model_id).prices
        document: dict[str, Any] = {"prices": _prices(held)}
        begins = forms.text("begins")
        if begins is not None and begins != datetime.now(UTC).date().isoformat():
            document["valid_from"] = f"{begins}T00:00:00Z"
        _change(provider_id, model_id, document)
        return go("admin.show_model", provider_id=provider_id, model_id=model_id, _anchor="prices")

    return told_in_place(lambda error: _model_page(provider_id, model_id, error), act)


def _prices(held: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """The price list as documents have it. Raises `InvalidRequest` where none is said though one is to be, or one is
    said that would not hold (``held``: what the form was filled with, which is no such thing)."""
    source = request.form.get("source")
    if source != OWN:
        if not held and any(map(forms.text, (*RATES, "pixels"))):
            raise invalid("source", "prices are typed below: choose “these prices”, or take them out")
        return [] if source == UNKNOWN else None
    token = forms.filled_in({name: forms.amount(name) for name in RATES})
    found: list[dict[str, Any]] = [{"unitOfMeasure": MILLION, "currency": "USD", "token": token}] if token else []
    for line in filter(None, map(str.strip, request.form.get("pixels", "").splitlines())):
        parts = PIXELS.fullmatch(line)
        if parts is None:
            raise invalid("pixels", "must be a size, maybe a quality, and a price in each line: 1024x1024 hd 0.08")
        pixel = {"width": int(parts[1]), "height": int(parts[2]), "quality": parts[3], "value": float(parts[4])}
        found.append({"currency": "USD", "pixel": forms.filled_in(pixel)})
    if not found:
        raise invalid("inputValue", "must be said, or another choice made above")
    return found


def _price_form(prices: list[dict[str, Any]] | None) -> dict[str, str]:
    """What is in force, as the form has it."""
    held = {"source": BOOK if prices is None else OWN if prices else UNKNOWN, "begins": "", "pixels": ""}
    for entry in prices or ():
        unit = entry.get("unitOfMeasure") or MILLION
        for name, value in (entry.get("token") or {}).items():
            held[name] = "" if value is None else forms.plain(value * MILLION / unit)
        if pixel := entry.get("pixel"):
            size = f"{pixel['width']}x{pixel['height']}"
            words = (size, pixel.get("quality"), forms.plain(pixel["value"]))
            held["pixels"] += " ".join(filter(None, words)) + "\n"
    return held


def _fault_of_price(field: str) -> str:
    """``prices[0].token.inputValue`` is a field by its last name; what is wrong with an image's price, the one list."""
    if ".pixel" in field:
        return "pixels"
    last = field.rpartition(".")[2]
    return last if last in RATES else "begins" if field == "valid_from" else "source" if field == "prices" else field


# -- the page ---------------------------------------------------------------------------------------------------------


def _model_page(provider_id: str, model_id: str, error: DomainError | None = None) -> Response:
    limit, after, _ = paging()
    view = services.providers.get(provider_id)
    model = wire.write_model(services.provider_models.get(provider_id, model_id))
    periods, following = services.provider_models.prices(provider_id, model_id, limit=limit, after=after)
    is_price = error is not None and request.path == url_for(
        "admin.set_price", provider_id=provider_id, model_id=model_id
    )
    is_settings = error is not None and request.path == url_for(
        "admin.change_model", provider_id=provider_id, model_id=model_id
    )
    given = {
        **model, "enabled": "true" if model["enabled"] else "false", "aliases": "\n".join(model["aliases"]),
        "params": "\n".join(f"{name}: {rule}" for name, rule in model["params"].items()),
    }  # fmt: skip
    price = _price_form(model["prices"])
    if is_settings:
        given |= _as_typed()
    if is_price:
        price |= forms.refilled((*RATES, "source", "begins", "pixels"))
    faults = {name: message for name, message in forms.faults_of(error).items() if not is_price}
    if error is not None and is_price:
        faults |= {_fault_of_price(detail["field"]): detail["message"] for detail in error.details}
    return page(
        "model.html", status=200 if error is None else error.status, view=view, model=model, given=given, price=price,
        periods=wire.write_prices(periods), following=following, error=error, faults=faults, rates=RATES,
        usual_rates=USUAL_RATES, rare_rates=RARE_RATES,
        unfolded=any(price.get(name) or name in faults for name in (*RARE_RATES, "pixels")), sources=SOURCES, **CHOICES,
    )  # fmt: skip
