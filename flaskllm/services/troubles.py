"""What is wrong right now, in plain words, with the way to mend it: for the administrators' first page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from flaskllm.domain.account import WAITING
from flaskllm.domain.catalogue import Catalogue, Provider
from flaskllm.domain.period import period_key
from flaskllm.domain.pricing import to_dollars
from flaskllm.domain.principal import PERIODS
from flaskllm.domain.quota import INSTALLATION
from flaskllm.repositories.budgets import Filled, nearly_spent
from flaskllm.repositories.database import Database
from flaskllm.repositories.users import count_users
from flaskllm.services.circuit_board import CircuitBoard
from flaskllm.services.health import state_of
from flaskllm.services.key_ring import KeyRing
from flaskllm.services.quotas import QuotaService
from flaskllm.services.workers import Hands, WorkerWatch

NEARLY = 0.9
"""A budget is told of from this share on."""
MOST_OF_A_KIND = 10
LOW_BYTES, LOW_SHARE = 2**30, 0.05
"""A disk is told of where less than a gibibyte, or less than a twentieth of a small disk, is free."""
SPANS = {"day": "today", "week": "this week", "month": "this month", "total": "in all"}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something to look after. ``about``: what kind of thing, and ``subject`` which of them, for a link to it.

    ``is_bad``: calls fail because of it, or soon will; else it can wait.
    """

    about: str
    what: str
    mend: str
    subject: str = ""
    is_bad: bool = True


@dataclass(frozen=True, slots=True)
class State:
    """How the gateway runs: its mode, its database's kind, how many workers, and what to look after."""

    mode: str
    database: str
    workers: int
    troubles: list[Trouble]


