"""OpenAI's Responses: an answer's frames into items, step by step."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

from flaskllm.domain.pricing import to_dollars
from flaskllm.domain.response import Item, Opaque, Step, is_thought, item_id, seal, unseal
from flaskllm.domain.text import holdable
from flaskllm.domain.usage import Usage

_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Output:
    """The items of one answer, as they come: `take` each delta (a whole message is one, too), then `end`.

    ``provider``: whose answer it is; to be set before the first delta.
    """

    def __init__(self, response_id: str, *, summarised: bool = False) -> None:
        self.items: list[Item] = []
        self.status = "in_progress"
        self.reason: str | None = None
        self.provider = ""
        self._response_id = response_id
        self._thought = ("summary", "summary_text") if summarised else ("content", "reasoning_text")
        self._open: Item | None = None
        self._calls: dict[int, Item] = {}

    def take(self, delta: Mapping[str, Any], logprobs: Any = None) -> Iterator[Step]:
        """What a delta of OpenAI's chat adds; ``logprobs``: those of its choice."""
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(thought, str):
            yield from self._say("reasoning", self._thought[1], thought)
        if blocks := _objects(delta.get("thinking_blocks")):
            yield from self._carry(blocks)
        if text := _text(delta.get("content")):
            told = _objects(logprobs.get("content")) if isinstance(logprobs, dict) else ()
            yield from self._say("message", "output_text", text, told)
        if refusal := delta.get("refusal"):
            yield from self._say("message", "refusal", str(refusal))
        if (signature := _signature(delta)) and (said := [item for item in self.items if item["type"] == "message"]):
            said[-1]["encrypted_content"] = seal(Opaque(self.provider, signature=signature))
        for place, call in enumerate(_objects(delta.get("tool_calls"))):
            index = call.get("index")
            yield from self._call(index if isinstance(index, int) else place, call)

    def end(self, finish_reason: str | None) -> Iterator[Step]:
        """Close what is open. An answer that is whole has a message or a call, if only an empty one."""
        self.reason = _REASONS.get(finish_reason or "")
        self.status = "incomplete" if self.reason else "completed"
        if self.status == "completed" and all(item["type"] == "reasoning" for item in self.items):
            yield from self._begin_part(*(yield from self._speaking("message")), "output_text")
        last = self.items[-1] if self.items else None
        yield from self._close(self.status if self._open is last else "completed")
        for item in self._calls.values():
            if not item["arguments"].strip() and self.status == "completed":
                item["arguments"] = "{}"
                yield Step("delta", self._place(item), item, text="{}")
            item["status"] = self.status if item is last else "completed"
            yield Step("done", self._place(item), dict(item))
        self._calls = {}

    def so_far(self) -> list[Item]:
        """The items as far as they came, where no more will come."""
        return [{**item, "status": "incomplete"} if item["status"] == "in_progress" else item for item in self.items]

    def _place(self, item: Item) -> int:
        return next(place for place, held in enumerate(self.items) if held is item)

    def _begin(self, kind: str, **fields: Any) -> tuple[int, Item]:
        place = len(self.items)
        item: Item = {"id": item_id(self._response_id, kind, place), "type": kind, "status": "in_progress", **fields}
        self.items.append(item)
        return place, item

    def _speaking(self, kind: str) -> Generator[Step, None, tuple[int, Item]]:
        """The item that text of this kind goes into: the open one, or a new one behind it."""
        if self._open is not None and self._open["type"] != kind:
            yield from self._close("completed")
        if self._open is None:
            if kind == "message":
                place, self._open = self._begin(kind, role="assistant", content=[])
                yield Step("opened", place, {**self._open, "content": []})
            else:
                opaque = seal(Opaque(self.provider))
                place, self._open = self._begin(kind, summary=[], content=[], encrypted_content=opaque)
                yield Step("opened", place, {**self._open, "summary": [], "content": []})
        return self._place(self._open), self._open

    def _parts_of(self, item: Item) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = item["content"] if item["type"] == "message" else item[self._thought[0]]
        return parts

    def _begin_part(self, place: int, item: Item, kind: str) -> Iterator[Step]:
        parts = self._parts_of(item)
        if parts:
            yield self._part_done(place, item)
        parts.append(_empty_part(kind))
        yield Step("part", place, item, part=dict(parts[-1]), at=len(parts) - 1)

    def _part_done(self, place: int, item: Item) -> Step:
        parts = self._parts_of(item)
        return Step("part_done", place, item, part=dict(parts[-1]), at=len(parts) - 1)

    def _say(self, kind: str, part_kind: str, text: str, logprobs: Sequence[Any] = ()) -> Iterator[Step]:
        if not text:
            return
        place, item = yield from self._speaking(kind)
        parts = self._parts_of(item)
        if not parts or parts[-1]["type"] != part_kind:
            yield from self._begin_part(place, item, part_kind)
        part, text = parts[-1], holdable(text)
        part["refusal" if part_kind == "refusal" else "text"] += text
        if logprobs:
            part["logprobs"] += logprobs
        yield Step("delta", place, item, part={"type": part_kind}, at=len(parts) - 1, text=text, logprobs=logprobs)

    def _carry(self, blocks: Iterable[Mapping[str, Any]]) -> Iterator[Step]:
        """Signed thoughts go with the reasoning that is open, or that opens for them."""
        kept = [found for block in blocks if (found := _thought(block))]
        if not kept:
            return
        _, item = yield from self._speaking("reasoning")
        before = unseal(item["encrypted_content"])
        thoughts = (*(before.thoughts if before else ()), *kept)
        item["encrypted_content"] = seal(Opaque(self.provider, thoughts=thoughts))

    def _call(self, index: int, fragment: Mapping[str, Any]) -> Iterator[Step]:
        function = _object(fragment.get("function"))
        item = self._calls.get(index)
        if item is None:
            yield from self._close("completed")
            call_id = holdable(str(fragment.get("id") or f"call_{uuid4().hex[:24]}"))
            place, item = self._begin("function_call", call_id=call_id, name="", arguments="")
            self._calls[index] = item
            item["name"] = holdable(str(function.get("name") or ""))
            yield Step("opened", place, dict(item))
        elif not item["name"]:
            item["name"] = holdable(str(function.get("name") or ""))
        if signature := _signature(fragment):
            item["encrypted_content"] = seal(Opaque(self.provider, signature=signature))
        if arguments := function.get("arguments"):
            text = holdable(arguments if isinstance(arguments, str) else json.dumps(arguments))
            item["arguments"] += text
            yield Step("delta", self._place(item), item, text=text)

    def _close(self, status: str) -> Iterator[Step]:
        item, self._open = self._open, None
        if item is None:
            return
        place = self._place(item)
        if self._parts_of(item):
            yield self._part_done(place, item)
        item["status"] = status
        yield Step("done", place, dict(item))


def _signature(thing: Mapping[str, Any]) -> str:
    """Gemini's, of a message or a call."""
    found = _object(_object(thing.get("extra_content")).get("google")).get("thought_signature")
    return found if isinstance(found, str) else ""


def _thought(block: Mapping[str, Any]) -> dict[str, str] | None:
    """A block of Anthropic's less what it does not take back."""
    names = ("type", "data") if block.get("type") == "redacted_thinking" else ("type", "thinking", "signature")
    found = {name: block.get(name) for name in names}
    return found if is_thought(found) else None  # type: ignore[return-value]


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(content: Any) -> str:
    """The text of an answer's content: some servers send it in parts."""
    if isinstance(content, str):
        return content
    return "".join(text for part in _objects(content) if isinstance(text := part.get("text"), str))


def _empty_part(kind: str) -> dict[str, Any]:
    if kind == "output_text":
        return {"type": kind, "annotations": [], "logprobs": [], "text": ""}
    return {"type": kind, "refusal" if kind == "refusal" else "text": ""}


def usage_of(usage: Usage, cost: int | None) -> dict[str, Any]:
    """The token counts as Responses have them; ``cost`` in 10⁻⁹ dollar, told in dollars."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total_tokens,
        "cost": to_dollars(cost),
    }
