"""The audit trail: written in the transaction of the change, chained by signatures, verified from end to end.

Who can write to the database but has not the key can change, take out, reorder or cut no row without its being seen:
each row signs the one before it, and the head (the last number and signature) is signed too. Who puts back an older
copy of the whole database, head and all, is seen only against a head that was noted elsewhere: ``flask audit verify``
prints it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from sqlalchemy.orm import Session

from flaskllm.domain.audit import BROKEN_LINK, FIRST_LINK, LONGEST_ADDRESS, Actor, Entry, facts_text
from flaskllm.domain.text import holdable
from flaskllm.repositories import audit as repository
from flaskllm.repositories.audit import AuditFilters, AuditRow
from flaskllm.repositories.database import Database
from flaskllm.security import ChainKeys

log = logging.getLogger(__name__)

AT_ONCE = 500
"""How many rows verification holds in memory."""
BEFORE_ALL = -(2**63)


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain."""

    number: int
    mac: str

    @property
    def told(self) -> str:
        return f"{self.number}:{self.mac}"


NO_HEAD = Head(0, FIRST_LINK)
CHANGED_HEAD = "changed: the head, which names the last row"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verification found: ``count`` sound rows from the first on; ``broken`` is the first number that is not.

    ``head``: number and signature of the last row, as the head names them.
    """

    count: int
    head: str
    broken: int | None = None
    fault: str | None = None

    @property
    def is_sound(self) -> bool:
        return self.broken is None


class AuditTrail:
    """Adds to the trail, reads it, and tells whether anybody has been at it."""

    def __init__(self, database: Database, keys: ChainKeys, *, clock: Callable[[], float] = time.time) -> None:
        """``clock``: seconds since 1970, when what is added happened; not the machine's for demo data alone."""
        self._db = database
        self._keys = keys
        self._clock = clock

    # -- writing ------------------------------------------------------------------------------------------------------

    def record(
        self,
        session: Session,
        actor: Actor,
        action: str,
        target: str,
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any] | None,
    ) -> None:
        """Add a row to the caller's own transaction, so that the change and its row are written together or not at all.

        Call it last in the transaction: the chain's head stays locked until it ends.
        """
        head = self._trusted_head(session, repository.lock_head(session))
        entry = Entry(
            number=head.number + 1,
            at=int(self._clock() * 1000),
            actor_id=actor.id,
            actor_name=actor.name,
            action=action,
            target=target,
            address=None if actor.address is None else holdable(actor.address)[:LONGEST_ADDRESS],
            request_id=actor.request_id,
            before=facts_text(before),
            after=facts_text(after),
            key_id=self._keys.writes,
            previous_mac=head.mac,
        )
        mac = self._keys.sign(entry.canonical())
        repository.add(session, AuditRow(**{name: getattr(entry, name) for name in Entry.__slots__}, mac=mac))
        repository.write_head(session, self._sealed(Head(entry.number, mac)))

    def _trusted_head(self, session: Session, text: str) -> Head:
        """Where the chain goes on. A head that is not ours stops no work, but leaves a break that stays."""
        head, fault = self._opened(text)
        last = 0 if text else repository.last_number(session)
        if fault is None and not last:
            return head
        log.error("the head of the audit trail was changed or taken out; run flask audit verify")
        return Head(repository.last_number(session), BROKEN_LINK)

    def _sealed(self, head: Head) -> str:
        signature = self._keys.sign(_head_bytes(head))
        return json.dumps({"number": head.number, "mac": head.mac, "key_id": self._keys.writes, "seal": signature})

    def _opened(self, text: str) -> tuple[Head, str | None]:
        """The head, and what is wrong with it."""
        if not text:
            return NO_HEAD, None
        try:
            held = json.loads(text)
            head = Head(int(held["number"]), str(held["mac"]))
            key_id, seal = str(held["key_id"]), str(held["seal"])
        except (ValueError, TypeError, KeyError, OverflowError):
            return NO_HEAD, CHANGED_HEAD
        if not self._keys.knows(key_id):
            return NO_HEAD, f"unknown key {key_id[:8]!r}: the head is signed by it"
        if not self._keys.verify(_head_bytes(head), seal, key_id=key_id):
            return NO_HEAD, CHANGED_HEAD
        return head, None

    # -- reading ------------------------------------------------------------------------------------------------------

    def list(
        self, *, limit: int, after: int | None = None, **filters: Unpack[AuditFilters]
    ) -> tuple[Sequence[AuditRow], int | None]:
        """A page, newest first, and the number where the next one begins."""
        with self._db.reading() as session:
            rows = repository.list_rows(session, filters, limit=limit + 1, before=after)
        return (rows, None) if len(rows) <= limit else (rows[:limit], rows[limit - 1].number)

    # -- verifying ----------------------------------------------------------------------------------------------------

    def verify(self) -> Verdict:
        """From the first row to the head, a few hundred rows at a time.

        What is written meanwhile is beyond the head that was read, and is not looked at.
        """
        with self._db.reading() as session:
            last = repository.last_number(session)  # before the head: no row that is there now lies beyond it
            text = repository.read_head(session)
        head, head_fault = self._opened(text)
        end = head.number if head_fault is None and last <= head.number else last
        expected, previous = 1, FIRST_LINK
        for row in self._rows(up_to=end):
            if fault := self._fault(row, expected, previous):
                return Verdict(expected - 1, head.told, expected, fault)
            if head_fault is None and expected > head.number:
                return Verdict(expected - 1, head.told, expected, f"added: the head ends with row {head.number}")
            expected, previous = expected + 1, row.mac
        fault = head_fault or _fault_at_the_end(head, expected - 1, previous)
        return Verdict(expected - 1, head.told, expected if fault else None, fault)

    def _rows(self, *, up_to: int) -> Iterator[AuditRow]:
        """Every row up to this one in order, without a transaction held open between two handfuls."""
        number = BEFORE_ALL
        while True:
            with self._db.reading() as session:
                rows = repository.rows_after(session, number, up_to=up_to, limit=AT_ONCE)
            yield from rows
            if len(rows) < AT_ONCE:
                return
            number = rows[-1].number

    def _fault(self, row: AuditRow, expected: int, previous: str) -> str | None:
        """What is wrong with a row that should have this number and follow this signature."""
        if type(row.number) is not int or row.number < expected:
            return f"added: a row with the number {row.number!r}"
        if row.number > expected:
            return f"missing: the next row there is has the number {row.number}"
        if not self._keys.knows(row.key_id):
            return f"unknown key {row.key_id!r}: it is not in LLM_GATEWAY_ENCRYPTION_KEY"
        entry = Entry(**{name: getattr(row, name) for name in Entry.__slots__})
        if not self._keys.verify(entry.canonical(), row.mac, key_id=row.key_id):
            return "changed: its signature does not fit what it says"
        if row.previous_mac == BROKEN_LINK:
            return "cut: the head had been changed when this row was written"
        if row.previous_mac != previous:
            return "reordered: it does not follow the row before it"
        return None


def _fault_at_the_end(head: Head, last: int, mac: str) -> str | None:
    if last != head.number:
        return f"cut: the head ends with row {head.number}"
    return None if mac == head.mac else "changed: the head has another signature of the last row"


def _head_bytes(head: Head) -> bytes:
    return json.dumps(["audit head", head.number, head.mac]).encode()
