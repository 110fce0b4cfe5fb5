"""Batches: what is read of them, and the statements that workers write, each an operation of the committer.

Whoever writes about items first takes the rows of their jobs, in one order, so that no two can deadlock. Leases and
expiries are told by the database's clock: workers on several machines have several others.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypedDict

from sqlalchemy import ColumnElement, Select, delete, exists, func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from flaskllm.domain.batch import (
    CANCELLED,
    CLAIMED,
    COMPLETED,
    EXPIRED,
    FAILED,
    INCOMING,
    MOST_TRIES,
    OPEN,
    POISONED,
    QUEUED,
    SAME,
    Claimed,
    Ended,
    Item,
    Job,
    NewItem,
    Submission,
    Waiting,
    ended_event,
    fair_order,
)
from flaskllm.errors import Conflict
from flaskllm.models.batch import BatchItemRow, BatchJobRow
from flaskllm.models.types import new_id
from flaskllm.repositories import outbox
from flaskllm.repositories.clock import now_of, with_now
from flaskllm.repositories.committer import Connection
from flaskllm.repositories.ledger import MOST_SUM, now_ms

MOST_JOBS = 500
"""Jobs that are looked at for one claim."""
MOST_AT_ONCE = 16
"""Items of one job taken at a time, so that jobs take turns."""
CHUNK = 2000
"""Items changed in one transaction where many are."""
JOB = (
    "id, kind, door, scope, user_id, token_id, status, ending, max_concurrency, total, completed, failed, cancelled, "
    "prompt_tokens, completion_tokens, cost, unpriced, model, metadata, callback_url, details, created_at, started_at, "
    "finished_at, expires_at, delivered_at"
)
JOB_NAMES = tuple(JOB.split(", "))

WAITING = """
SELECT id, user_id, priority, claimed_at, created_at FROM batch_jobs
WHERE finished_at IS NULL AND ending IS NULL AND status <> 'incoming' AND resumes_at <= {now} AND expires_at > {now}
    AND EXISTS (SELECT 1 FROM batch_items
        WHERE job_id = batch_jobs.id AND state = 'open' AND tries BETWEEN :low AND :high AND ready_at <= {now})
"""
WAITING_ONE = f"{WAITING} AND id = :id"
WAITING_ALL = f"{WAITING} LIMIT :most"
TAKE_JOB = """
UPDATE batch_jobs SET claimed_at = CASE WHEN {now} > :last THEN {now} ELSE :last + 1 END, status = 'running',
    started_at = COALESCE(started_at, {now})
WHERE id = :id
"""
READ_JOB = f"SELECT {JOB} FROM batch_jobs WHERE id = :id"  # noqa: S608  (our own names)
READ_OPEN_JOB = f"{READ_JOB} AND finished_at IS NULL AND ending IS NULL AND status <> 'incoming'"
IN_HAND = "SELECT count(*) FROM batch_items WHERE job_id = :id AND state = 'claimed'"
TAKE_ITEMS = """
UPDATE batch_items SET state = 'claimed', owner = :owner, fence = fence + 1, lease_until = {now} + :lease
WHERE job_id = :id AND state = 'open' AND idx {among} RETURNING idx, question, fence, tries
"""
NEXT_ITEMS = """
SELECT idx FROM batch_items
WHERE job_id = :id AND state = 'open' AND tries = :tries AND ready_at <= {now} ORDER BY ready_at, idx LIMIT :most
"""
TAKE_ON_SQLITE = TAKE_ITEMS.replace("{among}", f"IN ({NEXT_ITEMS})")
TAKE_ON_POSTGRESQL = TAKE_ITEMS.replace("{among}", f"= ANY(ARRAY({NEXT_ITEMS}))")
"""Of a job whose items are new PostgreSQL has no statistics: with IN it reads them all for every few."""
RENEW = """
UPDATE batch_items SET lease_until = {now} + :lease
WHERE job_id = :job_id AND idx = :idx AND fence = :fence AND state = 'claimed'
"""
LOCK_JOB = "SELECT 1 FROM batch_jobs WHERE id = :id FOR UPDATE"
STORE = """
UPDATE batch_items SET state = :state, owner = NULL, text = :text, finish_reason = :finish_reason, model = :model,
    prompt_tokens = :prompt_tokens, completion_tokens = :completion_tokens, cost = :cost, error_code = :error_code,
    error_message = :error_message, response = :response
