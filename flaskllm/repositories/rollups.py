"""Roll-ups: what calls add up to, by stretches of time and subject, so that a report reads sums and no ledger.

**Each call once.** A call's row says by ``rolled`` whether it is in the sums; it is set in the transaction that adds
it, by whoever holds the one row of state. No watermark by id or time is needed, so that neither rows that are committed
late nor clocks that differ lose one or count one twice. What is not in the sums yet stands in a small index of its own.

**Any span.** `cover` takes a span apart into whole months, days, hours and five minutes; what of its edges is finer, or
so old that the finer sums are let go, is read from the ledger. A report adds these pieces and what is new, all in one
snapshot.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any, cast
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, CursorResult, Table, and_, delete, func, select, text, tuple_, update
from sqlalchemy.orm import Session

from flaskllm.domain.histogram import Histogram, bucket_of
from flaskllm.domain.usage import PARTS
from flaskllm.models.ledger import CallRow
from flaskllm.models.rollup import RollupRow, RollupStateRow
from flaskllm.repositories.committer import to_psycopg
from flaskllm.repositories.usage import DAY_MS, EPOCH, HALF, HOUR_MS, Span, UsageTotals, series, tags_of

FINE_MS = 300_000
FINE, HOUR, DAY, MONTH = range(4)
"""Grains: five minutes and hours by the clock of UTC, days and months of `BUDGET_TIMEZONE`."""
FINE_KEPT_MS, HOUR_KEPT_MS = 3 * DAY_MS, 62 * DAY_MS
"""How far back the finer sums go; days and months are kept for good."""
ALL = "all"
SUBJECTS = ("user", "token", "model", "provider", "tag")
TIMED = frozenset({ALL, "model", "provider"})
"""The subjects of which times are kept."""
FIRST, LAST = -400 * DAY_MS, 253_370_000_000_000
"""The calendar's bounds (ms): what lies beyond is counted at them."""

WIDE = {"prompt": "prompt_tokens", "completion": "completion_tokens", "cost": "cost", "saved": "saved"}
"""Sums in two halves: the columns' name, and the call's."""
PLAIN = ("requests", "errors", "unpriced", "estimated", "interrupted", "from_cache")
COUNTS = (*PLAIN, *(f"{name}_{half}" for name in WIDE for half in ("high", "low")), *PARTS)
_NAMES = ("grain", "subject", "slot", "item", *COUNTS, "latency", "first_token")
_ADD = (
    f"INSERT INTO rollups ({', '.join(_NAMES)}) VALUES ({', '.join(f':{name}' for name in _NAMES)}) "  # noqa: S608  (own)
    "ON CONFLICT (grain, subject, slot, item) DO UPDATE SET "
    + ", ".join(f"{name} = rollups.{name} + excluded.{name}" for name in COUNTS)
    + ", latency = excluded.latency, first_token = excluded.first_token"
)
_OPEN = text(
    "INSERT INTO rollup_state (id, zone, fine_from, hour_from) VALUES (1, :zone, :fine_from, :hour_from) "
    "ON CONFLICT (id) DO NOTHING"
)
_READ = (
    "started_at", "user_id", "token_id", "model", "backend_model", "provider", "tags", "status", "error_code",
    "attempts", "estimated", "latency_ms", "first_token_ms", "prompt_tokens", "completion_tokens", "cost", "saved",
    *PARTS,
)  # fmt: skip
_CALLS = cast("Table", CallRow.__table__)
_STATE = cast("Table", RollupStateRow.__table__)
_ROLLUPS = cast("Table", RollupRow.__table__)
NOTHING_YET = -1
"""Of ``taken_apart_to``: below every id."""
IS_NEW = _CALLS.c.rolled.is_(None)


@dataclass(frozen=True, slots=True)
class Kept:
    """One row of roll-ups as it is kept: ``counts`` in the order of `COUNTS`, times as JSON."""

    slot: int
    item: str
    counts: Sequence[int]
    latency: str | None
    first_token: str | None


