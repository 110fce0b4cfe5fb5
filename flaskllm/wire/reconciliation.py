"""What came of comparing the ledger with a provider's export, as a document and as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flaskllm.domain.pricing import NANO, to_dollars

MARKS = ("estimated", "interrupted", "unpriced")


def write_reconciled(found: Any) -> dict[str, Any]:
    """Costs in US dollars, tokens as counts; a side that has nothing of a row is null."""
    return {
        "agrees": found.agrees,
        "vendor": found.vendor,
        "providers": list(found.providers),
        "from": found.first.isoformat(),
        "to": found.last.isoformat(),
        "attempts": sum(one.attempts for one in found.booked.values()),
        **{mark: sum(getattr(one, mark) for one in found.booked.values()) for mark in MARKS},
        "differences": [_difference(one) for one in found.differences],
        "unsound_attempts": list(found.unsound),
    }


def _difference(one: Any) -> dict[str, Any]:
    return {
        "day": one.day.isoformat(),
        "model": one.model,
        "item": one.item,
        "only_in": one.only_in,
        "fields": {
            name: {
                "ledger": _told(name, ours),
                "export": _told(name, theirs),
                "difference": _told(name, (ours or 0) - (theirs or 0)),
            }
            for name, (ours, theirs) in one.fields.items()
        },
        **{mark: getattr(one.booked, mark) if one.booked else 0 for mark in MARKS},
    }


def _told(name: str, count: int | None) -> int | float | None:
    return to_dollars(count) if name == "cost" else count


def told_in_lines(found: Any) -> Iterator[str]:
    """One line for each field that differs, and one that sums up."""
    for one in found.differences:
        marks = ", ".join(f"{held} {mark}" for mark in MARKS if one.booked and (held := getattr(one.booked, mark)))
        side = f" only in the {one.only_in}" if one.only_in else ""
        what = one.model or one.item or "all models"
        for name, (ours, theirs) in one.fields.items():
            sides = f"ledger {_shown(name, ours)}, export {_shown(name, theirs)}"
            gap = _shown(name, (ours or 0) - (theirs or 0), signed=True)
            yield f"{one.day}  {what:<32} {name:<18} {sides}, {gap}{side}{f'  ({marks})' if marks else ''}"
    for attempt in found.unsound:
        yield f"attempt {attempt}: its cost is not that of its own tokens and rates"
    count, days = len(found.differences), f"{found.first} to {found.last}"
    said = "no difference" if found.agrees else f"{count} day{'' if count == 1 else 's'} and models that differ"
    attempts = sum(one.attempts for one in found.booked.values())
    yield f"{', '.join(found.providers)}, {days}: {attempts} attempts, {said}."


def _shown(name: str, count: int | None, *, signed: bool = False) -> str:
    if count is None:
        return "none"
    sign = "+" if signed and count >= 0 else ""
    return f"{sign}{count / NANO:.9f}" if name == "cost" else f"{sign}{count}"
