"""The ledger's statements, merged: what a group of calls writes in one transaction (``docs/adr/0003``)."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete

from flaskllm.domain.quota import budget_event
from flaskllm.models.ledger import CounterRow
from flaskllm.repositories import outbox
from flaskllm.repositories.committer import Connection
from flaskllm.repositories.database import Database

INSERT_ATTEMPT = """
INSERT INTO attempts (id, request_id, number, state, user_id, token_id, door, model, backend_model, provider, endpoint,
    price_version, reserved, cost, priced, holds, prompt_tokens, completion_tokens, estimated, started_at, lease_until,
    tags)
VALUES (:id, :request_id, :number, 'reserved', :user_id, :token_id, :door, :model, :backend_model, :provider, :endpoint,
    :price_version, :reserved, NULL, :priced, :holds, 0, 0, :no, :started_at, :lease_until,
    :tags)
"""
SETTLE_ATTEMPT = """
UPDATE attempts SET state = :state, cost = :cost, prompt_tokens = :prompt_tokens,
    completion_tokens = :completion_tokens, usage = :usage, estimated = :estimated, error_code = :error_code,
    settled_at = :settled_at
WHERE id = :id AND state = 'reserved'
"""
INSERT_CALL = """
INSERT INTO calls (id, request_id, user_id, token_id, door, model, backend_model, provider, started_at, finished_at,
    latency_ms, prompt_tokens, completion_tokens, cost, saved, status, error_code, attempts, streamed, estimated,
    correlation_id, claimed_user, client_id, metadata, tags, cache_read, cache_write_5m, cache_write_1h, reasoning,
    audio_input, audio_output, image_input, image_output, images, first_token_ms)
VALUES (:id, :request_id, :user_id, :token_id, :door, :model, :backend_model, :provider, :started_at, :finished_at,
    :latency_ms, :prompt_tokens, :completion_tokens, :cost, :saved, :status, :error_code, :attempts, :streamed,
    :estimated, :correlation_id, :claimed_user, :client_id, :metadata, :tags, :cache_read, :cache_write_5m,
    :cache_write_1h, :reasoning, :audio_input, :audio_output, :image_input, :image_output, :images,
    :first_token_ms)
"""
INSERT_BODY = "INSERT INTO bodies (call_id, made_at, sealed) VALUES (:call_id, :made_at, :sealed)"
OPEN_BUDGET = """
INSERT INTO budgets (id, period, spent, reserved) VALUES (:id, :period, 0, 0) ON CONFLICT (id, period) DO NOTHING
"""
HOLD = """
UPDATE budgets SET reserved = reserved + :sum WHERE id = :id AND period = :period AND :sum <= :cap - spent - reserved
"""
MOVE = """
UPDATE budgets SET reserved = reserved - :reserved,
    spent = CASE WHEN spent > :most - :spent THEN :most ELSE spent + :spent END
WHERE id = :id AND period = :period
"""
COUNT = """
INSERT INTO counters (name, value, expires_at) VALUES (:name, :amount, :expires_at)
ON CONFLICT (name) DO UPDATE SET
    value = CASE WHEN counters.expires_at BETWEEN :now + 1 AND :latest THEN counters.value + excluded.value
        ELSE excluded.value END,
    expires_at = CASE WHEN counters.expires_at BETWEEN :now + 1 AND :latest THEN counters.expires_at
        ELSE excluded.expires_at END
RETURNING value, expires_at
"""
SET_COUNT = "UPDATE counters SET value = :value WHERE name = :name"
GIVE_BACK = """
UPDATE counters SET value = CASE WHEN value > :amount THEN value - :amount ELSE 0 END
WHERE name = :name AND expires_at = :ends_at RETURNING value
"""
IS_THERE = "SELECT 1 FROM attempts WHERE id = :id"
_OPEN = "SELECT count(*) FROM attempts WHERE state = 'reserved' AND "
OPEN_CALLS = {
    "token": _OPEN + "token_id = :key",
    "user": _OPEN + "user_id = :key",
    "model": _OPEN + "provider || '/' || backend_model = :key",
}
"""Calls in flight, by whose bound on them it is."""
ALERT = """
INSERT INTO alerts (budget_id, period, event, amount, alert, spent, raised_at)
SELECT id, period, :event, :amount, :alert, spent, :now FROM budgets
WHERE id = :id AND period = :period AND spent >= :from
ON CONFLICT (budget_id, period, event) DO NOTHING
RETURNING spent
"""
REACHED, EXHAUSTED = "budget.reached", "budget.exhausted"
"""What is told of a budget: that as much is spent as it has its alert at, and that it has refused a call."""
EXPIRED = """
SELECT id, request_id, number, user_id, token_id, door, model, backend_model, provider, reserved, priced, holds,
    started_at, tags
