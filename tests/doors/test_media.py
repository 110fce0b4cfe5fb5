"""``/v1/embeddings``, ``/v1/images/generations`` and Azure's paths: forms, prices, fall-back, bad input."""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.extensions import db
from tests.actors import Caller, calls_of
from tests.conftest import MakeApp, provider_environment
from tests.doors.test_gate import ROOT as GATE
from tests.doors.test_gate import THREE
from tests.upstream import Upstream, faults

EMBEDS = ["demo", "text-embedding-3-small", "azure_openai/text-embedding-ada-002", "gemini-embedding-001"]
ADA = {"name": "azure_openai", "model": {"name": "text-embedding-ada-002"}}
USE = {"X-FlaskLLM-Cache": "use"}
DRAWS = ["demo", "gpt-image-1-mini", "azure_openai/dall-e-2"]


@pytest.fixture
def caller(gateway: Flask) -> Caller:
    return Caller.on(gateway)


def embed(caller: Caller, status: int = 200, **body: Any) -> Any:
    return caller.post("/v1/embeddings", body, status=status)


def draw(caller: Caller, status: int = 200, **body: Any) -> Any:
    return caller.post("/v1/images/generations", body, status=status)


def rows(app: Flask, query: str) -> list[Any]:
    with app.app_context(), db.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


# -- embeddings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", EMBEDS)
def test_a_vector_for_each_text_in_order(caller: Caller, model: str) -> None:
    response = embed(caller, model=model, input=["one", "two", "one"])
    body = response.json
    assert (body["object"], [row["index"] for row in body["data"]]) == ("list", [0, 1, 2])
    first, second, third = (row["embedding"] for row in body["data"])
    assert first == third != second
    assert all(isinstance(value, float) for value in first)
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 0
    assert calls_of(response.headers) == 1
    assert float(response.headers["X-FlaskLLM-Cost"]) >= 0


@pytest.mark.parametrize("model", EMBEDS)
def test_base64_holds_the_same_numbers(caller: Caller, model: str) -> None:
    plain = embed(caller, model=model, input="one").json["data"][0]["embedding"]
    packed = embed(caller, model=model, input="one", encoding_format="base64").json["data"][0]["embedding"]
    raw = base64.b64decode(packed)
    assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("model", ["demo", "text-embedding-3-small", "gemini-embedding-001"])
def test_the_length_is_the_callers_choice(caller: Caller, model: str) -> None:
    assert len(embed(caller, model=model, input="one", dimensions=7).json["data"][0]["embedding"]) == 7


def test_demo_makes_unit_vectors(caller: Caller) -> None:
    [row] = embed(caller, model="demo", input="anything").json["data"]
    assert math.hypot(*row["embedding"]) == pytest.approx(1)


def test_token_ids_are_taken_where_the_provider_takes_them(caller: Caller) -> None:
    assert len(embed(caller, model="text-embedding-3-small", input=[1, 2, 3]).json["data"]) == 1
    assert len(embed(caller, model="text-embedding-3-small", input=[[1, 2], [3]]).json["data"]) == 2
    fault = embed(caller, 400, model="gemini-embedding-001", input=[[1, 2]]).json["error"]
    assert fault["param"] == "input[0]"


def test_many_texts_are_several_calls_where_the_provider_takes_a_hundred(caller: Caller, upstream: Upstream) -> None:
    body = embed(caller, model="gemini-embedding-001", input=[f"text {n}" for n in range(230)]).json
    assert len(body["data"]) == 230
    assert [len(seen.body["requests"]) for seen in upstream.requests] == [100, 100, 30]


def test_embeddings_cost_their_tokens(gateway: Flask, caller: Caller) -> None:
    """Seed 2's row: $0.1 a million."""
    response = embed(caller, model="azure_openai/text-embedding-ada-002", input="one two three")
    tokens = response.json["usage"]["prompt_tokens"]
    assert rows(gateway, "SELECT door, prompt_tokens, completion_tokens, cost, status, attempts FROM calls") == [
        ("embeddings", tokens, 0, tokens * 100, 200, 1)
    ]
    assert rows(gateway, "SELECT state, cost FROM attempts") == [("settled", tokens * 100)]


