"""An answer as the cache keeps it: in words or in vectors, what it cost, and who gave it."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from flaskllm.domain.chat import ChatResult
from flaskllm.domain.embedding import EmbedResult
from flaskllm.domain.usage import Usage

Result = TypeVar("Result", ChatResult, EmbedResult)
WHOLE = frozenset({"stop", "tool_calls"})
"""How a complete answer ends; one that was cut or filtered may be whole the next time."""
ODD = (AttributeError, KeyError, TypeError, ValueError, struct.error)
"""What a row that another version wrote, or that is damaged, comes to."""


@dataclass(frozen=True, slots=True)
class Cached(Generic[Result]):
    """An answer from the cache, what it cost when it was asked for, and who gave it, as ``provider/model``."""

    result: Result
    cost: int | None
    by: str


@dataclass(frozen=True, slots=True)
class Form(Generic[Result]):
    """How one kind of answer is kept. ``held``, ``result``: to JSON's values and back, raising one of `ODD`.

    ``is_readable``: whether it is an answer at all; ``is_whole``: whether it ended by itself.
    """

    held: Callable[[Result], dict[str, Any]]
    result: Callable[[dict[str, Any]], Result]
    is_readable: Callable[[Result], bool]
    is_whole: Callable[[Result], bool]

    def write(self, cached: Cached[Result]) -> bytes | None:
        """None for one whose bytes are not in UTF-8."""
        try:
            held = self.held(cached.result)
        except UnicodeDecodeError:
            return None
        return json.dumps({"by": cached.by, "cost": cached.cost, **held}, separators=(",", ":")).encode()

    def read(self, raw: bytes) -> Cached[Result] | None:
        """None for a row that another version wrote, or that is damaged."""
        try:
            held = json.loads(raw)
            result = self.result(held)
            return Cached(result, held["cost"], held["by"]) if self.is_readable(result) else None
        except ODD:
            return None


def _words_held(result: ChatResult) -> dict[str, Any]:
    return {
        "body": result.body,
        "usage": asdict(result.usage) if result.usage else None,
        "dropped": list(result.dropped),
        "raw": result.raw.decode() if result.raw is not None else None,
        "own": result.own.decode() if result.own is not None else None,
    }


def _words_result(held: dict[str, Any]) -> ChatResult:
    return ChatResult(
        body=held["body"],
        usage=Usage(**held["usage"]) if held["usage"] else None,
        raw=held["raw"].encode() if held["raw"] is not None else None,
        dropped=tuple(held["dropped"]),
        own=held["own"].encode() if held["own"] is not None else None,
    )


def _has_messages(result: ChatResult) -> bool:
    """Whether there are choices, each with its message."""
    choices = result.body.get("choices") if isinstance(result.body, dict) else None
    if not isinstance(choices, list) or not choices:
        return False
    return all(isinstance(one, dict) and isinstance(one.get("message"), dict) for one in choices)


def _ended_by_itself(result: ChatResult) -> bool:
    return {choice.get("finish_reason") for choice in result.body["choices"]} <= WHOLE


def _vectors_held(result: EmbedResult) -> dict[str, Any]:
    return {
        "vectors": [_packed(vector) for vector in result.vectors],
        "usage": asdict(result.usage) if result.usage else None,
        "model": result.model,
        "dropped": list(result.dropped),
    }


def _vectors_result(held: dict[str, Any]) -> EmbedResult:
    return EmbedResult(
        vectors=[_unpacked(vector) for vector in held["vectors"]],
        usage=Usage(**held["usage"]) if held["usage"] else None,
        model=held["model"],
        dropped=tuple(held["dropped"]),
    )


def _has_vectors(result: EmbedResult) -> bool:
    return bool(result.vectors) and all(result.vectors)


def _packed(vector: Sequence[float]) -> str:
    """In full precision, at half the size that its numbers have as text.

    >>> _unpacked(_packed([0.1, -2.0]))
    [0.1, -2.0]
    """
    return base64.b64encode(struct.pack(f"<{len(vector)}d", *vector)).decode()


def _unpacked(text: str) -> list[float]:
    """Raises `struct.error` or `ValueError` for what is none of ours."""
    return [number for (number,) in struct.iter_unpack("<d", base64.b64decode(text, validate=True))]


WORDS = Form(_words_held, _words_result, _has_messages, _ended_by_itself)
VECTORS = Form(_vectors_held, _vectors_result, _has_vectors, lambda _: True)
