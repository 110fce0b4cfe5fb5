"""The administrators' first page in figures: what calls added up to lately, over time and by whom, and before that."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session

from flaskllm.repositories import rollups as repository
from flaskllm.repositories.database import Database
from flaskllm.repositories.rollups import ALL, DAY, FINE, HOUR, MONTH, SUBJECTS, TIMED, Calendar, Piece, Sums
from flaskllm.repositories.usage import token_names, user_names

MOST_LOOSE = 10_000
"""Calls that no sum holds: of more the page tells that it lacks them, for it is looked at every few seconds."""
TOP = 8
"""Of each subject, so many are told."""


@dataclass(frozen=True, slots=True)
class Window:
    """What can be looked at: ``bars`` stretches of ``slots`` slots of a grain each, the last of them still running.

    ``compared``: the grain to which the stretch before is cut off where this one has come to, so that equal times are
    compared.
    """

    grain: int
    slots: int
    bars: int
    compared: int


WINDOWS = {
    "hour": Window(FINE, 1, 12, FINE),
    "day": Window(HOUR, 1, 24, FINE),
    "week": Window(HOUR, 6, 28, HOUR),
    "month": Window(DAY, 1, 30, HOUR),
    "year": Window(DAY, 7, 52, DAY),
}
"""By name: the last hour, day, 7 days, 30 days and 52 weeks."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One stretch: when it begins, by the clocks of the zone, and what its calls added up to."""

    begin: datetime
    sums: Sums


@dataclass(frozen=True, slots=True)
class Rank:
    """One of a subject's items by the name that people know (None: those without), and its sums."""

    item: str
    name: str | None
    sums: Sums


@dataclass(frozen=True, slots=True)
class Overview:
    """``whole``, and of as much time ``before``; ``bars`` over time; by subject the first few, and how many there are.

    ``is_whole``: False while older calls are still being added up, which these figures lack. ``is_new``: nothing was
    ever called.
    """

    since: datetime
    zone: str
    whole: Sums
    before: Sums
    bars: list[Bar]
    ranks: dict[str, list[Rank]]
    counts: dict[str, int]
    is_whole: bool
    is_new: bool


class OverviewService:
    """Reads the roll-ups, and what they do not hold yet."""

    def __init__(self, database: Database, *, zone: ZoneInfo) -> None:
        self._database = database
        self._zone = zone

    def read(self, window: str) -> Overview:
        """What one of `WINDOWS` holds now."""
        own, now = WINDOWS[window], time.time_ns() // 1_000_000
        calendar = repository.calendar_of(self._zone)
        begins = _begins(own, calendar, now)
        with self._database.snapshot() as session:
            reading = _Reading(session, calendar, own)
            bars = [Sums() for _ in range(own.bars)]
            items = reading.add_up(begins[0], begins[-1], bars, lambda at: bisect_right(begins, at) - 1)
            before = reading.whole(*_before(own, calendar, begins, now))
            ranks = {subject: reading.ranked(subject, items[subject]) for subject in SUBJECTS}
            is_new = not any(bar["requests"] for bar in bars) and not repository.has_calls(session)
        whole = Sums()
        for bar in bars:
            whole.add(bar)
        moments = [datetime.fromtimestamp(begin / 1000, UTC).astimezone(self._zone) for begin in begins]
        return Overview(
            since=moments[0],
            zone=self._zone.key,
            whole=whole,
            before=before,
            bars=[Bar(begin, sums) for begin, sums in zip(moments[:-1], bars, strict=True)],
            ranks=ranks,
            counts={subject: len(items[subject]) for subject in SUBJECTS},
            is_whole=reading.is_whole,
            is_new=is_new,
        )