@pytest.mark.parametrize(
    "path, body",
    [
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": ["one", "two"]}),
        ("/openai/deployments/text-embedding-ada-002/embeddings?api-version=2024-10-21", {"input": ["one", "two"]}),
        (f"{GATE}/embeddings", {"input": ["one", "two"], "provider": ADA}),
    ],
)
def test_equal_texts_are_embedded_once(
    gateway: Flask, caller: Caller, upstream: Upstream, path: str, body: dict[str, Any]
) -> None:
    first, second = (caller.post(path, body, headers={**USE, **THREE}) for _ in range(2))
    assert [answer.headers["X-FlaskLLM-Cache"] for answer in (first, second)] == ["miss", "hit"]
    assert second.data == first.data
    assert (second.headers["X-FlaskLLM-Cost"], calls_of(second.headers)) == ("0", 0)
    assert len(upstream.requests) == 1
    (asked, none), (cost, saved) = rows(gateway, "SELECT cost, saved FROM calls ORDER BY attempts DESC")
    assert (none, cost, saved) == (None, 0, asked)


def test_other_texts_lengths_and_callers_are_other_questions(gateway: Flask, caller: Caller) -> None:
    body = {"model": "text-embedding-3-small", "input": ["one", "two"]}
    caller.post("/v1/embeddings", body, headers=USE)
    for other in ({"input": ["two", "one"]}, {"input": "one"}, {"dimensions": 7}, {"input": [[1, 2], [3]]}):
        answer = caller.post("/v1/embeddings", body | other, headers=USE)
        assert answer.headers["X-FlaskLLM-Cache"] == "miss", other
    other = Caller.on(gateway, name="other").post("/v1/embeddings", body, headers=USE)
    assert other.headers["X-FlaskLLM-Cache"] == "miss"


def test_vectors_are_kept_to_the_last_digit_in_either_form(caller: Caller) -> None:
    body = {"model": "text-embedding-3-small", "input": "one"}
    whole = caller.post("/v1/embeddings", body, headers=USE).json["data"][0]["embedding"]
    packed = caller.post("/v1/embeddings", {**body, "encoding_format": "base64"}, headers=USE)
    assert packed.headers["X-FlaskLLM-Cache"] == "hit"
    raw = base64.b64decode(packed.json["data"][0]["embedding"])
    assert raw == struct.pack(f"<{len(whole)}f", *whole)


def test_a_token_may_always_use_the_cache_for_vectors(gateway: Flask, upstream: Upstream) -> None:
    always = Caller.on(gateway, cache=True)
    said = [embed(always, model="text-embedding-3-small", input="one").headers["X-FlaskLLM-Cache"] for _ in range(2)]
    assert said == ["miss", "hit"]
    none = always.post(
        "/v1/embeddings", {"model": "text-embedding-3-small", "input": "one"}, headers={"X-FlaskLLM-Cache": "none"}
    )
    assert none.headers["X-FlaskLLM-Cache"] == "none"
    assert len(upstream.requests) == 2


@pytest.mark.parametrize(
    "held", ["{", "{}", '{"by":"","cost":0,"vectors":["AAA="],"usage":null,"model":null,"dropped":[]}']
)
def test_vectors_that_cannot_be_read_are_asked_for_again(
    gateway: Flask, caller: Caller, upstream: Upstream, held: str
) -> None:
    body = {"model": "text-embedding-3-small", "input": "one"}
    caller.post("/v1/embeddings", body, headers=USE)
    with gateway.app_context(), db.engine.begin() as connection:
        connection.execute(text("UPDATE answers SET body = :held"), {"held": held.encode()})
    assert caller.post("/v1/embeddings", body, headers=USE).headers["X-FlaskLLM-Cache"] == "miss"
    assert len(upstream.requests) == 2


# -- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", DRAWS)
@pytest.mark.parametrize("form", ["url", "b64_json"])
def test_images_come_as_they_were_asked_for(caller: Caller, model: str, form: str) -> None:
    body = draw(caller, model=model, prompt="a cat", n=2, size="1024x1024", response_format=form).json
    assert len(body["data"]) == 2
    assert body["created"] > 1_700_000_000
    for image in body["data"]:
        assert image.keys() & {"url", "b64_json"} == {form}
        if image.get("url", "data:").startswith("data:"):
            raw = base64.b64decode(image[form].rpartition(",")[2])
            assert raw.startswith(b"\x89PNG\r\n\x1a\n")


