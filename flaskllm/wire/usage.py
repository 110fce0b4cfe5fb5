"""Usage as its owner and administrators read it: a document, or a table for a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from flaskllm.domain.pricing import to_dollars
from flaskllm.errors import invalid
from flaskllm.wire.shapes import COUNT, MOMENT, STRING, Shape, maybe, record, several

MOST_AT_ONCE = 2
MOST_TOLD = 2**63 - 1
"""Of a sum of absurd counts no more is told: readers of JSON know no larger whole number."""
FORMATS = ("json", "csv")
OWN_GROUPS = ("day", "model", "token")
"""By what people see their own usage."""
FIELDS_OF = {"user": ("user_id", "username"), "token": ("token_id", "token_name")}

_FORMULA = re.compile(r"[\s\x00-\x1f\ufeff\u200b\"';,]*[=+\-@|%＝＋－＠]")
"""Also behind what a spreadsheet skips, or splits cells at."""

SUM_SHAPES: Shape = {
    "requests": COUNT,
    "errors": COUNT,
    "prompt_tokens": COUNT,
    "completion_tokens": COUNT,
    "total_tokens": COUNT,
    "cost": {"type": "number", "minimum": 0, "description": "US dollars; calls without a price count 0"},
    "unpriced_requests": COUNT,
    "estimated_requests": COUNT,
}
SUMS = tuple(SUM_SHAPES)
GROUP_SHAPES: Shape = {
    "day": {"type": "string", "format": "date"},
    "model": STRING,
    "provider": maybe(STRING),
    "tag": maybe(STRING),
    "user_id": STRING,
    "username": maybe(STRING),
    "token_id": maybe(STRING),
    "token_name": maybe(STRING),
}
USAGE = record(
    "Usage",
    **{"from": maybe(MOMENT), "to": maybe(MOMENT)},
    **SUM_SHAPES,
    group_by=several(STRING, minItems=1, maxItems=MOST_AT_ONCE),
    series=several(record("UsageGroup", optional=GROUP_SHAPES, **SUM_SHAPES)),
)
"""`write_report`'s form."""

_DAY = re.compile(r"\d{4}-?(\d{2}-?\d{2}|W\d{2}(-?\d)?)", re.ASCII)
"""The forms of a day that `datetime.fromisoformat` reads, beside those with a time."""


def read_span(given: Mapping[str, str]) -> tuple[datetime | None, datetime | None]:
    """``from`` and ``to`` as days or moments; ``to`` given as a day includes it. Raises `InvalidRequest`."""
    since, until = _moment(given, "from"), _moment(given, "to", to_its_end=True)
    if since and until and until <= since:
        raise invalid("to", "must be later than from")
    return since, until


def _moment(given: Mapping[str, str], name: str, *, to_its_end: bool = False) -> datetime | None:
    text = given.get(name)
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        return found + timedelta(days=1) if to_its_end and _DAY.fullmatch(text) else found
    except (ValueError, OverflowError):  # the second where a zone or the day's end leads out of the calendar
        raise invalid(name, "must be a day (2026-11-21) or a moment in ISO 8601") from None


def read_groups(given: Mapping[str, str], known: Sequence[str]) -> list[str]:
    """``group_by``: one or two of these, with a comma between; by day where nothing is said."""
    names = given.get("group_by", "day").split(",")
    if len(names) > MOST_AT_ONCE or len(set(names)) < len(names) or not set(names) <= set(known):
        raise invalid("group_by", f"must be one of {', '.join(known)}, or two of them with a comma between")
    return names


def read_format(given: Mapping[str, str]) -> str:
    """``format``: ``json`` where nothing is said."""
    found = given.get("format", "json")
    if found not in FORMATS:
        raise invalid("format", f"must be one of {', '.join(FORMATS)}")
    return found


def write_report(report: Any) -> dict[str, Any]:
    """The sums and the series as a document; ``cost`` in US dollars."""
    return {
        "from": _iso(report.span.since),
        "to": _iso(report.span.until),
        **_sums(report.totals),
        "group_by": list(report.by),
        "series": [{**group, **_sums(held)} for group, held in report.series],
    }


def write_csv(report: Any) -> str:
    """The series as a table, all cells quoted; before what a spreadsheet would take for a formula stands ``'``."""
    columns = [field for name in report.by for field in FIELDS_OF.get(name, (name,))]
    lines = io.StringIO()
    writer = csv.writer(lines, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow([*columns, *SUMS])
    for group, held in report.series:
        writer.writerow([*(_safe(group[name] or "") for name in columns), *_sums(held).values()])
    return lines.getvalue()


def _safe(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) else text


def _sums(totals: Any) -> dict[str, Any]:
    return {
        "requests": totals.requests,
        "errors": totals.errors,
        "prompt_tokens": min(totals.prompt_tokens, MOST_TOLD),
        "completion_tokens": min(totals.completion_tokens, MOST_TOLD),
        "total_tokens": min(totals.prompt_tokens + totals.completion_tokens, MOST_TOLD),
        "cost": to_dollars(totals.cost),
        "unpriced_requests": totals.unpriced,
        "estimated_requests": totals.estimated,
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None