class TroubleService:
    """``redis``: the client, or None in *sql* mode. ``folder``: on the disk that this process writes to."""

    def __init__(
        self,
        database: Database,
        *,
        catalogue: Callable[[], Catalogue],
        board: CircuitBoard,
        keys: KeyRing,
        workers: WorkerWatch,
        quotas: QuotaService,
        zone: ZoneInfo,
        mode: str,
        redis: Any,
        folder: Path,
        refuses_unpriced: bool,
    ) -> None:
        self._db, self._catalogue, self._workers = database, catalogue, workers
        self._board, self._keys = board, keys
        self._quotas, self._zone, self._mode = quotas, zone, mode
        self._redis, self._folder, self._refuses_unpriced = redis, folder, refuses_unpriced

    def look(self) -> State:
        """What is to be looked after now, the worst first. Raises `Unavailable` where the database is away."""
        hands = self._workers.look()
        troubles = [
            *self._of_redis(),
            *self._of_disk(),
            *self._of_ways(),
            *self._of_keys(),
            *_of_workers(hands),
            *self._of_catalogue(),
            *self._of_budgets(),
            *self._of_people(),
        ]
        troubles.sort(key=lambda trouble: not trouble.is_bad)
        database = "SQLite" if self._db.is_sqlite else "PostgreSQL"
        return State(self._mode, database, hands.workers, troubles)

    def _of_redis(self) -> Iterator[Trouble]:
        if self._redis is not None and state_of(self._redis.ping) == "down":
            yield Trouble(
                "redis",
                "Redis does not answer. Calls go on with the limits counted in the database; conversations wait.",
                "Start Redis again, or look at REDIS_URL. Nothing has to be done here afterwards.",
            )

    def _of_disk(self) -> Iterator[Trouble]:
        found = shutil.disk_usage(self._folder)
        if is_low(found.free, found.total):
            yield Trouble(
                "disk",
                f"Only {found.free / 2**20:,.0f} MB are free on the disk with the gateway's files.",
                "Make room: when it is full, calls are refused with 503 until there is some.",
            )

    def _of_ways(self) -> Iterator[Trouble]:
        for way in self._board.open_ways()[:MOST_OF_A_KIND]:
            yield Trouble(
                "provider",
                f"{_named(way.provider)} at {way.endpoint} fails and is left alone since {_moment(way.opened_at)}: "
                f"{way.error}",
                "One call every few seconds tries it again, and it comes back by itself; test it to see what it says.",
                way.provider.id,
            )

    def _of_keys(self) -> Iterator[Trouble]:
        for provider, rest in self._keys.aside()[:MOST_OF_A_KIND]:
            yield Trouble(
                "provider",
                f"{_named(provider)} refuses the key {rest.hint}, which is put aside until {_moment(rest.until)}: "
                f"{rest.error}",
                "Look at the account there, or replace the key.",
                provider.id,
            )

    def _of_catalogue(self) -> Iterator[Trouble]:
        catalogue = self._catalogue()
        if all(provider.last_resort for provider in catalogue.on):
            yield Trouble(
                "providers",
                "No provider is on but the built-in demo, which only echoes.",
                "Add a provider, or the key of a shipped one.",
                is_bad=False,
            )
        unpriced = [f"{provider.id}/{model.name}" for provider, model in catalogue.models() if model.price is None]
        if unpriced:
            less = "calls to them are refused" if self._refuses_unpriced else "what they cost is not counted"
            yield Trouble(
                "providers",
                f"{_count(len(unpriced), 'model has', 'models have')} no price, so {less}: {_listed(unpriced)}.",
                "Set a price for each; 0 where it costs nothing.",
                is_bad=False,
            )

    def _of_budgets(self) -> Iterator[Trouble]:
        at = datetime.now(self._zone)
        keys = {period: period_key(period, at) for period in PERIODS}
        with self._db.reading() as session:
            found = nearly_spent(session, keys, share=NEARLY, most=MOST_OF_A_KIND)
        found += self._quotas.nearly_spent(NEARLY)
        for budget in sorted(found, key=lambda one: one.share, reverse=True)[:MOST_OF_A_KIND]:
            yield Trouble(
                budget.kind,
                f"{_owner(budget)} has spent {min(budget.share, 99.99):.0%} of its budget of "
                f"${to_dollars(budget.amount):,.2f} {SPANS[budget.period]}.",
                "Nothing, if that is as meant: calls beyond it are refused. Else raise the budget.",
                budget.id,
                is_bad=budget.share >= 1,
            )

    def _of_people(self) -> Iterator[Trouble]:
        with self._db.reading() as session:
            waiting = count_users(session, {"status": WAITING})
        if waiting:
            what = _count(waiting, "account waits", "accounts wait")
            yield Trouble("people", f"{what} for approval.", "Set its status to active, or close it.", is_bad=False)


def is_low(free: int, total: int) -> bool:
    """Whether so few bytes of a disk are too few."""
    return free < min(LOW_BYTES, LOW_SHARE * total)


def _of_workers(hands: Hands) -> Iterator[Trouble]:
    if hands.waiting:
        what = _count(hands.waiting, "batch waits", "batches wait")
        yield Trouble(
            "batches",
            f"{what} and no worker is there.",
            "Start one: python run.py worker, or flask --app wsgi worker.",
        )


def _count(number: int, one: str, several: str) -> str:
    """In words.

    >>> _count(1, "goose is", "geese are"), _count(2, "goose is", "geese are")
    ('1 goose is', '2 geese are')
    """
    return f"1 {one}" if number == 1 else f"{number:,} {several}"


def _listed(names: Sequence[str]) -> str:
    """The first few of them."""
    more = len(names) - MOST_OF_A_KIND
    return ", ".join(names[:MOST_OF_A_KIND]) + (f" and {more:,} more" if more > 0 else "")


def _named(provider: Provider) -> str:
    return provider.display_name or provider.id


def _owner(budget: Filled) -> str:
    if budget.kind == "quota":
        kind, _, name = budget.id.partition(":")
        return "The installation" if budget.id == INSTALLATION else f"The {kind} {budget.name or name}"
    return f"{'The token' if budget.kind == 'token' else 'The account'} {budget.name}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M UTC")