WHERE job_id = :job_id AND idx = :idx AND fence = :fence AND state = 'claimed'
"""
COUNT = """
UPDATE batch_jobs SET completed = completed + :completed, failed = failed + :failed,
    cancelled = cancelled + :cancelled, prompt_tokens = prompt_tokens + :prompt_tokens,
    completion_tokens = completion_tokens + :completion_tokens, unpriced = unpriced + :unpriced,
    cost = CASE WHEN cost > :most - :cost THEN :most ELSE cost + :cost END
WHERE id = :id
"""
FINISH = """
UPDATE batch_jobs SET finished_at = {now}, status = COALESCE(
    CASE WHEN completed = total THEN 'completed' END, ending, CASE WHEN cancelled > 0 THEN 'cancelled' END,
    CASE WHEN failed = total THEN 'failed' END, 'completed')
WHERE id = :id AND finished_at IS NULL AND status <> 'incoming' AND completed + failed + cancelled >= total
"""
GIVE_BACK = """
UPDATE batch_items SET state = 'open', owner = NULL, ready_at = CASE WHEN :wait = 0 THEN 0 ELSE {now} + :wait END
WHERE job_id = :job_id AND idx = :idx AND fence = :fence AND state = 'claimed'
"""
PAUSE = "UPDATE batch_jobs SET resumes_at = {now} + :wait WHERE id = :id AND resumes_at < {now} + :wait"
ABANDONED = """
SELECT job_id, idx, fence, tries FROM batch_items
WHERE state = 'claimed' AND lease_until < {now} ORDER BY lease_until LIMIT :most
"""
FREE = """
UPDATE batch_items SET state = 'open', owner = NULL, tries = tries + 1
WHERE job_id = :job_id AND idx = :idx AND fence = :fence AND state = 'claimed' AND lease_until < {now}
"""
POISON = """
UPDATE batch_items SET state = 'failed', owner = NULL, tries = tries + 1, error_code = :code, error_message = :message
WHERE job_id = :job_id AND idx = :idx AND fence = :fence AND state = 'claimed' AND lease_until < {now}
"""
OVERDUE = """
SELECT id FROM batch_jobs
WHERE finished_at IS NULL AND ending IS NULL AND status <> 'incoming' AND expires_at <= {now}
"""
EXPIRE = "UPDATE batch_jobs SET ending = 'expired' WHERE id = :id AND finished_at IS NULL AND ending IS NULL"
ENDING = "SELECT id, ending FROM batch_jobs WHERE finished_at IS NULL AND ending IS NOT NULL"
CANCEL = """
UPDATE batch_jobs SET ending = 'cancelled', status = 'cancelling'
WHERE id = :id AND finished_at IS NULL AND ending IS NULL AND status <> 'incoming'
"""
CLOSE_ITEMS = """
UPDATE batch_items SET state = :state, error_code = :code, error_message = :message
WHERE job_id = :id AND state = 'open' AND idx IN (
    SELECT idx FROM batch_items WHERE job_id = :id AND state = 'open' LIMIT :most)
"""
REOPEN_ITEMS = """
UPDATE batch_items SET state = 'open', tries = 0, ready_at = 0, error_code = NULL, error_message = NULL
WHERE job_id = :id AND state = 'failed' AND idx >= :first AND idx < :first + :most
"""
REOPEN_JOB = """
UPDATE batch_jobs SET failed = failed - :moved, status = 'queued', finished_at = NULL, ending = NULL, resumes_at = 0,
    expires_at = {now} + :life
WHERE id = :id
"""
INSERT_ITEM = """
INSERT INTO batch_items (job_id, idx, custom_id, question, state, tries, ready_at, fence, lease_until, text,
    finish_reason, model, prompt_tokens, completion_tokens, cost, error_code, error_message, response)