FROM attempts WHERE state = 'reserved' AND lease_until < :now ORDER BY lease_until LIMIT 100
"""
SPENT_BEFORE = """
SELECT coalesce(sum(cost), 0) FROM attempts WHERE request_id = :request_id AND user_id = :user_id AND id < :id
    AND id >= (SELECT max(id) FROM attempts
        WHERE request_id = :request_id AND user_id = :user_id AND number = 1 AND id < :id)
"""
"""What the attempts before this one cost in the same call: callers name requests, and may use a name again."""

ID_SHIFT = 22
"""A row's id is the millisecond of its making, and so many bits below it."""
MOST_SUM = 2**62
"""More than this is never held or spent: sums stay within 64 bits whatever a provider says that it took."""

_low_bits = itertools.count(secrets.randbits(22), 1000003)


def _draw_again() -> None:
    global _low_bits  # noqa: PLW0603  (a forked process would draw its parent's numbers)
    _low_bits = itertools.count(secrets.randbits(22), 1000003)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_draw_again)


def new_row_id() -> int:
    """A 63-bit id that grows with time, so that rows go to the end of their index; good until the year 2039."""
    return (int(time.time() * 1000) << ID_SHIFT) | (next(_low_bits) & 0x3FFFFF)


def now_ms() -> int:
    return int(time.time() * 1000)


@dataclass(frozen=True, slots=True)
class Hold:
    """Room in one budget for one period; ``cap`` and ``amount`` in 10⁻⁹ dollar, the cap of one that refuses nothing
    being `MOST_SUM`. ``alert``: spent from here on, an alert is written; None: never."""

    id: str
    period: str
    cap: int
    amount: int = 0
    alert: int | None = None


@dataclass(frozen=True, slots=True)
class InFlight:
    """At most ``most`` calls at once: of a ``token``, a ``user`` or a ``model`` (``what``), by its ``key``."""

    what: str
    key: str
    most: int


@dataclass(slots=True)
class Reserve:
    """One attempt's row and the money it holds. ``result``: None, or what had no room."""

    row: dict[str, Any]
    amount: int
    holds: tuple[Hold, ...] = ()
    in_flight: tuple[InFlight, ...] = ()
    result: Hold | InFlight | None = None
    may_be_there: bool = False

    def renew(self) -> None:
        self.row["id"] = new_row_id()

    def look(self) -> None:
        self.may_be_there = True


@dataclass(slots=True)
class Settle:
    """The end of one attempt: ``values`` of `SETTLE_ATTEMPT`; ``call`` the row of the call, if it is over.

    ``beside``: another operation, written in the same transaction (`repositories.writes`).
    ``result``: whether this was the one settlement.
    """

    values: dict[str, Any]
    reserved: int
    spent: int
    holds: tuple[Hold, ...] = ()
    call: dict[str, Any] | None = None
    beside: Any = None
    result: bool = False

    def renew(self) -> None:
        if self.call is not None:
            self.call["id"] = new_row_id()

    def look(self) -> None:
        """It says itself whether it was the one."""


@dataclass(slots=True)
class SettleAndReserve:
    """One attempt of a call ends and the next begins, in one transaction: a call that was paid for always has an open
    row or its own. ``result``: the reservation's."""

    settle: Settle
    reserve: Reserve

    @property
    def result(self) -> Hold | InFlight | None:
        return self.reserve.result

    def renew(self) -> None:
        self.settle.renew()
        self.reserve.renew()

    def look(self) -> None:
        self.settle.look()
        self.reserve.look()


