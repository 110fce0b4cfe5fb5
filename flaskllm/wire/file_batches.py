"""``/v1/batches`` in OpenAI's dialect: the request, the lines of its input, the job, the lines of its output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from uuid import UUID

import orjson

from flaskllm.domain.batch import (
    CANCELLED,
    CANCELLING,
    COMPLETED,
    EXPIRED,
    FAILED,
    FILES_DOOR,
    LONGEST_ID,
    MOST_ITEMS,
    Item,
    Job,
    NewItem,
    Submission,
    question_to_json,
)
from flaskllm.domain.file import LONGEST_LIFE_S, SHORTEST_LIFE_S
from flaskllm.errors import Detail, DomainError, InvalidRequest, NotFound, refuse
from flaskllm.wire import shapes
from flaskllm.wire.checks import Check, faults_of, given_of, integer, mapping, one_of, text
from flaskllm.wire.embeddings import read_embeddings
from flaskllm.wire.errors import openai as error_body
from flaskllm.wire.files import page_of
from flaskllm.wire.json import decode_value
from flaskllm.wire.json_items import LARGEST_VALUE
from flaskllm.wire.openai import metadata, read_chat
from flaskllm.wire.shapes import COUNT, STRING, Shape, maybe, record

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
KINDS = {CHAT: "chat", EMBEDDINGS: "embeddings"}
"""The endpoints that lines may be for, and who answers them."""
WINDOW = "24h"
DOOR = FILES_DOOR
MOST_ERRORS = 100
"""Faults of a file that are told; behind the last of them it is not read on."""
STATUSES = (
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled",
)  # fmt: skip
NOT_JSON, MISSING, DOUBLED, METHOD, URL = (
    "invalid_json_line", "missing_required_parameter", "duplicate_custom_id", "invalid_method", "invalid_url",
)  # fmt: skip
INVALID, UNKNOWN_MODEL, EMPTY, TOO_MANY = "invalid_request", "model_not_found", "empty_file", "too_many_requests"
"""Codes of what is wrong with a line, or with the file."""

BODY: dict[str, Check] = {
    "input_file_id": text(64, least=1),
    "endpoint": one_of(*KINDS),
    "completion_window": one_of(WINDOW),
    "metadata": metadata,
    "output_expires_after": mapping,
}
LIFE: dict[str, Check] = {
    "anchor": one_of("created_at"),
    "seconds": integer(SHORTEST_LIFE_S, LONGEST_LIFE_S),
}
NEEDED = ("input_file_id", "endpoint", "completion_window")
CREATE: Shape = {
    "title": "BatchCreate",
    "type": "object",
    "properties": {
        **{name: shapes.form_of(check) for name, check in BODY.items() if name in NEEDED},
        "metadata": maybe(shapes.form_of(metadata)),
        "output_expires_after": {
            "type": ["object", "null"],
            "properties": {name: shapes.form_of(check) for name, check in LIFE.items()},
            "required": list(LIFE),
            "additionalProperties": False,
        },
    },
    "required": list(NEEDED),
    "additionalProperties": False,
}
LINE_ERROR = record(code=STRING, message=STRING, param=maybe(STRING), line=maybe({"type": "integer", "minimum": 1}))
AT = maybe(COUNT)
BATCH = record(
    "Batch",
    id=STRING,
    object={"const": "batch"},
    endpoint=shapes.one_of(*KINDS),
    model=maybe(STRING),
    errors=maybe(record(object={"const": "list"}, data=shapes.several(LINE_ERROR))),
    input_file_id=STRING,
    completion_window={"const": WINDOW},
    status=shapes.one_of(*STATUSES),
    output_file_id=maybe(STRING),
    error_file_id=maybe(STRING),
    created_at=COUNT,
    in_progress_at=AT,
    expires_at=AT,
    finalizing_at=AT,
    completed_at=AT,
    failed_at=AT,
    expired_at=AT,
    cancelling_at=AT,
    cancelled_at=AT,
    request_counts=record(total=COUNT, completed=COUNT, failed=COUNT),
    usage=record(input_tokens=COUNT, output_tokens=COUNT, total_tokens=COUNT),
    metadata=maybe({"type": "object", "additionalProperties": STRING}),
)
BATCHES = page_of(BATCH)


# -- in ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """A ``POST /v1/batches``. ``output_life_s``: seconds that its files are kept."""

    input_file_id: str
    endpoint: str
    metadata: Mapping[str, str]
    output_life_s: int

    def submission(self, model: str | None) -> Submission:
        """``model``: the one that all lines name, if they do."""
        return Submission(
            kind=KINDS[self.endpoint],
            door=DOOR,
            scope="batch",
            model=model,
            metadata=self.metadata,
            details={
                "endpoint": self.endpoint,
                "input_file_id": self.input_file_id,
                "output_life_s": self.output_life_s,
            },
        )


def read_create(body: dict[str, Any]) -> Asked:
    """Raises `InvalidRequest` naming each field at fault."""
    given = given_of(body)
    faults = [Detail(field=name, message="is missing") for name in NEEDED if name not in given]
    faults += faults_of(given, BODY)
    faults += [Detail(field=name[:80], message="is not a known field") for name in given if name not in BODY]
    life = given.get("output_expires_after")
    if isinstance(life, dict):
        faults += [
            Detail(field=f"output_expires_after.{fault['field']}", message=fault["message"])
            for fault in [
                *(Detail(field=name, message="is missing") for name in LIFE if name not in life),
                *faults_of(life, LIFE),
                *(Detail(field=name[:80], message="is not a known field") for name in life if name not in LIFE),
            ]
        ]
    refuse(faults)
    return Asked(
        given["input_file_id"],
        given["endpoint"],
        given.get("metadata", {}),
        life["seconds"] if life else LONGEST_LIFE_S,
    )


CheckModel = Callable[[Any], None]
"""Is given a request as it was read; raises `DomainError` where the caller may not ask its model."""


@dataclass
class Lines:
    """A file that was read. ``errors``: what is wrong with it, by line; none: its items are on disk, as JSON lines."""

    endpoint: str
    store: BinaryIO
    check_model: CheckModel
    errors: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0
    number: int = 0
    _ids: dict[str, int] = field(default_factory=dict)
    _models: dict[str | None, str | None] = field(default_factory=dict)

    def items(self) -> Iterator[NewItem]:
        """From the first on; may be called again."""
        self.store.seek(0)
        for line in self.store:
            kept = json.loads(line)
            yield NewItem(kept["question"], kept["custom_id"])

    @property
    def model(self) -> str | None:
        """The one that all lines name, if they do."""
        return next(iter(self._models)) if len(self._models) == 1 else None

    @property
    def is_full(self) -> bool:
        return len(self.errors) >= MOST_ERRORS

    def fault(self, code: str, message: str, param: str | None = None, *, line: bool = True) -> None:
        told = {"code": code, "message": message, "param": param, "line": self.number if line else None}
        if not self.is_full:
            self.errors.append(told)

    def add(self, raw: bytes) -> None:
        """One line: written down, or told as faults."""
        self.count += 1
        try:
            value = decode_value(raw)
        except InvalidRequest as error:
            self.fault(NOT_JSON, f"This line is not parseable as valid JSON: {error.message}")
            return
        if not isinstance(value, dict):
            self.fault(NOT_JSON, "This line is not a JSON object.")
            return
        before = len(self.errors)
        self._envelope(value)
        question = self._question(value["body"]) if isinstance(value.get("body"), dict) else None
        if len(self.errors) == before and question is not None and not self.errors:
            self.store.write(orjson.dumps({"custom_id": value["custom_id"], "question": question}) + b"\n")

    def _envelope(self, value: dict[str, Any]) -> None:
        for name in ("custom_id", "method", "url", "body"):
            if value.get(name) is None:
                self.fault(MISSING, f"Missing required parameter: '{name}'.", name)
        for name in value:
            if name not in ("custom_id", "method", "url", "body"):
                self.fault(INVALID, f"Unknown parameter: '{name[:80]}'.", name[:80])
        if value.get("method") not in (None, "POST"):
            self.fault(METHOD, "The method must be 'POST'.", "method")
        if value.get("url") not in (None, self.endpoint):
            self.fault(URL, f"The URL of a line must be the endpoint of its batch, {self.endpoint!r}.", "url")
        if value.get("body") is not None and not isinstance(value["body"], dict):
            self.fault(INVALID, "The body must be a JSON object.", "body")
        if (known_as := value.get("custom_id")) is not None:
            self._known_as(known_as)

    def _known_as(self, known_as: Any) -> None:
        if told := text(LONGEST_ID, least=1)(known_as):
            self.fault(INVALID, f"custom_id: {told}", "custom_id")
        elif (first := self._ids.setdefault(known_as, self.number)) != self.number:
            self.fault(DOUBLED, f"The custom_id of this line is that of line {first} too.", "custom_id")

    def _question(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """What the job's runner is asked, or None where the body is at fault."""
        if body.get("stream"):
            self.fault(INVALID, "stream: is not for a batch", "body.stream")
            return None
        try:
            return self._chat(body) if self.endpoint == CHAT else self._embeddings(body)
        except InvalidRequest as error:
            for detail in error.details or [Detail(field="", message=error.message)]:
                self.fault(INVALID, f"{detail['field']}: {detail['message']}", f"body.{detail['field']}".rstrip("."))
            return None

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        request = read_chat(body)
        self._model(request)
        return question_to_json(request, whole=True)

    def _embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        """As it came, once it is known to be good: the runner reads it again."""
        request, _ = read_embeddings(body)
        self._model(request)
        return {"body": {name: value for name, value in body.items() if value is not None}}

    def _model(self, request: Any) -> None:
        """Looked up once for all the lines that name it."""
        if request.model not in self._models:
            self._models[request.model] = self._fault_of(request)
        if told := self._models[request.model]:
            self.fault(UNKNOWN_MODEL, told, "body.model")

    def _fault_of(self, request: Any) -> str | None:
        try:
            self.check_model(request)
        except DomainError as error:
            return error.message
        return None