VALUES (:job_id, :idx, :custom_id, :question, :state, 0, 0, 0, 0, :text, :finish_reason, :model, :prompt_tokens,
    :completion_tokens, :cost, :error_code, :error_message, :response)
"""
POISONED_MESSAGE = f"The worker that asked this died {MOST_TRIES} times."
OVERTAKEN = "This submission was sent again meanwhile."
EXPIRED_MESSAGE = "The job expired before this was asked."


class JobFilters(TypedDict, total=False):
    """Which jobs a list shows; what is not said bounds nothing."""

    user_id: str
    door: str
    states: Collection[str]


class Operation:
    """What needs no care at a second try: it changes nothing that it changed already."""

    __slots__ = ()

    def renew(self) -> None:
        """Nothing drawn."""

    def look(self) -> None:
        """What was done is found done."""

    def jobs(self, connection: Connection) -> Collection[str]:
        """Whose items it will write about."""
        return ()


@dataclass(slots=True)
class Take(Operation):
    """Items for a worker that has room for ``most``, in fair turn over all jobs, or of one job only.

    ``tries``: how many workers these have taken down (`domain.batch.most_together`). ``result``: what is claimed.
    """

    owner: str
    most: int
    lease_ms: int
    tries: int = 0
    job_id: str | None = None
    result: list[Claimed] = field(default_factory=list)

    def write(self, connection: Connection, locked: set[str]) -> None:
        self.result = []
        found = _waiting(connection, self.tries, self.tries, self.job_id)
        last = max((waiting.claimed_at for waiting in found), default=0)
        for waiting in fair_order(found):
            if len(self.result) >= self.most:
                break
            if (job := _lock_open(connection, waiting.id, locked)) is not None:
                self.result += self._take(connection, job, self.most - len(self.result), last)

    def _take(self, connection: Connection, job: Job, most: int, last: int) -> list[Claimed]:
        """``last``: when the latest turn was; this one comes after it, also within the same millisecond."""
        (in_hand,) = connection.execute(IN_HAND, {"id": job.id}).fetchone()
        room = min(most, MOST_AT_ONCE, job.max_concurrency - in_hand)
        items = self._take_items(connection, job, room) if room > 0 else []
        if items:
            connection.execute(with_now(connection, TAKE_JOB), {"id": job.id, "last": last})
        return items

    def _take_items(self, connection: Connection, job: Job, most: int) -> list[Claimed]:
        values = {"id": job.id, "owner": self.owner, "lease": self.lease_ms, "tries": self.tries, "most": most}
        statement = TAKE_ON_SQLITE if connection.is_sqlite else TAKE_ON_POSTGRESQL
        rows = connection.execute(with_now(connection, statement), values).fetchall()
        return [Claimed(job, idx, json.loads(question), fence, tries) for idx, question, fence, tries in sorted(rows)]


@dataclass(slots=True)
class Suspects(Operation):
    """Whether items wait, of any job or of that one, that a worker had in hand that died. ``result``: that."""

    job_id: str | None = None
    result: bool = False

    def write(self, connection: Connection, _locked: set[str]) -> None:
        self.result = bool(_waiting(connection, 1, MOST_TRIES, self.job_id))


def _lock_open(connection: Connection, job_id: str, locked: set[str]) -> Job | None:
    """The job, if it is open. It is locked out of order, so it is waited for only where nothing else is held."""
    lock = "" if connection.is_sqlite else " FOR UPDATE"
    if lock and locked and job_id not in locked:
        lock += " SKIP LOCKED"
    row = connection.execute(READ_OPEN_JOB + lock, {"id": job_id}).fetchone()
    if row is None:
        return None
    locked.add(job_id)
    return job_of(row)


def _waiting(connection: Connection, low: int, high: int, job_id: str | None) -> list[Waiting]:
    tries = {"low": low, "high": high}
    if job_id is None:
        rows = connection.execute(with_now(connection, WAITING_ALL), {**tries, "most": MOST_JOBS})
    else:
        rows = connection.execute(with_now(connection, WAITING_ONE), {**tries, "id": job_id})
    return [Waiting(*row) for row in rows.fetchall()]


@dataclass(slots=True)
class Renew(Operation):
    """These are still worked on; what else their worker claimed is not. ``result``: how many it still holds."""

    items: Sequence[Claimed]
    lease_ms: int
    result: int = 0

    def jobs(self, connection: Connection) -> Collection[str]:
        return {item.job.id for item in self.items}

    def write(self, connection: Connection, _locked: set[str]) -> None:
        self.result = 0
        for item in self.items:
            values = {"job_id": item.job.id, "idx": item.index, "fence": item.fence, "lease": self.lease_ms}
            self.result += connection.execute(with_now(connection, RENEW), values).rowcount


@dataclass(slots=True)
class Store(Operation):
    """The result of an item. ``result``: whether it was stored; False where somebody else has the item now.

    ``then``: what its worker takes in its place, in the same transaction; of several that end together, at once.
    """

    job_id: str
    index: int
    fence: int
    ended: Ended
    then: Take | None = None
    result: bool | None = None

    def jobs(self, connection: Connection) -> Collection[str]:
        return (self.job_id,)

    def values(self) -> dict[str, Any]:
        return {**_values(self.ended), "job_id": self.job_id, "idx": self.index, "fence": self.fence}


def _store_all(connection: Connection, stores: Sequence[Store]) -> None:
    """Results of a group, and what they add to their jobs; the last result of a job ends it."""
    sums: dict[str, _Sums] = defaultdict(_Sums)
    for one, changed in zip(stores, connection.each_changed(STORE, [one.values() for one in stores]), strict=True):
        one.result = changed
        if changed:
            sums[one.job_id].add(one.ended)
    for job_id, found in sorted(sums.items()):
        _count(connection, job_id, found)


def _follow(connection: Connection, stores: Sequence[Store], locked: set[str]) -> None:
    """What takes the place of these."""
    wanted: dict[tuple[str, int, str | None], list[Take]] = defaultdict(list)
    for want in (one.then for one in stores):
        if want is not None:
            wanted[want.owner, want.tries, want.job_id].append(want)
    for wants in wanted.values():
        together = replace(wants[0], most=sum(want.most for want in wants))
        together.write(connection, locked)
        found = iter(together.result)
        for want in wants:
            want.result = list(islice(found, want.most))


@dataclass(slots=True)
class _Sums:
    """What results add to their job."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: int = 0
    unpriced: int = 0

    def add(self, ended: Ended) -> None:
        setattr(self, ended.state, getattr(self, ended.state) + 1)
        self.prompt_tokens += ended.prompt_tokens
        self.completion_tokens += ended.completion_tokens
        self.cost += ended.cost or 0
        self.unpriced += ended.state == COMPLETED and ended.cost is None