class Sums:
    """What some calls add up to: ``counts`` in the order of `COUNTS`, and their times.

    ``latency`` are the times of answered calls, ``first_token`` those of streamed ones until their first content.
    """

    __slots__ = ("counts", "first_token", "latency")

    def __init__(self, counts: Sequence[int] = (0,) * len(COUNTS)) -> None:
        self.counts = list(counts)
        self.latency, self.first_token = Histogram(), Histogram()

    def add(self, other: Sums) -> None:
        self.count(other.counts)
        if other.latency or other.first_token:
            self.latency.update(other.latency)
            self.first_token.update(other.first_token)

    def add_kept(self, kept: Kept) -> None:
        """A row of roll-ups."""
        self.count(kept.counts)
        self.latency.add_json(kept.latency)
        self.first_token.add_json(kept.first_token)

    def count(self, more: Sequence[int]) -> None:
        self.counts = list(map(int.__add__, self.counts, more))

    def __getitem__(self, name: str) -> int:
        """One of `PLAIN`, of the calls' columns in `WIDE`, or of `PARTS`."""
        for half, whole in WIDE.items():
            if whole == name:
                return self.counts[PLACE[f"{half}_high"]] * HALF + self.counts[PLACE[f"{half}_low"]]
        return self.counts[PLACE[name]]

    def totals(self) -> UsageTotals:
        names = (*(name for name in PLAIN if name != "from_cache"), *WIDE.values())
        return UsageTotals(**{name: self[name] for name in names}, parts={name: self[name] for name in PARTS})


PLACE = {name: place for place, name in enumerate(COUNTS)}


# -- slots ------------------------------------------------------------------------------------------------------------


class Calendar:
    """Where the slots of each grain begin, in one zone. Moments are milliseconds since 1970."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.zone = zone
        self._day = lru_cache(maxsize=20_000)(self._day_of)

    def floor(self, grain: int, at: int) -> int:
        """The beginning of the slot that holds this moment."""
        if grain < DAY:
            width = FINE_MS if grain == FINE else HOUR_MS
            return at - at % width
        if grain == DAY:
            return self._day(at - at % FINE_MS)  # clocks are set by whole quarters of an hour since 1970
        return self.midnight(self.local(at).replace(day=1))

    def next(self, grain: int, slot: int) -> int:
        """The beginning of the slot after this one."""
        if grain < DAY:
            return slot + (FINE_MS if grain == FINE else HOUR_MS)
        day = self.local(slot)
        return self.midnight(day + timedelta(days=1) if grain == DAY else (day + timedelta(days=32)).replace(day=1))

    def ceil(self, grain: int, at: int) -> int:
        """The first beginning of a slot that is not before this moment."""
        slot = self.floor(grain, at)
        return slot if slot == at else self.next(grain, slot)

    def local(self, at: int) -> date:
        """The day of a moment."""
        return (EPOCH + timedelta(milliseconds=at)).astimezone(self.zone).date()

    def day_number(self, at: int) -> int:
        """Days since 1970 by the zone's clocks, as `repositories.usage.series` has them."""
        return (self.local(at) - date(1970, 1, 1)).days

    def _day_of(self, fine: int) -> int:
        return self.midnight(self.local(fine))

    def midnight(self, day: date) -> int:
        """When a day begins."""
        return (datetime.combine(day, datetime.min.time(), self.zone) - EPOCH) // timedelta(milliseconds=1)


@lru_cache(maxsize=8)
def calendar_of(zone: ZoneInfo) -> Calendar:
    return Calendar(zone)


@dataclass(frozen=True, slots=True)
class Piece:
    """The slots of one grain that begin from ``since`` to before ``until``; of ``grain`` None, calls of the ledger."""

    grain: int | None
    since: int
    until: int