@dataclass(slots=True)
class Record:
    """A call that ended without a last attempt."""

    call: dict[str, Any]
    result: None = None

    def renew(self) -> None:
        self.call["id"] = new_row_id()

    def look(self) -> None:
        """The same id again: if it is there, this try fails, and the row stands."""


@dataclass(slots=True)
class Count:
    """Add to a counter whose window begins with its first hit; only if it stays within ``most``, where that is given.

    ``result``: its value, when it ends (ms), and whether it was added.
    """

    name: str
    amount: int
    window_ms: int
    most: int | None = None
    result: tuple[int, int, bool] = (0, 0, False)

    def renew(self) -> None:
        """Nothing drawn."""

    def look(self) -> None:
        """Once too often does no harm."""


@dataclass(slots=True)
class GiveBack:
    """Take off again what was counted in the window that ends at ``ends_at`` (ms), and in no other.

    ``result``: its value; None where that window is over.
    """

    name: str
    amount: int
    ends_at: int
    result: int | None = None

    def renew(self) -> None:
        """Nothing drawn."""

    def look(self) -> None:
        """Once too often lets a little more through, for the rest of a minute."""


@dataclass(slots=True)
class Expired:
    """The attempts whose lease has ended. ``result``: their rows as dictionaries, and under ``before`` what earlier
    attempts of their calls cost."""

    now: int
    result: list[dict[str, Any]] = field(default_factory=list)

    def renew(self) -> None:
        """Nothing drawn."""

    def look(self) -> None:
        """Once too often does no harm."""


COLUMNS = tuple(name.strip() for name in EXPIRED.partition("SELECT")[2].partition("FROM")[0].split(","))


def apply(connection: Connection, operations: Sequence[Any]) -> None:
    """Run a group inside its transaction: settlements first (they free room), then counters, then reservations."""
    kinds: dict[type, list[Any]] = defaultdict(list)
    for operation in operations:
        both = isinstance(operation, SettleAndReserve)
        for part in (operation.settle, operation.reserve) if both else (operation,):
            kinds[type(part)].append(part)
    settles, reserves = kinds[Settle], kinds[Reserve]
    _lock_counts(connection, reserves)
    _lock_budgets(connection, itertools.chain(settles, reserves))
    if settles:
        _settle(connection, settles)
    calls = [one.call for one in itertools.chain(settles, kinds[Record]) if one.call is not None]
    if calls:
        connection.execute_many(INSERT_CALL, calls)
        _keep_bodies(connection, calls)
    _count(connection, [*kinds[GiveBack], *kinds[Count]])
    if reserves:
        _reserve(connection, reserves)
    for expired in kinds[Expired]:
        rows = connection.execute(EXPIRED, {"now": expired.now}).fetchall()
        expired.result = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        for row in expired.result:
            row["before"] = _spent_before(connection, row)


def _keep_bodies(connection: Connection, calls: Sequence[dict[str, Any]]) -> None:
    """What was said in them, where it is stored: ``sealed``."""
    rows = [
        {"call_id": call["id"], "made_at": call["finished_at"], "sealed": call["sealed"]}
        for call in calls
        if "sealed" in call
    ]
    if rows:
        connection.execute_many(INSERT_BODY, rows)


def _spent_before(connection: Connection, row: dict[str, Any]) -> int:
    if row["number"] == 1:
        return 0
    (cost,) = connection.execute(SPENT_BEFORE, {name: row[name] for name in ("request_id", "user_id", "id")}).fetchone()
    return int(cost)


def _lock_counts(connection: Connection, reserves: Iterable[Reserve]) -> None:
    """On PostgreSQL, one process at a time counts the calls in flight of one bound; in one order, as below."""
    if connection.is_sqlite:
        return
    for key in sorted({bound.key for one in reserves for bound in one.in_flight}):
        connection.execute("SELECT pg_advisory_xact_lock(hashtext(:key))", {"key": key})


