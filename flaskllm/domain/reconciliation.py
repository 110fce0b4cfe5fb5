"""The ledger beside a provider's own account of the same days: sums by day and model, and where they differ."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date

TOKENS = ("prompt_tokens", "cache_read", "cache_write_5m", "cache_write_1h", "completion_tokens")
"""What is compared: the whole prompt, the parts of it that were cached, and the whole answer."""
FIELDS = (*TOKENS, "cost")
_DATED = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2}|latest)$")


@dataclass(frozen=True, slots=True)
class Billed:
    """One row of a provider's export. ``model`` None: it says none. ``sums``: those of `FIELDS` that it tells, tokens
    and ``cost`` in 10⁻⁹ dollar. ``item``: what it is for, where it is for no tokens."""

    day: date
    model: str | None
    sums: Mapping[str, int]
    item: str | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """What files of one ``vendor`` say of the days from ``first`` to ``last``."""

    vendor: str
    first: date
    last: date
    rows: tuple[Billed, ...]


@dataclass(slots=True)
class Booked:
    """What the ledger has of one day and model; attempts that are estimated, interrupted or unpriced explain much."""

    attempts: int = 0
    estimated: int = 0
    interrupted: int = 0
    unpriced: int = 0
    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FIELDS, 0))

    def __add__(self, other: Booked) -> Booked:
        return Booked(
            self.attempts + other.attempts,
            self.estimated + other.estimated,
            self.interrupted + other.interrupted,
            self.unpriced + other.unpriced,
            {name: self.sums[name] + other.sums[name] for name in FIELDS},
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """One day and model (None: all of them, or none) that do not agree.

    ``fields``: for each field that differs, what the ledger and what the export says; one of them None where only the
    other side has the row.
    """

    day: date
    model: str | None
    fields: Mapping[str, tuple[int | None, int | None]]
    booked: Booked | None
    item: str | None = None

    @property
    def only_in(self) -> str | None:
        """``ledger`` or ``export`` where the other side has nothing of it."""
        if self.booked is None:
            return "export"
        return "ledger" if all(said is None for _, said in self.fields.values()) else None


Place = tuple[date, str]
Sums = Mapping[str, int]


def model_key(name: str) -> str:
    """What is the same for every way in which one model is named: without its date, and in any order of words.

    >>> model_key("Claude Haiku 4.5") == model_key("claude-haiku-4-5-20251001")
    True
    >>> model_key("claude-3-5-sonnet-20241022") == model_key("Claude Sonnet 3.5")
    True
    """
    plain = _DATED.sub("", name.strip().lower().replace(" ", "-")).replace(".", "-")
    return "-".join(sorted(plain.split("-"))) if plain.startswith("claude") else plain


def compare(
    booked: Mapping[Place, Booked], export: Export, *, fees: Mapping[Place, Booked] | None = None, tolerance: int = 0
) -> list[Difference]:
    """Every day and model on which the sides differ, in order. ``tolerance``: 10⁻⁹ dollars of a row that are let go.

    Only what the export tells is compared: one of tokens says nothing of dollars. Costs that no row gives to a model
    are compared by day; others without one stand by themselves. ``fees``: what the ledger has by day and item besides.
    """
    fees = fees or {}
    names: dict[str, str] = {}
    ledger: dict[Place, Booked] = {}
    for (day, model), one in booked.items():
        key = model_key(model)
        names.setdefault(key, model)
        ledger[day, key] = ledger.get((day, key), Booked()) + one
    of_models, by_themselves = _summed(export.rows, names)
    told = {name for sums in of_models.values() for name in sums}
    places = sorted({*of_models, *(ledger if told else ())})
    found = [
        _difference((day, names[key], None), ledger.get((day, key)), of_models.get((day, key)), told)
        for day, key in places
    ]
    if "cost" not in told and any(item is None for _, item in by_themselves):
        for day in {day for day, _ in (*ledger, *by_themselves)}:
            said = by_themselves.pop((day, None), None)
            found.append(_difference((day, None, None), _whole({**ledger, **fees}, day), said, {"cost"}))
    elif "cost" in told:
        found += [
            _difference((day, None, item), one, None, {"cost"})
            for (day, item), one in fees.items()
            if (day, item) not in by_themselves
        ]
    found += [
        _difference((day, None, item), fees.get((day, item or "")), sums, set(sums))
        for (day, item), sums in by_themselves.items()
    ]
    differing = [one for one in (_beyond(tolerance, one) for one in found) if one.fields]
    return sorted(differing, key=lambda one: (one.day, one.model is None, one.model or "", one.item or ""))


def _summed(
    rows: Iterable[Billed], names: dict[str, str]
) -> tuple[dict[Place, dict[str, int]], dict[tuple[date, str | None], dict[str, int]]]:
    """The export's sums by day and model, and by day and item of what has no model. Notes the models' ``names``."""
    of_models: dict[Place, dict[str, int]] = {}
    by_themselves: dict[tuple[date, str | None], dict[str, int]] = {}
    for row in rows:
        if row.model is None:
            held = by_themselves.setdefault((row.day, row.item), {})
        else:
            names.setdefault(model_key(row.model), row.model)
            held = of_models.setdefault((row.day, model_key(row.model)), {})
        for name, count in row.sums.items():
            held[name] = held.get(name, 0) + count
    return of_models, by_themselves


def _whole(ledger: Mapping[Place, Booked], day: date) -> Booked | None:
    """All models of a day together; None for a day without any."""
    of_day = [one for place, one in ledger.items() if place[0] == day]
    return sum(of_day, Booked()) if of_day else None


def _difference(
    place: tuple[date, str | None, str | None], booked: Booked | None, said: Sums | None, told: Collection[str]
) -> Difference:
    """Both sides of every field that is ``told``, whether they differ or not."""
    day, model, item = place
    sides = {
        name: (None if booked is None else booked.sums[name], None if said is None else said.get(name, 0))
        for name in FIELDS
        if name in told
    }
    return Difference(day, model, sides, booked, item)


def _beyond(tolerance: int, one: Difference) -> Difference:
    """Only the fields that differ, dollars by more than the tolerance."""
    fields = {
        name: (ours, theirs)
        for name, (ours, theirs) in one.fields.items()
        if abs((ours or 0) - (theirs or 0)) > (tolerance if name == "cost" else 0)
    }
    return replace(one, fields=fields)
