"""Usage as its owner reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from flaskllm.domain.pricing import to_dollars
from flaskllm.errors import invalid

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


def write_totals(totals: Any, *, since: datetime | None, until: datetime | None) -> dict[str, Any]:
    """The sums as a document; ``cost`` in US dollars."""
    return {
        "from": _iso(since),
        "to": _iso(until),
        "requests": totals.requests,
        "errors": totals.errors,
        "prompt_tokens": totals.prompt_tokens,
        "completion_tokens": totals.completion_tokens,
        "total_tokens": totals.prompt_tokens + totals.completion_tokens,
        "cost": to_dollars(totals.cost),
        "unpriced_requests": totals.unpriced,
        "estimated_requests": totals.estimated,
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None
