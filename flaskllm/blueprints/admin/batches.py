"""Everybody's batches: how far they are, what came of each item, and the ways to stop them or try again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from flask import Response, g

from flaskllm.blueprints._guard import current_actor
from flaskllm.blueprints._http import page as paging
from flaskllm.blueprints._http import query, whole
from flaskllm.blueprints.admin import _forms as forms
from flaskllm.blueprints.admin._pages import bp, go, page, told_in_place
from flaskllm.domain.batch import (
    CANCELLED,
    CANCELLING,
    CLAIMED,
    COMPLETED,
    DOORS,
    FAILED,
    FILES_DOOR,
    OPEN,
    PENDING,
    PROMPTS_DOOR,
    QUEUED,
    RANGES_DOOR,
    RUNNING,
    STATUSES,
    Item,
    Job,
)
from flaskllm.domain.period import iso
from flaskllm.errors import DomainError, NotFound, invalid
from flaskllm.extensions import services
from flaskllm.services.batch_desk import OwnedJob
from flaskllm.wire import batches as wire

UNFINISHED = "unfinished"
STATES: dict[str, Sequence[str]] = {UNFINISHED: (QUEUED, RUNNING, CANCELLING), **{one: (one,) for one in STATUSES}}
ITEM_STATES: dict[str, Sequence[str]] = {
    COMPLETED: (COMPLETED,), FAILED: (FAILED,), CANCELLED: (CANCELLED,), PENDING: (OPEN, CLAIMED),
}  # fmt: skip
DOOR_WORDS = {PROMPTS_DOOR: "prompts", FILES_DOOR: "file", RANGES_DOOR: "spreadsheet"}
"""The doors in plain words: ``/v1/batch``, ``/v1/batches``, ``/api/v1/range``."""
FORMATS = tuple(wire.MEDIA)
MOST_LIVE = 25
"""Jobs of one page of the list that are looked at again by themselves: their ids have to fit into an address."""
LONGEST_SHOWN = 4000
"""Characters of a result on the page; the whole stands in the files."""
JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


# -- all of them ------------------------------------------------------------------------------------------------------


@bp.get("/batches")
def list_batches() -> Response:
    limit, after, given = paging("state", "user", "door")
    chosen = {name: value for name, value in given.items() if value}
    try:
        rows, following = services.batch_desk.list(limit=limit, after=after, **_filters(chosen))
    except DomainError as error:
        if error.status != 400:
            raise
        g.error_code = error.code
        return _list_page([], None, chosen, error)
    return _list_page(rows, following, chosen)


def _filters(chosen: Mapping[str, str]) -> dict[str, Any]:
    """Raises `InvalidRequest` naming the field."""
    filters: dict[str, Any] = {}
    if "state" in chosen:
        filters["states"] = STATES[_one_of(chosen, "state", STATES)]
    if "door" in chosen:
        filters["door"] = _one_of(chosen, "door", DOORS)
    if "user" in chosen:
        try:
            filters["user_id"] = services.accounts.find_user(chosen["user"]).id
        except NotFound:
            raise invalid("user", "there is no such user") from None
    return filters


def _one_of(chosen: Mapping[str, str], name: str, known: Any) -> str:
    if chosen[name] not in known:
        raise invalid(name, f"must be one of {', '.join(known)}")
    return chosen[name]


def _list_page(
    rows: Sequence[OwnedJob], following: str | None, chosen: Mapping[str, str], error: DomainError | None = None
) -> Response:
    workers = services.workers.look().workers
    return page(
        "batches.html",
        status=200 if error is None else error.status,
        rows=[_shown(row, workers) for row in rows],
        live=_live_ids(rows),
        workers=workers,
        following=following,
        chosen=chosen,
        states=list(STATES),
        doors=list(DOOR_WORDS.items()),
        error=error,
        faults=forms.faults_of(error),
    )


@bp.get("/batches/progress")
def show_batches_progress() -> Response:
    """Cells of jobs in the list, for htmx to put in the place of those that are shown."""
    asked = query("ids").get("ids", "").split(",")
    if len(asked) > MOST_LIVE or not all(JOB_ID.fullmatch(job_id) for job_id in asked):
        raise invalid("ids", f"must be the ids of 1 to {MOST_LIVE} jobs")
    rows = services.batch_desk.some(asked)
    gone = set(asked) - {row.job.id for row in rows}
    workers = services.workers.look().workers
    shown = [_shown(row, workers) for row in rows]
    return page("batches_progress.html", rows=shown, live=_live_ids(rows), gone=sorted(gone))


def _live_ids(rows: Sequence[OwnedJob]) -> list[str]:
    return [row.job.id for row in rows if row.job.finished_at is None][:MOST_LIVE]


# -- one of them ------------------------------------------------------------------------------------------------------


@bp.get("/batches/<job_id>")
def show_batch(job_id: str) -> Response:
    return _batch_page(job_id)


def _batch_page(job_id: str, error: DomainError | None = None) -> Response:
    limit, after, given = paging("state")
    owned = services.batch_desk.get(job_id)
    status = 200 if error is None else error.status
    told = {**_told(owned), **_items(owned.job, limit, after, given)}
    return page("batch.html", status=status, error=error, **told)


def _told(owned: OwnedJob) -> dict[str, Any]:
    job, workers = owned.job, services.workers.look().workers
    return {
        "job": _shown(owned, workers),
        "lacks_worker": job.finished_at is None and job.door != RANGES_DOOR and not workers,
        "facts": _facts(job),
        "faults_of_file": job.details.get("errors") or (),
        "can_be_cancelled": owned.can_be_cancelled,
        "can_be_retried": owned.can_be_retried,
    }


def _items(job: Job, limit: int, after: str | None, given: Mapping[str, str]) -> dict[str, Any]:
    state = given.get("state") or None
    states = None if state is None else ITEM_STATES[_one_of(given, "state", ITEM_STATES)]
    first = 0 if after is None else whole(after, "after", least=0, most=10**9 - 1)
    items, following = services.batch_desk.items(job, first=first, limit=limit, states=states)
    rows = [_shown_item(item) for item in items]
    return {"rows": rows, "following": following, "state": state, "states": list(ITEM_STATES)}


@bp.get("/batches/<job_id>/progress")
def show_batch_progress(job_id: str) -> Response:
    """What of a job's page changes while it runs; with its items once it is over."""
    query()
    try:
        owned = services.batch_desk.get(job_id)
    except NotFound:  # a range is forgotten as soon as it was given back
        return page("batch_progress.html", job=None)
    items = {} if owned.job.finished_at is None else _items(owned.job, 50, None, {})
    return page("batch_progress.html", **_told(owned), **items)


