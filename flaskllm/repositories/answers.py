"""Answers that may serve a second time, in SQL: claimed by one, worked on under a lease, kept until they expire."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from flaskllm.domain.answer import KeptAnswer
from flaskllm.models.answer import AnswerRow
from flaskllm.models.types import new_id, now
from flaskllm.repositories.database import Database

READ_AT_ONCE = 500
"""Rows asked for by their ids: SQLite takes so many values in one statement."""
SWEEP = 200
"""Rows deleted at a time: they may be large."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to give the answer ``id`` to this question, until the lease ends."""

    id: str
    question: str = ""
    holder: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class Found:
    """What stands there already. ``answer``: None while somebody works on it."""

    question: str
    answer: KeptAnswer | None


class AnswerStore:
    """Answers as rows. Each method raises `Unavailable` where the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = sqlite.insert if database.is_sqlite else postgresql.insert

    def claim(self, answer_id: str, question: str, *, lease_s: float, kept_s: float) -> Claim | Found:
        """Take the name for this question, or get what has it. One of many who ask at once gets the claim.

        A name is free where it was never taken, has expired, or was taken for the same question by somebody whose
        lease is over.
        """
        claim, found = Claim(answer_id, question), None
        while found is None:  # what was found may be given up before it is read
            if self._take(claim, question, now(), lease_s, kept_s):
                return claim
            found = self._read(answer_id)
        return found

    def _take(self, claim: Claim, question: str, moment: datetime, lease_s: float, kept_s: float) -> bool:
        row = AnswerRow
        fresh: dict[str, Any] = {
            "question": question,
            "holder": claim.holder,
            "lease_ends": moment + timedelta(seconds=lease_s),
            "status": None,
            "headers": None,
            "body": None,
            "created_at": moment,
            "expires_at": moment + timedelta(seconds=kept_s),
        }
        given_up = and_(row.status.is_(None), row.lease_ends <= moment, row.question == question)
        taking = (
            self._insert(row)
            .values(id=claim.id, **fresh)
            .on_conflict_do_update(index_elements=[row.id], set_=fresh, where=or_(row.expires_at <= moment, given_up))
            .returning(row.id)
        )
        with self._database.transaction() as session:
            return session.execute(taking).first() is not None

    def _read(self, answer_id: str) -> Found | None:
        row = AnswerRow
        query = select(row.question, row.status, row.headers, row.body)
        with self._database.reading() as session:
            found = session.execute(query.where(row.id == answer_id)).one_or_none()
        if found is None:
            return None
        answer = None if found.status is None else KeptAnswer(found.status, found.headers, found.body)
        return Found(found.question, answer)

    def put(self, answer_id: str, body: bytes, *, kept_s: float) -> None:
        """An answer that nobody claimed; the newest is kept."""
        moment = now()
        values: dict[str, Any] = {
            "question": answer_id,
            "holder": "",
            "lease_ends": moment,
            "status": 200,
            "headers": {},
            "body": body,
            "created_at": moment,
            "expires_at": moment + timedelta(seconds=kept_s),
        }
        putting = self._insert(AnswerRow).values(id=answer_id, **values)
        with self._database.transaction() as session:
            session.execute(putting.on_conflict_do_update(index_elements=[AnswerRow.id], set_=values))

    def get(self, answer_id: str) -> bytes | None:
        """What `put` has put there, until it expires."""
        row = AnswerRow
        query = select(row.body).where(row.id == answer_id, row.expires_at > now())
        with self._database.reading() as session:
            return session.scalars(query).one_or_none()

    def get_many(self, answer_ids: Sequence[str]) -> dict[str, bytes]:
        """Those of them that are there, by their ids."""
        row = AnswerRow
        found: dict[str, bytes] = {}
        for first in range(0, len(answer_ids), READ_AT_ONCE):
            ids = answer_ids[first : first + READ_AT_ONCE]
            query = select(row.id, row.body).where(row.id.in_(ids), row.expires_at > now())
            with self._database.reading() as session:
                found.update((answer_id, body) for answer_id, body in session.execute(query) if body is not None)
        return found

    def keep(self, claim: Claim, answer: KeptAnswer) -> bool:
        """The answer that was claimed; False where the claim was lost in the meantime."""
        row = AnswerRow
        keeping = update(row).where(row.id == claim.id, row.holder == claim.holder, row.status.is_(None))
        values = {"status": answer.status, "headers": dict(answer.headers), "body": answer.body}
        with self._database.transaction() as session:
            return session.execute(keeping.values(**values).returning(row.id)).first() is not None

    def give_up(self, claim: Claim) -> None:
        """Nothing was answered: the name is free again."""
        row = AnswerRow
        with self._database.transaction() as session:
            session.execute(delete(row).where(row.id == claim.id, row.holder == claim.holder, row.status.is_(None)))

    def renew(self, claims: Collection[Claim], *, lease_s: float) -> None:
        """Those who hold these are still at work."""
        row = AnswerRow
        holders = [claim.holder for claim in claims]
        renewing = update(row).where(row.id.in_([claim.id for claim in claims]), row.holder.in_(holders))
        with self._database.transaction() as session:
            session.execute(renewing.values(lease_ends=now() + timedelta(seconds=lease_s)))

    def sweep(self) -> int:
        """Delete what has expired. Gives how many."""
        expired = select(AnswerRow.id).where(AnswerRow.expires_at <= now()).limit(SWEEP)
        with self._database.transaction() as session:
            ids = session.scalars(expired).all()
            session.execute(delete(AnswerRow).where(AnswerRow.id.in_(ids), AnswerRow.expires_at <= now()))
        return len(ids)
