"""Usage as its owner and administrators read it: a document, a table, or a workbook for a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any

from flaskllm.domain.pricing import dollars_text, to_dollars
from flaskllm.domain.spreadsheet import table_safe
from flaskllm.domain.usage import BUCKETS, PIECES
from flaskllm.errors import invalid
from flaskllm.wire import xlsx
from flaskllm.wire.shapes import COUNT, MOMENT, STRING, Shape, maybe, record, several

MOST_TOLD = 2**63 - 1
"""Of a sum of absurd counts no more is told: readers of JSON know no larger whole number."""
MEDIA = {"json": "application/json", "csv": "text/csv", "xlsx": xlsx.MEDIA}
FORMATS = tuple(MEDIA)
OWN_GROUPS = ("day", "token", "model", "provider", "tag")
"""By what people see their own usage."""
FIELDS_OF = {"user": ("user_id", "username"), "token": ("token_id", "token_name")}
TOKENS = tuple(name for name in BUCKETS if name not in PIECES)
"""The buckets that hold tokens; images are counted by the piece."""

SUM_SHAPES: Shape = {
    "requests": COUNT,
    "errors": COUNT,
    "prompt_tokens": COUNT,
    "completion_tokens": COUNT,
    "total_tokens": COUNT,
    "cost": {"type": "number", "minimum": 0, "description": "US dollars; calls without a price count 0"},
    "unpriced_requests": COUNT,
    "estimated_requests": COUNT,
    "interrupted_requests": COUNT,
    "images": COUNT,
    "tokens": record("UsageTokens", **dict.fromkeys(TOKENS, COUNT)),
    "saved": {"type": "number", "minimum": 0, "description": "US dollars that answers from the cache had cost before"},
}
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
    timezone={"type": "string", "description": "In which the days are cut: `BUDGET_TIMEZONE`"},
    **SUM_SHAPES,
    group_by=several(STRING, minItems=1),
    series=several(record("UsageGroup", optional=GROUP_SHAPES, **SUM_SHAPES)),
)
"""`write_report`'s form."""

_DAY = re.compile(r"\d{4}-?(\d{2}-?\d{2}|W\d{2}(-?\d)?)", re.ASCII)
"""The forms of a day that `datetime.fromisoformat` reads, beside those with a time."""


def read_span(given: Mapping[str, str], zone: tzinfo = UTC) -> tuple[datetime | None, datetime | None]:
    """``from`` and ``to`` as days or moments, in ``zone`` where they name none; ``to`` given as a day includes it.

    Raises `InvalidRequest`.
    """
    since, until = _moment(given, "from", zone), _moment(given, "to", zone, to_its_end=True)
    if since and until and until <= since:
        raise invalid("to", "must be later than from")
    return since, until


def _moment(given: Mapping[str, str], name: str, zone: tzinfo, *, to_its_end: bool = False) -> datetime | None:
    text = given.get(name)
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        if to_its_end and _DAY.fullmatch(text):
            found += timedelta(days=1)  # by the calendar: a day may have 23 hours, or 25
        return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):  # the second where a zone or the day's end leads out of the calendar
        raise invalid(name, "must be a day (2026-11-21) or a moment in ISO 8601") from None


def read_groups(given: Mapping[str, str], known: Sequence[str]) -> list[str]:
    """``group_by``: some of these, with commas between; by day where nothing is said."""
    names = given.get("group_by", "day").split(",")
    if len(set(names)) < len(names) or not set(names) <= set(known):
        raise invalid("group_by", f"must be one of {', '.join(known)}, or several of them with commas between")
    return names


def read_format(given: Mapping[str, str], accepted: str | None = None) -> str:
    """``format``; where nothing is said, that of the media type ``accepted``, else ``json``."""
    by_type = {media: form for form, media in MEDIA.items()}
    found = given.get("format", by_type.get(accepted or "", "json"))
    if found not in FORMATS:
        raise invalid("format", f"must be one of {', '.join(FORMATS)}")
    return found