def test_demo_draws_what_it_says(caller: Caller) -> None:
    body = draw(caller, model="demo", prompt="a cat", size="64x32").json
    raw = base64.b64decode(body["data"][0]["b64_json"])
    assert struct.unpack(">II", raw[16:24]) == (64, 32)
    assert len(set(zlib.decompress(raw[41:-16]).split(b"\0")[1:])) == 1
    assert body["size"] == "64x32"


def with_rows(make_app: MakeApp, folder: Path, rows: str, **environment: str) -> Caller:
    """A gateway with more models than the shipped ones."""
    catalogue = folder / "models.yaml"
    catalogue.write_text(f"models:\n{rows}")
    app = make_app(**environment, LLM_GATEWAY_CONFIG_PATH=str(catalogue))
    app.test_cli_runner().invoke(args=["seed"])
    return Caller.on(app)


def test_gemini_draws_in_its_answer(gateway: Flask, upstream: Upstream) -> None:
    painter = Caller.on(gateway)
    body = draw(painter, model="gemini-2.5-flash-image", prompt="a cat", n=2, size="1792x1024").json
    assert len(body["data"]) == 2
    assert body["usage"]["output_tokens"] > 0
    assert upstream.requests[-1].body["generationConfig"]["imageConfig"] == {"aspectRatio": "16:9"}
    fault = draw(painter, 400, model="gemini-2.5-flash-image", prompt="a cat", size="333x444").json["error"]
    assert fault["param"] == "size"
    (cost,) = rows(gateway, "SELECT cost FROM calls WHERE status = 200")[0]
    assert cost == 4 * 300 + 6 * 2500 + 2 * 1290 * 30_000  # dollars a million: 0.3 in, 2.5 in words, 30 in pictures


def test_grok_draws_by_shape(gateway: Flask, upstream: Upstream) -> None:
    painter = Caller.on(gateway)
    body = draw(painter, model="grok-imagine-image", prompt="a cat", aspect_ratio="16:9").json
    assert body["data"][0]["url"].startswith("http")
    assert upstream.requests[-1].body["aspect_ratio"] == "16:9"
    told = draw(painter, 400, model="grok-imagine-image", prompt="a cat", size="1024x1024").json["error"]
    assert told["param"] == "size"


def test_own_servers_embed_and_draw(make_app: MakeApp, upstream: Upstream, tmp_path: Path) -> None:
    models = """
  nomic-embed-text: {provider: llama, type: embedding}
  ngrok/nomic-embed-text: {type: embedding}
  stable-diffusion: {provider: llama, type: image, prices: []}
"""
    caller = with_rows(make_app, tmp_path, models, **provider_environment(upstream, "llama", "ngrok"))
    for name in ("nomic-embed-text", "ngrok/nomic-embed-text"):
        response = embed(caller, model=name, input=["one", "two"], truncate_prompt_tokens=9)
        assert len(response.json["data"]) == 2
        assert "X-FlaskLLM-Cost" not in response.headers
        assert upstream.requests[-1].body["truncate_prompt_tokens"] == 9
    for form in ("url", "b64_json"):
        [image] = draw(caller, model="stable-diffusion", prompt="a cat", response_format=form).json["data"]
        assert set(image) == {form}


def test_anthropic_makes_neither(caller: Caller, upstream: Upstream) -> None:
    for ask in (lambda: embed(caller, 400, model="claude-haiku-4-5", input="a"),
                lambda: draw(caller, 400, model="claude-haiku-4-5", prompt="a")):  # fmt: skip
        fault = ask().json["error"]
        assert (fault["param"], fault["code"]) == ("model", "invalid_request")
    assert upstream.requests == []


