"""A stream put together again is the whole answer, or is said to be none."""

from __future__ import annotations

from typing import Any

import pytest

from flaskllm.domain.chat import Chunk
from flaskllm.domain.streamed import Streamed
from flaskllm.domain.usage import Usage

HEAD = {"id": "a", "created": 1, "model": "m"}


def chunk(delta: Any, end: str | None = None, index: int = 0, **more: Any) -> Chunk:
    return Chunk({**HEAD, "choices": [{"index": index, "delta": delta, "finish_reason": end, **more}]})


def test_texts_of_each_choice_are_joined() -> None:
    streamed = Streamed(most=100)
    parts = [
        ({"role": "assistant", "content": ""}, 0),
        ({"content": "on"}, 1),
        ({"content": "ye"}, 0),
        ({"content": "s"}, 0),
    ]
    assert all(streamed.note(chunk(delta, index=index)) for delta, index in parts)
    assert all(streamed.note(chunk({}, "stop", index)) for index in (0, 1))
    result = streamed.result(Usage(input=3, output=2), ("seed",))
    assert result is not None
    assert [one["message"]["content"] for one in result.body["choices"]] == ["yes", "on"]
    assert {one["finish_reason"] for one in result.body["choices"]} == {"stop"}
    assert (result.body["id"], result.body["usage"]["total_tokens"], result.dropped) == ("a", 5, ("seed",))


def test_calls_of_tools_are_joined_in_order() -> None:
    streamed = Streamed(most=100)
    pieces: list[dict[str, Any]] = [
        {"index": 1, "id": "y", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        {"index": 0, "id": "x", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
    ]
    assert all(streamed.note(chunk({"tool_calls": [piece]})) for piece in pieces)
    result = streamed.result(None, ())
    assert result is not None
    message = result.body["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "y", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


@pytest.mark.parametrize(
    "odd",
    [
        chunk({"content": "x" * 101}),
        chunk({"audio": {"data": "x"}}),
        chunk({"content": "x"}, logprobs={"content": []}),
        chunk({"tool_calls": [{"function": {"name": "f"}}]}),
        chunk("x"),
        Chunk({**HEAD, "choices": []}, own=b"event: ping\n\n"),
    ],
)
def test_what_has_no_place_is_told(odd: Chunk) -> None:
    assert not Streamed(most=100).note(odd)


def test_of_nothing_there_is_no_answer() -> None:
    assert Streamed(most=1).result(None, ()) is None
