"""What comes back: a text and what is known about it, whole or piece by piece."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from flaskllm.client.errors import from_answer


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer. ``usage``: OpenAI's counts of tokens. ``cost``: US dollars, None where the price is unknown.

    ``body``: the whole document as it came.
    """

    text: str
    model: str
    provider: str | None
    usage: Mapping[str, Any]
    cost: float | None
    request_id: str | None
    finish_reason: str | None
    body: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, body: Mapping[str, Any], headers: Mapping[str, str]) -> Generated:
        choice = (body.get("choices") or [{}])[0]
        cost = headers.get("X-FlaskLLM-Cost")
        return cls(
            text=(choice.get("message") or {}).get("content") or "",
            model=str(body.get("model") or ""),
            provider=headers.get("X-FlaskLLM-Provider"),
            usage=body.get("usage") or {},
            cost=float(cost) if cost else None,
            request_id=headers.get("X-Request-Id"),
            finish_reason=choice.get("finish_reason"),
            body=body,
        )


class ChunkStream:
    """A streamed answer as OpenAI's chunks. Ends its connection when it is read out, closed or left as a context."""

    def __init__(self, pieces: Iterator[bytes], headers: Mapping[str, str], close: Callable[[], None]) -> None:
        self._pieces, self._headers, self._close = pieces, headers, close
        self.model = headers.get("X-FlaskLLM-Model")
        self.provider = headers.get("X-FlaskLLM-Provider")
        self.request_id = headers.get("X-Request-Id")
        self.usage: Mapping[str, Any] = {}
        self.cost: float | None = None
        self.finish_reason: str | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Raises the `GatewayError` that a stream may end with."""
        try:
            for data in frames(self._pieces):
                if data == "[DONE]":
                    return
                yield self._look_at(json.loads(data))
        finally:
            self.close()

    def _look_at(self, chunk: dict[str, Any]) -> dict[str, Any]:
        if "error" in chunk:
            code = str((chunk["error"] or {}).get("code") or "")
            raise from_answer(200, {**self._headers, "X-FlaskLLM-Error": code}, chunk)
        if usage := chunk.get("usage"):
            self.cost = usage.pop("cost", None)
            self.usage = usage
        for choice in chunk.get("choices") or ():
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        return chunk

    def close(self) -> None:
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TextStream:
    """The text of a streamed answer, piece by piece.

    ``chunks``: the stream below, which knows `usage`, `cost` and `finish_reason` once it has ended.
    """

    def __init__(self, chunks: ChunkStream) -> None:
        self.chunks = chunks

    def __iter__(self) -> Iterator[str]:
        for chunk in self.chunks:
            for choice in chunk.get("choices") or ():
                if text := (choice.get("delta") or {}).get("content"):
                    yield text

    @property
    def usage(self) -> Mapping[str, Any]:
        return self.chunks.usage

    @property
    def cost(self) -> float | None:
        return self.chunks.cost

    @property
    def finish_reason(self) -> str | None:
        return self.chunks.finish_reason

    @property
    def model(self) -> str | None:
        return self.chunks.model

    @property
    def request_id(self) -> str | None:
        return self.chunks.request_id

    def close(self) -> None:
        self.chunks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def frames(pieces: Iterator[bytes]) -> Iterator[str]:
    """The data of each server-sent event. The gateway writes one line a frame, and comments between them."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip().decode()
