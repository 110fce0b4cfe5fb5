"""OpenAI's ``/v1/files`` and ``/v1/batches``: a file of requests in, a file of answers out, for any provider."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

from flask import Blueprint, Response

from flaskllm.blueprints._doc import documented, parameter
from flaskllm.blueprints._guard import current_principal
from flaskllm.blueprints._http import json_body, json_response, query, whole
from flaskllm.blueprints._once import once, work_id
from flaskllm.blueprints._spool import CHUNK, IN_MEMORY, Upload, uploaded
from flaskllm.domain.file import BATCH, BATCH_OUTPUT
from flaskllm.errors import invalid
from flaskllm.extensions import services
from flaskllm.wire import file_batches as batches_wire
from flaskllm.wire import files as wire
from flaskllm.wire import shapes

bp = Blueprint("files", __name__)

MOST_FILES, MOST_BATCHES, USUAL_BATCHES = 10_000, 100, 20
"""Entries of a page, as OpenAI has them."""
PURPOSES, ORDERS = (BATCH, BATCH_OUTPUT), ("asc", "desc")
_AFTER = parameter("after", "`last_id` of the page before", {"type": "string", "maxLength": 64})


def _limit(most: int, usual: int) -> dict[str, object]:
    return parameter("limit", "Most entries", {"type": "integer", "minimum": 1, "maximum": most, "default": usual})


@bp.post("/files")
@documented(
    "Keep a file for a batch",
    body=wire.UPLOAD,
    body_media=("multipart/form-data",),
    answer=wire.FILE,
    description="Up to 200 MiB; kept for 30 days, or as long as `expires_after` says.",
)
def create_file() -> Response:
    with uploaded() as upload:
        life_s = wire.read_upload(upload.fields)
        content = _chunks(upload)
        file = services.files.add(current_principal().user_id, upload.filename, BATCH, content, life_s=life_s)
    return json_response(wire.write_file(file))


def _chunks(upload: Upload) -> Iterator[bytes]:
    while chunk := upload.file.read(CHUNK):
        yield chunk


@bp.get("/files")
@documented(
    "Your files",
    answer=wire.FILES,
    query=(
        _limit(MOST_FILES, MOST_FILES),
        _AFTER,
        parameter("purpose", "Only these", shapes.one_of(*PURPOSES)),
        parameter("order", "By the time they came", shapes.one_of(*ORDERS)),
    ),
)
def list_files() -> Response:
    given = query("limit", "after", "purpose", "order")
    files, has_more = services.files.list(
        current_principal(),
        limit=whole(given.get("limit", str(MOST_FILES)), "limit", least=1, most=MOST_FILES),
        after=given.get("after"),
        purpose=_word(given, "purpose", PURPOSES),
        newest=_word(given, "order", ORDERS) != "asc",
    )
    return json_response(wire.write_page([wire.write_file(file) for file in files], has_more=has_more))


def _word(given: dict[str, str], name: str, known: tuple[str, ...]) -> str | None:
    if given.get(name) not in (None, *known):
        raise invalid(name, f"must be one of {', '.join(known)}")
    return given.get(name)


@bp.get("/files/<file_id>")
@documented("A file, without its bytes", answer=wire.FILE)
def read_file(file_id: str) -> Response:
    return json_response(wire.write_file(services.files.get(current_principal(), file_id)))


@bp.get("/files/<file_id>/content")
@documented("A file's bytes", answer=shapes.STRING, media="application/octet-stream")
def read_content(file_id: str) -> Response:
    file = services.files.get(current_principal(), file_id)
    response = Response(services.files.content(file), content_type="application/octet-stream")
    response.content_length = file.size
    plain = re.sub(r"[^ -~]|[\"\\]", "_", file.filename)
    response.headers["Content-Disposition"] = f'attachment; filename="{plain}"'
    return response


@bp.delete("/files/<file_id>")
@documented("Delete a file", answer=wire.DELETED, description="A batch that read it goes on.")
def delete_file(file_id: str) -> Response:
    services.files.delete(current_principal(), file_id)
    return json_response({"id": file_id, "object": "file", "deleted": True})


# -- batches ----------------------------------------------------------------------------------------------------------


@bp.post("/batches")
@documented(
    "Have the requests of a file answered",
    body=batches_wire.CREATE,
    answer=batches_wire.BATCH,
    description="The file is read at once: a bad one makes a batch that has `failed`, with an error for each bad line. "
    "Any model of this gateway will do, and each line may have its own.",
)
@once
def create_batch() -> Response:
    asked, principal = batches_wire.read_create(json_body()), current_principal()
    file = services.file_batches.input_file(principal, asked.input_file_id)
    store: Any
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as store, services.files.open(file) as source:
        check = partial(services.batches.check_model, principal, ability=batches_wire.KINDS[asked.endpoint])
        lines = batches_wire.read_lines(source, store, asked.endpoint, check)
        submission = asked.submission(lines.model)
        if lines.errors:
            job = services.file_batches.refuse(principal, submission, lines.errors)
        else:
            job = services.batches.submit(principal, submission, lines.items(), job_id=work_id())
    return json_response(batches_wire.write_batch(job))


@bp.get("/batches")
@documented(
    "Your batches, newest first", answer=batches_wire.BATCHES, query=(_limit(MOST_BATCHES, USUAL_BATCHES), _AFTER)
)
def list_batches() -> Response:
    given = query("limit", "after")
    after = given.get("after")
    if after is not None and not batches_wire.is_batch_id(after):
        raise invalid("after", "is not the id of a batch of yours")
    jobs, has_more = services.file_batches.list(
        current_principal(),
        limit=whole(given.get("limit", str(USUAL_BATCHES)), "limit", least=1, most=MOST_BATCHES),
        after=None if after is None else batches_wire.job_id_of(after),
    )
    return json_response(wire.write_page([batches_wire.write_batch(job) for job in jobs], has_more=has_more))


@bp.get("/batches/<batch_id>")
@documented("A batch: how far it is, and where its files are", answer=batches_wire.BATCH)
def read_batch(batch_id: str) -> Response:
    job_id = batches_wire.job_id_of(batch_id)
    return json_response(batches_wire.write_batch(services.file_batches.get(current_principal(), job_id)))


@bp.post("/batches/<batch_id>/cancel")
@documented("Stop a batch: what is done is in its files", answer=batches_wire.BATCH, errors=(409,))
def cancel_batch(batch_id: str) -> Response:
    job_id = batches_wire.job_id_of(batch_id)
    return json_response(batches_wire.write_batch(services.file_batches.cancel(current_principal(), job_id)))