def read_lines(source: BinaryIO, store: BinaryIO, endpoint: str, check_model: CheckModel) -> Lines:
    """Read an input file to its end, or to the last fault that is told."""
    lines = Lines(endpoint, store, check_model)
    while not lines.is_full and (raw := source.readline(LARGEST_VALUE + 1)):
        lines.number += 1
        if len(raw) > LARGEST_VALUE:
            lines.fault(INVALID, f"This line has more than {LARGEST_VALUE} bytes.")
            break
        if lines.count >= MOST_ITEMS and raw.strip():
            lines.fault(TOO_MANY, f"The file has more than {MOST_ITEMS} requests.")
            break
        if raw.strip():
            lines.add(raw.strip())
    if not lines.number or not lines.count:
        lines.fault(EMPTY, "The file holds no request.", line=False)
    return lines


def is_batch_id(text: str) -> bool:
    """Whether a batch may have this id."""
    prefix, _, digits = text.partition("_")
    return prefix == "batch" and len(digits) == 32 and set(digits) <= set("0123456789abcdef")


def job_id_of(batch_id: str) -> str:
    """The job that is told under this id. Raises `NotFound` where no batch can have it."""
    if not is_batch_id(batch_id):
        raise NotFound(f"No batch found with id '{batch_id[:80]}'.")
    return str(UUID(batch_id.removeprefix("batch_")))


