"""The ledger as a state machine: whatever is reserved, settled, released, settled again and reaped, in any order and in
any groups, its sums are the sums of its rows.

``LEDGER_STEPS=200 LEDGER_EXAMPLES=300`` is the long form.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import create_engine, text

from flaskllm.extensions import Model
from flaskllm.models import ledger as tables
from flaskllm.repositories.committer import GroupCommitter
from flaskllm.repositories.database import set_sqlite_pragmas
from flaskllm.repositories.ledger import (
    Expired,
    Hold,
    InFlight,
    Reserve,
    Settle,
    SettleAndReserve,
    apply,
    holds_from_json,
    holds_to_json,
    now_ms,
)
from tests.databases import database_addresses
from tests.repositories.test_ledger import reserve, settle

STEPS = int(os.environ.get("LEDGER_STEPS", "25"))
EXAMPLES = int(os.environ.get("LEDGER_EXAMPLES", "12"))
CAP, CONCURRENCY = 1000, 3
CHAINS = (("token:a",), ("token:a", "user:u"), ("token:b", "user:u"), ())
PERIODS = ("2026-11", "2026-12")
amounts = st.integers(0, 400)
chains, periods = st.sampled_from(CHAINS), st.sampled_from(PERIODS)
LEASES = st.sampled_from((-1, 60_000))


class LedgerMachine(RuleBasedStateMachine):
    """A model beside the database: attempts with what they hold, and what each budget has spent.

    ``open`` and ``over`` are in the order of what happened, not of the ids, which are drawn: else the same steps would
    meet others when they are played again.
    """

    committer: GroupCommitter
    query: Callable[[str], list[Any]]

    @initialize()
    def begin(self) -> None:
        for table in ("attempts", "calls", "budgets"):
            self.query(f"DELETE FROM {table}")
        self.open: dict[int, Reserve] = {}
        self.over: list[Reserve] = []
        self.spent: dict[tuple[str, str], int] = defaultdict(int)
        self.within = True

    # -- what may happen -----------------------------------------------------------------------------------------------

    @rule(amount=amounts, chain=chains, period=periods, lease=LEASES, counted=st.booleans())
    def reserve(self, amount: int, chain: tuple[str, ...], period: str, lease: int, counted: bool) -> None:
        one = self._drawn(amount, chain, period, lease, counted=counted)
        expected = self._expected(one)
        self._reserved(one, self.committer.run(one), expected)

    @rule(data=st.data(), part=st.floats(0, 1))
    def settle(self, data: st.DataObject, part: float) -> None:
        """At what was held or less, as where the provider keeps to the bound."""
        if self.open:
            one = self.open[data.draw(st.sampled_from(list(self.open)))]
            self._settle(one, int(one.amount * part))

    @rule(data=st.data(), more=st.integers(1, 3000))
    def settle_beyond(self, data: st.DataObject, more: int) -> None:
        if self.open:
            one = self.open[data.draw(st.sampled_from(list(self.open)))]
            self._settle(one, one.amount + more)
            self.within = self.within and not one.holds

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.open:
            self._settle(self.open[data.draw(st.sampled_from(list(self.open)))], 0, state="released")

    @rule(data=st.data(), spent=amounts)
    def settle_again(self, data: st.DataObject, spent: int) -> None:
        if self.over:
            before = self._books()
            assert self.committer.run(settle(data.draw(st.sampled_from(self.over)), spent)) is False
            assert self._books() == before

    @rule(data=st.data(), amount=amounts, chain=chains, period=periods)
    def settle_and_reserve(self, data: st.DataObject, amount: int, chain: tuple[str, ...], period: str) -> None:
        if self.open:
            ended = self.open[data.draw(st.sampled_from(list(self.open)))]
            self._forget(ended, ended.amount)
            one = self._drawn(amount, chain, period, 60_000, counted=False)
            expected = self._expected(one)
            self._reserved(one, self.committer.run(SettleAndReserve(settle(ended, ended.amount), one)), expected)

    @rule()
    def reap(self) -> None:
        """Only whose lease has ended, at what they hold."""
        found = self.committer.run(Expired(now_ms()))
        assert {row["id"] for row in found} == {id_ for id_, one in self.open.items() if _is_late(one)}
        rows = {row["id"]: row for row in found}
        for one in [one for id_, one in self.open.items() if id_ in rows]:  # the same order each time, unlike the ids
            row = rows[one.row["id"]]
            values = {**settle(one, row["reserved"]).values, "state": "interrupted", "estimated": True}
            assert self.committer.run(Settle(values, row["reserved"], row["reserved"], holds_from_json(row["holds"])))
            self._forget(one, one.amount)

    @rule(parts=st.lists(st.tuples(amounts, chains), min_size=2, max_size=4), data=st.data())
    def together(self, parts: list[tuple[int, tuple[str, ...]]], data: st.DataObject) -> None:
        """Several in one transaction, with a settlement among them that makes room first."""
        group: list[Any] = []
        if self.open and data.draw(st.booleans()):
            ended = self.open[data.draw(st.sampled_from(list(self.open)))]
            group.append(settle(ended, ended.amount))
            self._forget(ended, ended.amount)
        asked = [self._drawn(amount, chain, PERIODS[0], 60_000, counted=False) for amount, chain in parts]
        self._in_one_transaction([*group, *asked])
        for one in asked:
            expected = self._expected(one)
            self._reserved(one, one.result, expected)

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def sums_are_the_rows(self) -> None:
        held: dict[tuple[str, str], int] = defaultdict(int)
        for one in self.open.values():
            for hold in one.holds:
                held[hold.id, hold.period] += one.amount
        for (id_, period), (spent, reserved) in self._books().items():
            assert (spent, reserved) == (self.spent[id_, period], held[id_, period])
            assert spent >= 0
            assert reserved >= 0
            assert not self.within or spent + reserved <= CAP
        rows = self.query("SELECT id FROM attempts WHERE state = 'reserved'")
        assert {row[0] for row in rows} == set(self.open)

    # -- how ---------------------------------------------------------------------------------------------------------

    def _drawn(self, amount: int, chain: tuple[str, ...], period: str, lease: int, *, counted: bool) -> Reserve:
        holds = tuple(Hold(id_, period, CAP) for id_ in chain)
        one = reserve(
            amount, *holds, in_flight=InFlight("token", "counted", CONCURRENCY) if counted else None, lease=lease
        )
        one.row["holds"] = holds_to_json(holds)
        one.row["token_id"] = "counted" if counted else "t"
        return one

    def _expected(self, one: Reserve) -> bool:
        """Whether the model has room for it."""
        in_flight = sum(bool(other.in_flight) for other in self.open.values())
        if one.in_flight and in_flight >= CONCURRENCY:
            return False
        return all(self._room(hold) >= one.amount for hold in one.holds)

    def _room(self, hold: Hold) -> int:
        same = (
            other
            for other in self.open.values()
            for held in other.holds
            if (held.id, held.period) == (hold.id, hold.period)
        )
        return hold.cap - self.spent[hold.id, hold.period] - sum(other.amount for other in same)

    def _reserved(self, one: Reserve, lacking: Any, expected: bool) -> None:
        assert (lacking is None) is expected
        if lacking is None:
            self.open[one.row["id"]] = one

    def _settle(self, one: Reserve, spent: int, *, state: str = "settled") -> None:
        operation = settle(one, spent)
        operation.values["state"] = state
        assert self.committer.run(operation) is True
        self._forget(one, spent)

    def _forget(self, one: Reserve, spent: int) -> None:
        del self.open[one.row["id"]]
        self.over.append(one)
        for hold in one.holds:
            self.spent[hold.id, hold.period] += spent

    def _in_one_transaction(self, operations: list[Any]) -> None:
        connection = self.committer._connected()
        connection.begin()
        apply(connection, operations)
        connection.commit()

    def _books(self) -> dict[tuple[str, str], tuple[int, int]]:
        return {
            (row[0], row[1]): (row[2], row[3]) for row in self.query("SELECT id, period, spent, reserved FROM budgets")
        }


def _is_late(one: Reserve) -> bool:
    return bool(one.row["lease_until"] < now_ms())


@contextmanager
def a_ledger(address: str) -> Iterator[tuple[GroupCommitter, Callable[[str], list[Any]]]]:
    """A committer over the ledger's own tables, and a way to ask them."""
    engine = create_engine(address)
    if engine.dialect.name == "sqlite":
        set_sqlite_pragmas(engine, journal_mode="WAL", synchronous="NORMAL")
    own = [row.__table__ for row in (tables.AttemptRow, tables.CallRow, tables.BudgetRow, tables.CounterRow)]
    Model.metadata.drop_all(engine, own)
    Model.metadata.create_all(engine, own)

    def query(statement: str) -> list[Any]:
        with engine.begin() as connection:
            found = connection.execute(text(statement))
            return [tuple(row) for row in found] if found.returns_rows else []

    committer = GroupCommitter(engine, apply, threads=False)
    try:
        yield committer, query
    finally:
        committer.stop()
        engine.dispose()


@pytest.mark.parametrize("address", database_addresses())
def test_the_sums_are_the_rows_whatever_happens(address: Callable[[Path], str]) -> None:
    with tempfile.TemporaryDirectory() as folder, a_ledger(address(Path(folder))) as (committer, query):
        machine = type("Machine", (LedgerMachine,), {"committer": committer, "query": staticmethod(query)})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