def _count(connection: Connection, job_id: str, sums: _Sums) -> None:
    values = {name: getattr(sums, name) for name in sums.__slots__}
    values["cost"] = min(sums.cost, MOST_SUM)
    connection.execute(COUNT, {**values, "id": job_id, "most": MOST_SUM})
    _finish(connection, job_id)


def _finish(connection: Connection, job_id: str) -> None:
    """End the job where all of its items have their result; whoever wants to be told is told, if it is committed."""
    if connection.execute(with_now(connection, FINISH), {"id": job_id}).rowcount != 1:
        return
    job = job_of(connection.execute(READ_JOB, {"id": job_id}).fetchone())
    if job.callback_url is not None:
        outbox.add(connection, ended_event(job, new_id()))


@dataclass(slots=True)
class GiveBack(Operation):
    """Items that were not asked after all: open again in ``wait_ms``, and so is the rest of their job if it pauses."""

    items: Sequence[Claimed]
    wait_ms: int = 0
    pause: bool = False
    result: int = 0

    def jobs(self, connection: Connection) -> Collection[str]:
        return {item.job.id for item in self.items}

    def write(self, connection: Connection, _locked: set[str]) -> None:
        self.result = 0
        for item in self.items:
            values = {"job_id": item.job.id, "idx": item.index, "fence": item.fence, "wait": self.wait_ms}
            self.result += connection.execute(with_now(connection, GIVE_BACK), values).rowcount
        for job_id in sorted(self.jobs(connection) if self.pause else ()):
            connection.execute(with_now(connection, PAUSE), {"id": job_id, "wait": self.wait_ms})


