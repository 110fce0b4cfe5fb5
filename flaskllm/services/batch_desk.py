"""Everybody's batches, whatever door they came in by, as administrators see them; what is done to one is told."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

from sqlalchemy.orm import Session

from flaskllm.domain.audit import Actor
from flaskllm.domain.batch import CANCELLED, CANCELLING, PROMPTS_DOOR, QUEUED, SAME, Ended, Item, Job
from flaskllm.errors import Conflict, NotFound, invalid
from flaskllm.repositories import batches as repository
from flaskllm.repositories.batches import CHUNK, JobFilters
from flaskllm.repositories.database import Database
from flaskllm.repositories.usage import user_names
from flaskllm.services.audit import AuditTrail
from flaskllm.services.batches import LIFE_MS, READ_AT_ONCE, BatchService
from flaskllm.services.file_batches import FileBatchService


@dataclass(frozen=True, slots=True)
class OwnedJob:
    """A job, and the name of whose it is."""

    job: Job
    username: str

    @property
    def can_be_cancelled(self) -> bool:
        return self.job.finished_at is None and self.job.ending is None

    @property
    def can_be_retried(self) -> bool:
        """What came in as a file has been given out as files, and who asked a range has its rows: those stay."""
        return self.job.door == PROMPTS_DOOR and self.job.finished_at is not None and self.job.failed > 0


class BatchDesk:
    """Looks at jobs, stops them, has failed items asked again: `BatchService` without an owner."""

    def __init__(
        self, database: Database, batches: BatchService, file_batches: FileBatchService, audit: AuditTrail
    ) -> None:
        self._db = database
        self._batches = batches
        self._file_batches = file_batches
        self._audit = audit

    # -- looking ------------------------------------------------------------------------------------------------------

    def list(
        self, *, limit: int, after: str | None = None, **filters: Unpack[JobFilters]
    ) -> tuple[Sequence[OwnedJob], str | None]:
        """A page, newest first, and where the next one begins."""
        with self._db.reading() as session:
            if after is not None and repository.find_job(session, after, user_id=None) is None:
                raise invalid("after", "is not the id of a job")
            jobs = _owned(session, repository.list_jobs(session, filters, limit=limit + 1, after=after))
        return (jobs, None) if len(jobs) <= limit else (jobs[:limit], jobs[limit - 1].job.id)

    def some(self, job_ids: Collection[str]) -> Sequence[OwnedJob]:
        """Those of them that are still there, newest first."""
        with self._db.reading() as session:
            return _owned(session, repository.find_jobs(session, job_ids))

    def get(self, job_id: str) -> OwnedJob:
        """Raises `NotFound`."""
        found = self.some([job_id])
        if not found:
            raise NotFound("There is no such job.")
        return found[0]

    def items(
        self, job: Job, *, first: int = 0, limit: int = READ_AT_ONCE, states: Collection[str] | None = None
    ) -> tuple[Sequence[Item], int | None]:
        """Items from this index on, in the order of the input, and the index where the next page begins."""
        found = self._batches.items(job, first=first, limit=limit + 1, states=states)
        following = found[limit].index if len(found) > limit else None
        return self._resolved(job, found[:limit]), following

    def all_items(self, job: Job) -> Iterator[Item]:
        """All of them, read a page at a time; no session is held between two."""
        first: int | None = 0
        while first is not None:
            page, first = self.items(job, first=first)
            yield from page

    def _resolved(self, job: Job, items: Sequence[Item]) -> Sequence[Item]:
        """A row that was not asked, since another asks the same, has that one's result and cost nothing."""
        wanted = {int(item.result.text) for item in items if item.state == SAME and item.result is not None}
        if not wanted:
            return items
        with self._db.reading() as session:
            known = repository.items_at(session, job.id, wanted)
        return [_copied(item, known[int(item.result.text)]) if _is_same(item) else item for item in items]  # type: ignore[union-attr]

    # -- doing --------------------------------------------------------------------------------------------------------

    def cancel(self, job_id: str, *, actor: Actor) -> OwnedJob:
        """Ask no more of its items; those in flight end. Raises `NotFound`, or `Conflict` where it is over."""
        job = self.get(job_id).job
        if job.finished_at is not None:
            raise Conflict(f"The job is {job.status}; there is nothing to cancel.")
        with self._db.transaction() as session:
            is_ours = repository.cancel_job(session, job.id)
            if is_ours:
                self._file_batches.note_cancelling(session, job)
                before, after = {"status": job.status}, {"status": CANCELLING}
                self._audit.record(session, actor, "batch.cancel", f"batch:{job.id}", before, after)
        if is_ours:
            self._batches.close(job.id, CANCELLED)
        return self.get(job_id)

    def retry(self, job_id: str, *, actor: Actor) -> OwnedJob:
        """Ask the failed items of a job that is over again. Raises `NotFound`, or `Conflict` where there is nothing
        to ask."""
        owned = self.get(job_id)
        if not owned.can_be_retried:
            raise Conflict(f"The job is {owned.job.status}, and there is nothing in it to try again.")
        is_told = False
        for first in range(0, owned.job.total, CHUNK):
            is_told = self._reopen(owned.job, first, None if is_told else actor) or is_told
        self._batches.ring(job_id)
        return self.get(job_id)

    def _reopen(self, job: Job, first: int, actor: Actor | None) -> bool:
        """A stretch of it; the first in which there is something tells the trail. Whether there was something."""
        with self._db.transaction() as session:
            moved = repository.reopen_items(session, job.id, first, LIFE_MS)
            if moved and actor is not None:
                before, after = {"status": job.status, "failed": job.failed}, {"status": QUEUED, "failed": 0}
                self._audit.record(session, actor, "batch.retry", f"batch:{job.id}", before, after)
        return bool(moved)


def _owned(session: Session, jobs: Sequence[Job]) -> Sequence[OwnedJob]:
    names = user_names(session, sorted({job.user_id for job in jobs}))
    return [OwnedJob(job, names.get(job.user_id, "")) for job in jobs]


def _is_same(item: Item) -> bool:
    return item.state == SAME and item.result is not None


def _copied(item: Item, source: Item) -> Item:
    result: Ended | None = source.result
    if result is not None:
        result = replace(result, prompt_tokens=0, completion_tokens=0, cost=0)
    return Item(item.index, item.custom_id, source.state, result)