def cover(since: int, until: int, state: RollupStateRow, calendar: Calendar, *, widest: int = MONTH) -> list[Piece]:
    """A span taken apart, in order: as wide as may be, and from the ledger what no sums are kept of.

    No piece lies across the beginning of a wider slot.
    """
    kept = {FINE: state.fine_from, HOUR: state.hour_from}

    def take(grain: int, first: int, last: int) -> Iterator[Piece]:
        if first >= last:
            return
        if grain < FINE:
            yield Piece(None, first, last)
            return
        low = calendar.ceil(grain, max(first, kept.get(grain, first)))
        high = calendar.floor(grain, last)
        if low > high:
            yield from take(grain - 1, first, last)
            return
        yield from take(grain - 1, first, low)
        if low < high:
            yield Piece(grain, low, high)
        yield from take(grain - 1, high, last)

    return list(take(widest, max(since, FIRST), min(until, LAST)))


# -- adding up --------------------------------------------------------------------------------------------------------


def sums_of(row: Any) -> list[int]:
    """One call's counts, of a row of `_READ`."""
    one = [
        1,
        row.status >= 400,
        row.cost is None,
        bool(row.estimated),
        row.error_code == "interrupted",
        row.attempts == 0 and row.status < 400,
    ]
    for name in WIDE.values():
        one += divmod(getattr(row, name) or 0, HALF)
    return [*one, *(getattr(row, name) or 0 for name in PARTS)]


def items_of(row: Any) -> Iterator[tuple[str, str]]:
    """The subjects that a call counts under."""
    yield ALL, ""
    yield "user", row.user_id
    yield "token", row.token_id or ""
    yield "model", row.backend_model if row.backend_model is not None else row.model
    yield "provider", row.provider or ""
    for tag in set(tags_of(row.tags)) or ("",):
        yield "tag", tag


def fold(rows: Sequence[Any], place: Callable[[int], Any]) -> dict[tuple[Any, str, str], Sums]:
    """Calls added up by (place, subject, item); ``place`` is where a moment counts."""
    held: dict[tuple[Any, str, str], Sums] = {}
    for row in rows:
        counts, found = sums_of(row), place(min(max(row.started_at, FIRST), LAST - 1))
        for subject, item in items_of(row):
            sums = held.get((found, subject, item))
            if sums is None:
                sums = held[found, subject, item] = Sums()
            sums.count(counts)
            if subject in TIMED:
                _time(sums, row)
    return held


def _time(sums: Sums, row: Any) -> None:
    if row.status < 400:
        sums.latency[bucket_of(row.latency_ms)] += 1
    if row.first_token_ms is not None:
        sums.first_token[bucket_of(row.first_token_ms)] += 1


def roll(session: Session, zone: ZoneInfo, *, most: int) -> int | None:
    """Add the next calls to the sums, at most so many. Gives how many; None where somebody else is at it.

    Where the sums are of another zone, or are being made anew, the next ``most`` calls are counted as new instead.
    """
    state = _locked(session, zone)
    if state is None:
        return None
    if state.zone != zone.key:
        _let_all_go(state, zone)
    if state.taken_apart_to is not None:
        return _take_apart(session, state, most)
    _let_go(session, state)
    in_order = (_CALLS.c.rolled, _CALLS.c.finished_at)  # the order of the one index that holds just these
    ids = select(_CALLS.c.id).where(IS_NEW).order_by(*in_order).limit(most).scalar_subquery()
    rows = session.execute(
        update(_CALLS).where(_CALLS.c.id.in_(ids)).values(rolled=True).returning(*(_CALLS.c[name] for name in _READ))
    ).all()
    if rows:
        _add(session, fold(rows, _places(state, calendar_of(zone))))
    return len(rows)


def begin_anew(session: Session, zone: ZoneInfo) -> bool:
    """Let all sums go; `roll` makes them of the ledger again. False where somebody else is at it just now."""
    state = _locked(session, zone)
    if state is None:
        return False
    _let_all_go(state, zone)
    return True


def is_behind(session: Session, zone: ZoneInfo) -> bool:
    """Whether `roll` has anything to do."""
    state = session.execute(select(RollupStateRow)).scalar_one_or_none()
    if state is not None and not _is_ready(state, zone):
        return True
    return session.execute(select(_CALLS.c.id).where(IS_NEW).limit(1)).first() is not None


