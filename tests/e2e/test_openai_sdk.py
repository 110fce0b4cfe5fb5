"""The official OpenAI SDK with its ``base_url`` on the gateway, through each kind of provider."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from jsonschema import validate

from tests.conftest import provider_environment
from tests.e2e.kinds import MODELS, PLACE
from tests.e2e.servers import Gateway, gunicorn
from tests.upstream import RemoteUpstream
from tests.upstream.images import PIXEL

pytestmark = pytest.mark.e2e
TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": PLACE}}]
DATA_URL = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"


@pytest.fixture(scope="module")
def gateway(remote_simulator: RemoteUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    environment = provider_environment(remote_simulator)  # type: ignore[arg-type]
    with gunicorn(tmp_path_factory.mktemp("sdk"), WEB_CONCURRENCY="1", **environment) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.token(), max_retries=0) as made:
        yield made


@pytest.fixture(params=MODELS.values(), ids=list(MODELS))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(client: openai.OpenAI, model: str, content: Any, **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}], **more)


def test_chat_answers_with_usage(client: openai.OpenAI, model: str) -> None:
    answer = ask(client, model, "hello there")
    assert "hello there" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_what_streams_and_what_does_not_agree(client: openai.OpenAI, model: str) -> None:
    whole = ask(client, model, "hello there")
    chunks = list(ask(client, model, "hello there", stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_without_asking_no_usage_is_streamed(client: openai.OpenAI, model: str) -> None:
    chunks = list(ask(client, model, "hello there", stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks if chunk.choices or chunk.usage)


def test_a_tool_round_trip(client: openai.OpenAI, model: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "use the tool"}]
    first = client.chat.completions.create(model=model, messages=messages, tools=TOOLS, tool_choice="required")
    (call,) = first.choices[0].message.tool_calls or []
    assert first.choices[0].finish_reason in ("tool_calls", "stop")
    validate(json.loads(call.function.arguments), PLACE)
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages += [first.choices[0].message.model_dump(exclude_none=True), result]
    second = client.chat.completions.create(model=model, messages=messages, tools=TOOLS)
    assert "sunny" in (second.choices[0].message.content or "")


def test_streamed_tool_calls_are_the_same_as_whole_ones(client: openai.OpenAI, model: str) -> None:
    more: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required"}
    whole = ask(client, model, "use the tool", **more).choices[0].message.tool_calls[0].function
    name, arguments = "", ""
    for chunk in ask(client, model, "use the tool", stream=True, **more):
        for piece in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            name += piece.function.name or ""
            arguments += piece.function.arguments or ""
    assert (name, json.loads(arguments)) == (whole.name, json.loads(whole.arguments))


def test_a_json_schema_answer_validates(client: openai.OpenAI, model: str) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": True}}
    answer = ask(client, model, "where?", response_format=schema)
    validate(json.loads(answer.choices[0].message.content), PLACE)


def test_an_image_by_data_url(client: openai.OpenAI, model: str) -> None:
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": DATA_URL}}]
    assert "image/png" in ask(client, model, parts).choices[0].message.content


def test_an_image_by_address(client: openai.OpenAI, model: str, remote_simulator: RemoteUpstream) -> None:
    url = f"{remote_simulator.url}/images/pixel.png"
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": url}}]
    assert "image" in ask(client, model, parts).choices[0].message.content


def test_an_error_is_one_the_sdk_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, "no-such-model", "hi")
    assert caught.value.code == "not_found"


def test_the_models_of_every_provider_are_listed(client: openai.OpenAI) -> None:
    assert {one.owned_by for one in client.models.list()} >= set(MODELS)
