"""Routes, and a picture of who is asked in which order for any name that a client may send."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flask import Response, request

from flaskllm.blueprints._guard import current_actor
from flaskllm.blueprints._http import page as paging
from flaskllm.blueprints._http import query
from flaskllm.blueprints.admin import _forms as forms
from flaskllm.blueprints.admin._pages import bp, go, page, told_in_place
from flaskllm.domain.catalogue import AUTO, TIERS
from flaskllm.domain.pricing import to_dollars
from flaskllm.domain.route import FALLBACKS
from flaskllm.errors import DomainError, NotFound, invalid
from flaskllm.extensions import services
from flaskllm.services.asking_order import Picture, Step
from flaskllm.wire import providers as providers_wire
from flaskllm.wire import routes as wire

WORDS: dict[str, Any] = {
    "strategies": [
        ("priority", "in the order given"),
        ("weighted", "by chance, in the measure of the weights"),
        ("cheapest", "the cheapest first"),
        ("fastest", "the fastest first"),
    ],
    "why_instead": {
        "context_window": "Where the prompt is too long for these",
        "content_filter": "Where a filter refuses the request",
    },
}
TARGET = re.compile(r"(\S+)(?:\s+([0-9]{1,4}))?", re.ASCII)
"""``provider/model``, and its weight where one is said."""
TYPED = ("name", "strategy", "targets", *FALLBACKS)
SHOWN_NAMES = 300
"""Names of models that the form offers."""


@bp.get("/routes")
def list_routes() -> Response:
    limit, after, _ = paging()
    found, following = services.routes.page(limit=limit, after=after)
    rows = wire.write_routes(found)
    return page("routes.html", rows=rows, following=following, choices=(AUTO, *TIERS), **WORDS)


@bp.get("/routes/~who")
def show_who() -> Response:
    """Who would answer to ``?name=``; without one, to a request that names no model."""
    given = query("name")
    name = given.get("name", "").strip()
    picture = services.asking_order.picture(name)
    return page("route_who.html", name=name, picture=picture, figures=_figures(picture), **WORDS)


@bp.get("/routes/~new")
def show_new_route() -> Response:
    return _new_page({"strategy": "priority"})


@bp.post("/routes/~new")
def create_route() -> Response:
    def act() -> Response:
        asked = {"name": request.form.get("name", "").strip(), **_said()}
        made = services.routes.create(wire.read_route(asked), current_actor())
        return go("admin.show_route", name=made.row.name)

    return told_in_place(lambda error: _new_page(forms.refilled(TYPED), error), act)


@bp.get("/routes/<name>")
def show_route(name: str) -> Response:
    return _route_page(name)


@bp.post("/routes/<name>")
def change_route(name: str) -> Response:
    def act() -> Response:
        known = wire.write_route(services.routes.get(name))
        if changes := forms.changed(_said(), known):
            services.routes.change(name, wire.read_route_changes(changes), current_actor())
        return go("admin.show_route", name=name)

    return told_in_place(lambda error: _route_page(name, error, forms.refilled(TYPED)), act)


@bp.post("/routes/<name>/delete")
def delete_route(name: str) -> Response:
    services.routes.remove(name, current_actor())
    return go("admin.list_routes")


# -- aliases ----------------------------------------------------------------------------------------------------------


@bp.get("/routes/~aliases")
def list_aliases() -> Response:
    return _aliases_page()


@bp.post("/routes/~aliases")
def add_alias() -> Response:
    """One more name for a model, or one more model for a name."""

    def act() -> Response:
        provider_id, model_id, known = _named_model()
        _set_aliases(provider_id, model_id, [*known, request.form.get("alias", "").strip()])
        return go("admin.list_aliases")

    return told_in_place(_aliases_page, act)


@bp.post("/routes/~aliases/remove")
def remove_alias() -> Response:
    def act() -> Response:
        provider_id, model_id, known = _named_model()
        gone = request.form.get("alias", "")
        if gone in known:
            _set_aliases(provider_id, model_id, [alias for alias in known if alias != gone])
        return go("admin.list_aliases")

    return told_in_place(_aliases_page, act)


def _named_model() -> tuple[str, str, list[str]]:
    """``provider/model`` of the form, and the aliases that the model has. Raises `InvalidRequest`."""
    provider_id, _, model_id = request.form.get("model", "").strip().partition("/")
    try:
        return provider_id, model_id, list(services.provider_models.get(provider_id, model_id).aliases)
    except NotFound as error:
        raise invalid("model", error.message) from None


def _set_aliases(provider_id: str, model_id: str, aliases: list[str]) -> None:
    changes = providers_wire.read_model_changes({"aliases": aliases})
    services.provider_models.change(provider_id, model_id, changes, current_actor())


def _aliases_page(error: DomainError | None = None) -> Response:
    limit, after, _ = paging()
    rows, following = services.provider_models.aliases(limit=limit, after=after)
    found = forms.faults_of(error)
    return page(
        "aliases.html", status=200 if error is None else error.status, rows=rows, following=following,
        given=forms.refilled(("alias", "model")), error=error,
        faults={"alias" if name == "aliases" else name: message for name, message in found.items()},
    )  # fmt: skip


# -- what is said and shown -------------------------------------------------------------------------------------------


def _said() -> dict[str, Any]:
    """The form, as ``PUT /routes/{name}`` takes it."""
    chains = {kind: forms.several(kind) for kind in FALLBACKS}
    return {
        "strategy": forms.text("strategy"),
        "targets": [_target(line) for line in forms.several("targets")],
        "fallbacks": {kind: names for kind, names in chains.items() if names},
    }


def _target(line: str) -> dict[str, Any]:
    """A line that is none is handed on as it is, for the check to name it."""
    parts = TARGET.fullmatch(line)
    if parts is None:
        return {"model": line, "weight": 1}
    return {"model": parts[1], "weight": 1 if parts[2] is None else int(parts[2])}


def _faults(error: DomainError | None) -> dict[str, str]:
    """At which field, and in which line of it: ``targets[2].model`` is the third."""
    found: dict[str, str] = {}
    for detail in () if error is None else error.details:
        field = detail["field"].removeprefix("fallbacks.")
        line = re.search(r"\[(\d+)\]", field)
        where = f"Line {int(line[1]) + 1} " if line else ""
        found.setdefault(field.partition("[")[0], where + detail["message"])
    return found


def _as_form(route: Mapping[str, Any]) -> dict[str, str]:
    shows_weight = route["strategy"] == "weighted"
    lines = (
        f"{one['model']} {one['weight']}" if shows_weight or one["weight"] != 1 else one["model"]
        for one in route["targets"]
    )
    chains = {kind: "\n".join(route["fallbacks"].get(kind, ())) for kind in FALLBACKS}
    return {"name": route["name"], "strategy": route["strategy"], "targets": "\n".join(lines), **chains}


def _new_page(given: Mapping[str, Any], error: DomainError | None = None) -> Response:
    status = 200 if error is None else error.status
    names, more = _names()
    return page(
        "route_new.html",
        status=status,
        given=given,
        error=error,
        faults=_faults(error),
        names=names,
        more=more,
        **WORDS,
    )


def _route_page(name: str, error: DomainError | None = None, given: dict[str, Any] | None = None) -> Response:
    route = wire.write_route(services.routes.get(name))
    picture = services.asking_order.picture(name)
    names, more = _names()
    return page(
        "route.html", status=200 if error is None else error.status, route=route, given=given or _as_form(route),
        picture=picture, figures=_figures(picture), error=error, faults=_faults(error), names=names, more=more, **WORDS,
    )  # fmt: skip


def _names() -> tuple[list[str], int]:
    """``provider/model`` of all who are on, as many as one reads, and how many are left out."""
    found = [f"{provider.id}/{model.name}" for provider, model in services.catalogue.current().models()]
    return found[:SHOWN_NAMES], max(0, len(found) - SHOWN_NAMES)


def _figures(picture: Picture) -> list[str]:
    """For each step the figure that its place hangs on, in words; empty where there is none."""
    return [_figure(step, picture.strategy) for step in picture.steps]


def _figure(step: Step, strategy: str | None) -> str:
    if strategy == "weighted" and step.weight is not None:
        share = "" if step.share is None else f", first in {step.share:.0%} of calls"
        return f"weight {step.weight}{share}"
    if strategy == "cheapest":
        price = to_dollars(step.cost)
        return "price unknown" if price is None else f"${price:.6f} for 1,000 tokens in and 1,000 out"
    if strategy == "fastest":
        told = "not measured yet" if step.seconds is None else f"{step.seconds:.2f} s"
        return f"{told}, in this process"
    return ""
