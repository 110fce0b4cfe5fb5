"""Items and messages: what is cut, what is signed, and what is read of an answer."""

from __future__ import annotations

from typing import Any

import pytest

from flaskllm.domain.response import Line, Opaque, lines_of, new_response_id, newest, response_of, seal, unseal
from flaskllm.domain.response_output import Output

HALF = seal(Opaque("p", signature="\ud800"))
GOOGLE = {"google": {"thought_signature": "signed"}}


def said(*deltas: dict[str, Any], reason: str | None = "stop") -> Output:
    output = Output(new_response_id())
    output.provider = "mine"
    for delta in deltas:
        list(output.take(delta))
    list(output.end(reason))
    return output


def line(role: str, content: str = "word " * 40) -> Line:
    return Line({"role": role, "content": content}, "input")


@pytest.mark.parametrize(
    "roles, room, kept",
    [
        (["user", "assistant", "user"], 10_000, 3),
        (["user", "assistant", "user"], 60, 1),
        (["user", "assistant", "user"], 0, 1),
        (["user", "assistant", "tool", "tool", "user"], 120, 1),
        (["user", "assistant", "tool", "tool"], 60, 3),
        (["user", "assistant", "tool"], 0, 2),
    ],
)
def test_the_newest_that_fits_is_kept_and_no_output_without_its_call(roles: list[str], room: int, kept: int) -> None:
    lines = [line(role) for role in roles]
    assert newest(lines, room) == lines[-kept:]


def test_a_signature_of_a_text_comes_back_with_it() -> None:
    output = said({"content": "so"}, {"extra_content": GOOGLE})
    assert unseal(output.items[0]["encrypted_content"]) == Opaque("mine", signature="signed")
    told = [("input", item) for item in output.items]
    assert lines_of(told, provider="mine")[0].message == {"role": "assistant", "content": "so", "extra_content": GOOGLE}
    assert lines_of(told, provider="another")[0].message == {"role": "assistant", "content": "so"}


def test_redacted_thoughts_are_kept_though_there_is_nothing_to_read() -> None:
    block = {"type": "redacted_thinking", "data": "x", "index": 0}
    thought, message = said({"thinking_blocks": [block]}, {"content": "so"}).items
    assert (thought["type"], thought["summary"], thought["content"], message["type"]) == (
        "reasoning",
        [],
        [],
        "message",
    )
    opaque = unseal(thought["encrypted_content"])
    assert opaque is not None
    assert opaque.thoughts == ({"type": "redacted_thinking", "data": "x"},)


def test_of_a_cut_answer_only_what_was_open_is_incomplete() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": '{"a'}}
    output = said({"content": "so"}, {"tool_calls": [call]}, reason="length")
    assert [item["status"] for item in output.items] == ["completed", "incomplete"]
    assert output.items[1]["arguments"] == '{"a'
    assert [item["type"] for item in said({"reasoning_content": "hm"}, reason="length").items] == ["reasoning"]


@pytest.mark.parametrize("opaque", [Opaque("p"), Opaque("ü", signature="s" * 9000)])
def test_what_is_sealed_is_opened_again(opaque: Opaque) -> None:
    assert unseal(seal(opaque)) == opaque


@pytest.mark.parametrize("text", [None, 5, "", "x", "gAAAA", "ü", "e30=", seal(Opaque("p"))[:-4], "x" * 2**23, HALF])
def test_what_is_not_ours_is_none(text: Any) -> None:
    assert unseal(text) is None
    assert response_of(text) is None
