"""Budget periods from the clock: no job has to reset anything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo


def period_key(period: str, at: datetime) -> str:
    """The name of the period that ``at`` (in the budget's zone) lies in.

    >>> period_key("week", datetime(2026, 11, 21))
    '2026-W47'
    """
    if period == "day":
        return at.strftime("%Y-%m-%d")
    if period == "week":
        year, week, _ = at.isocalendar()
        return f"{year}-W{week:02d}"
    if period == "month":
        return at.strftime("%Y-%m")
    return "total"


def period_end(period: str, at: datetime) -> datetime | None:
    """When that period ends; None for ``total``, which does not."""
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return midnight + timedelta(days=1)
    if period == "week":
        return midnight + timedelta(days=7 - at.weekday())
    if period == "month":
        return (midnight.replace(day=28) + timedelta(days=4)).replace(day=1)
    return None


def seconds_to_end(period: str, zone: tzinfo) -> float | None:
    """How long the period of now still lasts. By the moments: a day on which the clocks change has 23 hours, or 25."""
    at = datetime.now(zone)
    end = period_end(period, at)
    return None if end is None else max(1.0, end.timestamp() - at.timestamp())


def iso(milliseconds: int) -> str:
    """Milliseconds since 1970 as ISO 8601 in UTC.

    >>> iso(0)
    '1970-01-01T00:00:00.000Z'
    """
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
