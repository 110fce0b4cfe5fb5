"""What Anthropic answers, as OpenAI's: blocks, counts, and the events of a stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import orjson

from flaskllm.adapters.answers import Frames, tool_call
from flaskllm.adapters.base import broken_off, parse_object
from flaskllm.adapters.errors import failure_in_body
from flaskllm.adapters.sse import Event
from flaskllm.domain.chat import Chunk
from flaskllm.domain.usage import Usage, count
from flaskllm.errors import ProviderError

FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


def message_of(blocks: list[dict[str, Any]], body: Mapping[str, Any]) -> dict[str, Any]:
    texts = [str(block.get("text") or "") for block in blocks if block.get("type") == "text"]
    calls = [_call(block) for block in blocks if block.get("type") == "tool_use"]
    thoughts = [block for block in blocks if block.get("type") in ("thinking", "redacted_thinking")]
    message: dict[str, Any] = {"content": "".join(texts) if texts or not calls else None}
    if calls:
        message["tool_calls"] = calls
    if body.get("stop_reason") == "refusal":
        message["refusal"] = _explanation(body.get("stop_details"))
    if thoughts:
        message["reasoning_content"] = "".join(block.get("thinking") or "" for block in thoughts)
        message["thinking_blocks"] = thoughts
    return message


def _explanation(details: Any) -> str | None:
    return details.get("explanation") if isinstance(details, dict) else None


def _call(block: Mapping[str, Any]) -> dict[str, Any]:
    return tool_call(str(block.get("id")), str(block.get("name")), json.dumps(block.get("input") or {}))


def usage_of(raw: Any) -> Usage | None:
    """Anthropic's counts are apart already, but for the thinking inside the output and the split of what was cached."""
    if not isinstance(raw, dict):
        return None
    taken, given = count(raw.get("input_tokens")), count(raw.get("output_tokens"))
    if taken is None or given is None:
        return None
    written = count(raw.get("cache_creation_input_tokens")) or 0
    long = min(_inside(raw, "cache_creation", "ephemeral_1h_input_tokens"), written)
    thought = min(_inside(raw, "output_tokens_details", "thinking_tokens"), given)
    return Usage(
        input=taken,
        cache_read=count(raw.get("cache_read_input_tokens")) or 0,
        cache_write_5m=written - long,
        cache_write_1h=long,
        output=given - thought,
        reasoning=thought,
        web_searches=_inside(raw, "server_tool_use", "web_search_requests"),
    )


def _inside(raw: Mapping[str, Any], group: str, name: str) -> int:
    details = raw.get(group)
    return (count(details.get(name)) or 0) if isinstance(details, dict) else 0


def own_event(body: dict[str, Any], raw: bytes) -> bytes:
    """The event as it came, on one line. Counts that are missing or none are put right: SDKs stumble over them."""
    kind = str(body.get("type"))
    holder = body.get("message") if kind == "message_start" else body if kind == "message_delta" else None
    if isinstance(holder, dict) and (told := _told_usage(holder.get("usage"), whole=kind == "message_start")):
        holder["usage"] = told
        raw = orjson.dumps(body)
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), raw.replace(b"\r", b" ").replace(b"\n", b" "))


def _told_usage(raw: Any, *, whole: bool) -> dict[str, Any] | None:
    """The counts as they can be shown; None where they can be as they are."""
    given = raw if isinstance(raw, dict) else {}
    needed = ("input_tokens", "output_tokens") if whole else ("output_tokens",)
    told = {name: value for name, value in given.items() if name.endswith("_tokens") and value is not None}
    nonsense = [name for name, value in told.items() if count(value) is None]
    lacking = [name for name in needed if given.get(name) is None]
    if not nonsense and not lacking:
        return None
    shown = {name: value for name, value in given.items() if name not in nonsense}
    return {**shown, **{name: 0 for name in needed if name not in shown or name in lacking}}


