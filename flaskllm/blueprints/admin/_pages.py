"""What all pages share: the blueprint, how a page is drawn, and how a failure is told to a person."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, g, redirect, render_template, request, url_for

from flaskllm.blueprints._browser import (
    MOST_FORM_BYTES,
    MOST_TEXT_BYTES,
    TOKEN_FIELD,
    check_form,
    form_token,
    keep_form_cookie,
    sign_out,
)
from flaskllm.blueprints._http import READS
from flaskllm.errors import DomainError
from flaskllm.version import VERSION

bp = Blueprint("admin", __name__)

POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'self'"
)
"""No inline script or style, nothing from elsewhere."""
NAVIGATION = (
    (("admin.show_overview", "Overview"),),
    (
        ("admin.list_providers", "Providers"),
        ("admin.list_routes", "Routes"),
        ("admin.list_templates", "Templates"),
        ("admin.show_playground", "Playground"),
    ),
    (("admin.list_batches", "Batches"), ("admin.list_requests", "Requests"), ("admin.show_usage", "Usage")),
    (
        ("admin.list_people", "People"),
        ("admin.list_tokens", "Tokens"),
        ("admin.list_quotas", "Quotas"),
        ("admin.list_audit", "Audit"),
    ),
    (("admin.read_session", "Your sign-in"),),
)
"""What stands in the column at the side, in groups: endpoint and words."""
HOME = "admin.show_overview"
TITLES = {403: "Not allowed", 404: "Not found", 405: "Not found", 413: "Too large", 429: "Too many tries"}
OUR_PAGES = re.compile(r"/admin(/[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,99}){0,6}", re.ASCII)

LONG_FORMS = {
    "admin.create_template", "admin.change_template", "admin.preview_variables", "admin.edit_draft", "admin.run_trial",
    "admin.ask_whole", "admin.stream_answer", "admin.show_code",
}  # fmt: skip
"""Views whose forms hold whole prompts."""

ASKED_FIRST = {
    "admin.cancel_batch", "admin.close_person", "admin.delete_key", "admin.delete_model", "admin.delete_provider",
    "admin.delete_quota", "admin.delete_route", "admin.delete_template", "admin.leave_everywhere",
    "admin.restore_version", "admin.revoke_token",
}  # fmt: skip
"""Views that do nothing before their form's question was answered with yes."""
QUESTION, CONFIRMED = "question", "confirmed"
"""Fields of these forms: what is asked, and that the answer was yes, which the script adds or `sure.html`."""


@bp.before_request
def _check() -> Response | None:
    check_form(MOST_TEXT_BYTES if request.endpoint in LONG_FORMS else MOST_FORM_BYTES)
    is_open = request.method not in READS and request.endpoint in ASKED_FIRST and not request.form.get(CONFIRMED)
    return _question_page() if is_open else None


def _question_page() -> Response:
    """For who has no script: the same form once more behind its question, in the form's own words."""
    fields = [pair for pair in request.form.items(multi=True) if pair[0] not in (TOKEN_FIELD, QUESTION, CONFIRMED)]
    came_from = urlsplit(request.referrer or "")
    is_ours = came_from.path.startswith("/admin/")
    return page(
        "sure.html",
        question=request.form.get(QUESTION) or "This cannot be undone.",
        action=url_for(str(request.endpoint), **(request.view_args or {})),
        fields=fields,
        confirmed=CONFIRMED,
        back=came_from._replace(scheme="", netloc="").geturl() if is_ours else url_for(HOME),
    )


@bp.after_app_request
def _finish(response: Response) -> Response:
    return keep_form_cookie(response)


def page(template: str, *, status: int = 200, **told: Any) -> Response:
    """A page of ours, which no cache keeps and no other site may frame or feed."""
    html = render_template(
        f"admin/{template}",
        navigation=NAVIGATION,
        principal=g.get("principal"),
        form_token=form_token,
        version=VERSION,
        **told,
    )
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
    return Response(html, status=status, content_type="text/html; charset=utf-8", headers=headers)


def go(endpoint: str, **values: Any) -> Response:
    """On to another page, by GET, whatever this request was."""
    return onward(url_for(endpoint, **values))


def onward(address: str) -> Response:
    status = 302 if request.method in READS else 303
    response: Response = redirect(address, status)  # type: ignore[assignment]
    response.headers["Cache-Control"] = "no-store"
    return response


def safe_next(address: str | None) -> str:
    """A page of ours to go on to; never another site."""
    return address if address and OUR_PAGES.fullmatch(address) else url_for(HOME)


def told_in_place(again: Callable[[DomainError], Response], act: Callable[[], Response]) -> Response:
    """Do it; what is refused is told on the form itself, with what had been filled in."""
    try:
        return act()
    except DomainError as error:
        if error.status >= 500 or error.status in (401, 404):
            raise
        g.error_code = error.code
        return again(error)


def error_page(error: DomainError) -> Response:
    """A failure as a page; who is not signed in, or no longer, is led to where one signs in."""
    if error.status == 401:
        return _to_the_entrance()
    title = TITLES.get(error.status, "That did not work")
    return page("error.html", status=error.status, title=title, error=error, request_id=g.get("request_id", ""))


def _to_the_entrance() -> Response:
    g.pop("principal", None)
    is_ours = request.method == "GET" and OUR_PAGES.fullmatch(request.path)
    address = url_for("admin.show_sign_in", next=request.path if is_ours else None)
    if "HX-Request" in request.headers:
        response = Response(status=401, headers={"HX-Redirect": address, "Cache-Control": "no-store"})
    else:
        response = onward(address)
    sign_out(response)
    return response