def _locked(session: Session, zone: ZoneInfo) -> RollupStateRow | None:
    """The row of state, held until the end of the transaction; SQLite's one writer is that by his first statement."""
    if session.get_bind().dialect.name == "sqlite":
        session.execute(update(_STATE).values(id=1))
    query = select(RollupStateRow).with_for_update(skip_locked=True)
    found = session.execute(query).scalar_one_or_none()
    if found is not None or session.execute(select(_STATE.c.id)).first() is not None:
        return found
    now = time.time_ns() // 1_000_000
    hour = now - now % HOUR_MS
    session.execute(_OPEN, {"zone": zone.key, "fine_from": hour - FINE_KEPT_MS, "hour_from": hour - HOUR_KEPT_MS})
    return session.execute(query).scalar_one_or_none()


def _let_all_go(state: RollupStateRow, zone: ZoneInfo) -> None:
    state.zone, state.taken_apart_to = zone.key, NOTHING_YET


def _take_apart(session: Session, state: RollupStateRow, most: int) -> int:
    """Some of the sums are gone, then some calls count as new again, by their ids: no transaction is long."""
    if state.taken_apart_to == NOTHING_YET:
        key = (RollupRow.grain, RollupRow.subject, RollupRow.slot, RollupRow.item)
        some = delete(_ROLLUPS).where(tuple_(*key).in_(select(*key).limit(5 * most)))
        if gone := cast("CursorResult[Any]", session.execute(some)).rowcount:
            return gone
    ids = select(_CALLS.c.id).where(_CALLS.c.id > state.taken_apart_to).order_by(_CALLS.c.id).limit(most)
    found = list(session.execute(ids).scalars())
    if found:
        again = and_(_CALLS.c.id > state.taken_apart_to, _CALLS.c.id <= found[-1], _CALLS.c.rolled.is_not(None))
        session.execute(update(_CALLS).where(again).values(rolled=None))
    state.taken_apart_to = found[-1] if len(found) == most else None
    return max(1, len(found))


def _let_go(session: Session, state: RollupStateRow) -> None:
    """Move on, an hour at a time, from where the finer sums are kept."""
    now = time.time_ns() // 1_000_000
    hour = now - now % HOUR_MS
    state.fine_from = _kept(session, FINE, state.fine_from, hour - FINE_KEPT_MS)
    state.hour_from = _kept(session, HOUR, state.hour_from, hour - HOUR_KEPT_MS)


def _kept(session: Session, grain: int, before: int, now: int) -> int:
    if now > before:
        session.execute(delete(RollupRow).where(RollupRow.grain == grain, RollupRow.slot < now))
    return max(before, now)


def _places(state: RollupStateRow, calendar: Calendar) -> Callable[[int], tuple[tuple[int, int], ...]]:
    """The grains and slots that a call of a moment is added to."""
    kept = {FINE: state.fine_from, HOUR: state.hour_from}

    @lru_cache(maxsize=4096)
    def of(fine: int) -> tuple[tuple[int, int], ...]:
        found = [(grain, calendar.floor(grain, fine)) for grain in (FINE, HOUR, DAY, MONTH)]
        return tuple((grain, slot) for grain, slot in found if slot >= kept.get(grain, slot))

    return lambda at: of(at - at % FINE_MS)


def _add(session: Session, found: Mapping[tuple[tuple[tuple[int, int], ...], str, str], Sums]) -> None:
    """One statement for all; the times that are there already are read first, under the lock."""
    held: dict[tuple[tuple[int, int], str, str], Sums] = {}
    for (places, subject, item), sums in found.items():
        for place in places:
            held.setdefault((place, subject, item), Sums()).add(sums)
    before = _times(session, {key for key, sums in held.items() if sums.latency or sums.first_token})
    rows = []
    for (place, subject, item), sums in sorted(held.items(), key=lambda one: one[0]):
        latency, first_token = before.get((place, subject, item), (None, None))
        sums.latency.add_json(latency)
        sums.first_token.add_json(first_token)
        key = {"grain": place[0], "slot": place[1], "subject": subject, "item": item}
        times = {"latency": sums.latency.to_json(), "first_token": sums.first_token.to_json()}
        rows.append({**key, **dict(zip(COUNTS, sums.counts, strict=True)), **times})
    connection = session.connection()
    is_sqlite = connection.dialect.name == "sqlite"
    connection.exec_driver_sql(_ADD if is_sqlite else to_psycopg(_ADD), rows)