@pytest.mark.parametrize(
    "model, asked, nano",
    [
        ("dall-e-2", {}, 20_000_000),
        ("dall-e-2", {"size": "512x512"}, 18_000_000),
        ("dall-e-2", {"size": "256x256", "n": 3}, 48_000_000),
        ("dall-e-3", {"quality": "standard"}, 40_000_000),
        ("dall-e-3", {"quality": "hd"}, 80_000_000),
        ("dall-e-3", {"quality": "hd", "size": "1792x1024"}, 120_000_000),
        ("dall-e-3", {"size": "1024x1792"}, 80_000_000),
    ],
)
def test_images_cost_what_seed_2_prints(gateway: Flask, caller: Caller, model: str, asked: Any, nano: int) -> None:
    response = draw(caller, model=f"azure_openai/{model}", prompt="a cat", **asked)
    assert float(response.headers["X-FlaskLLM-Cost"]) == pytest.approx(nano / 1e9)
    assert rows(gateway, "SELECT cost FROM calls") == [(nano,)]
    assert rows(gateway, "SELECT state, reserved, cost, estimated FROM attempts") == [("settled", nano, nano, False)]


PRICED_ONCE = """
  dall-e-2-small:
    provider: azure_openai
    type: image
    prices: [{unitOfMeasure: 1, currency: USD, pixel: {width: 512, height: 512, value: 0.018}}]
"""


def test_a_size_without_a_price_is_unpriced_and_never_zero(
    make_app: MakeApp, upstream: Upstream, tmp_path: Path
) -> None:
    caller = with_rows(make_app, tmp_path, PRICED_ONCE, **provider_environment(upstream, "azure_openai"))
    response = draw(caller, model="dall-e-2-small", prompt="a cat", size="256x256")
    assert "X-FlaskLLM-Cost" not in response.headers
    assert rows(caller.http.application, "SELECT cost FROM calls") == [(None,)]
    assert draw(caller, model="dall-e-2-small", prompt="a cat", size="512x512").headers["X-FlaskLLM-Cost"] == "0.018"


BY_TOKENS = "  gpt-image-1: {provider: openai, type: image, params: {response_format: drop}}"


@pytest.mark.parametrize(
    "model, nano", [("azure_openai/dall-e-2", 40_000_000), ("gpt-image-1", 2 * 6240 * 40_000 + 2 * 5000)]
)
def test_pictures_that_may_have_been_drawn_are_paid_at_their_bound(
    make_app: MakeApp, upstream: Upstream, tmp_path: Path, model: str, nano: int
) -> None:
    environment = provider_environment(upstream, "azure_openai", "openai")
    caller = with_rows(make_app, tmp_path, BY_TOKENS, **environment, REQUEST_TIMEOUT="1")
    upstream.script(faults.hang())
    draw(caller, 504, model=model, prompt="a cat", n=2)
    assert rows(caller.http.application, "SELECT state, reserved, cost FROM attempts") == [("settled", nano, nano)]


def test_pictures_that_cannot_be_read_are_paid_too(gateway: Flask, caller: Caller, upstream: Upstream) -> None:
    upstream.script(faults.half_json())
    draw(caller, 502, model="azure_openai/dall-e-2", prompt="a cat")
    assert rows(gateway, "SELECT cost, attempts FROM calls") == [(20_000_000, 1)]


def test_pictures_whose_tokens_nobody_tells_are_paid_at_the_most(
    gateway: Flask, caller: Caller, upstream: Upstream
) -> None:
    upstream.script(faults.usage_missing())
    assert "usage" not in draw(caller, model="gpt-image-1-mini", prompt="a cat").json
    ((cost, reserved, estimated),) = rows(gateway, "SELECT cost, reserved, estimated FROM attempts")
    assert cost == reserved == 6240 * 8000 + 2 * 2000
    assert estimated


def test_vectors_whose_tokens_nobody_tells_are_estimated(gateway: Flask, caller: Caller, upstream: Upstream) -> None:
    upstream.script(faults.usage_missing())
    usage = embed(caller, model="text-embedding-3-small", input="one two three").json["usage"]
    assert rows(gateway, "SELECT prompt_tokens, estimated FROM calls") == [(usage["prompt_tokens"], 1)]


@pytest.mark.parametrize("model", [None, "auto"])
def test_without_a_name_the_default_provider_answers(caller: Caller, model: str | None) -> None:
    embedded = embed(caller, model=model, input="a")
    drawn = draw(caller, model=model, prompt="a")
    assert [one.headers["X-FlaskLLM-Provider"] for one in (embedded, drawn)] == ["openai", "openai"]


