"""Batches (S4): a submission read item by item, whatever its size; jobs and results written."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import orjson

from flaskllm.domain.batch import (
    COMPLETED,
    LONGEST_ID,
    MOST_CONCURRENCY,
    MOST_ITEMS,
    PENDING,
    PROMPTS_DOOR,
    STATUSES,
    USUAL_CONCURRENCY,
    Item,
    Job,
    NewItem,
    Submission,
    document_of,
    question_to_json,
    tokens_of,
)
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.period import iso
from flaskllm.domain.pricing import dollars_text, to_dollars
from flaskllm.domain.spreadsheet import table_safe
from flaskllm.errors import MOST_TOLD, Detail, InvalidRequest, invalid, invalid_for
from flaskllm.wire import shapes
from flaskllm.wire.checks import Check, faults_of, integer, text
from flaskllm.wire.json import decode_value
from flaskllm.wire.json_items import LARGEST_VALUE, parts_of
from flaskllm.wire.openai import CHAT, metadata, read_chat
from flaskllm.wire.shapes import COST, COUNT, MOMENT, STRING, Shape, listing, maybe, one_of, record

LISTS = ("prompts", "requests")
LONGEST_URL = 2048
ENVELOPE: dict[str, Check] = {
    "model": text(256, least=1),
    "metadata": metadata,
    "callback_url": text(LONGEST_URL, least=1),
    "max_concurrency": integer(1, MOST_CONCURRENCY),
}
"""What stands once for the whole job."""
custom_id = text(LONGEST_ID, least=1)
prompt = text(LARGEST_VALUE, least=1)
MEDIA = {"json": "application/json", "jsonl": "application/jsonl", "csv": "text/csv"}
LINES = frozenset({"application/jsonl", "application/x-jsonlines", "application/x-ndjson"})

_ITEM_FIELDS = {name: form for name, form in CHAT["properties"].items() if name not in ("messages", "stream_options")}
_PROMPT = {**STRING, "minLength": 1, "pattern": shapes.NO_NUL}
SUBMISSION: Shape = {
    "title": "BatchSubmission",
    "type": "object",
    "description": f"`prompts` or `requests`, with 1 to {MOST_ITEMS} entries. As `application/jsonl`, or as the file "
    "of a form, each line is one entry of `requests`, and what stands beside it is given as parameter or form field.",
    "properties": {
        **{name: shapes.maybe(shapes.form_of(check)) for name, check in ENVELOPE.items()},
        "prompts": shapes.several(
            {**STRING, "minLength": 1, "pattern": shapes.NO_NUL}, minItems=1, maxItems=MOST_ITEMS
        ),
        "requests": shapes.several(
            {
                "type": "object",
                "properties": {
                    **_ITEM_FIELDS,
                    "stream": {"enum": [False, None]},
                    "custom_id": maybe(shapes.form_of(custom_id)),
                    "prompt": _PROMPT,
                    "messages": CHAT["properties"]["messages"],
                },
                "oneOf": [{"required": ["prompt"]}, {"required": ["messages"]}],
            },
            minItems=1,
            maxItems=MOST_ITEMS,
        ),
    },
    "additionalProperties": False,
    "oneOf": [{"required": ["prompts"]}, {"required": ["requests"]}],
}
ACCEPTED = record("BatchAccepted", job_id=STRING, status=one_of(*STATUSES), total=COUNT, created_at=MOMENT)
ESTIMATE = record(
    "BatchEstimate",
    items=COUNT,
    cost=COST,
    cost_at_most=COST,
    seconds={"type": "number", "minimum": 0},
)
TOKENS = record("BatchTokens", prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT)
JOB = record(
    "BatchJob",
    job_id=STRING,
    status=one_of(*STATUSES),
    progress=record("BatchProgress", total=COUNT, completed=COUNT, failed=COUNT),
    usage=TOKENS,
    cost=COST,
    created_at=MOMENT,
    started_at=maybe(MOMENT),
    finished_at=maybe(MOMENT),
    eta=maybe(MOMENT),
)
JOBS = listing(JOB)
RESULT = record(
    "BatchResult",
    index=COUNT,
    custom_id=maybe(STRING),
    status=one_of("completed", "failed", "cancelled", PENDING),
    text=maybe(STRING),
    finish_reason=maybe(STRING),
    model=maybe(STRING),
    usage=maybe(TOKENS),
    cost=COST,
    error=maybe(record("BatchItemError", code=STRING, message=STRING)),
    response=maybe(shapes.ANY_OBJECT),
)
RESULTS = listing(RESULT)
TOKEN_COLUMNS = ("prompt_tokens", "completion_tokens", "total_tokens")
COLUMNS = (
    "index", "custom_id", "status", "text", "finish_reason", "model", *TOKEN_COLUMNS, "cost", "error_code",
    "error_message",
)  # fmt: skip
"""Of the results as a table."""


# -- in ---------------------------------------------------------------------------------------------------------------


@dataclass
class Given:
    """A submission that was read and found good: its items are on disk, as JSON lines."""

    envelope: dict[str, Any]
    store: BinaryIO
    count: int
    models: Mapping[str, str]
    """Each model that an item names, and the place of the first that does."""

    def submission(self) -> Submission:
        envelope = self.envelope
        return Submission(
            kind="chat",
            door=PROMPTS_DOOR,
            scope="batch",
            model=envelope.get("model"),
            metadata=envelope.get("metadata", {}),
            callback_url=envelope.get("callback_url"),
            max_concurrency=envelope.get("max_concurrency", USUAL_CONCURRENCY),
        )

    def items(self) -> Iterator[NewItem]:
        """From the first on; may be called again."""
        self.store.seek(0)
        model = self.envelope.get("model")
        for line in self.store:
            kept = json.loads(line)
            question = kept["question"]
            if model is not None:
                question.setdefault("model", model)
            yield NewItem(question, kept["custom_id"])


@dataclass
class _Reading:
    """What is found while items come by: faults, up to the number that is told, and ids that stand twice."""

    store: BinaryIO
    faults: list[Detail] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def fault(self, where: str, message: str) -> None:
        self.faults.append(Detail(field=where, message=message))
        if len(self.faults) >= MOST_TOLD:
            raise _refused(self.faults)

    def entry(self, where: str, raw: bytes, read: Callable[[Any], tuple[ChatRequest, str | None, bool]]) -> None:
        """One entry: written down, or told as faults."""
        self.count += 1
        if self.count > MOST_ITEMS:
            raise invalid(where, f"is one too many: at most {MOST_ITEMS} items")
        try:
            request, known_as, whole = read(decode_value(raw))
        except InvalidRequest as error:
            for detail in error.details or [Detail(field="", message=error.message)]:
                self.fault(f"{where}.{detail['field']}".rstrip("."), detail["message"])
            return
        if known_as is not None and self.ids.setdefault(known_as, self.count) != self.count:
            self.fault(f"{where}.custom_id", f"is that of item {self.ids[known_as] - 1} too")
            return
        if request.model is not None:
            self.models.setdefault(request.model, where)
        if not self.faults:
            line = {"custom_id": known_as, "question": question_to_json(request, whole=whole)}
            self.store.write(orjson.dumps(line) + b"\n")

    def given(self, envelope: Mapping[str, Any]) -> Given:
        """Raises `InvalidRequest` for all that was found."""
        if self.faults:
            raise _refused(self.faults)
        held = {name: value for name, value in envelope.items() if value is not None}
        if faults := [*faults_of(held, ENVELOPE), *_unknown(held)]:
            raise invalid_for(faults)
        return Given(held, self.store, self.count, self.models)


def _refused(faults: list[Detail]) -> InvalidRequest:
    """Told whole in the message, since OpenAI's dialect has no other place for more than one."""
    words = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults)
    more = " (and perhaps more)" if len(faults) >= MOST_TOLD else ""
    return InvalidRequest(f"Nothing was accepted. {words}{more}", details=faults)


