"""Accounts: who has one, what they may do, and what they may spend."""

from __future__ import annotations

from typing import Any

from flask import Response, request

from flaskllm.blueprints._guard import current_actor
from flaskllm.blueprints._http import page as paging
from flaskllm.blueprints.admin import _forms as forms
from flaskllm.blueprints.admin._pages import bp, go, page, told_in_place
from flaskllm.domain.principal import PERIODS, SCOPES
from flaskllm.errors import DomainError
from flaskllm.extensions import services
from flaskllm.wire import administration as wire

CHOICES: dict[str, Any] = {"roles": wire.ROLES, "scopes": SCOPES, "periods": PERIODS, "statuses": wire.STATUSES}
NEW = {"role": "user", "scopes": (), "status": "active", "budget_period": "month"}


@bp.get("/people")
def list_people() -> Response:
    limit, after, given = paging("search", "role", "status")
    chosen = {name: value for name, value in given.items() if value}
    rows, following = services.accounts.list_users(limit=limit, after=after, **wire.read_user_filters(chosen))
    return page("people.html", rows=wire.write_accounts(rows), following=following, chosen=chosen, **CHOICES)


@bp.get("/people/new")
def show_new_person() -> Response:
    return page("person_new.html", given=NEW, faults={}, **CHOICES)


@bp.post("/people/new")
def create_person() -> Response:
    def act() -> Response:
        asked = wire.read_new_user({**forms.filled_in(_said()), **_names()})
        user = services.accounts.create_user(
            asked.username, asked.email, asked.password, fields=asked.fields, actor=current_actor()
        )
        return go("admin.show_person", user_id=user.id)

    def again(error: DomainError) -> Response:
        given = {**_as_typed(), "username": request.form.get("username", "")}
        return page(
            "person_new.html", status=error.status, given=given, error=error, faults=forms.faults_of(error), **CHOICES
        )

    return told_in_place(again, act)


@bp.get("/people/<user_id>")
def show_person(user_id: str) -> Response:
    return _person_page(user_id)


@bp.post("/people/<user_id>")
def change_person(user_id: str) -> Response:
    def act() -> Response:
        known = {**wire.write_account(services.accounts.get_user(user_id)), "password": None}
        changes = wire.read_user_changes(forms.changed(_said(), known))
        services.accounts.change_user(user_id, changes, actor=current_actor())
        return go("admin.show_person", user_id=user_id)

    return told_in_place(lambda error: _person_page(user_id, error, _as_typed()), act)


@bp.post("/people/<user_id>/close")
def close_person(user_id: str) -> Response:
    def act() -> Response:
        services.accounts.close_user(user_id, actor=current_actor())
        return go("admin.list_people")

    return told_in_place(lambda error: _person_page(user_id, error), act)


def _said() -> dict[str, Any]:
    """The form, as ``PATCH /users/{id}`` takes it; an empty password is none."""
    return {
        "email": forms.text("email"),
        "password": request.form.get("password") or None,
        "role": forms.text("role"),
        "scopes": [scope for scope in SCOPES if scope in forms.boxes("scopes")],
        "status": forms.text("status"),
        "budget": forms.budget(),
    }


def _names() -> dict[str, str]:
    """What a new account has to have: said as empty where it is, so that it is named."""
    return {name: request.form.get(name, "").strip() for name in ("username", "email")}


def _as_typed() -> dict[str, Any]:
    typed = forms.refilled(("email", "role", "status", "budget_amount", "budget_period"))
    return {**typed, "scopes": forms.boxes("scopes")}


def _person_page(user_id: str, error: DomainError | None = None, given: dict[str, Any] | None = None) -> Response:
    user = wire.write_account(services.accounts.get_user(user_id))
    bound = user["budget"] or {"amount": None, "period": "month"}
    held = {**user, "budget_amount": bound["amount"], "budget_period": bound["period"], **(given or {})}
    status = 200 if error is None else error.status
    return page(
        "person.html", status=status, user=user, given=held, error=error, faults=forms.faults_of(error), **CHOICES
    )