def test_a_default_provider_that_cannot_leaves_it_to_one_that_can(make_app: MakeApp, upstream: Upstream) -> None:
    environment = provider_environment(upstream, "anthropic", "gemini")
    caller = Caller.on(make_app(**environment, LLM_PROVIDER="anthropic"))
    assert embed(caller, input="a").headers["X-FlaskLLM-Provider"] == "gemini"
    assert draw(caller, prompt="a").headers["X-FlaskLLM-Provider"] == "gemini"


def test_vectors_that_no_float_holds_are_the_providers_fault(caller: Caller, upstream: Upstream) -> None:
    upstream.script(faults.raw({"data": [{"index": 0, "embedding": [1e39]}], "usage": {"prompt_tokens": 1}}))
    for form in ("float", "base64"):
        told = embed(caller, 502, model="text-embedding-3-small", input="a", encoding_format=form).json["error"]
        assert told["code"] == "provider_error"


def test_unpriced_images_can_be_refused(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "azure_openai"), UNPRICED_MODELS="refuse")
    caller = Caller.on(app)
    draw(caller, 402, model="dall-e-2", prompt="a cat", size="333x444")
    draw(caller, model="dall-e-2", prompt="a cat", size="512x512")


def test_images_by_tokens_cost_their_tokens(gateway: Flask, caller: Caller) -> None:
    response = draw(caller, model="gpt-image-1-mini", prompt="a cat")
    usage = response.json["usage"]
    assert usage["output_tokens"] > 0
    [(prompt, completion, cost)] = rows(gateway, "SELECT prompt_tokens, completion_tokens, cost FROM calls")
    assert (prompt, completion) == (usage["input_tokens"], usage["output_tokens"])
    assert cost is None or cost > 0


def test_a_budget_holds_images_before_they_are_drawn(gateway: Flask, upstream: Upstream) -> None:
    caller = Caller.on(gateway, budget={"amount": 0.05, "period": "day"})
    draw(caller, model="azure_openai/dall-e-2", prompt="a cat", n=2)
    refused = draw(caller, 429, model="azure_openai/dall-e-2", prompt="a cat", n=2).json["error"]
    assert refused["code"] == "budget_exceeded"
    assert len(upstream.requests) == 1
    assert rows(gateway, "SELECT spent, reserved FROM budgets WHERE id LIKE 'token:%'") == [(40_000_000, 0)]


# -- both -------------------------------------------------------------------------------------------------------------


def test_another_region_answers_where_one_fails(make_app: MakeApp, upstream: Upstream) -> None:
    west, west_key = upstream.azure_region("west")
    more = {"AZURE_OPENAI_WEST_US_API_KEY": west_key, "AZURE_OPENAI_WEST_US_ENDPOINT": west}
    caller = Caller.on(make_app(**provider_environment(upstream, "azure_openai"), **more))
    for ask in (
        lambda: embed(caller, model="text-embedding-ada-002", input="one"),
        lambda: draw(caller, model="dall-e-2", prompt="a cat"),
    ):
        upstream.script(faults.status(500), times=1)
        assert calls_of(ask().headers) == 2


@pytest.mark.parametrize(
    "fault, status", [(faults.status(401), 502), (faults.status(500), 502), (faults.half_json(), 502)]
)
def test_failures_are_the_contracts(
    gateway: Flask, caller: Caller, upstream: Upstream, fault: Any, status: int
) -> None:
    upstream.script(fault)
    assert embed(caller, status, model="text-embedding-3-small", input="one").json["error"]["code"] == "provider_error"
    assert draw(caller, status, model="gpt-image-1-mini", prompt="one").json["error"]["code"] == "provider_error"
    assert rows(gateway, "SELECT sum(reserved) FROM budgets") in ([(None,)], [(0,)])
    assert {state for (state,) in rows(gateway, "SELECT state FROM attempts")} <= {"settled", "released"}


def test_models_of_another_kind_are_refused_by_name(caller: Caller) -> None:
    assert embed(caller, 400, model="openai/gpt-4o", input="one").json["error"]["param"] == "model"
    assert draw(caller, 400, model="openai/gpt-4o", prompt="one").json["error"]["param"] == "model"
    assert embed(caller, 404, model="no-such-model", input="one").json["error"]["code"] == "not_found"
    assert caller.chat("hi", model="text-embedding-3-small", status=400).json["error"]["param"] == "model"


