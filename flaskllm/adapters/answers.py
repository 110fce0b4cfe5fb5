"""OpenAI's answers, made from another vendor's words: whole, or frame by frame in the order OpenAI's clients expect."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from uuid import uuid4

from flaskllm.domain.chat import ChatResult, Chunk
from flaskllm.domain.usage import Usage


def head_of(answer_id: Any, model: Any, *, streamed: bool) -> dict[str, Any]:
    """What every frame of one answer has in common."""
    return {
        "id": str(answer_id or f"chatcmpl-{uuid4().hex}"),
        "object": "chat.completion.chunk" if streamed else "chat.completion",
        "created": int(time.time()),
        "model": str(model or ""),
    }


def completion(head: Mapping[str, Any], choices: list[dict[str, Any]], usage: Usage | None) -> ChatResult:
    """A whole answer. Without a usage there is none in the body either: it is the books that estimate."""
    body = {**head, "choices": choices}
    if usage is not None:
        body["usage"] = usage.to_openai()
    return ChatResult(body=body, usage=usage)


def whole_choice(
    index: int, message: Mapping[str, Any], reason: str, *, native: Any = None, logprobs: Any = None
) -> dict[str, Any]:
    """One choice; ``native`` is the vendor's own word for why it ended."""
    said = {"role": "assistant", "content": None, "refusal": None, **message}
    choice = {"index": index, "message": said, "logprobs": logprobs, "finish_reason": reason}
    return choice if native is None else {**choice, "native_finish_reason": native}


def tool_call(call_id: str, name: str, arguments: str, **more: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


class Frames:
    """Makes the frames of one streamed answer; all of them bear the same id, time and model."""

    def __init__(self, answer_id: Any, model: Any) -> None:
        self._head = head_of(answer_id, model, streamed=True)

    @property
    def head(self) -> dict[str, Any]:
        return self._head

    def role(self, index: int = 0) -> Chunk:
        return self._frame(index, {"role": "assistant", "content": ""}, has_content=False)

    def delta(self, index: int = 0, **delta: Any) -> Chunk:
        return self._frame(index, delta)

    def end(self, index: int, reason: str, native: Any = None) -> Chunk:
        return self._frame(index, {}, reason, native)

    def usage(self, usage: Usage) -> Chunk:
        return Chunk({**self._head, "choices": [], "usage": usage.to_openai()}, usage=usage)

    def _frame(
        self,
        index: int,
        delta: dict[str, Any],
        reason: str | None = None,
        native: Any = None,
        *,
        has_content: bool = True,
    ) -> Chunk:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        if native is not None:
            choice["native_finish_reason"] = native
        return Chunk({**self._head, "choices": [choice]}, has_content=has_content)


def frames_of(result: ChatResult, pieces: Callable[[str], Iterable[str]] = lambda text: [text]) -> Iterator[Chunk]:
    """A whole answer as the stream it might have been: role, content, reason of each choice; then the usage.

    ``pieces``: how a text is cut.
    """
    frames = Frames(result.body.get("id"), result.body.get("model"))
    frames.head["created"] = result.body.get("created") or frames.head["created"]
    for choice in result.body["choices"]:
        index = choice.get("index") or 0
        yield frames.role(index)
        for delta in _deltas(choice["message"], pieces):
            yield frames.delta(index, **delta)
        yield frames.end(index, choice.get("finish_reason") or "stop", choice.get("native_finish_reason"))
    if result.usage is not None:
        yield frames.usage(result.usage)


def _deltas(message: Mapping[str, Any], pieces: Callable[[str], Iterable[str]]) -> Iterator[dict[str, Any]]:
    for name, value in message.items():
        if name not in ("role", "content", "tool_calls") and value:
            yield {name: value}
    for piece in pieces(message["content"]) if message.get("content") else ():
        yield {"content": piece}
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        yield {"tool_calls": [{"index": index, **call, "function": {**function, "arguments": ""}}]}
        yield {"tool_calls": [{"index": index, "function": {"arguments": function["arguments"]}}]}