def _unknown(envelope: Mapping[str, Any]) -> list[Detail]:
    return [Detail(field=name[:80], message="is not a known field") for name in envelope if name not in ENVELOPE]


def read_object(source: BinaryIO, store: BinaryIO) -> Given:
    """A JSON body; its items go to ``store``. Raises `InvalidRequest` naming each item at fault by its index."""
    reading, envelope, lists = _Reading(store), dict[str, Any](), set[str]()
    for part in parts_of(source, LISTS):
        if part.place is None:
            envelope[part.name] = decode_value(part.raw)
            continue
        lists.add(part.name)
        if len(lists) > 1:
            raise invalid("requests", "and prompts cannot both be given")
        reading.entry(f"{part.name}[{part.place}]", part.raw, _prompt if part.name == "prompts" else _request)
    for name in LISTS:
        if name in envelope:
            raise invalid(name, "must be a list with at least one entry")
    if not reading.count:
        raise invalid("prompts", "or requests must be a list with at least one entry")
    return reading.given(envelope)


def read_lines(source: BinaryIO, store: BinaryIO, envelope: Mapping[str, Any]) -> Given:
    """JSON lines, each an entry of ``requests``. Raises `InvalidRequest` naming each line at fault by its number."""
    reading, number = _Reading(store), 0
    while line := source.readline(LARGEST_VALUE + 1):
        number += 1
        if len(line) > LARGEST_VALUE:
            raise invalid(f"line {number}", f"has more than {LARGEST_VALUE} bytes")
        if line.strip():
            reading.entry(f"line {number}", line.strip(), _request)
    if not reading.count:
        raise InvalidRequest("The file holds no line.")
    return reading.given(envelope)