@dataclass(slots=True)
class Reap(Operation):
    """Items whose worker died: open again, or failed where it was the last try. ``result``: (freed, failed)."""

    result: tuple[int, int] = (0, 0)
    rows: list[Any] = field(default_factory=list)

    def jobs(self, connection: Connection) -> Collection[str]:
        self.rows = connection.execute(with_now(connection, ABANDONED), {"most": CHUNK}).fetchall()
        return {row[0] for row in self.rows}

    def write(self, connection: Connection, _locked: set[str]) -> None:
        freed, failed = 0, 0
        for job_id, idx, fence, tries in self.rows:
            values = {"job_id": job_id, "idx": idx, "fence": fence}
            if tries + 1 < MOST_TRIES:
                freed += connection.execute(with_now(connection, FREE), values).rowcount
                continue
            told = {"code": POISONED, "message": POISONED_MESSAGE}
            if connection.execute(with_now(connection, POISON), {**values, **told}).rowcount:
                failed += 1
                _count(connection, job_id, _Sums(failed=1))
        self.result = (freed, failed)


@dataclass(slots=True)
class Cancel(Operation):
    """No open item is asked any more. ``result``: whether it was still to be cancelled."""

    job_id: str
    result: bool = False

    def jobs(self, connection: Connection) -> Collection[str]:
        return (self.job_id,)

    def write(self, connection: Connection, _locked: set[str]) -> None:
        self.result = connection.execute(CANCEL, {"id": self.job_id}).rowcount == 1


@dataclass(slots=True)
class Overdue(Operation):
    """Jobs past their time begin to end. ``result``: all that are ending, with the reason."""

    result: list[tuple[str, str]] = field(default_factory=list)
    overdue: list[str] = field(default_factory=list)

    def jobs(self, connection: Connection) -> Collection[str]:
        self.overdue = [job_id for (job_id,) in connection.execute(with_now(connection, OVERDUE)).fetchall()]
        return self.overdue

    def write(self, connection: Connection, _locked: set[str]) -> None:
        for job_id in self.overdue:
            connection.execute(EXPIRE, {"id": job_id})
        self.result = [(job_id, ending) for job_id, ending in connection.execute(ENDING).fetchall()]


@dataclass(slots=True)
class Close(Operation):
    """Some of the open items of a job that is ending get their result. ``result``: whether there may be more."""

    job_id: str
    ending: str
    result: bool = False

    def jobs(self, connection: Connection) -> Collection[str]:
        return (self.job_id,)

    def write(self, connection: Connection, _locked: set[str]) -> None:
        expired = self.ending == EXPIRED
        values = {
            "id": self.job_id, "most": CHUNK, "state": FAILED if expired else CANCELLED,
            "code": EXPIRED if expired else None, "message": EXPIRED_MESSAGE if expired else None,
        }  # fmt: skip
        closed = connection.execute(CLOSE_ITEMS, values).rowcount
        _count(connection, self.job_id, _Sums(failed=closed) if expired else _Sums(cancelled=closed))
        self.result = closed == CHUNK


@dataclass(slots=True)
class Reopen(Operation):
    """The failed items of a stretch are asked again. ``result``: how many."""

    job_id: str
    first: int
    life_ms: int
    result: int = 0

    def jobs(self, connection: Connection) -> Collection[str]:
        return (self.job_id,)

    def write(self, connection: Connection, _locked: set[str]) -> None:
        values = {"id": self.job_id, "first": self.first, "most": CHUNK}
        self.result = moved = connection.execute(REOPEN_ITEMS, values).rowcount
        if moved:
            values = {"id": self.job_id, "moved": moved, "life": self.life_ms}
            connection.execute(with_now(connection, REOPEN_JOB), values)


