"""What `/v1/responses` answers: the ``response`` object, whole, listed, or as the events that make it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from flaskllm.domain.response import Item, Response, Step
from flaskllm.errors import DomainError
from flaskllm.wire import errors, shapes
from flaskllm.wire.openai import PING

OPAQUE = "encrypted_content"
_ERROR_CODES = {429: "rate_limit_exceeded", 400: "invalid_prompt"}


def write_response(response: Response) -> dict[str, Any]:
    """The ``response`` object."""
    return {
        "id": response.id,
        "object": "response",
        "created_at": response.created_at,
        "completed_at": response.completed_at,
        "status": response.status,
        "background": False,
        "error": response.error,
        "incomplete_details": {"reason": response.reason} if response.reason else None,
        "model": response.model,
        "output": [_item(item, sealed=response.sealed) for item in response.output],
        "store": response.store,
        "usage": response.usage,
        **response.said,
    }


def write_deleted(response_id: str) -> dict[str, Any]:
    return {"id": response_id, "object": "response", "deleted": True}


def write_items(items: Sequence[Item], *, limit: int, after: str | None, newest_first: bool) -> dict[str, Any]:
    """One page of the items that a response answers; they stand in the caller's order."""
    listed = [_item(item, sealed=True) for item in items]
    if newest_first:
        listed.reverse()
    start = next((place + 1 for place, item in enumerate(listed) if after is not None and item["id"] == after), 0)
    page = listed[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(listed),
    }


def _item(item: Mapping[str, Any], *, sealed: bool) -> Item:
    """An item as the caller sees it."""
    if item["type"] == "reasoning" and "content" in item and not item["content"]:
        item = {name: value for name, value in item.items() if name != "content"}
    return {name: value for name, value in item.items() if sealed or name != OPAQUE}


# -- events ------------------------------------------------------------------------------------------------------------


def write_events(stream: Any, request_id: str) -> Iterator[bytes]:
    """A `ResponseStream` as server-sent events. An error is one event, then the end: ``error`` before anything of the
    response was told, ``response.failed`` after."""
    writer = _Events()
    for item in stream:
        if item is None:
            yield PING
        elif isinstance(item, DomainError):
            yield writer.failed(stream, item, request_id)
        elif isinstance(item, Response):
            yield writer.begin(stream) + writer.response(f"response.{item.status}", item)
        elif item:
            yield writer.begin(stream) + b"".join(writer.step(step) for step in item)


