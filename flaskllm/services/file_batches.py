"""Batches that come in as a file and go out as two (OpenAI's protocol): jobs like all others, and their files.

The files of a job are written when it is over, by whoever does the housekeeping: under a lease, so that one does it,
and shown together with the job's end in one transaction, so that each is there once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Session

from flaskllm.domain.batch import CANCELLED, COMPLETED, FAILED, Item, Job, Submission
from flaskllm.domain.file import BATCH, BATCH_OUTPUT, LONGEST_LIFE_S, StoredFile
from flaskllm.domain.principal import Principal
from flaskllm.errors import NotFound, invalid
from flaskllm.models.types import new_id
from flaskllm.repositories import batches as repository
from flaskllm.repositories import files as files_repository
from flaskllm.repositories.database import Database
from flaskllm.repositories.ledger import now_ms
from flaskllm.services.batches import LIFE_MS, BatchService
from flaskllm.services.files import FileService

log = logging.getLogger(__name__)

AT_ONCE = 10
"""Jobs whose files are written in one round of the housekeeping."""
LEASE_MS = 15_000
"""For writing the files of a job, renewed meanwhile: so long nobody else takes over from who died."""

Line = Callable[[Job, Item], bytes]
"""How an item is told in a file."""
OUTPUT, ERRORS = ("output_file_id", "output", (COMPLETED,)), ("error_file_id", "errors", (FAILED, CANCELLED))
"""The files of a job: the field that names it, its name, the states of the items in it."""


class FileBatchService:
    """``door``: the name that these jobs have among all; ``line``: how a result is written."""

    def __init__(
        self,
        database: Database,
        batches: BatchService,
        files: FileService,
        *,
        door: str,
        line: Line,
        lease_ms: int = LEASE_MS,
    ) -> None:
        self._db = database
        self._batches = batches
        self._files = files
        self._door = door
        self._line = line
        self._lease_ms = lease_ms

    def input_file(self, principal: Principal, file_id: str) -> StoredFile:
        """A file of this user that a batch may read. Raises `InvalidRequest` naming the field."""
        try:
            file = self._files.get(principal, file_id)
        except NotFound:
            raise invalid("input_file_id", "is not the id of a file of yours") from None
        if file.purpose != BATCH:
            raise invalid("input_file_id", f"must be a file of the purpose {BATCH!r}")
        return file

    def refuse(self, principal: Principal, submission: Submission, errors: list[dict[str, Any]]) -> Job:
        """A job that failed before it began: its file was no good, and these faults of it are told with the job."""
        job_id, told = new_id(), replace(submission, details={**submission.details, "errors": errors})
        with self._db.transaction() as session:
            repository.add_job(session, job_id, told, (principal.user_id, principal.token_id), LIFE_MS)
            session.flush()
            repository.end_unasked(session, job_id)
        return self.get(principal, job_id)

    def get(self, principal: Principal, job_id: str) -> Job:
        """Raises `NotFound`, for somebody else's too."""
        return self._batches.get(principal, job_id, door=self._door)

    def list(self, principal: Principal, *, limit: int, after: str | None) -> tuple[list[Job], bool]:
        """A page of this user's, newest first, and whether there are more."""
        jobs, following = self._batches.list(principal, self._door, limit=limit, after=after)
        return jobs, following is not None

    def cancel(self, principal: Principal, job_id: str) -> Job:
        """Raises `NotFound`, or `Conflict` where it is over."""
        job = self.get(principal, job_id)
        with self._db.transaction() as session:
            self.note_cancelling(session, job)
        return self._batches.cancel(principal, job_id, door=self._door)

    def note_cancelling(self, session: Session, job: Job) -> None:
        """When it was asked to stop, in the transaction of whoever asks; nothing for a job of another door."""
        if job.door == self._door and job.finished_at is None and "cancelling_at" not in job.details:
            repository.set_details(session, job.id, {**job.details, "cancelling_at": now_ms()})

    # -- out --------------------------------------------------------------------------------------------------------

    def deliver_all(self) -> None:
        """Write the files of jobs that are over and have none."""
        at = now_ms()
        with self._db.reading() as session:
            jobs = repository.undelivered(session, self._door, at=at, most=AT_ONCE)
        for job in jobs:
            with self._db.transaction() as session:
                is_ours = repository.begin_delivery(session, job.id, at=at, until=now_ms() + self._lease_ms)
            if is_ours:
                self._deliver(job)

    def _deliver(self, job: Job) -> None:
        written = {
            field: self._write(job, name, states)
            for field, name, states in (OUTPUT, ERRORS)
            if any(getattr(job, state) for state in states)
        }
        with self._db.transaction() as session:
            told = {name: file.id for name, file in written.items()}
            is_first = repository.deliver(session, job.id, {**job.details, **told}, at=now_ms())
            for file in written.values() if is_first else ():
                files_repository.open_file(session, file.id, file.size)
        if not is_first:
            log.warning("the files of a batch were written twice; the later ones are dropped")
            for file in written.values():
                self._files.drop(file)

    def _write(self, job: Job, name: str, states: Collection[str]) -> StoredFile:
        filename = f"batch_{job.id.replace('-', '')}_{name}.jsonl"
        life_s = job.details.get("output_life_s", LONGEST_LIFE_S)
        lines = self._lines(job, states)
        return self._files.write(job.user_id, filename, BATCH_OUTPUT, lines, life_s=life_s, most=None)

    def _lines(self, job: Job, states: Collection[str]) -> Iterator[bytes]:
        """The lease is renewed as they are written."""
        renewed_at = now_ms()
        for item in self._batches.all_items(job, states=states):
            yield self._line(job, item)
            if now_ms() - renewed_at >= self._lease_ms / 3:
                renewed_at = now_ms()
                with self._db.transaction() as session:
                    repository.renew_delivery(session, job.id, until=renewed_at + self._lease_ms)