@bp.get("/batches/<job_id>/results")
def download_batch(job_id: str) -> Response:
    """All results so far as a file, read while it is sent."""
    form = query("format").get("format", "json")
    if form not in FORMATS:
        raise invalid("format", f"must be one of {', '.join(FORMATS)}")
    job = services.batch_desk.get(job_id).job
    write = {"json": wire.write_whole, "jsonl": wire.write_lines, "csv": wire.write_table}[form]
    charset = "; charset=utf-8" if form == "csv" else ""
    response = Response(write(services.batch_desk.all_items(job)), content_type=wire.MEDIA[form] + charset)
    response.headers["Content-Disposition"] = f'attachment; filename="{job.id}.{form}"'
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.post("/batches/<job_id>/cancel")
def cancel_batch(job_id: str) -> Response:
    return _done_to(job_id, services.batch_desk.cancel)


@bp.post("/batches/<job_id>/retry")
def retry_batch(job_id: str) -> Response:
    return _done_to(job_id, services.batch_desk.retry)


def _done_to(job_id: str, do: Callable[..., OwnedJob]) -> Response:
    def act() -> Response:
        do(job_id, actor=current_actor())
        return go("admin.show_batch", job_id=job_id)

    return told_in_place(lambda error: _batch_page(job_id, error), act)


# -- what is shown ----------------------------------------------------------------------------------------------------


def _shown(owned: OwnedJob, workers: int) -> dict[str, Any]:
    """``workers``: how many are there; what none works on has no time left that could be told."""
    job, now = owned.job, int(time.time() * 1000)
    eta = job.eta(now) if workers or job.door == RANGES_DOOR else None
    return {
        "id": job.id,
        "username": owned.username,
        "user_id": job.user_id,
        "door": DOOR_WORDS.get(job.door, job.door),
        "model": job.model,
        "status": job.status,
        "is_over": job.finished_at is not None,
        "total": job.total,
        "ended": job.ended,
        "failed": job.failed,
        "cancelled": job.cancelled,
        "left": None if eta is None else span(eta - now),
        "cost": job.cost,
        "created_at": iso(job.created_at),
    }


def _facts(job: Job) -> list[tuple[str, str]]:
    """The rest of what is known of a job: words and what stands behind them."""
    took = None if job.finished_at is None or job.started_at is None else span(job.finished_at - job.started_at)
    told = {
        "Started": job.started_at and _moment(job.started_at),
        "Over": job.finished_at and _moment(job.finished_at) + (f", after {took}" if took else ""),
        "Expires": None if job.finished_at else _moment(job.expires_at),
        "Tokens": f"{job.prompt_tokens:,} in, {job.completion_tokens:,} out",
        "At once": f"at most {job.max_concurrency}",
        "Template": job.details.get("template"),
        "Endpoint": job.details.get("endpoint"),
        "Tells": job.callback_url and urlsplit(job.callback_url).hostname,
        "Metadata": ", ".join(f"{name}: {value}" for name, value in job.metadata.items()),
    }
    return [(words, str(value)) for words, value in told.items() if value]


def _shown_item(item: Item) -> dict[str, Any]:
    found = item.result
    text = "" if found is None else found.text or found.response or ""
    return {
        "index": item.index,
        "custom_id": item.custom_id,
        "state": PENDING if found is None else found.state,
        "tokens": found.prompt_tokens + found.completion_tokens if found else 0,
        "cost": found.cost if found else None,
        "model": found.model if found else None,
        "error_code": found.error_code if found else None,
        "error_message": found.error_message if found else None,
        "text": text[:LONGEST_SHOWN],
        "longer": len(text) if len(text) > LONGEST_SHOWN else None,
    }


def _moment(milliseconds: int) -> str:
    return f"{iso(milliseconds)[:19].replace('T', ' ')} UTC"


def span(milliseconds: int) -> str:
    """A time in words that a person takes in.

    >>> span(95_000), span(400), span(7_260_000)
    ('2 min', '1 s', '2 h 1 min')
    """
    seconds = max(1, round(milliseconds / 1000))
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