def write_all(connection: Connection, operations: Sequence[Any]) -> None:
    """A group: results first, which make room for what is taken."""
    locked = {job_id for one in operations for job_id in one.jobs(connection)}
    _lock_jobs(connection, locked)
    stores = [one for one in operations if isinstance(one, Store)]
    _store_all(connection, stores)
    _follow(connection, stores, locked)
    for one in operations:
        if not isinstance(one, Store):
            one.write(connection, locked)


def _lock_jobs(connection: Connection, job_ids: Collection[str]) -> None:
    """On PostgreSQL, the rows of these jobs in one order; SQLite has one writer."""
    if not connection.is_sqlite:
        for job_id in sorted(job_ids):
            connection.execute(LOCK_JOB, {"id": job_id})


# -- sessions ---------------------------------------------------------------------------------------------------------


def job_of(row: Sequence[Any]) -> Job:
    """A job out of the columns of `JOB`."""
    held = dict(zip(JOB_NAMES, row, strict=True))
    unpriced = held.pop("unpriced")
    held["cost"] = None if unpriced else held["cost"]
    return Job(**held | {"metadata": json.loads(held["metadata"]), "details": json.loads(held["details"])})


_COLUMNS = [getattr(BatchJobRow, "job_metadata" if name == "metadata" else name) for name in JOB_NAMES]


def add_job(session: Session, job_id: str, submission: Submission, owner: tuple[str, str | None], life_ms: int) -> None:
    """A job that nobody sees before `open_job`; ``owner``: the ids of user and token.

    Raises `Conflict` where another try of the same submission is at work.
    """
    at = now_ms()
    values = {
        "id": job_id,
        "kind": submission.kind,
        "door": submission.door,
        "scope": submission.scope,
        "user_id": owner[0],
        "token_id": owner[1],
        "status": INCOMING,
        "priority": submission.priority,
        "max_concurrency": submission.max_concurrency,
        "total": 0,
        "model": submission.model,
        "job_metadata": _json(submission.metadata),
        "callback_url": submission.callback_url,
        "details": _json(submission.details),
        "created_at": at,
        "expires_at": at + life_ms,
    }
    session.add(BatchJobRow(**values))
    try:
        session.flush()
    except IntegrityError:
        raise Conflict(OVERTAKEN) from None


def add_items(session: Session, job_id: str, first: int, items: Iterable[NewItem]) -> int:
    """More items of a job that is still incoming, the first at that place. Gives how many.

    Raises `Conflict` where another try of the same submission has written them.
    """
    rows = [
        {"job_id": job_id, "idx": place, "custom_id": item.custom_id, "question": _json(item.question)}
        | _values(item.ended or UNASKED)
        for place, item in enumerate(items, first)
    ]
    try:
        session.execute(text(INSERT_ITEM), rows)
    except IntegrityError:
        raise Conflict(OVERTAKEN) from None  # what the driver says has the questions in it
    return len(rows)


UNASKED = Ended(OPEN)
"""The columns of an item that has no result."""


def _values(ended: Ended) -> dict[str, Any]:
    return {name: getattr(ended, name) for name in ended.__slots__}


def open_job(session: Session, job_id: str, written: int, details: Mapping[str, Any] | None = None) -> None:
    """All items are there: the job is accepted. What has its result already is counted.

    ``written``: how many there have to be. Raises `Conflict` where there are not so many: another try of the same
    submission began anew, for this one stood still.
    """
    row, item = session.get(BatchJobRow, job_id), BatchItemRow
    found = session.execute(select(item.state, func.count()).where(item.job_id == job_id).group_by(item.state)).all()
    if row is None or row.status != INCOMING or sum(count for _, count in found) != written:
        raise Conflict(OVERTAKEN)
    counts = {state: count for state, count in found if state != SAME}
    row.status, row.total = QUEUED, sum(counts.values())
    row.completed, row.failed = counts.get(COMPLETED, 0), counts.get(FAILED, 0)
    if details is not None:
        row.details = _json(details)


