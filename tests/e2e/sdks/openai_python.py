"""The OpenAI SDK and its Azure class, unchanged but for address and key."""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import Any

import openai
from harness import IMAGE, PLACE, Plan, check, run

URL, TOKEN = os.environ["GATEWAY"], os.environ["TOKEN"]
client = openai.OpenAI(base_url=f"{URL}/v1", api_key=TOKEN, max_retries=0)
azure = openai.AzureOpenAI(azure_endpoint=URL, api_key=TOKEN, api_version="2024-10-21", max_retries=0)
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": PLACE}}
]


def asked(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


@check("chat")
def _chat(model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=asked("Hello"))
    assert answer.choices[0].message.content
    assert answer.usage and answer.usage.total_tokens > 0


@check("chat")
def _stream(model: str) -> None:
    with client.chat.completions.stream(
        model=model, messages=asked("Hello"), stream_options={"include_usage": True}
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(pieces) == final.choices[0].message.content
    assert final.usage and final.usage.completion_tokens > 0


@check("chat")
def _tools(model: str) -> None:
    question = asked("call the tool")
    first = client.chat.completions.create(model=model, messages=question, tools=TOOLS, tool_choice="required")
    message = first.choices[0].message
    assert message.tool_calls
    arguments = json.loads(message.tool_calls[0].function.arguments)
    assert set(arguments) == {"city", "days"}
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    assert client.chat.completions.create(model=model, messages=[*question, message, result], tools=TOOLS).choices


@check("chat")
def _structured(model: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": True}}
    answer = client.chat.completions.create(model=model, messages=asked("Where?"), response_format=form)
    assert set(json.loads(answer.choices[0].message.content)) == {"city", "days"}


@check("chat")
def _image_input(model: str) -> None:
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": IMAGE}}]
    assert client.chat.completions.create(model=model, messages=asked(parts)).choices[0].message.content


@check("chat")
def _responses(model: str) -> None:
    first = client.responses.create(model=model, input="Hello")
    assert first.output_text
    again = client.responses.create(model=model, input="And now?", previous_response_id=first.id)
    assert again.previous_response_id == first.id
    assert client.responses.retrieve(first.id).output_text == first.output_text
    with client.responses.stream(model=model, input="Hello") as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert "".join(pieces) == stream.get_final_response().output_text
    client.responses.delete(first.id)


@check("chat")
def _azure_chat(model: str) -> None:
    assert azure.chat.completions.create(model=model, messages=asked("Hello")).choices[0].message.content
    stream = azure.chat.completions.create(model=model, messages=asked("Hello"), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


@check("embed")
def _embeddings(model: str) -> None:
    for user in (client, azure):
        found = user.embeddings.create(model=model, input=["one", "two"])
        assert [row.index for row in found.data] == [0, 1]
        assert len(found.data[0].embedding) == len(found.data[1].embedding) > 1
        plain = user.embeddings.create(model=model, input=["one", "two"], encoding_format="float")
        assert all(abs(a - b) < 1e-6 for a, b in zip(plain.data[0].embedding, found.data[0].embedding, strict=True))
        assert found.usage.prompt_tokens == found.usage.total_tokens > 0
        if "ada" not in model:  # which knows one length
            short = user.embeddings.create(model=model, input="one", dimensions=7)
            assert [len(row.embedding) for row in short.data] == [7]


@check("draw")
def _images(model: str) -> None:
    for user in (client, azure):
        drawn = user.images.generate(model=model, prompt="A cat wearing a hat", response_format="b64_json")
        assert drawn.data and base64.b64decode(drawn.data[0].b64_json or "").startswith(b"\x89PNG")
        drawn = user.images.generate(model=model, prompt="A cat wearing a hat", response_format="url")
        assert drawn.data and (drawn.data[0].url or "").startswith(("http", "data:image/png;base64,"))


@check("once")
def _models(_: str) -> None:
    found = [model.id for model in client.models.list()]
    assert "demo" in found
    assert client.models.retrieve("demo").id == "demo"


@check("once")
def _errors(_: str) -> None:
    for user, model, kind in (
        (openai.OpenAI(base_url=f"{URL}/v1", api_key="wrong", max_retries=0), "demo", openai.AuthenticationError),
        (
            openai.AzureOpenAI(azure_endpoint=URL, api_key="wrong", api_version="1", max_retries=0),
            "demo",
            openai.AuthenticationError,
        ),
        (client, "no-such-model", openai.NotFoundError),
        (azure, "no-such-model", openai.NotFoundError),
    ):
        try:
            user.chat.completions.create(model=model, messages=asked("Hello"))
        except kind as error:
            assert error.code
        else:
            raise AssertionError(kind)
    try:
        client.chat.completions.create(model="demo", messages=asked("Hello"), temperature=9)
    except openai.BadRequestError as error:
        assert error.param == "temperature"


if __name__ == "__main__":
    run(Plan(**json.loads(sys.argv[1])))
