"""The ledger against a provider's own account: what it booked, row by row recomputed, and where the two differ."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from flaskllm.domain.pricing import cost_of_breakdown
from flaskllm.domain.reconciliation import Booked, Difference, Export, Place, compare
from flaskllm.errors import invalid
from flaskllm.repositories.database import Database
from flaskllm.repositories.providers import load_providers
from flaskllm.repositories.usage import attempts_between

DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SEARCHES, WEB_SEARCH = "web_searches", "web_search"
"""Our bucket, and the item of a provider's bill; what a search costs is billed beside its model's tokens."""
INSIDE = ("cache_read", "cache_write_5m", "cache_write_1h")


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What came of it. ``unsound``: ids of attempts whose cost is not that of their own tokens and rates."""

    vendor: str
    providers: tuple[str, ...]
    first: date
    last: date
    booked: Mapping[tuple[date, str], Booked]
    differences: list[Difference]
    unsound: tuple[int, ...]

    @property
    def agrees(self) -> bool:
        return not self.differences and not self.unsound


class ReconciliationService:
    """Compares; writes nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def reconcile(
        self,
        export: Export,
        *,
        providers: Collection[str] = (),
        since: date | None = None,
        until: date | None = None,
        tolerance: int = 0,
    ) -> Reconciled:
        """Of the days that the export covers (fewer by ``since`` and ``until``, both included), in UTC.

        ``providers``: whose attempts; all of the vendor's kind where none is named. ``tolerance`` in 10⁻⁹ dollar.
        Raises `InvalidRequest` for a provider that is unknown, and where no day is left.
        """
        first, last = max(export.first, since or export.first), min(export.last, until or export.last)
        if last < first:
            raise invalid("to", f"leaves no day of the export, which goes from {export.first} to {export.last}")
        rows = tuple(row for row in export.rows if first <= row.day <= last)
        chosen = self._chosen(export.vendor, providers)
        with self._database.reading() as session:
            booked, fees, unsound = _booked(attempts_between(session, chosen, _moment(first), _moment(last + DAY)))
        found = compare(booked, Export(export.vendor, first, last, rows), fees=fees, tolerance=tolerance)
        return Reconciled(export.vendor, chosen, first, last, booked, found, unsound)

    def _chosen(self, vendor: str, named: Collection[str]) -> tuple[str, ...]:
        with self._database.reading() as session:
            kinds = {row.id: row.kind for row in load_providers(session, deleted=True)}
        for provider_id in named:
            if provider_id not in kinds:
                raise invalid("provider", f"{provider_id[:64]!r} is none; there are {', '.join(sorted(kinds))}")
        return tuple(sorted(named or (one for one, kind in kinds.items() if kind == vendor)))


def _booked(attempts: Iterable[Any]) -> tuple[dict[Place, Booked], dict[Place, Booked], tuple[int, ...]]:
    """By day and model; and by day what was paid for other things than tokens; and the attempts that do not add up."""
    found: dict[Place, Booked] = defaultdict(Booked)
    fees: dict[Place, Booked] = defaultdict(Booked)
    unsound: list[int] = []
    for row in attempts:
        kept = json.loads(row.usage) if row.usage else {}
        if row.state == "settled" and row.priced and row.cost != cost_of_breakdown(kept):
            unsound.append(row.id)
        day = (EPOCH + timedelta(milliseconds=row.started_at)).date()
        held = found[day, row.backend_model]
        held.attempts += 1
        held.estimated += bool(row.estimated)
        held.interrupted += row.state == "interrupted"
        held.unpriced += row.cost is None
        held.sums["prompt_tokens"] += row.prompt_tokens
        held.sums["completion_tokens"] += row.completion_tokens
        held.sums["cost"] += row.cost or 0
        if row.cost and SEARCHES in kept:
            fee = cost_of_breakdown({SEARCHES: kept[SEARCHES]})
            held.sums["cost"] -= fee
            fees[day, WEB_SEARCH].attempts += 1
            fees[day, WEB_SEARCH].sums["cost"] += fee
        for name in INSIDE:
            held.sums[name] += kept.get(name, {}).get("tokens", 0)
    return dict(found), dict(fees), tuple(unsound)


def _moment(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
