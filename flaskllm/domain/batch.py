"""Batches: many questions under one id, answered when there is room, each exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.event import Event
from flaskllm.domain.period import iso
from flaskllm.domain.pricing import to_dollars

MOST_ITEMS = 50_000
USUAL_CONCURRENCY, MOST_CONCURRENCY = 16, 256
MOST_TRIES = 3
"""Workers that one item may take down with it."""
LONGEST_ID = 128
"""Characters of a ``custom_id``."""

INCOMING = "incoming"
"""Its items are still being written: nobody sees such a job, and nobody works on it."""
QUEUED, RUNNING, CANCELLING = "queued", "running", "cancelling"
COMPLETED, FAILED, CANCELLED, EXPIRED = "completed", "failed", "cancelled", "expired"
STATUSES = (QUEUED, RUNNING, COMPLETED, FAILED, CANCELLING, CANCELLED, EXPIRED)

OPEN, CLAIMED = "open", "claimed"
"""States of an item that has no result yet; the others are `COMPLETED`, `FAILED`, `CANCELLED`."""
PENDING = "pending"
"""What callers are told of both."""
SAME = "same"
"""An item that is not asked, since another asks the same: its ``text`` is that one's index. It counts nowhere."""
POISONED = "poisoned"

PROMPTS_DOOR, FILES_DOOR, RANGES_DOOR = "batch", "batches", "range"
"""The doors that jobs come in by, as jobs and usage rows name them."""
DOORS = (PROMPTS_DOOR, FILES_DOOR, RANGES_DOOR)

BATCH, INTERACTIVE = 0, 10
"""Priorities: somebody who waits before a sheet goes before what runs overnight."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What a job is, but for its items.

    ``kind``: which runner answers its items. ``door``: the name of the door in usage rows. ``scope``: what its owner
    needs while it runs, not only when it is sent. ``details``: the door's own, kept and given back with the job.
    """

    kind: str
    door: str
    scope: str
    model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    callback_url: str | None = None
    max_concurrency: int = USUAL_CONCURRENCY
    priority: int = BATCH
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewItem:
    """One question as it is sent: ``question`` is JSON that the job's runner understands.

    ``ended``: its result, where that is known already; then nobody asks it.
    """

    question: Mapping[str, Any]
    custom_id: str | None = None
    ended: Ended | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands. Times in milliseconds since 1970, ``cost`` in 10⁻⁹ dollar (None: a price is unknown)."""

    id: str
    kind: str
    door: str
    scope: str
    user_id: str
    token_id: str | None
    status: str
    ending: str | None
    max_concurrency: int
    total: int
    completed: int
    failed: int
    cancelled: int
    prompt_tokens: int
    completion_tokens: int
    cost: int | None
    model: str | None
    metadata: Mapping[str, str]
    callback_url: str | None
    details: Mapping[str, Any]
    created_at: int
    started_at: int | None
    finished_at: int | None
    expires_at: int
    delivered_at: int | None = None
    """When the files of its results were written, where it came in as a file."""

    @property
    def ended(self) -> int:
        """How many of its items have a result."""
        return self.completed + self.failed + self.cancelled

    def eta(self, now: int) -> int | None:
        """When it will be over if it goes on as it went; None where nothing can be said."""
        if self.started_at is None or self.finished_at is not None or not self.ended:
            return None
        return now + (now - self.started_at) * (self.total - self.ended) // self.ended


def document_of(job: Job, now: int) -> dict[str, Any]:
    """A job as its owner is told of it. ``now``: milliseconds since 1970."""
    return {
        "job_id": job.id,
        "status": job.status,
        "progress": {"total": job.total, "completed": job.completed, "failed": job.failed},
        "usage": tokens_of(job.prompt_tokens, job.completion_tokens),
        "cost": to_dollars(job.cost),
        "created_at": iso(job.created_at),
        "started_at": _moment(job.started_at),
        "finished_at": _moment(job.finished_at),
        "eta": _moment(job.eta(now)),
    }


def tokens_of(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """What was used, in the words of the document."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _moment(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else iso(milliseconds)


def ended_event(job: Job, event_id: str) -> Event:
    """That a job is over, for its ``callback_url``: its document, and nothing that was asked or answered."""
    at = job.finished_at or 0
    return Event(event_id, f"batch.{job.status}", at, document_of(job, at), lane=job.user_id, url=job.callback_url)


@dataclass(frozen=True, slots=True)
class Ended:
    """The one result of an item. ``response``: the answer whole, as JSON text, where the asker wants it so."""

    state: str
    text: str = ""
    finish_reason: str | None = None
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    response: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """An item as it stands; ``result`` is None while there is none."""

    index: int
    custom_id: str | None
    state: str
    result: Ended | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """An item that this process may answer until its lease ends; ``fence`` stands in every write about it."""

    job: Job
    index: int
    question: Mapping[str, Any]
    fence: int
    tries: int


Keep = Callable[[Ended], Any]
"""Makes the write that goes into one transaction with the settlement of the call it belongs to."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job with something to do, as those who share a worker are put in order."""

    id: str
    user_id: str
    priority: int
    claimed_at: int
    created_at: int


def fair_order(jobs: Iterable[Waiting]) -> list[Waiting]:
    """The more urgent first; then in turn by user, the one first whose turn is longest ago; then the older job."""
    jobs = list(jobs)
    last: dict[str, int] = {}
    for job in jobs:
        last[job.user_id] = max(job.claimed_at, last.get(job.user_id, 0))
    return sorted(jobs, key=lambda job: (-job.priority, last[job.user_id], job.claimed_at, job.created_at, job.id))


def most_together(tries: int) -> int | None:
    """How many items may be in one process's hands that took down so many workers; None: as many as there is room.

    Whoever was beside a poisoned item is suspected with it: the first time in small company, the second time alone.
    """
    return {0: None, 1: 16}.get(tries, 1)


def question_to_json(request: ChatRequest, *, whole: bool) -> dict[str, Any]:
    """A chat as it is kept until it is asked. ``whole``: its asker wants OpenAI's whole answer, not the text alone."""
    kept: dict[str, Any] = {"messages": request.messages, "whole": whole}
    for name in ("model", "params", "extras", "drop_params", "metadata"):
        if value := getattr(request, name):
            kept[name] = value
    return kept


def question_of(kept: Mapping[str, Any]) -> ChatRequest:
    """The same chat again."""
    return ChatRequest(
        model=kept.get("model"),
        messages=kept["messages"],
        params=kept.get("params", {}),
        extras=kept.get("extras", {}),
        drop_params=kept.get("drop_params", False),
        metadata=kept.get("metadata", {}),
    )
