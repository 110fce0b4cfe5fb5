"""A streamed answer put together again as the whole one that it might have been."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flaskllm.domain.chat import ChatResult, Chunk, Gathered, chunk_chars
from flaskllm.domain.usage import Usage

HEAD = ("id", "created", "model", "system_fingerprint", "service_tier")
GATHERED = ("thinking_blocks", "extra_content")
ODD = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What a frame of another shape than it should have comes to."""


class Streamed:
    """``most``: characters of an answer that may be put together."""

    def __init__(self, *, most: int) -> None:
        self._left: float = most
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}

    def note(self, chunk: Chunk) -> bool:
        """One frame. False where it says what a whole answer of ours has no place for, or too much: it is no use then.

        Events in a provider's own words (`Chunk.own`) are such: they hold more than the frames made of them.
        """
        try:
            return chunk.own is None and self._note(chunk)
        except ODD:
            return False

    def _note(self, chunk: Chunk) -> bool:
        self._left -= chunk_chars(chunk.body)
        for name in HEAD:
            if name not in self._head and chunk.body.get(name) is not None:
                self._head[name] = chunk.body[name]
        choices = chunk.body.get("choices") or ()
        noted = [self._choices.setdefault(int(one.get("index") or 0), _Choice()).note(one) for one in choices]
        return self._left >= 0 and all(noted)

    def result(self, usage: Usage | None, dropped: Sequence[str]) -> ChatResult | None:
        """The answer; None where nothing of one has come."""
        if not self._choices:
            return None
        choices = [{"index": index, **choice.whole()} for index, choice in sorted(self._choices.items())]
        body = {**self._head, "object": "chat.completion", "choices": choices}
        if usage is not None:
            body["usage"] = usage.to_openai()
        return ChatResult(body, usage, dropped=tuple(dropped))


class _Choice:
    """One choice of the answer, from its deltas."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._gathered = Gathered()
        self._end: dict[str, Any] = {"finish_reason": None}

    def note(self, choice: Mapping[str, Any]) -> bool:
        """False where something in it has no place in a whole answer."""
        for name in ("finish_reason", "native_finish_reason"):
            if choice.get(name):
                self._end[name] = choice[name]
        delta = choice.get("delta") or {}
        self._gathered.note(delta)
        for call in delta.get("tool_calls") or ():
            self._note_call(call)
        rest = {name: held for name, held in delta.items() if name not in (*GATHERED, "role", "tool_calls") and held}
        for name, held in rest.items():
            self._texts.setdefault(name, []).append(held)
        return not choice.get("logprobs") and all(isinstance(held, str) for held in rest.values())

    def _note_call(self, call: Mapping[str, Any]) -> None:
        held = self._calls.setdefault(int(call["index"]), {"function": {"name": "", "arguments": ""}})
        held.update({name: value for name, value in call.items() if name not in ("index", "function") and value})
        for name, piece in (call.get("function") or {}).items():
            held["function"][name] = held["function"].get(name, "") + (piece or "")

    def whole(self) -> dict[str, Any]:
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        message = {"role": "assistant", "content": None, **texts, **self._gathered.fields()}
        if self._calls:
            message["tool_calls"] = [call for _, call in sorted(self._calls.items())]
        elif message["content"] is None:
            message["content"] = ""
        return {"message": message, "logprobs": None, **self._end}