def end_unasked(session: Session, job_id: str) -> None:
    """What it came in as was no good: it has failed, without an item."""
    row = session.get_one(BatchJobRow, job_id)
    row.status, row.started_at = FAILED, None
    row.finished_at = row.delivered_at = now_ms()


def undelivered(session: Session, door: str, *, at: int, most: int) -> list[Job]:
    """Jobs of this door that are over and whose files nobody has written, or is writing at that time."""
    row = BatchJobRow
    is_due = (row.door == door) & row.finished_at.is_not(None) & row.delivered_at.is_(None) & (row.resumes_at <= at)
    return [job_of(found) for found in session.execute(select(*_COLUMNS).where(is_due).limit(most))]


def begin_delivery(session: Session, job_id: str, *, at: int, until: int) -> bool:
    """Nobody else writes its files until then. False where somebody does, or did."""
    row = BatchJobRow
    is_free = (row.id == job_id) & row.delivered_at.is_(None) & (row.resumes_at <= at)
    return bool(session.execute(update(row).where(is_free).values(resumes_at=until)).rowcount)  # type: ignore[attr-defined]


def renew_delivery(session: Session, job_id: str, *, until: int) -> None:
    """Whoever writes its files is still at it."""
    is_due = (BatchJobRow.id == job_id) & BatchJobRow.delivered_at.is_(None)
    session.execute(update(BatchJobRow).where(is_due).values(resumes_at=until))


def deliver(session: Session, job_id: str, details: Mapping[str, Any], *, at: int) -> bool:
    """Its files are written. False where somebody else's are there already."""
    row = BatchJobRow
    is_due = (row.id == job_id) & row.finished_at.is_not(None) & row.delivered_at.is_(None)
    values = {"delivered_at": at, "details": _json(details)}
    return bool(session.execute(update(row).where(is_due).values(**values)).rowcount)  # type: ignore[attr-defined]


def set_details(session: Session, job_id: str, details: Mapping[str, Any]) -> None:
    """Of a job, if it is not over."""
    is_open = (BatchJobRow.id == job_id) & BatchJobRow.finished_at.is_(None)
    session.execute(update(BatchJobRow).where(is_open).values(details=_json(details)))


def find_job(session: Session, job_id: str, *, user_id: str | None, door: str | None = None) -> Job | None:
    """Of this user and door (None: of any); somebody else's is as good as none."""
    query = select(*_COLUMNS).where(BatchJobRow.id == job_id, BatchJobRow.status != INCOMING)
    if user_id is not None:
        query = query.where(BatchJobRow.user_id == user_id)
    if door is not None:
        query = query.where(BatchJobRow.door == door)
    row = session.execute(query).one_or_none()
    return None if row is None else job_of(row)


def has_job(session: Session, job_id: str) -> bool:
    """Whether there is one of this id, seen or not."""
    return session.get(BatchJobRow, job_id) is not None


def list_jobs(session: Session, filters: JobFilters, *, limit: int, after: str | None) -> list[Job]:
    """Newest first; ``after`` is the id that the page before ended with."""
    row = BatchJobRow
    query = select(*_COLUMNS).where(row.status != INCOMING, *_conditions(filters))
    start = session.get(row, after) if after else None
    if start:
        same, older = row.created_at == start.created_at, row.created_at < start.created_at
        query = query.where(older | (same & (row.id < start.id)))
    newest = query.order_by(row.created_at.desc(), row.id.desc()).limit(limit)
    return [job_of(found) for found in session.execute(newest)]


def _conditions(filters: JobFilters) -> Iterator[ColumnElement[bool]]:
    if "user_id" in filters:
        yield BatchJobRow.user_id == filters["user_id"]
    if "door" in filters:
        yield BatchJobRow.door == filters["door"]
    if "states" in filters:
        yield BatchJobRow.status.in_(filters["states"])


def find_jobs(session: Session, job_ids: Collection[str]) -> list[Job]:
    """Those of them that there are, newest first; anybody's."""
    row = BatchJobRow
    query = select(*_COLUMNS).where(row.id.in_(job_ids), row.status != INCOMING)
    return [job_of(found) for found in session.execute(query.order_by(row.created_at.desc(), row.id.desc()))]