# -- out --------------------------------------------------------------------------------------------------------------


def write_batch(job: Job) -> dict[str, Any]:
    """The job as OpenAI tells of one; times in whole seconds since 1970."""
    details, status = job.details, status_of(job)
    ended = _seconds(job.delivered_at)
    errors = details.get("errors")
    return {
        "id": batch_id_of(job),
        "object": "batch",
        "endpoint": details["endpoint"],
        "model": job.model,
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": details["input_file_id"],
        "completion_window": WINDOW,
        "status": status,
        "output_file_id": details.get("output_file_id"),
        "error_file_id": details.get("error_file_id"),
        "created_at": job.created_at // 1000,
        "in_progress_at": None if errors else job.created_at // 1000,
        "expires_at": job.expires_at // 1000,
        "finalizing_at": None if errors else _seconds(job.finished_at),
        "completed_at": ended if status == COMPLETED else None,
        "failed_at": ended if status == FAILED else None,
        "expired_at": ended if status == EXPIRED else None,
        "cancelling_at": _seconds(details.get("cancelling_at")),
        "cancelled_at": ended if status == CANCELLED else None,
        "request_counts": {"total": job.total, "completed": job.completed, "failed": job.failed},
        "usage": {
            "input_tokens": job.prompt_tokens,
            "output_tokens": job.completion_tokens,
            "total_tokens": job.prompt_tokens + job.completion_tokens,
        },
        "metadata": dict(job.metadata) or None,
    }


def batch_id_of(job: Job) -> str:
    return f"batch_{UUID(job.id).hex}"


def status_of(job: Job) -> str:
    """OpenAI's word: a job whose requests all failed is completed there, and one is over once its files are there."""
    if job.details.get("errors"):
        return FAILED
    if job.finished_at is None:
        return CANCELLING if job.status == CANCELLING else "in_progress"
    if job.delivered_at is None:
        return CANCELLING if job.status == CANCELLED else "finalizing"
    return job.status if job.status in (CANCELLED, EXPIRED) else COMPLETED


def _seconds(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else milliseconds // 1000


def write_line(job: Job, item: Item) -> bytes:
    """A line of the output file, or for what did not go well of the error file: each request has one in either."""
    found, request_id = item.result, f"{job.id}-{item.index}"
    code = found.error_code if found else None
    response, error = None, None
    if found is not None and found.state == COMPLETED:
        response = {"status_code": 200, "request_id": request_id, "body": orjson.Fragment(found.response or "null")}
    elif found is None or code in (None, EXPIRED):
        error = _UNASKED[code or CANCELLED]
    else:
        response = {"request_id": request_id} | _refusal(str(code), found.error_message or "")
    known = {"id": f"batch_req_{UUID(job.id).hex}{item.index:05d}", "custom_id": item.custom_id}
    return orjson.dumps({**known, "response": response, "error": error}) + b"\n"


_UNASKED = {
    CANCELLED: {"code": "batch_cancelled", "message": "This request was not executed: the batch was cancelled."},
    EXPIRED: {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    },
}


def _refusal(code: str, message: str) -> dict[str, Any]:
    """The answer that the item would have had at its door: status and body."""
    error = _KINDS.get(code, DomainError)(message)
    body = error_body(error, "")
    body["error"]["code"] = code  # `poisoned` is no kind of its own
    return {"status_code": error.status, "body": body}


def _kinds(kind: type[DomainError]) -> Iterator[type[DomainError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _kinds(narrower)


_KINDS: dict[str, type[DomainError]] = {}
for _kind in _kinds(DomainError):
    _KINDS.setdefault(_kind.code, _kind)