def test_each_needs_its_scope(gateway: Flask) -> None:
    narrow = Caller.on(gateway, name="narrow", scopes=["chat"])
    embed(narrow, 403, model="demo", input="one")
    draw(narrow, 403, model="demo", prompt="one")
    other = Caller.on(gateway, name="other", scopes=["embeddings"])
    embed(other, model="demo", input="one")
    narrowed = Caller.on(gateway, name="models", models=["demo"])
    embed(narrowed, 403, model="text-embedding-3-small", input="one")


def test_unknown_fields_go_to_the_same_wire_and_no_further(caller: Caller, upstream: Upstream) -> None:
    fault = embed(caller, 400, model="gemini-embedding-001", input="one", truncate=True).json["error"]
    assert fault["param"] == "truncate"
    response = embed(caller, model="gemini-embedding-001", input="one", user="me", drop_params=True)
    assert response.headers["X-FlaskLLM-Dropped-Params"] == "user"
    embed(caller, 400, model="text-embedding-3-small", input="one", base_url="http://127.0.0.1/")


TEXTS = ["model", "user", "input", "prompt", "size", "quality", "style", "response_format", "background"]


@pytest.mark.parametrize("field", TEXTS)
def test_half_a_character_is_told_by_field(caller: Caller, upstream: Upstream, field: str) -> None:
    path = "/v1/embeddings" if field == "input" else "/v1/images/generations"
    usual = {"model": "demo", "input" if field == "input" else "prompt": "a"}
    raw = json.dumps({**usual, field: "a\ud800"})
    response = caller.http.post(path, data=raw, headers={**caller.headers, "Content-Type": "application/json"})
    assert (response.status_code, response.json["error"]["param"]) == (400, field)


@pytest.mark.parametrize("field", ["model", "dimensions", "encoding_format", "user", "drop_params"])
def test_null_counts_as_left_out(caller: Caller, field: str) -> None:
    assert embed(caller, **{"model": "demo", "input": "a", field: None}).json["data"]


LONG = "x" * 40_000
BAD_EMBEDDINGS = [
    ("input", None), ("input", ""), ("input", []), ("input", 7), ("input", {}), ("input[1]", ["a", ""]),
    ("input[1]", ["a", 7]), ("input[0]", [None]), ("input", ["a"] * 2049), ("input[0]", [[]]), ("input[0]", [["a"]]),
    ("input[0]", [-1]), ("input", "a\0"), ("input[0]", [{"a": 1}]), ("input[1]", [[1], "a"]), ("input[0]", [True]),
    ("dimensions", 0), ("dimensions", -1), ("dimensions", 1e3), ("dimensions", "8"), ("dimensions", True),
    ("dimensions", 10**30), ("encoding_format", "hex"), ("encoding_format", 7), ("model", ""), ("model", 7),
    ("model", "x" * 257), ("user", 7), ("user", "x" * 513), ("drop_params", "yes"), ("api_base", "http://x"),
]  # fmt: skip
BAD_IMAGES = [
    ("prompt", None), ("prompt", ""), ("prompt", 7), ("prompt", ["a"]), ("prompt", LONG), ("prompt", "a\0"),
    ("n", 0), ("n", 11), ("n", -1), ("n", 1.5), ("n", "2"), ("n", True), ("size", "big"), ("size", 1024),
    ("size", "0x0"), ("size", "-1x5"), ("size", "1024×1024"), ("size", "99999x99999"), ("quality", "best"),
    ("quality", 7), ("style", "grim"), ("response_format", "png"), ("response_format", {}), ("background", "red"),
    ("output_format", "gif"), ("output_compression", 101), ("moderation", "none"), ("user", []), ("model", 7),
    ("stream", True), ("partial_images", 2), ("drop_params", 1), ("api_key", "sk-x"), ("extra_body", {}),
]  # fmt: skip


@pytest.mark.parametrize("field, value", BAD_EMBEDDINGS)
def test_a_bad_question_for_vectors_is_told_by_field(
    caller: Caller, upstream: Upstream, field: str, value: Any
) -> None:
    body = {"model": "text-embedding-3-small", "input": "a", field.partition("[")[0]: value}
    fault = embed(caller, 400, **body).json["error"]
    assert (fault["param"], fault["code"], fault["type"]) == (field, "invalid_request", "invalid_request_error")
    assert upstream.requests == []