class _Events:
    """Numbers the events of one stream."""

    def __init__(self) -> None:
        self._number = 0
        self._sealed = False

    def begin(self, stream: Any) -> bytes:
        """The first two events, once."""
        if self._number:
            return b""
        begun = stream.begun()
        self._sealed = begun.sealed
        return self.response("response.created", begun) + self.response("response.in_progress", begun)

    def response(self, kind: str, response: Response) -> bytes:
        return self._event(kind, response=write_response(response))

    def failed(self, stream: Any, error: DomainError, request_id: str) -> bytes:
        if self._number:
            code = _ERROR_CODES.get(error.status, "server_error")
            failed = stream.failed({"code": code, "message": error.message})
            return self.response("response.failed", failed)
        told = errors.openai(error, request_id)["error"]
        return self._event("error", code=told["code"], message=told["message"], param=told["param"], error=told)

    def step(self, step: Step) -> bytes:
        if step.kind in ("opened", "done"):
            kind = "added" if step.kind == "opened" else "done"
            before = self._arguments_done(step) if step.kind == "done" and step.item["type"] == "function_call" else b""
            item = _item(step.item, sealed=self._sealed)
            return before + self._event(f"response.output_item.{kind}", output_index=step.place, item=item)
        if step.part is None:
            return self._of_item("response.function_call_arguments.delta", step, delta=step.text)
        if step.kind == "delta":
            return self._text(step, "delta", delta=step.text, logprobs=step.logprobs)
        if step.kind == "part":
            return self._part(step, "added")
        field = "refusal" if step.part["type"] == "refusal" else "text"
        logprobs = step.part.get("logprobs", ())
        said = self._text(step, "done", **{field: step.part[field]}, logprobs=logprobs)
        return said + self._part(step, "done")

    def _arguments_done(self, step: Step) -> bytes:
        told = {name: step.item[name] for name in ("name", "arguments")}
        return self._of_item("response.function_call_arguments.done", step, **told)

    def _text(self, step: Step, what: str, *, logprobs: Sequence[Any], **told: Any) -> bytes:
        assert step.part is not None
        kind = step.part["type"]
        if kind == "output_text":
            told["logprobs"] = [_logprob(one) for one in logprobs]
        name = "reasoning_summary_text" if kind == "summary_text" else kind
        return self._of_item(f"response.{name}.{what}", step, **_index(step), **told)

    def _part(self, step: Step, what: str) -> bytes:
        assert step.part is not None
        group = "reasoning_summary_part" if step.part["type"] == "summary_text" else "content_part"
        return self._of_item(f"response.{group}.{what}", step, **_index(step), part=step.part)

    def _of_item(self, kind: str, step: Step, **told: Any) -> bytes:
        return self._event(kind, item_id=step.item["id"], output_index=step.place, **told)

    def _event(self, kind: str, **told: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        data = orjson.dumps({"type": kind, "sequence_number": number, **told})
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def _index(step: Step) -> dict[str, int]:
    is_summary = step.part is not None and step.part["type"] == "summary_text"
    return {"summary_index" if is_summary else "content_index": step.at}


def _logprob(one: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one[name] for name in ("token", "logprob", "top_logprobs") if name in one}


# -- forms for ``/openapi.json`` ---------------------------------------------------------------------------------------


def _form(*required: str, **fields: shapes.Shape) -> shapes.Shape:
    """An object that has these fields, perhaps more."""
    return {"type": "object", "properties": fields, "required": list(required or fields)}


_STATUS = shapes.one_of("completed", "in_progress", "incomplete")
_REASONING_PARTS = shapes.several(_form(type=shapes.STRING, text=shapes.STRING))
OUTPUT_ITEM: shapes.Shape = {
    "title": "ResponseOutputItem",
    "oneOf": [
        _form(
            id=shapes.STRING,
            type={"const": "message"},
            status=_STATUS,
            role={"const": "assistant"},
            content=shapes.several(
                {
                    "oneOf": [
                        _form(
                            type={"const": "output_text"},
                            text=shapes.STRING,
                            annotations=shapes.several(shapes.ANY_OBJECT),
                            logprobs=shapes.several(shapes.ANY_OBJECT),
                        ),
                        _form(type={"const": "refusal"}, refusal=shapes.STRING),
                    ]
                }
            ),
        ),
        _form(
            id=shapes.STRING,
            type={"const": "function_call"},
            status=_STATUS,
            call_id=shapes.STRING,
            name=shapes.STRING,
            arguments=shapes.STRING,
        ),
        _form(
            "id", "type", "status", "summary",
            id=shapes.STRING, type={"const": "reasoning"}, status=_STATUS, summary=_REASONING_PARTS,
            content=_REASONING_PARTS, encrypted_content=shapes.STRING,
        ),
    ],
}  # fmt: skip
RESPONSE: shapes.Shape = {
    "title": "Response",
    **_form(
        id=shapes.STRING,
        object={"const": "response"},
        created_at=shapes.WHOLE,
        completed_at=shapes.maybe(shapes.WHOLE),
        status=shapes.one_of("completed", "in_progress", "incomplete", "failed"),
        background={"const": False},
        error=shapes.maybe(_form(code=shapes.STRING, message=shapes.STRING)),
        incomplete_details=shapes.maybe(_form(reason=shapes.STRING)),
        instructions=shapes.maybe(shapes.STRING),
        max_output_tokens=shapes.maybe(shapes.WHOLE),
        metadata=shapes.ANY_OBJECT,
        model=shapes.STRING,
        output=shapes.several(OUTPUT_ITEM),
        parallel_tool_calls=shapes.FLAG,
        previous_response_id=shapes.maybe(shapes.STRING),
        reasoning=shapes.ANY_OBJECT,
        store={"type": "boolean", "description": "False too where it was to be stored and could not be"},
        temperature={"type": "number"},
        text=shapes.ANY_OBJECT,
        tool_choice={"anyOf": [shapes.STRING, shapes.ANY_OBJECT]},
        tools=shapes.several(shapes.ANY_OBJECT),
        top_p={"type": "number"},
        truncation=shapes.one_of("auto", "disabled"),
        usage=shapes.maybe(
            _form(
                input_tokens=shapes.COUNT,
                input_tokens_details=_form(cached_tokens=shapes.COUNT, cache_write_tokens=shapes.COUNT),
                output_tokens=shapes.COUNT,
                output_tokens_details=_form(reasoning_tokens=shapes.COUNT),
                total_tokens=shapes.COUNT,
                cost=shapes.COST,
            )
        ),
    ),
}
DELETED = shapes.record("ResponseDeleted", id=shapes.STRING, object={"const": "response"}, deleted={"const": True})
ITEMS = shapes.record(
    "ResponseItemList",
    object={"const": "list"},
    data=shapes.several(_form("id", "type", id=shapes.STRING, type=shapes.STRING)),
    first_id=shapes.maybe(shapes.STRING),
    last_id=shapes.maybe(shapes.STRING),
    has_more=shapes.FLAG,
)