def write_report(report: Any) -> dict[str, Any]:
    """The sums and the series as a document; ``cost`` in US dollars."""
    return {
        "from": _iso(report.span.since),
        "to": _iso(report.span.until),
        "timezone": report.zone,
        **_sums(report.totals),
        "group_by": list(report.by),
        "series": [{**group, **_sums(held)} for group, held in report.series],
    }


def write_csv(report: Any) -> str:
    """The series as a table, all cells quoted; before what a spreadsheet would take for a formula stands ``'``."""
    columns = _group_columns(report)
    lines = io.StringIO()
    writer = csv.writer(lines, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow([*columns, *SUM_COLUMNS])
    for group, held in report.series:
        writer.writerow([*(table_safe(group[name] or "") for name in columns), *_flat(_sums(held)).values()])
    return lines.getvalue()


def write_xlsx(report: Any) -> bytes:
    """The series as one sheet and the sums of all as another. Raises `InvalidRequest` for what a sheet cannot hold."""
    columns = _group_columns(report)
    series = ([*(_typed(name, group[name]) for name in columns), *_exact_sums(held)] for group, held in report.series)
    totals = [
        ("from", _iso(report.span.since)),
        ("to", _iso(report.span.until)),
        ("timezone", report.zone),
        *zip(SUM_COLUMNS, _exact_sums(report.totals), strict=True),
    ]
    return xlsx.write_workbook(
        [
            xlsx.Sheet("Usage", [*columns, *SUM_COLUMNS], series),
            xlsx.Sheet("Totals", ("sum", "value"), totals),
        ]
    )


def _group_columns(report: Any) -> list[str]:
    return [field for name in report.by for field in FIELDS_OF.get(name, (name,))]


def _typed(name: str, value: str | None) -> xlsx.Cell:
    return date.fromisoformat(value) if name == "day" and value else value


def _sums(totals: Any) -> dict[str, Any]:
    parts, prompt, completion = totals.parts, totals.prompt_tokens, totals.completion_tokens
    inward = sum(parts[name] for name in INWARD)
    outward = sum(parts[name] for name in OUTWARD)
    tokens = {**parts, "input": max(0, prompt - inward), "output": max(0, completion - outward)}
    return {
        "requests": totals.requests,
        "errors": totals.errors,
        "prompt_tokens": min(prompt, MOST_TOLD),
        "completion_tokens": min(completion, MOST_TOLD),
        "total_tokens": min(prompt + completion, MOST_TOLD),
        "cost": to_dollars(totals.cost),
        "unpriced_requests": totals.unpriced,
        "estimated_requests": totals.estimated,
        "interrupted_requests": totals.interrupted,
        "images": min(parts["images"], MOST_TOLD),
        "tokens": {name: min(tokens[name], MOST_TOLD) for name in TOKENS},
        "saved": to_dollars(totals.saved),
    }


def _flat(sums: Mapping[str, Any]) -> dict[str, Any]:
    """The sums as columns: ``tokens`` becomes one for each bucket."""
    plain = {name: value for name, value in sums.items() if name != "tokens"}
    return plain | {f"{name}_tokens": count for name, count in sums["tokens"].items()}


def _exact_sums(totals: Any) -> list[xlsx.Cell]:
    return list((_flat(_sums(totals)) | {"cost": Decimal(dollars_text(totals.cost))}).values())


INWARD = ("cache_read", "cache_write_5m", "cache_write_1h", "audio_input", "image_input")
OUTWARD = ("reasoning", "audio_output", "image_output")
"""What `Usage.prompt_tokens` and `Usage.completion_tokens` hold besides ``input`` and ``output``."""
SUM_COLUMNS = tuple(_flat({**SUM_SHAPES, "tokens": dict.fromkeys(TOKENS)}))


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None