@pytest.mark.parametrize("field, value", BAD_IMAGES)
def test_a_bad_question_for_images_is_told_by_field(caller: Caller, upstream: Upstream, field: str, value: Any) -> None:
    fault = draw(caller, 400, **{"model": "azure_openai/dall-e-2", "prompt": "a", field: value}).json["error"]
    assert (fault["param"], fault["code"]) == (field, "invalid_request")
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/images/generations"])
@pytest.mark.parametrize(
    "raw", [b"null", b"[1]", b'{"input":"\\ud800","prompt":"\\ud800"}', b'{"a":NaN}', b'{"a":' * 99]
)
def test_what_is_no_object_is_refused(caller: Caller, path: str, raw: bytes) -> None:
    headers = {**caller.headers, "Content-Type": "application/json"}
    assert caller.http.post(path, data=raw, headers=headers).status_code == 400


# -- Azure's paths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deployment", ["demo", "gpt-4o", "openai/gpt-4o", "azure_openai/gpt-4o"])
def test_azures_paths_are_the_same_doors(gateway: Flask, deployment: str) -> None:
    token = Caller.on(gateway).token
    path = f"/openai/deployments/{deployment}/chat/completions?api-version=2024-10-21"
    body = {"messages": [{"role": "user", "content": "hi"}], "model": "ignored-since-the-path-says-it"}
    response = gateway.test_client().post(path, json=body, headers={"api-key": token})
    assert response.status_code == 200
    assert json.loads(response.data)["choices"][0]["message"]["content"]


@pytest.mark.parametrize("deployment", ["demo", "openai/text-embedding-3-small"])
def test_azures_paths_embed_and_draw(gateway: Flask, deployment: str) -> None:
    client, key = gateway.test_client(), {"api-key": Caller.on(gateway).token}
    path = f"/openai/deployments/{deployment}"
    made = client.post(f"{path}/embeddings?api-version=1", json={"input": ["a", "b"], "user": "u"}, headers=key)
    assert (made.status_code, len(made.json["data"])) == (200, 2)
    drawn = client.post(f"{path}/images/generations", json={"prompt": "a"}, headers=key)
    assert drawn.status_code == (200 if deployment == "demo" else 400)
    streamed = client.post(
        "/openai/deployments/demo/chat/completions?api-version=2024-10-21",
        json={"messages": [{"role": "user", "content": "hi"}], "stream": True},
        headers=key,
    )
    assert streamed.data.rstrip().endswith(b"data: [DONE]")


@pytest.mark.parametrize(
    "asked, field",
    [
        ("api-version=1&more=1", "more"),
        ("api-version=1&api-version=2", "api-version"),
        ("api-version=%00", "api-version"),
    ],
)
def test_azures_paths_take_their_version_alone(gateway: Flask, asked: str, field: str) -> None:
    key = {"api-key": Caller.on(gateway).token}
    path = f"/openai/deployments/demo/embeddings?{asked}"
    fault = gateway.test_client().post(path, json={"input": "x"}, headers=key)
    assert (fault.status_code, fault.json["error"]["param"]) == (400, field)


def test_azures_paths_need_the_scopes_of_the_others(gateway: Flask) -> None:
    client, key = gateway.test_client(), {"api-key": Caller.on(gateway, scopes=["chat"]).token}
    for what, body in (("embeddings", {"input": "a"}), ("images/generations", {"prompt": "a"})):
        refused = client.post(f"/openai/deployments/demo/{what}?api-version=1", json=body, headers=key)
        assert (refused.status_code, refused.json["error"]["code"]) == (403, "forbidden")


def test_azures_paths_speak_openais_errors(gateway: Flask) -> None:
    client = gateway.test_client()
    missing = client.post("/openai/deployments/demo/embeddings?api-version=1", json={"input": "x"})
    assert (missing.status_code, missing.json["error"]["type"]) == (401, "authentication_error")
    key = {"api-key": Caller.on(gateway).token}
    unknown = client.post("/openai/deployments/nowhere/embeddings?api-version=1", json={"input": "x"}, headers=key)
    assert (unknown.status_code, unknown.json["error"]["code"]) == (404, "not_found")
    nowhere = client.get("/openai/deployments", headers=key)
    assert (nowhere.status_code, set(nowhere.json)) == (404, {"error"})


