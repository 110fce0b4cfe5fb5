"""Anthropic's dialect on the way out: our answers as its messages, whole or as named events.

Where the provider speaks this dialect too, its own bytes are passed on. All others' answers, which are OpenAI's inside,
are said in blocks, one after the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from flaskllm.domain.answer import Answer
from flaskllm.domain.chat import Chunk, content_text
from flaskllm.domain.estimate import prompt_estimate
from flaskllm.domain.usage import Usage
from flaskllm.errors import DomainError
from flaskllm.wire import errors, shapes
from flaskllm.wire.anthropic import Asked, in_callers_words
from flaskllm.wire.carried import signed_id, signed_thought

STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
OWN_STOPS = frozenset({
    "end_turn", "max_tokens", "model_context_window_exceeded", "pause_turn", "refusal", "stop_sequence", "tool_use",
})  # fmt: skip
PING = b': ping\nevent: ping\ndata: {"type": "ping"}\n\n'
"""A comment for who counts silent seconds, and the event for who reads this dialect."""
_NOT_IN_ID = re.compile(r"[^a-zA-Z0-9_-]")


# -- whole -------------------------------------------------------------------------------------------------------------


def write_message(answer: Answer) -> bytes:
    """An answer as Anthropic's ``message``: the provider's own bytes where its wire is the same."""
    result = answer.result
    if result.own is not None and result.usage is not None:
        return result.own
    if result.own is not None:
        return orjson.dumps({**orjson.loads(result.own), "usage": write_usage(answer.usage)})
    choice = (result.body.get("choices") or [{}])[0]
    message = choice.get("message") or {}
    content = _content(message)
    return orjson.dumps({
        **_head(result.body.get("id"), answer.model),
        "content": content,
        "stop_reason": _stop(choice, has_calls=bool(message.get("tool_calls")), refused=bool(message.get("refusal"))),
        "stop_sequence": None,
        "usage": write_usage(answer.usage),
    })  # fmt: skip


def write_usage(usage: Usage) -> dict[str, Any]:
    """Counts as Anthropic prints them: what was read from a cache or written to one stands beside ``input_tokens``."""
    written = usage.cache_write_5m + usage.cache_write_1h
    return {
        "input_tokens": usage.prompt_tokens - usage.cache_read - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": usage.completion_tokens,
    }


def _head(answer_id: Any, model: str) -> dict[str, Any]:
    found = _NOT_IN_ID.sub("_", str(answer_id or ""))
    return {
        "id": found if found.startswith("msg_") else f"msg_{found}",
        "type": "message",
        "role": "assistant",
        "model": model,
    }


def _content(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Thoughts first, then text, then calls."""
    blocks = _thoughts(message)
    if text := content_text(message.get("content")) or _string(message.get("refusal")):
        blocks.append({"type": "text", "text": text})
    return blocks + [_tool_use(call) for call in message.get("tool_calls") or ()]


def _thoughts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    if blocks := _signed(message):
        return blocks
    said, signature = _string(message.get("reasoning_content")), google_of(message)
    if not said and not signature:
        return []
    return [{"type": "thinking", "thinking": said, "signature": signed_thought(signature) if signature else ""}]