def _lock_budgets(connection: Connection, operations: Iterable[Any]) -> None:
    """On PostgreSQL, take the rows of every budget concerned in one order, so that two processes cannot deadlock."""
    if connection.is_sqlite:
        return
    budgets = sorted({(hold.id, hold.period) for operation in operations for hold in operation.holds})
    for budget_id, period in budgets:
        connection.execute(
            "SELECT 1 FROM budgets WHERE id = :id AND period = :period FOR UPDATE", {"id": budget_id, "period": period}
        )


def _settle(connection: Connection, settles: Sequence[Settle]) -> None:
    """Where somebody, the reaper, was first with one of them, its money has moved already, and its call is written."""
    moved = connection.each_changed(SETTLE_ATTEMPT, [one.values for one in settles])
    for one, settled in zip(settles, moved, strict=True):
        one.result = settled
        if not settled:
            one.call = None
    _move(connection, [one for one in settles if one.result])


def _move(connection: Connection, settles: Iterable[Settle]) -> None:
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    watched: dict[tuple[str, str], Hold] = {}
    for one in settles:
        for hold in one.holds:
            held = sums[hold.id, hold.period]
            held[0] += one.reserved
            held[1] += one.spent
            if hold.alert is not None:
                watched[hold.id, hold.period] = hold
    for (budget_id, period), (reserved, spent) in sorted(sums.items()):
        moved = {"reserved": reserved, "spent": min(spent, MOST_SUM), "most": MOST_SUM}
        connection.execute(MOVE, {"id": budget_id, "period": period, **moved})
        if (seen := watched.get((budget_id, period))) is not None:
            _alert(connection, REACHED, seen, since=seen.alert or 0)


def _count(connection: Connection, operations: Sequence[Count | GiveBack]) -> None:
    """Counter by counter in one order, so that two processes cannot deadlock; what is given back comes first."""
    for name, ones in itertools.groupby(sorted(operations, key=_by_name), key=lambda one: one.name):
        counts = []
        for one in ones:
            if isinstance(one, Count):
                counts.append(one)
            else:
                _give_back(connection, one)
        if any(one.most is not None for one in counts):
            _count_in_turn(connection, name, counts)
        elif counts:
            _count_together(connection, name, counts)


def _by_name(operation: Count | GiveBack) -> tuple[str, bool]:
    return operation.name, isinstance(operation, Count)


def _give_back(connection: Connection, one: GiveBack) -> None:
    values = {"name": one.name, "amount": one.amount, "ends_at": one.ends_at}
    found = connection.execute(GIVE_BACK, values).fetchone()
    one.result = None if found is None else found[0]


def _count_together(connection: Connection, name: str, ones: Sequence[Count]) -> None:
    """One statement with the sum; each is then given the value it would have seen in its turn."""
    total = sum(one.amount for one in ones)
    value, expires_at = _add(connection, name, total, ones[0].window_ms)
    seen = value - total
    for one in ones:
        seen += one.amount
        one.result = (seen, expires_at, True)


def _count_in_turn(connection: Connection, name: str, ones: Sequence[Count]) -> None:
    """The first statement opens the window and locks its row, so that what is decided here holds."""
    value, expires_at = _add(connection, name, 0, ones[0].window_ms)
    for one in ones:
        fits = one.most is None or value + one.amount <= one.most
        value += one.amount if fits else 0
        one.result = (value, expires_at, fits)
    connection.execute(SET_COUNT, {"name": name, "value": value})


def _add(connection: Connection, name: str, amount: int, window_ms: int) -> tuple[int, int]:
    """Value and end of the window afterwards.

    A window that ends later than two from now was begun before the clock was set back: it begins again.
    """
    now = now_ms()
    values = {
        "name": name, "amount": amount, "now": now, "expires_at": now + window_ms, "latest": now + 2 * window_ms
    }  # fmt: skip
    value, expires_at = connection.execute(COUNT, values).fetchone()
    return value, expires_at


def _reserve(connection: Connection, reserves: Sequence[Reserve]) -> None:
    reserves = [one for one in reserves if not (one.may_be_there and _is_there(connection, one))]
    for one in reserves:
        one.result = None  # an earlier try that was rolled back may have been refused
    simple = [one for one in reserves if not one.in_flight]
    accepted = list(simple) if _hold_together(connection, simple) else _hold_one_by_one(connection, simple)
    if accepted:
        connection.execute_many(INSERT_ATTEMPT, [one.row for one in accepted])
    for one in reserves:
        if one.in_flight:
            _reserve_counted(connection, one)


