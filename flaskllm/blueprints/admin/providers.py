"""Providers and their keys: who there is and how they fare; made, changed, tried out, taken away.

What adapters say of themselves draws the forms. Paths that begin with ``~`` are none of a provider's: no id begins so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response, request, url_for

from flaskllm.blueprints._calls import new_call
from flaskllm.blueprints._guard import current_actor
from flaskllm.blueprints._http import page as paging
from flaskllm.blueprints.admin import _connection as connection
from flaskllm.blueprints.admin import _forms as forms
from flaskllm.blueprints.admin._pages import bp, go, page, told_in_place
from flaskllm.blueprints.providers import tells_of_refusals
from flaskllm.errors import DomainError
from flaskllm.extensions import services
from flaskllm.services.provider_check import MOST_TOKENS, QUESTION
from flaskllm.services.provider_factory import KindDescription
from flaskllm.wire import providers as wire

SHOWN_MODELS = 12
"""On a provider's own page."""


@bp.get("/providers")
def list_providers() -> Response:
    limit, after, _ = paging()
    found, following = services.providers.page(limit=limit, after=after)
    return page("providers.html", rows=found, following=following, titles=_titles())


def _titles() -> dict[str, str]:
    return {kind.kind: kind.title for kind in services.factory.kinds()}


# -- a new one --------------------------------------------------------------------------------------------------------


@bp.get("/providers/~new")
def choose_kind() -> Response:
    return page("provider_kinds.html", kinds=[kind for kind in services.factory.kinds() if kind.connection])


@bp.get("/providers/~new/<kind>")
def show_new_provider(kind: str) -> Response:
    return _new_page(kind)


@bp.post("/providers/~new/<kind>")
def create_provider(kind: str) -> Response:
    @tells_of_refusals("provider.create")
    def act() -> Response:
        asked = forms.filled_in(_said()) | {"provider_id": request.form.get("provider_id", "").strip()}
        params = forms.filled_in(connection.said(services.factory.describe(kind)))
        names = [{"model_id": name} for name in forms.several("models")]
        made = services.providers.create(
            wire.read_provider(
                {**asked, **_key(), "provider_type": kind, "connection_params": params, "models": names}
            ),
            current_actor(),
        )
        return go("admin.show_provider", provider_id=made.row.id)

    return told_in_place(lambda error: _new_page(kind, error), act)


def _new_page(kind: str, error: DomainError | None = None) -> Response:
    described = services.factory.describe(kind)
    faults = connection.faults_of(error)
    if about_kind := faults.pop("provider_type", None):  # which is that of a shipped provider of this id
        faults.setdefault("provider_id", about_kind)
    typed = forms.refilled(("provider_id", "display_name", "description", "models"))
    return page(
        "provider_new.html",
        status=200 if error is None else error.status,
        kind=described,
        given=typed,
        inputs=connection.inputs(described, {}, typed=error is not None),
        error=error,
        faults=faults,
    )


# -- one --------------------------------------------------------------------------------------------------------------


@bp.get("/providers/<provider_id>")
def show_provider(provider_id: str) -> Response:
    return _provider_page(provider_id)


@bp.post("/providers/<provider_id>")
def change_provider(provider_id: str) -> Response:
    return _changed(provider_id, lambda: _changes(provider_id))


@bp.post("/providers/<provider_id>/switch")
def switch_provider(provider_id: str) -> Response:
    """On or off, and nothing else."""
    return _changed(provider_id, lambda: {"enabled": request.form.get("enabled") == "true"})


def _changed(provider_id: str, changes: Callable[[], dict[str, Any]]) -> Response:
    @tells_of_refusals("provider.update")
    def act() -> Response:
        if document := changes():
            services.providers.change(provider_id, wire.read_provider_changes(document), current_actor())
        return go("admin.show_provider", provider_id=provider_id)

    return told_in_place(lambda error: _provider_page(provider_id, error), act)