def _signed(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Anthropic's own blocks; their index is of use in a stream of OpenAI's only."""
    blocks = message.get("thinking_blocks")
    found = [block for block in blocks if isinstance(block, dict)] if isinstance(blocks, list) else []
    return [{name: held for name, held in block.items() if name != "index"} for block in found]


def _tool_use(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    return {
        "type": "tool_use",
        "id": signed_id(str(call.get("id") or ""), google_of(call)),
        "name": _string(function.get("name")),
        "input": _input(function.get("arguments")),
    }


def google_of(thing: Mapping[str, Any]) -> str | None:
    """Gemini's signature in a call or a message."""
    extra = thing.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else None


def _input(arguments: Any) -> dict[str, Any]:
    """Arguments as the object they should be; what a model wrote instead is kept under a name that says so."""
    found = _parsed(arguments)
    return found if isinstance(found, dict) else {"invalid_arguments": str(arguments)}


def _string(value: Any) -> str:
    """What a provider wrote where a text belongs."""
    return value if isinstance(value, str) else ""


def _parsed(arguments: Any) -> Any:
    if not arguments:
        return {}
    try:
        return json.loads(arguments)
    except (TypeError, ValueError, RecursionError):
        return None


def _stop(choice: Mapping[str, Any], *, has_calls: bool, refused: bool) -> str:
    """Why it ended, in the vendor's own word where that is Anthropic's."""
    native = choice.get("native_finish_reason")
    if native in OWN_STOPS:
        return str(native)
    reason = STOPS.get(str(choice.get("finish_reason")), "end_turn")
    if reason != "end_turn":
        return reason
    return "tool_use" if has_calls else "refusal" if refused else reason


# -- streamed ----------------------------------------------------------------------------------------------------------


def write_events(stream: Any, asked: Asked, request_id: str) -> Iterator[bytes]:
    """A `ChatStream` as named events; those at hand are joined into one write. An error is one event, the last."""
    writer = _Events(prompt_estimate(asked.chat.messages))
    for item in stream:
        written = _written(writer, item, asked, request_id)
        written += b"".join(_written(writer, more, asked, request_id) for more in iter(stream.at_hand, None))
        if written:
            yield written
    if stream.error is None and not writer.passes_on:
        yield b"".join(writer.end(stream.usage))


def _written(writer: _Events, item: Chunk | DomainError | None, asked: Asked, request_id: str) -> bytes:
    if item is None:
        return PING
    if isinstance(item, DomainError):
        return event("error", errors.anthropic(in_callers_words(item, asked), request_id))
    return b"".join(writer.write(item))


def event(kind: str, body: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **body}))


class _Call:
    """One call on its way: its first fragment, its arguments so far, and whether its block has begun."""

    def __init__(self, head: Mapping[str, Any]) -> None:
        self.head = head
        self.function: Mapping[str, Any] = head.get("function") or {}
        self.said = ""
        self.sent = False


