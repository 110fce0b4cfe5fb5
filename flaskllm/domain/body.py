"""What was said in a call, as far as it is stored where ``STORE_PROMPTS`` is on: texts within a bound, and no files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flaskllm.domain.chat import ChatRequest, ChatResult, content_text
from flaskllm.domain.embedding import EmbedRequest
from flaskllm.domain.image import ImageRequest

MOST_CHARS = 64 * 1024
"""Of all messages of a question together, and of all answers to it."""


@dataclass(frozen=True, slots=True)
class Said:
    """One message: who said it, and its text. What was no text is named in brackets."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Body:
    """A question and its answers (several where several choices were asked for); ``left_out``: characters beyond the
    bound, the oldest of the question and the last of the answers."""

    question: tuple[Said, ...]
    answers: tuple[str, ...] = ()
    left_out: int = 0

    def to_json(self) -> str:
        told = {
            "question": [[one.role, one.text] for one in self.question],
            "answers": list(self.answers),
            "left_out": self.left_out,
        }
        return json.dumps(told, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Body:
        held = json.loads(text)
        return cls(tuple(Said(*one) for one in held["question"]), tuple(held["answers"]), held["left_out"])


@dataclass(slots=True)
class Transcript:
    """The text of an answer, from its whole message or from the frames of a stream, choice by choice; bounded."""

    _parts: dict[int, list[str]] = field(default_factory=dict)
    _room: int = MOST_CHARS
    left_out: int = 0

    def note(self, body: Mapping[str, Any]) -> None:
        """One frame, or the whole answer; what has another form than OpenAI's is passed over."""
        choices = body.get("choices")
        for place, choice in enumerate(choices if isinstance(choices, list) else ()):
            if isinstance(choice, dict) and isinstance(message := choice.get("delta") or choice.get("message"), dict):
                index = choice.get("index")
                for text in _texts(message):
                    self._add(index if isinstance(index, int) else place, text)

    def _add(self, index: int, text: str) -> None:
        kept = text[: self._room]
        self._room -= len(kept)
        self.left_out += len(text) - len(kept)
        self._parts.setdefault(index, []).append(kept)

    @property
    def answers(self) -> tuple[str, ...]:
        return tuple("".join(self._parts[index]) for index in sorted(self._parts))


def body_of(request: ChatRequest | EmbedRequest | ImageRequest, answer: Transcript | None) -> Body:
    """What is stored of a call; ``answer``: None where none came in words."""
    question, left_out = _bounded(_question(request))
    if answer is None:
        return Body(question, (), left_out)
    return Body(question, answer.answers, left_out + answer.left_out)


def transcript_of(result: Any) -> Transcript | None:
    """Of a whole answer; None for vectors and images."""
    if not isinstance(result, ChatResult):
        return None
    found = Transcript()
    found.note(result.body)
    return found


def _question(request: ChatRequest | EmbedRequest | ImageRequest) -> list[Said]:
    if isinstance(request, ImageRequest):
        return [Said("user", request.prompt)]
    if isinstance(request, EmbedRequest):
        return [Said("input", one if isinstance(one, str) else f"[{len(one)} tokens]") for one in request.inputs]
    return [Said(str(one.get("role") or "user"), "\n".join(_lines(one))) for one in request.messages]


def _lines(message: Mapping[str, Any]) -> Iterable[str]:
    content = message.get("content")
    if text := content_text(content):
        yield text
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and not isinstance(part.get("text"), str):
            yield f"[{part.get('type') or 'part'}]"
    yield from _calls(message)


def _texts(message: Mapping[str, Any]) -> Iterable[str]:
    for name in ("content", "refusal"):
        if text := content_text(message.get(name)):
            yield text
    yield from _calls(message)


def _calls(message: Mapping[str, Any]) -> Iterable[str]:
    """Tools that are called, or a piece of such a call in a stream."""
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            name, arguments = function.get("name"), function.get("arguments")
            yield (f"[calls {name}] " if name else "") + (arguments if isinstance(arguments, str) else "")


def _bounded(said: Sequence[Said]) -> tuple[tuple[Said, ...], int]:
    """The newest messages that there is room for, the first of them cut where it begins."""
    room, kept, left_out = MOST_CHARS, [], 0
    for one in reversed(said):
        text = one.text[-room:] if room else ""
        room -= len(text)
        left_out += len(one.text) - len(text)
        if text or not one.text:
            kept.append(Said(one.role, text))
    return tuple(reversed(kept)), left_out
