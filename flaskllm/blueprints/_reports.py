"""How a report of usage is asked for and goes out, whoever reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response, request

from flaskllm.blueprints._doc import parameter
from flaskllm.blueprints._http import query
from flaskllm.extensions import services
from flaskllm.wire import shapes
from flaskllm.wire import usage as wire

ONLY = {
    "token_id": "Only this token's calls",
    "model": "Only calls to this model, as reports name it",
    "provider": "Only this provider's",
    "tag": "Only calls under this tag",
}
"""By what calls are picked out, as `UsageService.report` names it."""
REPORT = ("from", "to", "group_by", "format", *ONLY)
TABLES = {wire.MEDIA["csv"]: shapes.STRING, wire.MEDIA["xlsx"]: {"type": "string", "format": "binary"}}
"""What a report may come as besides JSON."""


def report_parameters(groups: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    """What a report may be asked by."""
    return (
        parameter("from", "The first day or moment, in ISO 8601; without a zone in `BUDGET_TIMEZONE`"),
        parameter("to", "The last day, or the moment after the last"),
        parameter("group_by", f"Some of {', '.join(groups)}, with commas between; `day` if left out"),
        parameter(
            "format",
            "`json`: everything; `csv`: the series as a table; `xlsx`: the series and the totals as two sheets. "
            "Without it `Accept` decides",
            shapes.one_of(*wire.FORMATS),
        ),
        *(parameter(name, words) for name, words in ONLY.items()),
    )


def send_report(user_id: str | None, groups: tuple[str, ...], as_json: Callable[[Any], Response]) -> Response:
    """Read what is asked of the usage of one user, or of all (None), and answer in the form that is wanted.

    Who may read of all may name the one.
    """
    given = query(*REPORT, *(() if user_id else ("user_id",)))
    user_id = user_id or given.get("user_id")
    form = wire.read_format(given, request.accept_mimetypes.best_match(wire.MEDIA.values(), "application/json"))
    since, until = wire.read_span(given, services.usage.zone)
    only = {name: given[name] for name in ONLY if name in given}
    report = services.usage.report(user_id, since, until, by=wire.read_groups(given, groups), **only)
    response = as_json(wire.write_report(report)) if form == "json" else report_file(report, form)
    response.vary.add("Accept")
    return response


def report_file(report: Any, form: str) -> Response:
    """A report to be kept: ``csv`` or ``xlsx``."""
    if form == "csv":
        return _file(wire.write_csv(report), f"{wire.MEDIA[form]}; charset=utf-8", "usage.csv")
    return _file(wire.write_xlsx(report), wire.MEDIA[form], "usage.xlsx")


def _file(body: str | bytes, content_type: str, name: str) -> Response:
    response = Response(body, content_type=content_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
