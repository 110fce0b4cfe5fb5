"""API tokens: what each may do and spend; a new one is shown once, with what to paste where."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Response, request

from flaskllm.blueprints._guard import current_actor, current_principal
from flaskllm.blueprints._http import page as paging
from flaskllm.blueprints._http import query
from flaskllm.blueprints.admin import _forms as forms
from flaskllm.blueprints.admin._pages import bp, go, page, told_in_place
from flaskllm.domain.principal import PERIODS, SCOPES
from flaskllm.errors import DomainError, invalid
from flaskllm.extensions import services
from flaskllm.wire import accounts
from flaskllm.wire import administration as wire

TYPED = (
    "name", "user_id", "models", "templates", "requests_per_minute", "tokens_per_minute", "concurrency",
    "budget_amount", "budget_period", "expires_at", "allowed_ips", "tags",
)  # fmt: skip
CHOICES: dict[str, Any] = {"scopes": SCOPES, "periods": PERIODS}
WORKBOOK_DAYS = 90


@bp.get("/tokens")
def list_tokens() -> Response:
    limit, after, given = paging("user_id")
    owner = given.get("user_id") or None
    rows, following = services.tokens.list(owner, limit=limit, after=after)
    user = services.accounts.get_user(owner) if owner else None
    return page("tokens.html", rows=wire.write_any_tokens(rows), following=following, owner=user)


@bp.get("/tokens/new")
def show_new_token() -> Response:
    given = query("user", "workbook")
    is_workbook = given.get("workbook") == "1"
    return _form({"user_id": given.get("user"), **(_workbook() if is_workbook else _usual())}, workbook=is_workbook)


@bp.post("/tokens/new")
def create_token() -> Response:
    is_workbook = request.form.get("workbook") == "1"

    def act() -> Response:
        asked = forms.filled_in(_said()) | {"name": request.form.get("name", "").strip(), "user_id": _owner()}
        user_id, fields = wire.read_new_token(asked)
        if is_workbook and not asked.get("templates"):
            raise invalid("templates", "a workbook's token is limited to templates: name at least one")
        row, text = services.tokens.issue_for(user_id, fields, actor=current_actor())
        return _shown_once(row, text)

    return told_in_place(lambda error: _form(_as_typed(), error, workbook=is_workbook), act)


@bp.get("/tokens/<token_id>")
def show_token(token_id: str) -> Response:
    return _token_page(token_id)


@bp.post("/tokens/<token_id>")
def change_token(token_id: str) -> Response:
    def act() -> Response:
        known = wire.write_any_token(services.tokens.get(None, token_id))
        if known["expires_at"]:
            known["expires_at"] = known["expires_at"][:10] + forms.DAY_ENDS
        changes = accounts.read_token_changes(forms.changed(_said(), known))
        services.tokens.change_any(token_id, changes, actor=current_actor())
        return go("admin.show_token", token_id=token_id)

    return told_in_place(lambda error: _token_page(token_id, error, _as_typed()), act)


@bp.post("/tokens/<token_id>/rotate")
def rotate_token(token_id: str) -> Response:
    def act() -> Response:
        asked: dict[str, Any] = accounts.read_rotation(forms.filled_in({"grace_s": forms.whole("grace_s")}))
        return _shown_once(*services.tokens.rotate_any(token_id, **asked, actor=current_actor()))

    return told_in_place(lambda error: _token_page(token_id, error), act)


@bp.post("/tokens/<token_id>/revoke")
def revoke_token(token_id: str) -> Response:
    services.tokens.revoke_any(token_id, actor=current_actor())
    return go("admin.show_token", token_id=token_id)


# -- what is said and shown -------------------------------------------------------------------------------------------


def _said() -> dict[str, Any]:
    """The form, as ``PATCH /tokens/{id}`` takes it; an empty list of models or templates means all."""
    return {
        "name": request.form.get("name", "").strip(),
        "scopes": [scope for scope in SCOPES if scope in forms.boxes("scopes")],
        "models": forms.several("models") or None,
        "templates": forms.several("templates") or None,
        "requests_per_minute": forms.whole("requests_per_minute"),
        "tokens_per_minute": forms.whole("tokens_per_minute"),
        "concurrency": forms.whole("concurrency"),
        "budget": forms.budget(),
        "expires_at": forms.end_of_day("expires_at"),
        "allowed_ips": forms.several("allowed_ips"),
        "tags": forms.several("tags"),
    }


def _owner() -> str:
    """By the name that people know."""
    name = forms.text("user_id")
    if name is None:
        raise invalid("user_id", "whose token is it?")
    try:
        return services.accounts.find_user(name).id
    except DomainError:
        raise invalid("user_id", "there is no such user") from None


def _as_typed() -> dict[str, Any]:
    return {**forms.refilled(TYPED), "scopes": forms.boxes("scopes")}


def _usual() -> dict[str, Any]:
    return {"scopes": (), "budget_period": "month"}


def _workbook() -> dict[str, Any]:
    """A script in a workbook cannot hide a key: little money, few templates, an end."""
    ends = datetime.now(UTC) + timedelta(days=WORKBOOK_DAYS)
    return {"scopes": ("webhook",), "budget_amount": 1, "budget_period": "day", "expires_at": ends.date().isoformat()}


def _form(given: dict[str, Any], error: DomainError | None = None, *, workbook: bool) -> Response:
    status = 200 if error is None else error.status
    return page(
        "token_new.html", status=status, given=given, error=error, faults=forms.faults_of(error), workbook=workbook,
        models=_models(), templates=_templates(), **CHOICES,
    )  # fmt: skip


def _token_page(token_id: str, error: DomainError | None = None, given: dict[str, Any] | None = None) -> Response:
    row = services.tokens.get(None, token_id)
    token = wire.write_any_token(row)
    bound = token["budget"] or {"amount": None, "period": "month"}
    lists = {name: "\n".join(token[name] or ()) for name in ("models", "templates", "allowed_ips", "tags")}
    held = {
        **token, **lists, "expires_at": (token["expires_at"] or "")[:10],
        "budget_amount": bound["amount"], "budget_period": bound["period"], **(given or {}),
    }  # fmt: skip
    return page(
        "token.html", status=200 if error is None else error.status, token=token, given=held, error=error,
        faults=forms.faults_of(error), live=row.is_live(datetime.now(UTC)), models=_models(), templates=_templates(),
        **CHOICES,
    )  # fmt: skip


def _shown_once(row: Any, text: str) -> Response:
    token = wire.write_any_token(row, text=text)
    return page("token_made.html", token=token, address=request.host_url.rstrip("/"))


def _models() -> list[str]:
    return [visible.name for visible in services.router.visible(current_principal())]


def _templates() -> list[str]:
    return [template.name for template in services.templates.all()]