def _changes(provider_id: str) -> dict[str, Any]:
    """What the form says otherwise than the provider is, as ``PUT /providers/{id}`` takes it."""
    view = services.providers.get(provider_id)
    row = view.row
    known = {"display_name": row.display_name, "description": row.description, "default_model": row.default_model}
    said = {**_said(), "default_model": forms.text("default_model")}
    document = {**forms.changed(said, known), **_key()}
    params = connection.said(services.factory.describe(row.kind))
    if changed := {name: value for name, value in params.items() if value != view.connection.get(name)}:
        document["connection_params"] = changed
    return document


def _said() -> dict[str, Any]:
    description = request.form.get("description", "").replace("\r\n", "\n").strip()
    return {"display_name": request.form.get("display_name", "").strip(), "description": description}


def _key() -> dict[str, Any]:
    if value := forms.text("api_key"):
        return {"api_key": {"key_value": value}}
    return {"api_key": None} if forms.boxes("without_key") else {}


@bp.post("/providers/<provider_id>/delete")
def delete_provider(provider_id: str) -> Response:
    services.providers.remove(provider_id, current_actor())
    return go("admin.list_providers")


@bp.post("/providers/<provider_id>/test")
def check_provider(provider_id: str) -> Response:
    """One real call, and what came of it on the same page."""

    def act() -> Response:
        model = wire.read_check(forms.filled_in({"model": forms.text("model")}))
        report = services.provider_check.run(provider_id, new_call("admin"), model)
        return _provider_page(provider_id, report=wire.write_check(report))

    return told_in_place(lambda error: _provider_page(provider_id, error), act)


# -- its keys ---------------------------------------------------------------------------------------------------------


@bp.post("/providers/<provider_id>/keys")
def add_key(provider_id: str) -> Response:
    """One more, or one in the place of another."""

    @tells_of_refusals("key.create")
    def act() -> Response:
        given = {"key_value": forms.text("key_value"), "endpoint": forms.text("endpoint")}
        fields = wire.read_key({"key_value": "", **forms.filled_in(given)})
        if old := forms.text("replaces"):
            services.provider_keys.swap(provider_id, old, fields, current_actor())
        else:
            services.provider_keys.add(provider_id, fields, current_actor())
        return go("admin.show_provider", provider_id=provider_id, _anchor="keys")

    return told_in_place(lambda error: _provider_page(provider_id, error), act)


@bp.post("/providers/<provider_id>/keys/<key_id>/delete")
def delete_key(provider_id: str, key_id: str) -> Response:
    def act() -> Response:
        services.provider_keys.remove(provider_id, key_id, current_actor())
        return go("admin.show_provider", provider_id=provider_id, _anchor="keys")

    return told_in_place(lambda error: _provider_page(provider_id, error), act)


@bp.post("/providers/<provider_id>/keys/<key_id>/put-back")
def put_key_back(provider_id: str, key_id: str) -> Response:
    services.provider_keys.put_back(provider_id, key_id, current_actor())
    return go("admin.show_provider", provider_id=provider_id, _anchor="keys")


# -- the page ---------------------------------------------------------------------------------------------------------


def _provider_page(
    provider_id: str, error: DomainError | None = None, report: dict[str, Any] | None = None
) -> Response:
    view = services.providers.get(provider_id)
    row, kind = view.row, _kind(view.row.kind)
    is_settings = error is not None and request.path == url_for("admin.change_provider", provider_id=provider_id)
    given = {"display_name": row.display_name, "description": row.description, "default_model": row.default_model}
    if is_settings:
        given |= forms.refilled(given)
    return page(
        "provider.html",
        status=200 if error is None else error.status,
        view=view,
        keys=wire.write_keys(view.keys),
        kind=kind,
        given=given,
        inputs=connection.inputs(kind, view.connection, typed=is_settings) if kind else [],
        usual=[model.name for model in view.models if model.enabled],
        shown_models=view.models[:SHOWN_MODELS],
        error=error,
        faults=connection.faults_of(error),
        report=report,
        asked=forms.text("model") if report else None,
        question=QUESTION,
        most_tokens=MOST_TOKENS,
    )


def _kind(name: str) -> KindDescription | None:
    """None where the kind's package is gone: then nobody knows what it takes."""
    try:
        return services.factory.describe(name)
    except (DomainError, ImportError, AttributeError):
        return None
