"""Quotas: what a user, a tag, a model or everybody together is held to, beside what their tokens are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flask import Response, request, url_for

from flaskllm.blueprints._guard import current_actor
from flaskllm.blueprints._http import page as paging
from flaskllm.blueprints._http import query
from flaskllm.blueprints.admin import _forms as forms
from flaskllm.blueprints.admin._pages import bp, go, onward, page, told_in_place
from flaskllm.domain.principal import PERIODS
from flaskllm.domain.quota import FIELDS_OF, INSTALLATION, LIMITS
from flaskllm.errors import Conflict, DomainError, NotFound, invalid
from flaskllm.extensions import services
from flaskllm.wire import quotas as wire

SUBJECTS = {
    "user": ("A user", "All that somebody’s tokens and sign-ins do together."),
    "tag": ("A tag", "All calls of tokens and requests with a tag: a team, a project, a customer."),
    "model": ("A model", "Whoever asks it: for a server of your own that takes only so much."),
    INSTALLATION: ("The installation", "All calls of everybody together."),
}
"""By kind of subject: what it is called, and what is counted."""
OF_BUDGETS = ("amount", "kind", "alert")
TYPED = ("name", *LIMITS, *(f"{field}_{period}" for period in PERIODS for field in OF_BUDGETS))
PERCENT = re.compile(r"[0-9]{1,3}(\.[0-9]{1,9})?", re.ASCII)


@bp.get("/quotas")
def list_quotas() -> Response:
    limit, after, _ = paging()
    found, following = services.quotas.page(limit=limit, after=after)
    rows = [{**wire.write_quota(view), "name": view.name} for view in found]
    return page("quotas.html", rows=rows, following=following)


@bp.get("/quotas/new")
def show_new_quota() -> Response:
    """``?kind=`` and ``?name=`` fill it in; where there is such a quota, that one is shown."""
    given = query("kind", "name")
    kind, name = given.get("kind", ""), given.get("name", "").strip()
    if name or kind == INSTALLATION:
        subject = _subject_of(kind, name)
        if _has_quota(subject):
            return _to(subject)
    return _new_page(kind, {"name": name})


@bp.post("/quotas/new")
def create_quota() -> Response:
    kind = request.form.get("kind", "")

    def act() -> Response:
        subject = _subject_of(kind, request.form.get("name", "").strip())
        if _has_quota(subject):
            raise Conflict("There is a quota for it already.")
        _put(subject, kind)
        return _to(subject)

    return told_in_place(lambda error: _new_page(kind, forms.refilled(TYPED), error), act)


@bp.get("/quotas/one")
def show_quota() -> Response:
    return _quota_page(query("subject").get("subject", ""))


@bp.post("/quotas/one")
def change_quota() -> Response:
    subject = request.form.get("subject", "")
    services.quotas.get(subject)

    def act() -> Response:
        _put(subject, _kind_of(subject))
        return _to(subject)

    return told_in_place(lambda error: _quota_page(subject, error, forms.refilled(TYPED)), act)


@bp.post("/quotas/one/delete")
def delete_quota() -> Response:
    services.quotas.remove(request.form.get("subject", ""), current_actor())
    return go("admin.list_quotas")


# -- what is said -----------------------------------------------------------------------------------------------------


def _put(subject: str, kind: str) -> None:
    services.quotas.put(subject, wire.read_quota(_said(kind)), current_actor())


def _said(kind: str) -> dict[str, Any]:
    """The form, as ``PUT /quotas/{subject}`` takes it, with what a quota of this kind can have."""
    said: dict[str, Any] = {name: forms.whole(name) for name in LIMITS if name in FIELDS_OF[kind]}
    if "budgets" in FIELDS_OF[kind]:
        said["budgets"] = [_budget(period) for period in _bounded()]
    return said


def _bounded() -> list[str]:
    """The periods of the budgets, in the order in which they are sent on."""
    return [period for period in PERIODS if forms.text(f"amount_{period}") is not None]


def _budget(period: str) -> dict[str, Any]:
    budget = {"amount": forms.amount(f"amount_{period}"), "period": period, "kind": request.form.get(f"kind_{period}")}
    percent = forms.text(f"alert_{period}")
    if percent is None:
        return budget
    if not PERCENT.fullmatch(percent) or float(percent) > 100:
        raise invalid(f"alert_{period}", "must be a number from 0 to 100")
    return {**budget, "alert_at": round(float(percent) / 100, 11)}


def _subject_of(kind: str, name: str) -> str:
    """Users are known by their names. Raises `InvalidRequest`."""
    if kind == INSTALLATION:
        return INSTALLATION
    if kind not in FIELDS_OF or not name:
        raise invalid("name", "must say whom or what it is for")
    if kind == "user":
        try:
            return f"user:{services.accounts.find_user(name).id}"
        except NotFound:
            raise invalid("name", "there is no such user") from None
    return f"{kind}:{name}"


def _has_quota(subject: str) -> bool:
    try:
        services.quotas.get(subject)
    except NotFound:
        return False
    return True


# -- what is shown ----------------------------------------------------------------------------------------------------


def _to(subject: str) -> Response:
    return onward(url_for("admin.show_quota", subject=subject))


def _kind_of(subject: str) -> str:
    return subject.partition(":")[0]


def _new_page(kind: str, given: Mapping[str, Any], error: DomainError | None = None) -> Response:
    status = 200 if error is None else error.status
    if kind not in SUBJECTS:
        return page("quota_kinds.html", status=status, subjects=SUBJECTS)
    return page(
        "quota_new.html", status=status, kind=kind, given=given, error=error, faults=_faults(error), **_choices(kind)
    )


def _quota_page(subject: str, error: DomainError | None = None, given: Mapping[str, Any] | None = None) -> Response:
    view = services.quotas.get(subject)
    quota, kind = wire.write_quota(view), _kind_of(subject)
    return page(
        "quota.html", status=200 if error is None else error.status, kind=kind, name=view.name, quota=quota,
        given=given or _as_form(quota), error=error, faults=_faults(error), **_choices(kind),
    )  # fmt: skip


def _choices(kind: str) -> dict[str, Any]:
    return {"subjects": SUBJECTS, "fields": FIELDS_OF[kind], "periods": PERIODS}


def _as_form(quota: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {name: quota[name] for name in LIMITS}
    for one in quota["budgets"]:
        period, share = one["period"], one["alert_at"]
        found[f"amount_{period}"] = forms.plain(one["amount"])
        found[f"kind_{period}"] = one["kind"]
        found[f"alert_{period}"] = "" if share is None else forms.plain(share * 100)
    return found


def _faults(error: DomainError | None) -> dict[str, str]:
    """At which field: ``budgets[1].amount`` is that of the second period that has an amount."""
    bounded, found = _bounded(), dict[str, str]()
    for detail in () if error is None else error.details:
        place = re.fullmatch(r"budgets\[(\d+)\]\.(\w+)", detail["field"])
        field = detail["field"]
        if place is not None and int(place[1]) < len(bounded):
            field = f"{place[2]}_{bounded[int(place[1])]}"
        found.setdefault("name" if field == "subject" else field, detail["message"])
    return found