class _Reading:
    """One moment's look at the roll-ups. ``is_whole``: whether nothing had to be left out so far."""

    def __init__(self, session: Session, calendar: Calendar, window: Window) -> None:
        self._session, self._calendar, self._window = session, calendar, window
        self._state = repository.read_state(session, calendar.zone)
        self.is_whole = True

    def add_up(
        self, since: int, until: int, bars: Sequence[Sums], place: Callable[[int], int]
    ) -> dict[str, dict[str, Sums]]:
        """All calls of a span into their bars; gives by subject what each item's come to."""
        over_time = self._pieces(since, until, self._window.grain)
        for kept in repository.read_slots(self._session, over_time, ALL):
            bars[place(kept.slot)].add_kept(kept)
        pieces = self._pieces(since, until, self._widest)
        items = {subject: self._items(pieces, subject) for subject in SUBJECTS}
        for (bar, subject, item), sums in self._loose(since, until, pieces, place).items():
            held = bars[bar] if subject == ALL else items[subject].setdefault(item, Sums())
            held.add(sums)
        return items

    def whole(self, since: int, until: int) -> Sums:
        """All calls of a span."""
        found, pieces = Sums(), self._pieces(since, until, self._widest)
        for kept in repository.read_slots(self._session, pieces, ALL):
            found.add_kept(kept)
        for (_, subject, _), sums in self._loose(since, until, pieces, lambda _: 0).items():
            if subject == ALL:
                found.add(sums)
        return found

    def ranked(self, subject: str, items: Mapping[str, Sums]) -> list[Rank]:
        """Those with the most requests, under their names."""
        first = sorted(items.items(), key=lambda one: (-one[1]["requests"], one[0]))[:TOP]
        known = {"user": user_names, "token": token_names}.get(subject)
        names = known(self._session, [item for item, _ in first if item]) if known else {}
        return [Rank(item, names.get(item, item) or None, sums) for item, sums in first]

    @property
    def _widest(self) -> int:
        """Hours alone make up a day; more of them hold whole days. Of a zone that is half an hour off, what its days
        leave of an hour at the edges is read from the ledger."""
        return self._window.grain if self._window.slots == 1 and self._window.grain < DAY else MONTH

    def _pieces(self, since: int, until: int, widest: int) -> list[Piece]:
        if self._state is None:
            return [Piece(None, since, until)]
        return repository.cover(since, until, self._state, self._calendar, widest=widest)

    def _items(self, pieces: Sequence[Piece], subject: str) -> dict[str, Sums]:
        if subject not in TIMED:
            return repository.read_sums(self._session, pieces, subject)
        found: dict[str, Sums] = {}
        for kept in repository.read_slots(self._session, pieces, subject):
            sums = found.get(kept.item)
            if sums is None:
                sums = found[kept.item] = Sums()
            sums.add_kept(kept)
        return found

    def _loose(
        self, since: int, until: int, pieces: Sequence[Piece], place: Callable[[int], int]
    ) -> dict[tuple[int, str, str], Sums]:
        rows = repository.read_loose(self._session, since, until, pieces, most=MOST_LOOSE)
        if rows is None:
            self.is_whole = False
        return repository.fold(rows or (), place)


def _begins(window: Window, calendar: Calendar, now: int) -> list[int]:
    """When each bar begins, and when the last ends."""
    behind = [window.slots * (window.bars - number) for number in range(window.bars + 1)]
    if window.grain == DAY:
        end = calendar.local(now) + timedelta(days=1)
        return [calendar.midnight(end - timedelta(days=days)) for days in behind]
    slot = calendar.floor(window.grain, now)
    following = calendar.next(window.grain, slot)
    return [following - slots * (following - slot) for slots in behind]


def _before(window: Window, calendar: Calendar, begins: Sequence[int], now: int) -> tuple[int, int]:
    """As much time before the first bar, as far as the last one has come by now."""

    def earlier(at: int) -> int:
        if window.grain < DAY:
            return at - (begins[-1] - begins[0])
        return calendar.midnight(calendar.local(at) - timedelta(days=window.slots * window.bars))

    last = begins[-2]
    return earlier(begins[0]), earlier(last) + calendar.floor(window.compared, now) - last