class AnthropicDecoder:
    """Named events as OpenAI's frames; block indexes become the indexes of calls.

    ``keeps_events``: each event goes along as it came, for a caller who speaks Anthropic's wire too.
    """

    def __init__(self, secrets: tuple[str, ...], *, keeps_events: bool = False) -> None:
        self._secrets = secrets
        self._keeps_events = keeps_events
        self._frames = Frames(None, "")
        self._blocks: dict[Any, dict[str, Any]] = {}
        self._calls = self._thoughts = 0
        self._usage: dict[str, Any] = {}
        self._native: str | None = None
        self.ended = False

    def decode(self, event: Event) -> list[Chunk]:
        body, raw = parse_object(event.data)
        if failure := failure_in_body(body, self._secrets):
            raise failure
        handler = self._HANDLERS.get(str(body.get("type")))
        try:
            chunks = handler(self, body) if handler else []
            return self._with_usage(self._with_event(chunks, body, raw) if self._keeps_events else chunks, body)
        except (AttributeError, KeyError, TypeError):
            raise ProviderError(
                "The provider's stream holds an event that makes no sense.", may_be_billed=True
            ) from None

    def at_end(self) -> list[Chunk]:
        raise broken_off()

    def _with_usage(self, chunks: list[Chunk], body: dict[str, Any]) -> list[Chunk]:
        """What the prompt takes is told at the start: a stream that breaks off is not left to guessing."""
        usage = usage_of(self._usage) if body.get("type") in ("message_start", "message_delta") else None
        if usage is None:
            return chunks
        return [replace(chunks[0], usage=usage), *chunks[1:]] if chunks else [self._frames.usage(usage)]

    def _with_event(self, chunks: list[Chunk], body: dict[str, Any], raw: bytes) -> list[Chunk]:
        """The event in the first of its frames, or in one that holds nothing else. Pings are each door's own."""
        if body.get("type") == "ping":
            return chunks
        own = own_event(body, raw)
        if chunks:
            return [replace(chunks[0], own=own), *chunks[1:]]
        block = body.get("content_block") or {}
        begins = body.get("type") == "content_block_start" and block.get("type") not in ("text", "thinking")
        return [Chunk({**self._frames.head, "choices": []}, has_content=begins, own=own)]

    def _message_start(self, body: dict[str, Any]) -> list[Chunk]:
        message = body["message"]
        self._frames = Frames(message.get("id"), message.get("model"))
        self._note_usage(message.get("usage"))
        return [self._frames.role()]

    def _block_start(self, body: dict[str, Any]) -> list[Chunk]:
        block = {**body["content_block"], "said": ""}
        self._blocks[body["index"]] = block
        if block["type"] == "tool_use":
            block["place"] = self._calls
            self._calls += 1
            call = tool_call(str(block["id"]), str(block["name"]), "")
            return [self._frames.delta(tool_calls=[{"index": block["place"], **call}])]
        if block["type"] == "text" and block.get("text"):
            return [self._frames.delta(content=block["text"])]
        return []

    def _block_delta(self, body: dict[str, Any]) -> list[Chunk]:
        block, delta = self._blocks[body["index"]], body["delta"]
        if text := delta.get("text"):
            return [self._frames.delta(content=text)]
        if (part := delta.get("partial_json")) and "place" in block:
            block["said"] += part
            return [self._arguments(block, part)]
        if thought := delta.get("thinking"):
            block["thinking"] = (block.get("thinking") or "") + thought
            return [self._frames.delta(reasoning_content=thought)]
        if signature := delta.get("signature"):
            block["signature"] = (block.get("signature") or "") + signature
        return []

    def _arguments(self, block: Mapping[str, Any], text: str) -> Chunk:
        return self._frames.delta(tool_calls=[{"index": block["place"], "function": {"arguments": text}}])

    def _block_stop(self, body: dict[str, Any]) -> list[Chunk]:
        """A call without arguments has no fragments; a thought is handed on whole, with the signature it needs to come
        back."""
        block = self._blocks.pop(body["index"])
        if block["type"] == "tool_use" and not block["said"]:
            return [self._arguments(block, json.dumps(block.get("input") or {}))]
        if block["type"] not in ("thinking", "redacted_thinking"):
            return []
        thought = {"index": self._thoughts, **{name: value for name, value in block.items() if name != "said"}}
        self._thoughts += 1
        return [self._frames.delta(thinking_blocks=[thought])]

    def _message_delta(self, body: dict[str, Any]) -> list[Chunk]:
        self._note_usage(body.get("usage"))
        delta = body.get("delta") or {}
        self._native = delta.get("stop_reason") or self._native
        if self._native == "refusal" and (why := _explanation(delta.get("stop_details"))):
            return [self._frames.delta(refusal=why)]
        return []

    def _note_usage(self, raw: Any) -> None:
        """Counts are running totals: what comes later replaces what came before, and null replaces nothing."""
        if isinstance(raw, dict):
            self._usage |= {name: value for name, value in raw.items() if value is not None}

    def _message_stop(self, body: dict[str, Any]) -> list[Chunk]:
        self.ended = True
        chunks = [self._frames.end(0, FINISH.get(self._native or "", "stop"), self._native)]
        usage = usage_of(self._usage)
        return [*chunks, self._frames.usage(usage)] if usage else chunks

    _HANDLERS: ClassVar = {
        "message_start": _message_start,
        "content_block_start": _block_start,
        "content_block_delta": _block_delta,
        "content_block_stop": _block_stop,
        "message_delta": _message_delta,
        "message_stop": _message_stop,
    }
