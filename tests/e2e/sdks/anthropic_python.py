"""The Anthropic SDK, unchanged but for address and key."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import anthropic
from harness import PIXEL, PLACE, Plan, check, run

URL, TOKEN = os.environ["GATEWAY"], os.environ["TOKEN"]
client = anthropic.Anthropic(base_url=URL, api_key=TOKEN, max_retries=0)
TOOLS: list[Any] = [{"name": "weather", "description": "The weather", "input_schema": PLACE}]


def asked(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


@check("chat")
def _chat(model: str) -> None:
    answer = client.messages.create(model=model, max_tokens=200, system="Be brief.", messages=asked("Hello"))
    assert answer.content[0].type == "text" and answer.content[0].text
    assert answer.stop_reason == "end_turn"
    assert answer.usage.input_tokens > 0 and answer.usage.output_tokens > 0


@check("chat")
def _stream(model: str) -> None:
    with client.messages.stream(model=model, max_tokens=200, messages=asked("Hello")) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == final.content[0].text != ""
    assert final.usage.output_tokens > 0


@check("chat")
def _tools(model: str) -> None:
    question = asked("call the tool")
    more: dict[str, Any] = {"model": model, "max_tokens": 200, "tools": TOOLS}
    first = client.messages.create(messages=question, tool_choice={"type": "any"}, **more)
    calls = [block for block in first.content if block.type == "tool_use"]
    assert first.stop_reason == "tool_use"
    assert set(calls[0].input) == {"city", "days"}
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"} for call in calls]
    turns = [*question, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    assert client.messages.create(messages=turns, **more).content


@check("chat")
def _streamed_tools(model: str) -> None:
    more: dict[str, Any] = {"model": model, "max_tokens": 200, "tools": TOOLS, "tool_choice": {"type": "any"}}
    with client.messages.stream(messages=asked("call the tool"), **more) as stream:
        final = stream.get_final_message()
    calls = [block for block in final.content if block.type == "tool_use"]
    assert set(calls[0].input) == {"city", "days"}


@check("chat")
def _structured(model: str) -> None:
    form = {"format": {"type": "json_schema", "schema": PLACE}}
    answer = client.messages.create(model=model, max_tokens=200, messages=asked("Where?"), output_config=form)
    assert set(json.loads(answer.content[0].text)) == {"city", "days"}


@check("chat")
def _image_input(model: str) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    content = [{"type": "text", "text": "What?"}, image]
    assert client.messages.create(model=model, max_tokens=200, messages=asked(content)).content[0].text


@check("chat")
def _count_tokens(model: str) -> None:
    assert client.messages.count_tokens(model=model, messages=asked("Hello there")).input_tokens > 0


@check("once")
def _models(_: str) -> None:
    assert "demo" in [model.id for model in client.models.list()]
    assert client.models.retrieve("demo").id == "demo"


@check("once")
def _errors(_: str) -> None:
    wrong = anthropic.Anthropic(base_url=URL, api_key="wrong", max_retries=0)
    for user, model, kind in (
        (wrong, "demo", anthropic.AuthenticationError),
        (client, "no-such-model", anthropic.NotFoundError),
    ):
        try:
            user.messages.create(model=model, max_tokens=9, messages=asked("Hello"))
        except kind as error:
            assert error.request_id
        else:
            raise AssertionError(kind)
    try:
        client.messages.create(model="demo", max_tokens=-1, messages=asked("Hello"))
    except anthropic.BadRequestError as error:
        assert "max_tokens" in str(error)
    else:
        raise AssertionError("max_tokens")


if __name__ == "__main__":
    run(Plan(**json.loads(sys.argv[1])))
