"""The official Anthropic SDK with its ``base_url`` on the gateway, through each kind of provider."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
from jsonschema import validate

from tests.conftest import provider_environment
from tests.e2e.kinds import MODELS, PLACE
from tests.e2e.servers import Gateway, gunicorn
from tests.upstream import RemoteUpstream, faults
from tests.upstream.images import PIXEL

pytestmark = pytest.mark.e2e
WEATHER: Any = {"name": "weather", "description": "Tells the weather", "input_schema": PLACE}
CLOCK: Any = {"name": "clock", "input_schema": {"type": "object", "properties": {}}}
DATA = base64.b64encode(PIXEL).decode()
GEMINI_3 = "gemini/gemini-3-flash-preview"


@pytest.fixture(scope="module")
def gateway(remote_simulator: RemoteUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    environment = provider_environment(remote_simulator)  # type: ignore[arg-type]
    folder = tmp_path_factory.mktemp("sdk")
    with gunicorn(folder, WEB_CONCURRENCY="1", REQUEST_TIMEOUT="3", BREAKER_FAILURES="0", **environment) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=gateway.token(), max_retries=0) as made:
        yield made


@pytest.fixture(params=MODELS.values(), ids=list(MODELS))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Ask = Callable[..., Any]


def ask(client: anthropic.Anthropic, model: str, content: Any, **more: Any) -> Any:
    asked: dict[str, Any] = {"max_tokens": 200, "messages": [{"role": "user", "content": content}], **more}
    return client.messages.create(model=model, **asked)


def streamed(client: anthropic.Anthropic, model: str, content: Any, **more: Any) -> Any:
    asked: dict[str, Any] = {"max_tokens": 200, "messages": [{"role": "user", "content": content}], **more}
    with client.messages.stream(model=model, **asked) as stream:
        return stream.get_final_message()


EITHER = pytest.mark.parametrize("way", [ask, streamed], ids=["whole", "streamed"])


@EITHER
def test_a_message_is_answered_with_usage(client: anthropic.Anthropic, model: str, way: Ask) -> None:
    answer = way(client, model, "hello there")
    assert (answer.type, answer.role, answer.stop_reason) == ("message", "assistant", "end_turn")
    assert answer.id.startswith("msg_")
    assert "hello there" in answer.content[0].text
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0


def test_what_streams_and_what_does_not_agree(client: anthropic.Anthropic, model: str) -> None:
    whole, joined = ask(client, model, "hello there"), streamed(client, model, "hello there")
    assert joined.content[0].text == whole.content[0].text
    assert joined.usage.output_tokens == whole.usage.output_tokens
    assert joined.usage.input_tokens == whole.usage.input_tokens


def test_text_is_streamed_piece_by_piece(client: anthropic.Anthropic, model: str) -> None:
    body: Any = {"model": model, "max_tokens": 200, "messages": [{"role": "user", "content": "one two three"}]}
    with client.messages.stream(**body) as stream:
        pieces = list(stream.text_stream)
    assert len(pieces) > 1
    assert "one two three" in "".join(pieces)


@EITHER
def test_a_round_of_two_tools_at_once(client: anthropic.Anthropic, model: str, way: Ask) -> None:
    tools = [WEATHER, CLOCK]
    question: Any = {"role": "user", "content": "use two tools"}
    first = way(client, model, "", messages=[question], tools=tools)
    calls = [block for block in first.content if block.type == "tool_use"]
    assert first.stop_reason == "tool_use"
    assert [call.name for call in calls] == (["weather"] if model == "demo" else ["weather", "clock"])
    validate(calls[0].input, PLACE)
    results = [
        {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": f"answer {number}"}]}
        for number, call in enumerate(calls)
    ]
    turns = [question, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    second = way(client, model, "", messages=turns, tools=tools)
    said = "".join(block.text for block in second.content if block.type == "text")
    assert "answer 0" in said
    assert model == "demo" or "answer 1" in said


def test_one_tool_can_be_asked_for(client: anthropic.Anthropic, model: str) -> None:
    choice = {"type": "tool", "name": "clock", "disable_parallel_tool_use": True}
    if model.startswith("gemini/"):
        choice.pop("disable_parallel_tool_use")  # Gemini has no word for it
    answer = ask(client, model, "what?", tools=[WEATHER, CLOCK], tool_choice=choice)
    assert [block.name for block in answer.content] == ["clock"]


def test_an_image_in_base64(client: anthropic.Anthropic, model: str) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}
    answer = ask(client, model, [image, {"type": "text", "text": "look"}])
    assert "image/png" in answer.content[0].text


def test_an_image_by_its_address(client: anthropic.Anthropic, model: str, remote_simulator: RemoteUpstream) -> None:
    image = {"type": "image", "source": {"type": "url", "url": f"{remote_simulator.url}/images/pixel.png"}}
    answer = ask(client, model, [{"type": "text", "text": "look"}, image])
    assert "image" in answer.content[0].text


def test_a_system_in_blocks(client: anthropic.Anthropic, model: str) -> None:
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    system.append({"type": "text", "text": "Be kind."})
    answer = ask(client, model, "hello", system=system, metadata={"user_id": "u-1"})
    assert answer.content[0].text


def test_structured_output_validates(client: anthropic.Anthropic, model: str) -> None:
    answer = ask(client, model, "where?", output_config={"format": {"type": "json_schema", "schema": PLACE}})
    validate(json.loads(answer.content[0].text), PLACE)


def test_tokens_are_counted(client: anthropic.Anthropic, model: str) -> None:
    short: Any = [{"role": "user", "content": "hello there"}]
    long: Any = [{"role": "user", "content": "hello there " * 50}]
    few = client.messages.count_tokens(model=model, messages=short, system="Be kind.", tools=[CLOCK]).input_tokens
    many = client.messages.count_tokens(model=model, messages=long, system="Be kind.", tools=[CLOCK]).input_tokens
    assert 0 < few < many


# -- signatures --------------------------------------------------------------------------------------------------------


@EITHER
@pytest.mark.parametrize("name", [MODELS["anthropic"], GEMINI_3], ids=["anthropic", "gemini"])
def test_what_a_model_signed_comes_back_to_it(
    client: anthropic.Anthropic, upstream: RemoteUpstream, name: str, way: Ask
) -> None:
    """The simulator refuses a thought or a call whose signature is missing or another's, as the vendors do."""
    more: dict[str, Any] = {"tools": [CLOCK], "max_tokens": 4000}
    if name == MODELS["anthropic"]:
        more["thinking"] = {"type": "enabled", "budget_tokens": 2000}
    question: Any = {"role": "user", "content": "use the tool"}
    first = way(client, name, "", messages=[question], **more)
    (call,) = [block for block in first.content if block.type == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "noon"}
    turns = [question, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = way(client, name, "", messages=turns, **more)
    assert "noon" in next(block.text for block in second.content if block.type == "text")
    sent = str(upstream.requests[-1].body)
    assert ("sim" in sent and "'signature'" in sent) if name == MODELS["anthropic"] else "thoughtSignature" in sent
    assert "skip_thought" not in sent


# -- errors ------------------------------------------------------------------------------------------------------------


def test_errors_are_those_the_sdk_knows(client: anthropic.Anthropic, gateway: Gateway) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        ask(client, "no-such-model", "hi")
    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    assert missing.value.request_id == missing.value.body["request_id"]  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        ask(client, "demo", "hi", extra_body={"temperature": 3})
    stranger = client.with_options(api_key="fl_not-a-token")
    with pytest.raises(anthropic.AuthenticationError):
        ask(stranger, "demo", "hi")


@pytest.mark.parametrize("fault, expected", [
    (faults.status(429, retry_after=7), anthropic.RateLimitError),
    (faults.status(529), anthropic.InternalServerError),
    (faults.status(503), anthropic.InternalServerError),
    (faults.hang(), anthropic.GatewayTimeoutError),
    (faults.status(400, message="too odd"), anthropic.BadRequestError),
    (faults.status(401), anthropic.InternalServerError),
])  # fmt: skip
@pytest.mark.parametrize("name", [MODELS["anthropic"], MODELS["openai"]], ids=["anthropic", "openai"])
def test_what_a_provider_does_wrong_is_typed(
    client: anthropic.Anthropic, upstream: RemoteUpstream, name: str, fault: Any, expected: type[Exception]
) -> None:
    upstream.script(fault)
    with pytest.raises(expected):
        ask(client, name, "hi")
    with pytest.raises(expected):
        streamed(client, name, "hi")


@pytest.mark.parametrize("name", [MODELS["anthropic"], MODELS["openai"]], ids=["anthropic", "openai"])
def test_a_stream_that_breaks_raises_after_its_text(
    client: anthropic.Anthropic, upstream: RemoteUpstream, name: str
) -> None:
    upstream.script(faults.text("a b c d e f g") + faults.eof_after(6))
    said = ""
    with pytest.raises(anthropic.APIStatusError) as caught:  # noqa: PT012  (what came before it is looked at)
        body: Any = {"model": name, "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
        with client.messages.stream(**body) as stream:
            for piece in stream.text_stream:
                said += piece
    assert said.startswith("a b")
    assert caught.value.body["error"]["type"] == "api_error"  # type: ignore[index]
