"""Batches (S4): ``/v1/batch/*``. Many questions in one request, answered by workers (``flask worker``)."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, request

from flaskllm.blueprints._doc import PAGE, documented, parameter
from flaskllm.blueprints._guard import current_principal
from flaskllm.blueprints._http import json_response, listing, page, query, whole
from flaskllm.blueprints._once import answer_once, takes_a_key, work_id
from flaskllm.blueprints._spool import IN_MEMORY, Upload, uploaded
from flaskllm.domain.batch import PROMPTS_DOOR, Job
from flaskllm.domain.chat import ChatRequest
from flaskllm.errors import DomainError, invalid, invalid_for
from flaskllm.extensions import services
from flaskllm.wire import batches as wire
from flaskllm.wire import shapes

bp = Blueprint("batch", __name__)

BESIDE = ("model", "max_concurrency")
"""Fields of a job that lines have no place for: parameters."""
WAITED_FOR_S = 15.0
"""For the answer to the first request with the same key: writing many items takes a moment."""
FORMATS = tuple(wire.MEDIA)
_DRY_RUN = parameter("dry_run", "`true`: only say how many, how dear and how long", shapes.one_of("true", "false"))
_BESIDE = (
    parameter(
        "model", "The job's model, where the body is lines", {"type": "string", "minLength": 1, "maxLength": 256}
    ),
    parameter("max_concurrency", "The same for this", {"type": "integer", "minimum": 1, "maximum": 256}),
)


@bp.post("/generate")
@documented(
    "Have a model answer many prompts",
    body=wire.SUBMISSION,
    answer=wire.ACCEPTED,
    status=202,
    also={200: wire.ESTIMATE},
    query=(_DRY_RUN, *_BESIDE),
    errors=(404,),
    description="JSON, or JSON lines as `application/jsonl` or as the file `file` of a form, up to 50,000 items and "
    "200 MiB. Accepted whole or not at all: a 400 names each item at fault.",
)
@takes_a_key
def submit() -> Response:
    given = query("dry_run", *BESIDE)
    dry_run = given.pop("dry_run", "false")
    if dry_run not in ("true", "false"):
        raise invalid("dry_run", "must be true or false")
    with uploaded("application/json", *sorted(wire.LINES)) as upload:
        return answer_once(
            {"digest": upload.digest}, lambda: _submit(upload, given, dry_run == "true"), patience_s=WAITED_FOR_S
        )


def _submit(upload: Upload, parameters: Mapping[str, str], dry_run: bool) -> Response:
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as store:
        given = _read(upload, store, parameters)
        submission = given.submission()
        services.batches.check(submission)
        _check_models(given)
        if dry_run:
            estimate = services.batches.estimate(current_principal(), submission, given.items())
            return json_response(wire.write_estimate(estimate))
        job = services.batches.submit(current_principal(), submission, given.items(), job_id=work_id())
        return json_response(wire.write_accepted(job), 202)


def _read(upload: Upload, store: Any, parameters: Mapping[str, str]) -> wire.Given:
    if upload.media == "application/json":
        if parameters:
            raise invalid(next(iter(parameters)), "stands in the body where that is JSON")
        return wire.read_object(upload.file, store)
    if doubled := parameters.keys() & upload.fields.keys():
        raise invalid(min(doubled), "stands in the form and in the address")
    envelope = wire.read_fields({**parameters, **upload.fields})
    return wire.read_lines(upload.file, store, envelope)


def _check_models(given: wire.Given) -> None:
    """The job's model answers as it would for one question; an item's is a fault of that item."""
    model = given.envelope.get("model")
    services.batches.check_model(current_principal(), ChatRequest(model, []))
    faults = []
    for name, where in given.models.items():
        try:
            services.batches.check_model(current_principal(), ChatRequest(name, []))
        except DomainError as error:
            faults.append({"field": f"{where}.model", "message": error.message})
    if faults:
        raise invalid_for(faults)  # type: ignore[arg-type]


@bp.get("")
@documented("Your jobs, newest first", answer=wire.JOBS, query=PAGE)
def list_jobs() -> Response:
    asked = page()
    jobs, following = services.batches.list(current_principal(), PROMPTS_DOOR, limit=asked.limit, after=asked.after)
    return listing([wire.write_job(job, _now()) for job in jobs], following)


@bp.get("/<uuid:job_id>")
@documented("A job: how far it is", answer=wire.JOB)
def read_job(job_id: UUID) -> Response:
    query()
    return _job(services.batches.get(current_principal(), str(job_id), door=PROMPTS_DOOR))


def _job(job: Job) -> Response:
    return json_response(wire.write_job(job, _now()))


def _now() -> int:
    return int(time.time() * 1000)


@bp.get("/<uuid:job_id>/results")
@documented(
    "The results so far, in the order of the input",
    answer=wire.RESULTS,
    or_as={wire.MEDIA["jsonl"]: shapes.STRING, wire.MEDIA["csv"]: shapes.STRING},
    query=(
        *PAGE,
        parameter(
            "format",
            "`json`: a page; `jsonl`, `csv`: all of them, one a line. Without it `Accept` decides",
            shapes.one_of(*FORMATS),
        ),
    ),
    description="In CSV, cells that a spreadsheet would take for a formula begin with `'`.",
)
def read_results(job_id: UUID) -> Response:
    asked = page("format")
    form = asked.given.get("format") or _accepted()
    if form not in FORMATS:
        raise invalid("format", f"must be one of {', '.join(FORMATS)}")
    job = services.batches.get(current_principal(), str(job_id), door=PROMPTS_DOOR)
    response = _page_of(job, asked.limit, asked.after) if form == "json" else _all_of(job, form)
    response.vary.add("Accept")
    return response


def _accepted() -> str:
    media = request.accept_mimetypes.best_match(wire.MEDIA.values(), wire.MEDIA["json"])
    return next(form for form, known in wire.MEDIA.items() if known == media)


def _page_of(job: Job, limit: int, after: str | None) -> Response:
    first = 0 if after is None else whole(after, "after", least=0, most=10**9 - 1) + 1
    items = services.batches.items(job, first=first, limit=limit)
    following = items[-1].index if items and items[-1].index + 1 < job.total else None
    return json_response(wire.write_results(items, following))


def _all_of(job: Job, form: str) -> Response:
    """Read while it is sent, a page at a time."""
    if "limit" in request.args or "after" in request.args:
        raise invalid("limit" if "limit" in request.args else "after", "is for pages, which are JSON")
    items = services.batches.all_items(job)
    lines = wire.write_lines(items) if form == "jsonl" else wire.write_table(items)
    charset = "; charset=utf-8" if form == "csv" else ""
    response = Response(lines, content_type=wire.MEDIA[form] + charset)
    response.headers["Content-Disposition"] = f'attachment; filename="{job.id}.{form}"'
    return response


@bp.post("/<uuid:job_id>/cancel")
@documented(
    "Stop a job: what is in flight ends, the rest is not asked",
    answer=wire.JOB,
    errors=(409,),
)
def cancel_job(job_id: UUID) -> Response:
    query()
    return _job(services.batches.cancel(current_principal(), str(job_id), door=PROMPTS_DOOR))


@bp.post("/<uuid:job_id>/retry")
@documented(
    "Ask the failed items of a job that is over again", answer=wire.JOB, errors=(409,), never=(402, 429, 502, 504)
)
def retry_job(job_id: UUID) -> Response:
    query()
    return _job(services.batches.retry(current_principal(), str(job_id), door=PROMPTS_DOOR))
