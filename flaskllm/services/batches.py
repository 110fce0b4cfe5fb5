"""Batches as their owners see them: accepted whole or not at all, looked at, stopped, tried again, read.

SQL is the queue of record: a job is accepted once its rows are committed, and a doorbell (``jobs/queue.py``) only wakes
who works on it (`batch_worker.BatchWorker`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from flaskllm.domain.batch import CANCELLED, MOST_ITEMS, Item, Job, NewItem, Submission, question_of
from flaskllm.domain.catalogue import Model
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.embedding import EmbedRequest
from flaskllm.domain.estimate import prompt_estimate
from flaskllm.domain.pricing import bound_of
from flaskllm.domain.principal import Principal
from flaskllm.errors import Conflict, NotFound, invalid
from flaskllm.models.types import new_id
from flaskllm.repositories import batches as repository
from flaskllm.repositories.batches import CHUNK, Cancel, Close, JobFilters, Overdue, Reap, Reopen
from flaskllm.repositories.database import Database
from flaskllm.repositories.ledger import now_ms
from flaskllm.services import crash
from flaskllm.services.ledger import DEFAULT_OUTPUT_CAP
from flaskllm.services.model_router import ModelRouter

log = logging.getLogger(__name__)

LIFE_MS = 24 * 3600 * 1000
"""A job that has not ended by then expires."""
KEPT_MS = 30 * 24 * 3600 * 1000
"""How long results may be read."""
BROKEN_MS = 3600 * 1000
"""A submission whose items are still incoming after that has broken off."""
SAME_MS = 24 * 3600 * 1000
"""How long a submission under one key is the same one."""
WRITTEN_AT_ONCE = 500
"""Items in one transaction: others who write must not wait long."""
READ_AT_ONCE = 200
USUAL_ANSWER = 256
"""Tokens that an estimate takes for an answer."""
USUAL_SECONDS = 2.0
"""The same for the time of one call."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a submission would come to. ``cost`` and ``cost_at_most`` in 10⁻⁹ dollar, None where a price is unknown."""

    items: int
    cost: int | None
    cost_at_most: int | None
    seconds: float


