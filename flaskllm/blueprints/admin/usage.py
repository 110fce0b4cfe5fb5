"""The usage explorer: what calls added up to, of whom, by what, as a table and as a file to keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from flask import Response

from flaskllm.blueprints._http import page as paging
from flaskllm.blueprints._http import query, whole
from flaskllm.blueprints._reports import report_file
from flaskllm.blueprints.admin import _figures as figures
from flaskllm.blueprints.admin._filters import token_id_of, user_id_of
from flaskllm.blueprints.admin._forms import faults_of
from flaskllm.blueprints.admin._pages import bp, page, told_in_place
from flaskllm.errors import DomainError, invalid
from flaskllm.extensions import services
from flaskllm.services.usage import GROUPS, MOST_GROUPS, UsageReport
from flaskllm.wire import usage as wire

FILTERS = ("from", "to", "user", "token", "model", "provider", "tag")
LEVELS = ("by", "then", "last")
"""The groups, from the outermost."""
ORDERS = {
    "": ("as grouped", None),
    "cost": ("highest cost", lambda held: held.cost),
    "requests": ("most requests", lambda held: held.requests),
    "tokens": ("most tokens", lambda held: held.prompt_tokens + held.completion_tokens),
    "errors": ("most errors", lambda held: held.errors),
}
USUAL_DAYS = 30
"""What is shown where nobody has said from when."""
FILES = ("csv", "xlsx")


@bp.get("/usage")
def show_usage() -> Response:
    limit, after, given = paging(*FILTERS, *LEVELS, "order")
    chosen = _chosen(given)
    begin = 0 if after is None else whole(after, "after", least=1, most=MOST_GROUPS)

    def act() -> Response:
        report = _report(chosen)
        following = begin + limit if begin + limit < len(report.series) else None
        return _page(chosen, report=report, rows=_rows(report, begin, begin + limit), following=following)

    return told_in_place(lambda error: _page(chosen, error), act)


@bp.get("/usage/export")
def export_usage() -> Response:
    """Exactly what the page shows, all of its rows, as a file."""
    given = query(*FILTERS, *LEVELS, "order", "format")
    form = given.pop("format", "")
    if form not in FILES:
        raise invalid("format", f"must be one of {', '.join(FILES)}")
    return report_file(_report(_chosen(given)), form)


def _chosen(given: Mapping[str, str]) -> dict[str, str]:
    """What was asked, without what was left empty; the last month by day where nothing was said of it."""
    first = datetime.now(services.usage.zone).date() - timedelta(days=USUAL_DAYS - 1)
    usual = {"from": first.isoformat(), "by": "day"}
    said = {name: value.strip() for name, value in (usual | dict(given)).items()}
    return {name: value for name, value in said.items() if value or name == "from"}


def _report(chosen: Mapping[str, str]) -> UsageReport:
    """Raises `InvalidRequest`, which names the field."""
    since, until = wire.read_span(chosen, services.usage.zone)
    only = {name: chosen[name] for name in ("model", "provider", "tag") if chosen.get(name)}
    if token_id := token_id_of(chosen):
        only["token_id"] = token_id
    order = chosen.get("order", "")
    if order not in ORDERS:
        raise invalid("order", "is not known")
    report = services.usage.report(user_id_of(chosen), since, until, by=_groups(chosen), **only)
    rank = ORDERS[order][1]
    if rank is None:
        return report
    return replace(report, series=sorted(report.series, key=lambda row: rank(row[1]), reverse=True))


def _groups(chosen: Mapping[str, str]) -> list[str]:
    names: list[str] = []
    for level in LEVELS:
        name = chosen.get(level)
        if name and (name not in GROUPS or name in names):
            raise invalid(level, "is grouped by already" if name in names else f"must be one of {', '.join(GROUPS)}")
        names += [name] if name else []
    return names or ["day"]


def _rows(report: UsageReport, begin: int, end: int) -> list[dict[str, Any]]:
    """A part of the series; ``share``: of a hundred, which the dearest row has."""
    most = max((held.cost for _, held in report.series), default=0) or 1
    return [
        {
            "words": [_words(name, group) for name in report.by],
            "held": held,
            "share": 100 * held.cost / most,
            "calls": _calls_of(report, group),
        }
        for group, held in report.series[begin:end]
    ]


def _calls_of(report: UsageReport, group: Mapping[str, str | None]) -> dict[str, str] | None:
    """What `list_requests` is asked for the calls behind a row; None where they cannot be named."""
    if None in (group.get(name, "") for name in ("token_id", "provider", "tag")):
        return None
    span = {"from": report.span.since, "to": report.span.until}
    if day := group.get("day"):
        span["from"], span["to"] = wire.read_span({"from": day, "to": day}, services.usage.zone)
    named = {
        "user": group.get("user_id") or report.span.user_id,
        "token": group.get("token_id") or report.span.token_id,
        **{name: group.get(name) or getattr(report.span, name) for name in ("model", "provider", "tag")},
    }
    moments = {name: at.strftime("%Y-%m-%d %H:%M:%SZ") for name, at in span.items() if at is not None}
    return moments | {name: value for name, value in named.items() if value}


def _words(name: str, group: Mapping[str, str | None]) -> str:
    """A group as people know it: by name where it has one."""
    id_, known = {"user": ("user_id", "username"), "token": ("token_id", "token_name")}.get(name, (name, name))
    return group[known] or group[id_] or figures.NOTHING


def _page(
    chosen: Mapping[str, str],
    error: DomainError | None = None,
    *,
    report: UsageReport | None = None,
    rows: list[dict[str, Any]] | None = None,
    following: int | None = None,
) -> Response:
    return page(
        "usage.html", status=200 if error is None else error.status, chosen=chosen, error=error,
        faults=faults_of(error), report=report, rows=rows or [], following=following, groups=GROUPS,
        orders=[(name, words) for name, (words, _) in ORDERS.items()],
    )  # fmt: skip