def _times(session: Session, keys: set[tuple[tuple[int, int], str, str]]) -> dict[Any, tuple[str | None, str | None]]:
    slots: dict[tuple[int, str], set[int]] = {}
    for (grain, slot), subject, _ in keys:
        slots.setdefault((grain, subject), set()).add(slot)
    found: dict[Any, tuple[str | None, str | None]] = {}
    for (grain, subject), own in slots.items():
        query = select(RollupRow.slot, RollupRow.item, RollupRow.latency, RollupRow.first_token).where(
            RollupRow.grain == grain, RollupRow.subject == subject, RollupRow.slot.in_(sorted(own))
        )
        for slot, item, latency, first_token in session.execute(query):
            found[(grain, slot), subject, item] = (latency, first_token)
    return found


# -- reading ----------------------------------------------------------------------------------------------------------


def read_state(session: Session, zone: ZoneInfo) -> RollupStateRow | None:
    """None where the sums are of no use now: there are none yet, or they are of another zone, or being made anew."""
    state = session.execute(select(RollupStateRow)).scalar_one_or_none()
    return state if state is not None and _is_ready(state, zone) else None


def _is_ready(state: RollupStateRow, zone: ZoneInfo) -> bool:
    return state.zone == zone.key and state.taken_apart_to is None


def subject_of(span: Span, by: Sequence[str]) -> tuple[str, str | None] | None:
    """Of which subject's sums a report is made, and of which item alone; None where it takes the ledger.

    Sums are kept of one subject at a time. The calls under a tag by their tags are of several tags each.
    """
    held = {"user": span.user_id, "token": span.token_id, "model": span.model, "provider": span.provider}
    only = {name: value for name, value in {**held, "tag": span.tag}.items() if value is not None}
    asked = {name for name in by if name != "day"}
    if len(asked | set(only)) > 1 or (span.tag is not None and "tag" in asked) or "" in only.values():
        return None
    return next(((name, only.get(name)) for name in asked | set(only)), (ALL, None))


def rolled_series(
    session: Session, span: Span, by: Sequence[str], *, most: int, zone: ZoneInfo
) -> list[tuple[tuple[Any, ...], UsageTotals]] | None:
    """As `repositories.usage.series`, of sums; a group by tag is of one tag. Within a snapshot.

    None where these sums do not tell it.
    """
    subject, state = subject_of(span, by), read_state(session, zone)
    if subject is None or state is None:
        return None
    calendar = calendar_of(zone)
    pieces = cover(*_bounds(span), state, calendar, widest=DAY if "day" in by else MONTH)
    found: dict[tuple[Any, ...], UsageTotals] = {}
    for piece in pieces:
        for keys, held in _of_piece(session, piece, subject, by, calendar, most=most):
            found[keys] = found.get(keys, UsageTotals()) + held
    of_new = replace(span, user_id=None, since=None, until=None), _new_of(span)
    edges = [(span, _in_ledger(piece)) for piece in pieces if piece.grain is None]
    for part, only in (of_new, *edges):
        for keys, held in series(session, part, by, most=most, zone=zone, only=only):
            for each in _one_tag_each(keys, by):
                found[each] = found.get(each, UsageTotals()) + held
    return list(found.items())


def _bounds(span: Span) -> tuple[int, int]:
    since, until = (int(each.timestamp() * 1000) if each else None for each in (span.since, span.until))
    return FIRST if since is None else since, LAST if until is None else until


def _new_of(span: Span) -> ColumnElement[bool]:
    """The calls of a span that the sums do not hold yet; said so that no index but theirs is of use to find them."""
    since, until = _bounds(span)
    started = _CALLS.c.started_at + 0
    own = [] if span.user_id is None else [_CALLS.c.user_id.concat("") == span.user_id]
    return and_(IS_NEW, started >= since, started < until, *own)