# -- what only an adversary sends -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault, status",
    [
        (faults.status(500), 502), (faults.status(429), 429), (faults.status(401), 502), (faults.status(400), 400),
        (faults.empty_body(), 502), (faults.reset(), 502),
    ],
)  # fmt: skip
@pytest.mark.parametrize("drawn", [1, 2])
def test_pictures_before_one_that_fails_cost_what_they_told(
    make_app: MakeApp, upstream: Upstream, fault: Any, status: int, drawn: int
) -> None:
    app = make_app(**provider_environment(upstream, "gemini"))
    caller = Caller.on(app, budget={"amount": 10, "period": "day"})
    upstream.script(faults.text("ok"), times=drawn)
    upstream.script(fault)
    draw(caller, status, model="gemini-2.5-flash-image", prompt="a cat", n=3)
    told = [row for row in upstream.bill if row.reported]
    assert len(told) == drawn
    cost = sum(row.input * 300 + (row.output - 1290) * 2500 + 1290 * 30_000 for row in told)
    assert rows(app, "SELECT state, cost, estimated FROM attempts") == [("settled", cost, 0)]
    assert rows(app, "SELECT spent, reserved FROM budgets") == [(cost, 0)]


def test_a_picture_that_may_have_been_drawn_behind_another_is_paid_at_the_bound(
    make_app: MakeApp, upstream: Upstream
) -> None:
    app = make_app(**provider_environment(upstream, "gemini"))
    upstream.script(faults.text("ok"), times=1)
    upstream.script(faults.half_json())
    draw(Caller.on(app), 502, model="gemini-2.5-flash-image", prompt="a cat", n=2)
    [(cost, reserved, estimated)] = rows(app, "SELECT cost, reserved, estimated FROM attempts")
    assert cost == reserved > 0
    assert estimated


def test_vectors_before_some_that_fail_cost_what_they_told(make_app: MakeApp, upstream: Upstream) -> None:
    catalogue_price = 150  # of gemini-embedding-001: $0.15 a million
    app = make_app(**provider_environment(upstream, "gemini"))
    told = {"embeddings": [{"values": [1.0]}] * 100, "usageMetadata": {"promptTokenCount": 321}}
    upstream.script(faults.raw(told), times=1)
    upstream.script(faults.status(400))
    embed(Caller.on(app), 400, model="gemini-embedding-001", input=["one"] * 150)
    assert rows(app, "SELECT state, cost, estimated FROM attempts") == [("settled", 321 * catalogue_price, 0)]


INDEXES = [[0, 0], [1, 2], [-1, 0], ["0", "1"], [0, None], [None, 1], [0, 2**70], [0.5, 1]]


@pytest.mark.parametrize("indexes", INDEXES, ids=str)
def test_vectors_of_nobody_knows_which_text_are_refused(caller: Caller, upstream: Upstream, indexes: list[Any]) -> None:
    upstream.script(faults.raw({"data": [{"index": index, "embedding": [1.0]} for index in indexes]}))
    told = embed(caller, 502, model="text-embedding-3-small", input=["a", "b"]).json["error"]
    assert told["code"] == "provider_error"


def test_vectors_are_put_in_the_order_of_their_texts(caller: Caller, upstream: Upstream) -> None:
    told = [{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]}]
    for data in (told, [{"embedding": [2.0]}, {"embedding": [1.0]}]):
        upstream.script(faults.raw({"data": data, "usage": {"prompt_tokens": 2}}))
        found = embed(caller, model="text-embedding-3-small", input=["a", "b"]).json["data"]
        assert [(row["index"], row["embedding"]) for row in found] == [(0, [2.0]), (1, [1.0])]


@pytest.mark.parametrize(
    "image",
    [{"b64_json": "***"}, {"b64_json": "abcde"}, {"url": "javascript:alert(1)"}, {"url": "data:text/html,x"}, "x", {}],
    ids=str,
)
def test_pictures_that_are_none_are_the_providers_fault(caller: Caller, upstream: Upstream, image: Any) -> None:
    upstream.script(faults.raw({"data": [image]}))
    told = draw(caller, 502, model="gpt-image-1-mini", prompt="a cat").json["error"]
    assert told["code"] == "provider_error"