def cancel_job(session: Session, job_id: str) -> bool:
    """The same as `Cancel`, in a transaction that has more to write."""
    return bool(session.execute(text(CANCEL), {"id": job_id}).rowcount)  # type: ignore[attr-defined]


def reopen_items(session: Session, job_id: str, first: int, life_ms: int) -> int:
    """The same as `Reopen`, in a transaction that has more to write. Gives how many items are asked again."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(LOCK_JOB), {"id": job_id})
    moved: int = session.execute(  # type: ignore[attr-defined]
        text(REOPEN_ITEMS), {"id": job_id, "first": first, "most": CHUNK}
    ).rowcount
    if moved:
        values = {"id": job_id, "moved": moved, "life": life_ms, "now": now_of(session)}
        session.execute(text(REOPEN_JOB.replace("{now}", ":now")), values)
    return moved


_ITEM = [
    getattr(BatchItemRow, name)
    for name in ("idx", "custom_id", "state", "text", "finish_reason", "model", "prompt_tokens", "completion_tokens")
] + [getattr(BatchItemRow, name) for name in ("cost", "error_code", "error_message", "response")]


def list_items(
    session: Session, job_id: str, *, first: int, limit: int, states: Collection[str] | None = None
) -> list[Item]:
    """In the order of the input, from this index on; ``states``: only those."""
    row = BatchItemRow
    query = select(*_ITEM).where(row.job_id == job_id, row.idx >= first).order_by(row.idx).limit(limit)
    if states is not None:
        query = query.where(row.state.in_(states))
    return [_item_of(found) for found in session.execute(query)]


def items_at(session: Session, job_id: str, places: Collection[int]) -> dict[int, Item]:
    """The items with these indices."""
    row = BatchItemRow
    query = select(*_ITEM).where(row.job_id == job_id, row.idx.in_(places))
    return {found.idx: _item_of(found) for found in session.execute(query)}


def _item_of(row: Any) -> Item:
    if row.state in (OPEN, CLAIMED):
        return Item(row.idx, row.custom_id, row.state, None)
    ended = Ended(
        row.state, row.text or "", row.finish_reason, row.model, row.prompt_tokens, row.completion_tokens, row.cost,
        row.error_code, row.error_message, row.response,
    )  # fmt: skip
    return Item(row.idx, row.custom_id, row.state, ended)


def count_claimable(session: Session) -> int:
    """Jobs with something to do, paused ones too."""
    return session.scalar(_claimable()) or 0


def count_waiting(session: Session, *, for_ms: int) -> int:
    """Jobs with something to do now that have been there for so long."""
    row, at = BatchJobRow, now_of(session)
    return session.scalar(_claimable().where(row.created_at < at - for_ms, row.resumes_at <= at)) or 0


def _claimable() -> Select[int]:
    row, item = BatchJobRow, BatchItemRow
    has_open = exists().where(item.job_id == row.id, item.state == OPEN)
    query = select(func.count()).select_from(row)
    return query.where(row.finished_at.is_(None), row.ending.is_(None), row.status != INCOMING, has_open)


def old_jobs(session: Session, *, ended_before: int, incoming_before: int) -> list[str]:
    """Jobs whose results are no longer kept, and submissions that broke off."""
    row = BatchJobRow
    broken = (row.status == INCOMING) & (row.created_at < incoming_before)
    return list(session.scalars(select(row.id).where((row.finished_at < ended_before) | broken).limit(50)))


def delete_some(session: Session, job_id: str) -> bool:
    """Some items of a job, and the job with the last of them. True where there is more to do."""
    item = BatchItemRow
    places = session.scalars(select(item.idx).where(item.job_id == job_id).limit(CHUNK)).all()
    if places:
        session.execute(delete(item).where(item.job_id == job_id, item.idx.in_(places)))
        return True
    session.execute(delete(BatchJobRow).where(BatchJobRow.id == job_id))
    return False


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value if isinstance(value, dict) else dict(value), ensure_ascii=False, separators=(",", ":"))