def _in_ledger(piece: Piece) -> ColumnElement[bool]:
    """The calls of this stretch that the sums hold."""
    return and_(_CALLS.c.rolled.is_not(None), _CALLS.c.started_at >= piece.since, _CALLS.c.started_at < piece.until)


def _of_piece(
    session: Session, piece: Piece, subject: tuple[str, str | None], by: Sequence[str], calendar: Calendar, *, most: int
) -> Iterator[tuple[tuple[Any, ...], UsageTotals]]:
    if piece.grain is None:
        return
    name, only = subject
    keys = [RollupRow.slot] if "day" in by and piece.grain == DAY else []
    query = select(*keys, RollupRow.item, *_SUMMED).where(*_within(piece, name)).group_by(*keys, RollupRow.item)
    if only is not None:
        query = query.where(RollupRow.item == only)
    for row in session.execute(query.limit(most)):
        item, *counts = tuple(row)[len(keys) :]
        day = calendar.day_number(row[0] if keys else piece.since)
        told = {"day": day, name: _key(name, item)}
        yield tuple(told[each] for each in by), Sums(list(map(int, counts))).totals()


def _within(piece: Piece, subject: str) -> tuple[ColumnElement[bool], ...]:
    return (
        RollupRow.grain == piece.grain,
        RollupRow.subject == subject,
        RollupRow.slot >= piece.since,
        RollupRow.slot < piece.until,
    )


_SUMMED = [func.sum(getattr(RollupRow, name)) for name in COUNTS]


def _key(subject: str, item: str) -> str | None:
    """An item as the ledger's groups have it: a tag among those of a call."""
    if subject == "tag" and item:
        return json.dumps([item], ensure_ascii=False)
    return item or (None if subject in ("token", "provider", "tag") else "")


def _one_tag_each(keys: tuple[Any, ...], by: Sequence[str]) -> list[tuple[Any, ...]]:
    """The groups that a group of the ledger counts under: of several tags, each."""
    if "tag" not in by:
        return [keys]
    place = list(by).index("tag")
    tags = [_key("tag", tag) for tag in set(tags_of(keys[place]))] or [None]
    return [(*keys[:place], tag, *keys[place + 1 :]) for tag in tags]


def has_calls(session: Session) -> bool:
    """Whether anything was ever called."""
    return session.execute(select(_CALLS.c.id).limit(1)).first() is not None


def read_sums(session: Session, pieces: Sequence[Piece], subject: str) -> dict[str, Sums]:
    """The sums of each item over these pieces of roll-ups, without times."""
    found: dict[str, Sums] = {}
    for piece in pieces:
        if piece.grain is not None:
            query = select(RollupRow.item, *_SUMMED).where(*_within(piece, subject)).group_by(RollupRow.item)
            for item, *counts in session.execute(query):
                found.setdefault(item, Sums()).add(Sums(list(map(int, counts))))
    return found


def read_slots(session: Session, pieces: Sequence[Piece], subject: str) -> Iterator[Kept]:
    """The rows of each slot of these pieces, with their times."""
    columns = [getattr(RollupRow, name) for name in COUNTS]
    for piece in pieces:
        if piece.grain is not None:
            query = select(RollupRow.slot, RollupRow.item, RollupRow.latency, RollupRow.first_token, *columns)
            for slot, item, latency, first_token, *counts in session.execute(query.where(*_within(piece, subject))):
                yield Kept(slot, item, counts, latency, first_token)


def read_loose(session: Session, since: int, until: int, pieces: Sequence[Piece], *, most: int) -> list[Any] | None:
    """The calls of a span that no roll-up of these pieces holds, to `fold`; None where they are more than ``most``."""
    columns = [_CALLS.c[name] for name in _READ]
    started = _CALLS.c.started_at + 0  # as in `_new_of`
    found: list[Any] = []
    for only in (
        and_(IS_NEW, started >= since, started < until),
        *(_in_ledger(piece) for piece in pieces if piece.grain is None),
    ):
        found += session.execute(select(*columns).where(only).limit(most + 1 - len(found))).all()
        if len(found) > most:
            return None
    return found