def read_fields(given: Mapping[str, str]) -> dict[str, Any]:
    """What stands beside lines, given as text: parameters, or the fields of a form."""
    envelope: dict[str, Any] = dict(given)
    if "max_concurrency" in given:
        number = given["max_concurrency"]
        envelope["max_concurrency"] = int(number) if number.isascii() and number.isdigit() and len(number) < 9 else None
        if envelope["max_concurrency"] is None:
            raise invalid("max_concurrency", "must be a whole number")
    if "metadata" in given:
        try:
            envelope["metadata"] = decode_value(given["metadata"].encode())
        except InvalidRequest:
            raise invalid("metadata", "must be a JSON object of strings") from None
    return envelope


def _prompt(value: Any) -> tuple[ChatRequest, None, bool]:
    if fault := prompt(value):
        raise InvalidRequest(fault)
    return ChatRequest(None, [{"role": "user", "content": value}]), None, False


def _request(value: Any) -> tuple[ChatRequest, str | None, bool]:
    if not isinstance(value, dict):
        raise InvalidRequest("must be a JSON object")
    body = {name: held for name, held in value.items() if held is not None}
    known_as, words = body.pop("custom_id", None), body.pop("prompt", None)
    whole = "messages" in body
    faults = [Detail(field="custom_id", message=told)] if known_as is not None and (told := custom_id(known_as)) else []
    if body.get("stream"):
        faults.append(Detail(field="stream", message="is not for a batch"))
    if whole == (words is not None):
        faults.append(Detail(field="prompt", message="or messages must be given, and not both"))
    elif words is not None:
        faults += [Detail(field="prompt", message=told)] if (told := prompt(words)) else []
        body["messages"] = [{"role": "user", "content": words}]
    if faults:
        raise invalid_for(faults)
    return read_chat(body), known_as, whole


# -- out --------------------------------------------------------------------------------------------------------------


def write_accepted(job: Job) -> dict[str, Any]:
    return {"job_id": job.id, "status": job.status, "total": job.total, "created_at": iso(job.created_at)}


def write_estimate(estimate: Any) -> dict[str, Any]:
    """Costs in US dollars, the usual and the most that it can come to."""
    return {
        "items": estimate.items,
        "cost": to_dollars(estimate.cost),
        "cost_at_most": to_dollars(estimate.cost_at_most),
        "seconds": round(estimate.seconds, 1),
    }


def write_job(job: Job, now: int) -> dict[str, Any]:
    """``now``: milliseconds since 1970."""
    return document_of(job, now)


def write_result(item: Item) -> dict[str, Any]:
    found, error = item.result, None
    answered = found is not None and found.state == COMPLETED
    if found is not None and found.error_code is not None:
        error = {"code": found.error_code, "message": found.error_message or ""}
    return {
        "index": item.index,
        "custom_id": item.custom_id,
        "status": PENDING if found is None else found.state,
        "text": found.text if found and answered else None,
        "finish_reason": found.finish_reason if found else None,
        "model": found.model if found else None,
        "usage": tokens_of(found.prompt_tokens, found.completion_tokens) if found and answered else None,
        "cost": to_dollars(found.cost) if found else None,
        "error": error,
        "response": orjson.loads(found.response) if found and found.response else None,
    }


def write_results(items: Iterable[Item], following: int | None) -> dict[str, Any]:
    """A page of results; ``following``: the index after which the next one begins."""
    return {"data": [write_result(item) for item in items], "next": None if following is None else str(following)}


def write_whole(items: Iterable[Item]) -> Iterator[bytes]:
    """All results as one JSON document, of the form of a page that is the last."""
    start = b'{"data":['
    for item in items:
        yield start + orjson.dumps(write_result(item))
        start = b","
    yield (b"" if start == b"," else start) + b'],"next":null}'


def write_lines(items: Iterable[Item]) -> Iterator[bytes]:
    """All results as JSON lines, as they are: what a spreadsheet would make of them is not our concern here."""
    for item in items:
        yield orjson.dumps(write_result(item)) + b"\n"


def write_table(items: Iterable[Item]) -> Iterator[bytes]:
    """All results as CSV (RFC 4180), every cell quoted; before what would start a formula stands ``'``."""
    yield _row(COLUMNS)
    for item in items:
        found = item.result
        tokens = tokens_of(found.prompt_tokens, found.completion_tokens) if found and found.state == COMPLETED else {}
        cost = dollars_text(found.cost) if found and found.cost is not None else ""
        words = (found.text, found.finish_reason, found.model) if found else ("", None, None)
        error = (found.error_code, found.error_message) if found else (None, None)
        yield _row([
            item.index, table_safe(item.custom_id or ""), found.state if found else PENDING,
            *(table_safe(word or "") for word in words), *(tokens.get(name, "") for name in TOKEN_COLUMNS), cost,
            *(table_safe(word or "") for word in error),
        ])  # fmt: skip


def _row(cells: Iterable[Any]) -> bytes:
    line = io.StringIO()
    csv.writer(line, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerow(cells)
    return line.getvalue().encode()