class _Events:
    """Chunks as events: a block at a time, in the order in which they begin.

    A call whose arguments are not whole yet keeps those after it waiting, because a block that has ended cannot go on.
    """

    def __init__(self, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._begun = False
        self._index = -1
        self._open: int | str | None = None
        self._said: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._refused = False
        self._signed: str | None = None
        self._choice: Mapping[str, Any] = {}
        self.passes_on = False
        """Whether the events are the provider's own."""

    def write(self, chunk: Chunk) -> Iterator[bytes]:
        if chunk.own is not None:
            self.passes_on = True
            yield chunk.own
            return
        if not self._begun and (chunk.body.get("id") or chunk.body.get("choices")):
            yield self._begin(chunk.body)
        for choice in (chunk.body.get("choices") or ())[:1]:
            yield from self._delta(choice.get("delta") or {})
            if choice.get("finish_reason"):
                self._choice = choice

    def _begin(self, body: Mapping[str, Any]) -> bytes:
        self._begun = True
        message = {
            **_head(body.get("id"), str(body.get("model") or "")),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**write_usage(Usage(input=self._prompt_tokens)), "output_tokens": 0},
        }
        return event("message_start", {"message": message})

    def _delta(self, delta: Mapping[str, Any]) -> Iterator[bytes]:
        if thought := _string(delta.get("reasoning_content")):
            yield from self._say("thinking", {"thinking": "", "signature": ""}, "thinking_delta", "thinking", thought)
        for block in _signed(delta):
            yield from self._thought(block)
        self._signed = google_of(delta) or self._signed
        for name in ("content", "refusal"):
            if text := _string(delta.get(name)):
                self._refused = self._refused or name == "refusal"
                yield from self._say("text", {"text": ""}, "text_delta", "text", text)
        for call in delta.get("tool_calls") or ():
            yield from self._call(call)

    def _say(self, kind: str, empty: dict[str, str], delta: str, name: str, text: str) -> Iterator[bytes]:
        if self._open != kind:
            yield from self._start(kind, {"type": kind, **empty})
        self._said.append(text)
        yield self._piece({"type": delta, name: text})

    def _thought(self, block: dict[str, Any]) -> Iterator[bytes]:
        """Whole, after its words, with the signature they need to come back."""
        is_said = self._open == "thinking" and "".join(self._said) == block.get("thinking")
        if block.get("type") != "thinking":
            yield from self._start("thinking", block)
        elif not is_said:
            yield from self._start("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            if words := block.get("thinking"):
                yield self._piece({"type": "thinking_delta", "thinking": words})
        if signature := block.get("signature"):
            yield self._piece({"type": "signature_delta", "signature": signature})
        yield from self._stop_block()

    # -- calls -----------------------------------------------------------------------------------------------------

    def _call(self, call: Mapping[str, Any]) -> Iterator[bytes]:
        place, function = self._place(call), call.get("function") or {}
        piece = _string(function.get("arguments"))
        held = self._calls.setdefault(place, _Call(call))
        held.said += piece
        if self._open == place and piece:
            yield self._piece({"type": "input_json_delta", "partial_json": piece})
        elif not held.sent and not self._must_wait():
            yield from self._start_call(held, place)

    def _place(self, call: Mapping[str, Any]) -> int:
        """Which call a fragment belongs to; some servers do not say."""
        index = call.get("index")
        if isinstance(index, int):
            return index
        return len(self._calls) if call.get("id") or not self._calls else max(self._calls)

    def _must_wait(self) -> bool:
        """Whether the open block is a call that may still go on."""
        held = self._calls.get(self._open) if isinstance(self._open, int) else None
        return held is not None and (not held.said or _parsed(held.said) is None)

    def _start_call(self, held: _Call, place: int) -> Iterator[bytes]:
        held.sent = True
        yield from self._start(place, {**_tool_use({**held.head, "function": {**held.function, "arguments": ""}})})
        if held.said:
            yield self._piece({"type": "input_json_delta", "partial_json": held.said})

    # -- blocks ----------------------------------------------------------------------------------------------------

    def _start(self, kind: int | str, block: Mapping[str, Any]) -> Iterator[bytes]:
        yield from self._stop_block()
        self._open, self._said = kind, []
        self._index += 1
        yield event("content_block_start", {"index": self._index, "content_block": block})

    def _piece(self, delta: Mapping[str, Any]) -> bytes:
        return event("content_block_delta", {"index": self._index, "delta": delta})

    def _stop_block(self) -> Iterator[bytes]:
        if self._open is not None:
            self._open = None
            yield event("content_block_stop", {"index": self._index})

    def end(self, usage: Usage | None) -> Iterator[bytes]:
        """What is left, why it ended, and what it took."""
        if not self._begun:
            yield self._begin({})
        for place, held in self._calls.items():
            if not held.sent:
                yield from self._start_call(held, place)
        if self._signed:
            yield from self._thought({"type": "thinking", "thinking": "", "signature": signed_thought(self._signed)})
        yield from self._stop_block()
        stop = _stop(self._choice, has_calls=bool(self._calls), refused=self._refused)
        told = {"delta": {"stop_reason": stop, "stop_sequence": None}, "usage": write_usage(usage or Usage())}
        yield event("message_delta", told)
        yield event("message_stop", {})


# -- forms for the document --------------------------------------------------------------------------------------------

_USAGE: shapes.Shape = {
    "type": "object",
    "properties": {
        "input_tokens": shapes.COUNT,
        "output_tokens": shapes.COUNT,
        "cache_creation_input_tokens": shapes.maybe(shapes.COUNT),
        "cache_read_input_tokens": shapes.maybe(shapes.COUNT),
    },
    "required": ["input_tokens", "output_tokens"],
}
MESSAGE: shapes.Shape = {
    "title": "Message",
    "type": "object",
    "description": "The provider's own bytes where its wire is Anthropic's, so it may hold more than this.",
    "properties": {
        "id": shapes.STRING,
        "type": {"const": "message"},
        "role": {"const": "assistant"},
        "model": shapes.STRING,
        "content": shapes.several({"type": "object", "properties": {"type": shapes.STRING}, "required": ["type"]}),
        "stop_reason": shapes.maybe(shapes.STRING),
        "stop_sequence": shapes.maybe(shapes.STRING),
        "usage": _USAGE,
    },
    "required": ["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"],
}
