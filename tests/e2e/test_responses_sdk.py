"""The official OpenAI SDK's ``client.responses`` on the gateway, through each kind of provider."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from jsonschema import validate
from pydantic import BaseModel

from tests.conftest import provider_environment
from tests.e2e.kinds import MODELS, PLACE
from tests.e2e.servers import Gateway, gunicorn
from tests.upstream import RemoteUpstream, faults
from tests.upstream.images import PIXEL

pytestmark = pytest.mark.e2e
WEATHER: Any = {"type": "function", "name": "weather", "parameters": PLACE, "strict": True}
TIME: Any = {"type": "function", "name": "time", "parameters": PLACE}
DATA_URL = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
VENDORS = {"azure_openai": "azure-east"}
"""What the simulator calls some providers."""


class Place(BaseModel):
    city: str
    days: int


@pytest.fixture(scope="module")
def gateway(remote_simulator: RemoteUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    environment = provider_environment(remote_simulator)  # type: ignore[arg-type]
    with gunicorn(tmp_path_factory.mktemp("responses"), WEB_CONCURRENCY="1", **environment) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.token(), max_retries=0) as made:
        yield made


@pytest.fixture(params=list(MODELS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(kind: str) -> str:
    return MODELS[kind]


def test_text(client: openai.OpenAI, model: str) -> None:
    answer = client.responses.create(model=model, input="hello there", instructions="Be brief.", metadata={"a": "b"})
    assert "hello there" in answer.output_text
    assert (answer.status, answer.object, answer.error, answer.incomplete_details) == (
        "completed", "response", None, None,
    )  # fmt: skip
    assert answer.instructions == "Be brief."
    assert answer.metadata == {"a": "b"}
    assert answer.usage is not None
    assert answer.usage.input_tokens > 0
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_what_streams_and_what_does_not_agree(client: openai.OpenAI, model: str) -> None:
    whole = client.responses.create(model=model, input="hello there")
    events = list(client.responses.create(model=model, input="hello there", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:4]] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert [event.type for event in events[-4:]] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    end = events[-1]
    assert end.type == "response.completed"
    assert end.response.output_text == whole.output_text
    assert end.response.usage is not None
    assert whole.usage is not None
    assert end.response.usage.total_tokens == whole.usage.total_tokens
    assert client.responses.retrieve(end.response.id) == end.response


def test_the_helper_for_streams_puts_it_together(client: openai.OpenAI, model: str) -> None:
    with client.responses.stream(model=model, input="where?", text_format=Place) as stream:
        for _ in stream:
            pass
        parsed = stream.get_final_response().output_parsed
    assert isinstance(parsed, Place)


def test_a_parsed_answer(client: openai.OpenAI, model: str) -> None:
    answer = client.responses.parse(model=model, input="where?", text_format=Place)
    assert isinstance(answer.output_parsed, Place)


def calls_of(answer: Any) -> list[Any]:
    return [item for item in answer.output if item.type == "function_call"]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_tool_round_trip_by_the_previous_response(client: openai.OpenAI, model: str, streamed: bool) -> None:
    asked: dict[str, Any] = {"model": model, "tools": [WEATHER], "tool_choice": "required", "input": "use the tool"}
    if streamed:
        with client.responses.stream(**asked) as stream:
            first: Any = stream.get_final_response()
    else:
        first = client.responses.create(**asked)
    (call,) = calls_of(first)
    validate(json.loads(call.arguments), PLACE)
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = client.responses.create(model=model, tools=[WEATHER], previous_response_id=first.id, input=[result])
    assert "sunny" in second.output_text
    assert second.previous_response_id == first.id


@pytest.mark.parametrize("store", [False, True], ids=["stateless", "stored"])
def test_a_tool_round_trip_by_items(client: openai.OpenAI, model: str, store: bool) -> None:
    told: list[Any] = [{"role": "user", "content": "use the tool"}]
    more: dict[str, Any] = {"store": store, "include": ["reasoning.encrypted_content"]}
    first = client.responses.create(model=model, tools=[WEATHER], tool_choice="required", input=told, **more)
    (call,) = calls_of(first)
    told += first.output
    told.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
    second = client.responses.create(model=model, tools=[WEATHER], input=told, **more)
    assert "sunny" in second.output_text


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "demo"])  # which calls one tool at a time
def test_parallel_tools(client: openai.OpenAI, kind: str, streamed: bool, upstream: RemoteUpstream) -> None:
    model, wanted = MODELS[kind], [(name, {"city": "Oslo", "days": 2}) for name in ("weather", "time")]
    upstream.script(faults.tool_calls(wanted), vendor=VENDORS.get(kind, kind))
    asked: dict[str, Any] = {"model": model, "tools": [WEATHER, TIME], "input": "both", "parallel_tool_calls": True}
    if streamed:
        with client.responses.stream(**asked) as stream:
            first: Any = stream.get_final_response()
    else:
        first = client.responses.create(**asked)
    calls = calls_of(first)
    assert [call.name for call in calls] == ["weather", "time"]
    assert [json.loads(call.arguments) for call in calls] == [{"city": "Oslo", "days": 2}] * 2
    results: Any = [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"{call.name} told"}
        for call in reversed(calls)
    ]
    upstream.reset()
    second = client.responses.create(model=model, tools=[WEATHER, TIME], previous_response_id=first.id, input=results)
    assert "told" in second.output_text


@pytest.mark.parametrize("how", ["data", "address"])
def test_an_image(client: openai.OpenAI, model: str, how: str, remote_simulator: RemoteUpstream) -> None:
    url = DATA_URL if how == "data" else f"{remote_simulator.url}/images/pixel.png"
    parts: Any = [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": url, "detail": "low"}]
    answer = client.responses.create(model=model, input=[{"role": "user", "content": parts}])
    assert "image" in answer.output_text


def test_a_cut_answer_says_so(client: openai.OpenAI, model: str) -> None:
    answer = client.responses.create(model=model, input="one two three four five six seven", max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[-1].status == "incomplete"  # type: ignore[union-attr]


def test_a_conversation_remembers_but_for_its_instructions(client: openai.OpenAI, upstream: RemoteUpstream) -> None:
    first = client.responses.create(model="openai/gpt-4o", input="one", instructions="Old.")
    second = client.responses.create(
        model="openai/gpt-4o", input="two", instructions="New.", previous_response_id=first.id
    )
    client.responses.create(model="openai/gpt-4o", input="three", previous_response_id=second.id)
    told = [(message["role"], message["content"]) for message in upstream.requests[-1].body["messages"]]
    assert told == [
        ("user", "one"), ("assistant", first.output_text), ("user", "two"), ("assistant", second.output_text),
        ("user", "three"),
    ]  # fmt: skip


def test_read_list_and_delete(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="demo", input=[{"role": "user", "content": w} for w in ("a", "b", "c")])
    assert client.responses.retrieve(answer.id) == answer
    listed = list(client.responses.input_items.list(answer.id, limit=1, order="asc"))
    assert [item.content for item in listed] == ["a", "b", "c"]  # type: ignore[union-attr]
    assert client.responses.delete(answer.id) is None
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_what_is_not_to_be_stored_is_not(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="demo", input="hi", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_errors_are_those_that_the_sdk_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="no-such-model", input="hi")
    assert unknown.value.code == "not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.responses.create(model="demo", input="hi", tools=[{"type": "web_search"}])
    assert bad.value.param == "tools[0].type"
    with pytest.raises(openai.NotFoundError) as gone:
        client.responses.create(model="demo", input="hi", previous_response_id=f"resp_{'0' * 32}")
    assert gone.value.param == "previous_response_id"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_failing_provider_is_an_error_with_its_status(
    client: openai.OpenAI, streamed: bool, upstream: RemoteUpstream
) -> None:
    upstream.script(faults.status(500), vendor="llama")
    with pytest.raises(openai.InternalServerError) as caught:
        client.responses.create(model=MODELS["llama"], input="hi", stream=streamed)
    assert caught.value.status_code == 502


def test_a_stream_that_breaks_ends_as_failed(client: openai.OpenAI, upstream: RemoteUpstream) -> None:
    upstream.script(faults.error_mid_stream(3), vendor="llama")
    *_, end = client.responses.create(model=MODELS["llama"], input="a b c d", stream=True)
    assert end.type == "response.failed"
    assert end.response.error is not None
    assert end.response.error.code == "server_error"
    assert end.response.output_text