def _is_there(connection: Connection, one: Reserve) -> bool:
    return connection.execute(IS_THERE, {"id": one.row["id"]}).fetchone() is not None


def _reserve_counted(connection: Connection, one: Reserve) -> None:
    """A bound on calls in flight: counted by the open rows, which end with their leases by themselves."""
    for bound in one.in_flight:
        (in_flight,) = connection.execute(OPEN_CALLS[bound.what], {"key": bound.key}).fetchone()
        if in_flight >= bound.most:
            one.result = bound
            return
    if _hold_one_by_one(connection, [one]):
        connection.execute(INSERT_ATTEMPT, one.row)


def _hold_together(connection: Connection, reserves: Sequence[Reserve]) -> bool:
    """One conditional UPDATE a budget with the sum of all: where there is room for the sum, there is for each."""
    sums: dict[tuple[str, str], list[int]] = {}
    for one in reserves:
        for hold in one.holds:
            held = sums.setdefault((hold.id, hold.period), [0, hold.cap])
            held[0] = min(held[0] + one.amount, 2 * MOST_SUM - 1)
            held[1] = min(held[1], hold.cap)
    if not sums:
        return True
    connection.execute("SAVEPOINT holding")
    held_all = all(
        connection.execute(HOLD, {"id": id_, "period": period, "sum": total, "cap": cap}).rowcount == 1
        for (id_, period), (total, cap) in sorted(sums.items())
    )
    if not held_all:
        connection.execute("ROLLBACK TO SAVEPOINT holding")
    connection.execute("RELEASE SAVEPOINT holding")
    return held_all


def _hold_one_by_one(connection: Connection, reserves: Sequence[Reserve]) -> list[Reserve]:
    """In order of arrival; the ones that found room. Opens the rows of a new period."""
    new = {(hold.id, hold.period) for one in reserves for hold in one.holds}
    if new:
        connection.execute_many(OPEN_BUDGET, [{"id": id_, "period": period} for id_, period in sorted(new)])
    accepted = []
    for one in reserves:
        one.result = _hold(connection, one)
        if one.result is None:
            accepted.append(one)
    return accepted


def _hold(connection: Connection, one: Reserve) -> Hold | None:
    connection.execute("SAVEPOINT holding")
    lacking = None
    for hold in sorted(one.holds, key=lambda held: (held.id, held.period)):
        values = {"id": hold.id, "period": hold.period, "sum": one.amount, "cap": hold.cap}
        if connection.execute(HOLD, values).rowcount != 1:
            lacking = hold
            connection.execute("ROLLBACK TO SAVEPOINT holding")
            break
    connection.execute("RELEASE SAVEPOINT holding")
    if lacking is not None:
        _alert(connection, EXHAUSTED, lacking, since=0)
    return lacking


def _alert(connection: Connection, event: str, hold: Hold, *, since: int) -> None:
    """Once a budget, period and event, whoever comes first; only where ``since`` is spent."""
    if hold.alert is None:
        return
    at, sums = now_ms(), {"amount": hold.amount, "alert": hold.alert}
    values = {"id": hold.id, "period": hold.period, "event": event, "from": since, "now": at}
    raised = connection.execute(ALERT, {**values, **sums}).fetchone()
    if raised is not None:
        told = budget_event(event, hold.id, hold.period, sums={**sums, "spent": raised[0]}, at=at)
        outbox.add(connection, told)


def holds_to_json(holds: Sequence[Hold]) -> str:
    return json.dumps([[hold.id, hold.period] for hold in holds])


def holds_from_json(text: str) -> tuple[Hold, ...]:
    return tuple(Hold(id_, period, 0) for id_, period in json.loads(text))


def sweep_counters(database: Database) -> None:
    """Forget windows that ended a minute ago."""
    with database.transaction() as session:
        session.execute(delete(CounterRow).where(CounterRow.expires_at < now_ms() - 60_000))