class BatchService:
    """``run`` commits an operation of `repositories.batches`; ``ring`` tells idle workers of a job; ``check_callback``
    refuses an address that is not to be called."""

    def __init__(
        self,
        database: Database,
        run: Callable[[Any], Any],
        router: ModelRouter,
        *,
        ring: Callable[[str], None],
        check_callback: Callable[[str], None],
    ) -> None:
        self._db = database
        self._run = run
        self._router = router
        self._ring = ring
        self._check_callback = check_callback

    # -- in ---------------------------------------------------------------------------------------------------------

    def check(self, submission: Submission) -> None:
        """Raises `InvalidRequest` or `ForbiddenTarget` where its ``callback_url`` is not to be called."""
        if submission.callback_url is not None:
            self._check_callback(submission.callback_url)

    def submit(
        self, principal: Principal, submission: Submission, items: Iterable[NewItem], *, job_id: str | None = None
    ) -> Job:
        """Accept a job with at least one item; ``items`` are read once and written as they come. Raises as `check`.

        They must have been checked: nothing is visible before the last is written, and what broke off is swept. A token
        with a bound on its calls in flight bounds the job too. ``job_id``: the same at every try of one submission,
        which is accepted once in `SAME_MS`. Raises `Conflict` where another try overtook this one.
        """
        self.check(submission)
        most = submission.max_concurrency
        submission = replace(submission, max_concurrency=min(most, principal.concurrency or most))
        if job_id is not None and (job := self._accepted(job_id)) is not None:
            if job.created_at > now_ms() - SAME_MS:
                return job
            job_id = None
        job_id = job_id or new_id()
        with self._db.transaction() as session:
            owner = (principal.user_id, principal.token_id)
            repository.add_job(session, job_id, submission, owner, LIFE_MS)
        written = self._add_items(job_id, items)
        crash.point(crash.BEFORE_OPEN)
        with self._db.transaction() as session:
            repository.open_job(session, job_id, written)
        crash.point(crash.BEFORE_RING)
        self.ring(job_id)
        crash.point(crash.AFTER_RING)
        return self.get(principal, job_id)

    def _accepted(self, job_id: str) -> Job | None:
        """What an earlier try has come to; what broke off in the middle is forgotten."""
        with self._db.reading() as session:
            job = repository.find_job(session, job_id, user_id=None)
            broke_off = job is None and repository.has_job(session, job_id)
        if broke_off:
            self._delete(job_id)
        return job

    def _add_items(self, job_id: str, items: Iterable[NewItem]) -> int:
        total, waiting = 0, iter(items)
        while chunk := list(islice(waiting, WRITTEN_AT_ONCE)):
            if total + len(chunk) > MOST_ITEMS:
                raise invalid("requests", f"must have at most {MOST_ITEMS} items")
            with self._db.transaction() as session:
                total += repository.add_items(session, job_id, total, chunk)
            crash.point(crash.BETWEEN_ROWS)
        return total

    def ring(self, job_id: str) -> None:
        """Wake somebody; a doorbell that fails costs time only, since the sweeper rings again."""
        try:
            self._ring(job_id)
        except Exception as error:  # noqa: BLE001  (redis-py's tree and the socket's own)
            log.warning("the doorbell of a batch did not ring: %s", type(error).__name__)

    def check_model(self, principal: Principal, request: ChatRequest | EmbedRequest, *, ability: str = "chat") -> None:
        """Raises `NotFound` or `Forbidden` where the caller may not ask this model."""
        self._router.models(request, principal, ability=ability)

    def estimate(self, principal: Principal, submission: Submission, items: Iterable[NewItem]) -> Estimate:
        """What it would cost and how long it would take; nothing is written and nobody is asked. Raises as `check`."""
        self.check(submission)
        count, cost, at_most, known = 0, 0, 0, True
        models: dict[tuple[str | None, frozenset[str]], Model] = {}
        for item in items:
            request = question_of(item.question)
            key = (request.model, frozenset(request.params))
            model = models[key] = models.get(key) or self._router.models(request, principal)[0]
            count, known = count + 1, known and model.price is not None
            usual, most = costs_of(request, model)
            cost, at_most = cost + usual, at_most + most
        seconds = seconds_for(count, submission.max_concurrency, principal)
        return Estimate(count, cost if known else None, at_most if known else None, seconds)

    # -- out --------------------------------------------------------------------------------------------------------

    def get(self, principal: Principal, job_id: str, *, door: str | None = None) -> Job:
        """A job of this user. Raises `NotFound`, for somebody else's too."""
        with self._db.reading() as session:
            job = repository.find_job(session, job_id, user_id=principal.user_id, door=door)
        if job is None:
            raise NotFound("There is no such job.")
        return job

    def items(
        self, job: Job, *, first: int = 0, limit: int = READ_AT_ONCE, states: Collection[str] | None = None
    ) -> list[Item]:
        """Items in the order of the input, with the results so far."""
        with self._db.reading() as session:
            return repository.list_items(session, job.id, first=first, limit=limit, states=states)

    def all_items(self, job: Job, *, states: Collection[str] | None = None) -> Iterator[Item]:
        """The same for all of them, read a page at a time; no session is held between two."""
        first = 0
        while page := self.items(job, first=first, states=states):
            yield from page
            first = page[-1].index + 1

    def list(
        self, principal: Principal, door: str, *, limit: int, after: str | None = None
    ) -> tuple[list[Job], str | None]:
        """A page of this user's jobs of one door, newest first, and where the next one begins."""
        with self._db.reading() as session:
            if after is not None and not repository.find_job(session, after, user_id=principal.user_id, door=door):
                raise invalid("after", "is not the id of a job")
            filters: JobFilters = {"user_id": principal.user_id, "door": door}
            jobs = repository.list_jobs(session, filters, limit=limit + 1, after=after)
        return (jobs, None) if len(jobs) <= limit else (jobs[:limit], jobs[limit - 1].id)

    # -- and on -----------------------------------------------------------------------------------------------------

    def cancel(self, principal: Principal, job_id: str, *, door: str | None = None) -> Job:
        """Ask no more of its items; those in flight end. Raises `NotFound`, or `Conflict` where it is over."""
        job = self.get(principal, job_id, door=door)
        if job.finished_at is not None:
            raise Conflict(f"The job is {job.status}; there is nothing to cancel.")
        if self._run(Cancel(job.id)):
            crash.point(crash.AFTER_CANCEL)
            self.close(job.id, CANCELLED)
        return self.get(principal, job_id, door=door)

    def retry(self, principal: Principal, job_id: str, *, door: str | None = None) -> Job:
        """Ask the failed items of a job that is over again, if there are any. Raises `NotFound` or `Conflict`."""
        job = self.get(principal, job_id, door=door)
        if job.finished_at is None:
            raise Conflict(f"The job is {job.status}; failed items are tried again once it is over.")
        for first in range(0, job.total if job.failed else 0, CHUNK):
            self._run(Reopen(job.id, first, LIFE_MS))
            crash.point(crash.AFTER_REOPEN)
        if job.failed:
            self.ring(job.id)
        return self.get(principal, job_id, door=door)

    # -- chores -----------------------------------------------------------------------------------------------------

    def reap(self) -> None:
        """What dead workers held is free again, what is past its time ends, and idle workers hear of what is open."""
        freed, failed = self._run(Reap())
        if freed or failed:
            crash.point(crash.AFTER_REAP)
            log.warning("workers died: %d batch items are asked again, %d failed for good", freed, failed)
        for job_id, ending in self._run(Overdue()):
            self.close(job_id, ending)
        self.ring_if_open()

    def ring_if_open(self) -> None:
        """Ring again for what a crash, or an emptied Redis, left unheard."""
        with self._db.reading() as session:
            open_jobs = repository.count_claimable(session)
        if open_jobs:
            self.ring("")

    def exists(self, job_id: str) -> bool:
        """Whether anybody has such a job."""
        with self._db.reading() as session:
            return repository.find_job(session, job_id, user_id=None) is not None

    def close(self, job_id: str, ending: str) -> None:
        """Give the open items of a job that is ending their result."""
        more = True
        while more:
            more = self._run(Close(job_id, ending))
            crash.point(crash.AFTER_CLOSE)

    def sweep(self) -> None:
        """Forget jobs that ended long ago, and submissions that broke off."""
        at = now_ms()
        with self._db.reading() as session:
            ids = repository.old_jobs(session, ended_before=at - KEPT_MS, incoming_before=at - BROKEN_MS)
        for job_id in ids:
            self._delete(job_id)

    def delete(self, principal: Principal, job_id: str) -> None:
        """Forget a job that is over, with its results."""
        if (job := self.get(principal, job_id)).finished_at is None:
            raise Conflict(f"The job is {job.status}; cancel it first.")
        self._delete(job_id)

    def _delete(self, job_id: str) -> None:
        more = True
        while more:
            with self._db.transaction() as session:
                more = repository.delete_some(session, job_id)


def costs_of(request: ChatRequest, model: Model, answer_tokens: int = USUAL_ANSWER) -> tuple[int, int]:
    """What one question comes to in 10⁻⁹ dollar: usually, and at the most; 0 where the price is unknown."""
    tokens = prompt_estimate(request.messages)
    most = (request.output_cap or model.max_tokens or DEFAULT_OUTPUT_CAP) * request.choices
    usual = min(answer_tokens * request.choices, most)
    return bound_of(tokens, usual, model.price), bound_of(tokens, most, model.price)


def seconds_for(count: int, together: int, principal: Principal) -> float:
    """How long so many questions take about, ``together`` at a time and within the caller's own limit."""
    seconds = count * USUAL_SECONDS / together
    if principal.requests_per_minute:
        seconds = max(seconds, (count / principal.requests_per_minute - 1) * 60)
    return seconds
