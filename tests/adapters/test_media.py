"""Embeddings and images, one contract for every kind that can: what is asked is understood by a strict service, and
what makes no sense has one name."""

from __future__ import annotations

import base64
import math
import struct
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from google import genai
from google.genai import types

from flaskllm.adapters.http import BODY_CAP
from flaskllm.domain.embedding import EmbedRequest, EmbedResult
from flaskllm.domain.image import ImageRequest, ImageResult
from flaskllm.domain.usage import Usage
from flaskllm.errors import InvalidRequest, PromptFiltered, ProviderError, ProviderFailure
from tests.adapters.candidates import PLACES, Asker, asker
from tests.upstream import Upstream, faults
from tests.upstream.images import PIXEL

EMBEDDERS = {
    "openai": "text-embedding-3-small",
    "azure classic": "text-embedding-3-small",
    "azure v1": "text-embedding-3-small",
    "gemini": "gemini-embedding-001",
    "grok": "grok-embedding",
    "ngrok": "nomic-embed-text",
    "openai_compatible": "nomic-embed-text",
    "demo": "demo",
}
PAINTERS = {
    "openai": "gpt-image-1",
    "azure classic": "dall-e-3",
    "azure v1": "gpt-image-1",
    "gemini": "gemini-2.5-flash-image",
    "grok": "grok-imagine-image",
    "ngrok": "stable-diffusion",
    "openai_compatible": "stable-diffusion",
    "demo": "demo",
}
KNOW_NO_FORM = {"params": {"response_format": "drop"}}


def named(name: str, **fields: Any) -> dict[str, Any]:
    more = KNOW_NO_FORM if name.startswith("gpt-image") else {}
    return {"name": name, "backend_model": name, **more, **fields}


def embed(made: Asker, *inputs: Any, **more: Any) -> EmbedResult:
    own = {name: more.pop(name) for name in ("extras", "drop_params") if name in more}
    request = EmbedRequest(inputs, model=made.candidate.model.name, params=more, **own)
    return made.adapter.embed(request, made.candidate, time.monotonic() + 10)


def draw(made: Asker, prompt: str = "a cat", **more: Any) -> ImageResult:
    own = {name: more.pop(name) for name in ("extras", "drop_params") if name in more}
    request = ImageRequest(prompt, model=made.candidate.model.name, params=more, **own)
    return made.adapter.create_images(request, made.candidate, time.monotonic() + 10)


@pytest.fixture(params=EMBEDDERS)
def embedder(request: pytest.FixtureRequest, upstream: Upstream) -> Asker:
    return asker(request.param, upstream, model=named(EMBEDDERS[request.param]))


@pytest.fixture(params=PAINTERS)
def painter(request: pytest.FixtureRequest, upstream: Upstream) -> Asker:
    return asker(request.param, upstream, model=named(PAINTERS[request.param]))


def test_all_kinds_but_one_embed_and_draw() -> None:
    assert set(PLACES) - set(EMBEDDERS) == set(PLACES) - set(PAINTERS) == {"anthropic"}


@pytest.mark.parametrize("ask", [embed, draw])
def test_who_cannot_says_so_by_the_model(upstream: Upstream, ask: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask(asker("anthropic", upstream), "a cat")
    assert caught.value.param == "model"
    assert upstream.requests == []


# -- embeddings --------------------------------------------------------------------------------------------------------


def test_a_vector_for_each_text_in_order(embedder: Asker) -> None:
    found = embed(embedder, "one two", "three", "one two")
    first, second, third = found.vectors
    assert first == third != second
    assert math.hypot(*first) == pytest.approx(1)
    if found.usage is not None:
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (5, 0)


def test_the_length_is_asked_for(embedder: Asker) -> None:
    assert [len(vector) for vector in embed(embedder, "one", dimensions=7).vectors] == [7]


def test_demo_makes_a_million_numbers_and_no_more(upstream: Upstream) -> None:
    demo = asker("demo", upstream)
    assert len(embed(demo, *["a"] * 2048, dimensions=512).vectors) == 2048
    for texts, size in ((1, 4097), (257, 4096)):
        with pytest.raises(InvalidRequest) as caught:
            embed(demo, *["a"] * texts, dimensions=size)
        assert caught.value.param == "dimensions"


@pytest.mark.parametrize("name", ["openai", "azure classic", "openai_compatible", "demo"])
def test_token_ids_go_where_they_are_known(upstream: Upstream, name: str) -> None:
    made = asker(name, upstream, model=named(EMBEDDERS[name]))
    assert len(embed(made, [1, 2], [3]).vectors) == 2


def test_the_vectors_are_put_in_order(upstream: Upstream) -> None:
    rows = [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}]
    upstream.script(faults.raw({"data": rows, "usage": {"prompt_tokens": 2}}))
    assert embed(asker("openai", upstream), "a", "b").vectors == [[1.0], [2.0]]


def test_packed_vectors_are_read_too(upstream: Upstream) -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.5, -2)).decode()
    upstream.script(faults.raw({"data": [{"index": 0, "embedding": packed}]}))
    found = embed(asker("openai_compatible", upstream), "a")
    assert (found.vectors, found.usage, found.model) == ([[0.5, -2.0]], None, None)


BROKEN_VECTORS: list[Any] = [
    None, 7, [], "", "AAA", base64.b64encode(b"12345").decode(), "x y", ["a"], [None], [1e39], [10**400], {"a": 1},
    [float("inf")], [[1]],
]  # fmt: skip


@pytest.mark.parametrize("vector", BROKEN_VECTORS, ids=repr)
def test_what_is_no_vector_is_the_providers_fault(upstream: Upstream, vector: Any) -> None:
    for name, body in (
        ("openai", {"data": [{"index": 0, "embedding": vector}], "note": float("nan")}),
        ("gemini", {"embeddings": [{"values": vector}], "note": float("nan")}),
    ):
        upstream.script(faults.raw(body), times=1)
        with pytest.raises(ProviderError) as caught:
            embed(asker(name, upstream, model=named(EMBEDDERS[name])), "a")
        assert caught.value.may_be_billed


@pytest.mark.parametrize("body", [{}, {"data": []}, {"data": [3]}, {"data": {}}, {"embeddings": []}])
def test_fewer_vectors_than_texts_are_none(upstream: Upstream, body: Any) -> None:
    upstream.script(faults.raw(body))
    for name in ("openai", "gemini"):
        with pytest.raises(ProviderError):
            embed(asker(name, upstream, model=named(EMBEDDERS[name])), "a")


def test_gemini_takes_a_hundred_at_once_and_what_was_made_before_a_failure_is_billed(upstream: Upstream) -> None:
    made = asker("gemini", upstream, model=named("gemini-embedding-001"))
    texts = [f"text {number}" for number in range(150)]
    assert embed(made, *texts).vectors[120] == embed(made, "text 120").vectors[0]
    for free in (True, False):
        upstream.reset()
        if not free:
            upstream.script(faults.delay(0), times=1)
        upstream.script(faults.status(429))
        with pytest.raises(ProviderFailure) as caught:
            embed(made, *texts)
        assert (caught.value.may_be_billed, len(upstream.requests)) == (not free, 1 if free else 2)


# -- images ------------------------------------------------------------------------------------------------------------


def test_as_many_images_as_were_asked_for(painter: Asker) -> None:
    asked = 1 if painter.candidate.model.name == "dall-e-3" else 2
    found = draw(painter, n=asked)
    assert len(found.images) == asked
    for image in found.images:
        assert image.keys() & {"url", "b64_json"}
        if "b64_json" in image:
            assert base64.b64decode(image["b64_json"]).startswith(b"\x89PNG")


@pytest.mark.parametrize("form", ["url", "b64_json"])
@pytest.mark.parametrize("name", ["azure classic", "grok", "ngrok", "openai_compatible"])
def test_the_form_is_asked_for_where_there_are_two(upstream: Upstream, name: str, form: str) -> None:
    [image] = draw(asker(name, upstream, model=named(PAINTERS[name])), response_format=form).images
    assert image.keys() & {"url", "b64_json"} == {form}


@pytest.mark.parametrize("form", ["url", "b64_json"])
@pytest.mark.parametrize("name", ["openai", "azure v1", "gemini", "demo"])
def test_who_knows_one_form_is_not_asked(upstream: Upstream, name: str, form: str) -> None:
    [image] = draw(asker(name, upstream, model=named(PAINTERS[name])), response_format=form).images
    assert "b64_json" in image


def test_tokens_are_counted_where_images_are_paid_by_them(upstream: Upstream) -> None:
    openai_s = draw(asker("openai", upstream, model=named("gpt-image-1")), n=2)
    assert openai_s.usage == Usage(input=2, image_output=170)
    assert (openai_s.size, openai_s.quality) == ("1024x1024", "low")
    assert openai_s.more == {"background": "opaque", "output_format": "png"}
    gemini_s = draw(asker("gemini", upstream, model=named("gemini-2.5-flash-image")), n=2)
    assert gemini_s.usage == Usage(input=4, output=6, image_output=2580)
    assert draw(asker("azure classic", upstream, model=named("dall-e-3"))).usage is None


@pytest.mark.parametrize(
    "told, usage",
    [
        ({"input_tokens": 9, "output_tokens": 100}, Usage(input=9, image_output=100)),
        (
            {
                "input_tokens": 9,
                "output_tokens": 100,
                "input_tokens_details": {"text_tokens": 5, "image_tokens": 4},
                "output_tokens_details": {"text_tokens": 20, "image_tokens": 80},
            },
            Usage(input=5, image_input=4, output=20, image_output=80),
        ),
        (
            {
                "input_tokens": 9,
                "output_tokens": 1,
                "output_tokens_details": {"image_tokens": 99},
                "input_tokens_details": 7,
            },
            Usage(input=9, image_output=1),
        ),
        ({"input_tokens": -1, "output_tokens": 100}, None),
        ({"input_tokens": 9}, None),
        ("many", None),
        (None, None),
    ],
)
def test_what_is_told_of_tokens(upstream: Upstream, told: Any, usage: Usage | None) -> None:
    upstream.script(faults.raw({"created": 1, "data": [{"b64_json": "AAAA"}], "usage": told}))
    assert draw(asker("openai", upstream)).usage == usage


@pytest.mark.parametrize(
    "body",
    [
        {}, {"data": []}, {"data": [{}]}, {"data": [{"url": None}]}, {"data": [{"b64_json": 7}]}, {"data": "x"},
        {"candidates": []}, {"candidates": [3]}, {"candidates": [{"content": {"parts": [{"text": "no"}]}}]},
        {"candidates": [{"content": {"parts": [{"inlineData": {}}]}}]},
        {"candidates": [{"content": {"parts": [{"inlineData": {"data": "!"}}]}}]},
        {"candidates": [{"content": {"parts": [{"inlineData": 7}]}}]},
        {"candidates": [{"content": {"parts": [{"inlineData": {"data": "AAAA"}, "thought": True}]}}]},
    ],
)  # fmt: skip
def test_what_is_no_image_is_the_providers_fault(upstream: Upstream, body: Any) -> None:
    upstream.script(faults.raw(body))
    for name in ("openai", "gemini"):
        with pytest.raises(ProviderError) as caught:
            draw(asker(name, upstream, model=named(PAINTERS[name])))
        assert caught.value.may_be_billed


def test_gemini_s_drafts_are_no_pictures_and_its_formats_are_told(upstream: Upstream) -> None:
    parts = [
        {"inlineData": {"mimeType": "image/png", "data": "AAAA"}, "thought": True},
        {"text": "here"},
        {"inlineData": {"mimeType": "image/jpeg", "data": "BBBB"}},
    ]
    told = {"promptTokenCount": 2, "candidatesTokenCount": 1290, "thoughtsTokenCount": 40}
    upstream.script(faults.raw({"candidates": [{"content": {"parts": parts}}], "usageMetadata": told}))
    found = draw(asker("gemini", upstream, model=named("gemini-3-pro-image-preview")))
    assert found.images == [{"b64_json": "BBBB", "revised_prompt": "here"}]
    assert found.more == {"output_format": "jpeg"}
    assert found.usage == Usage(input=2, image_output=1290, reasoning=40)


@pytest.mark.parametrize(
    "body", [{"promptFeedback": {"blockReason": "SAFETY"}}, {"candidates": [{"finishReason": "IMAGE_SAFETY"}]}]
)
def test_a_filter_is_told_as_one(upstream: Upstream, body: Any) -> None:
    upstream.script(faults.raw(body))
    with pytest.raises(PromptFiltered):
        draw(asker("gemini", upstream, model=named("gemini-2.5-flash-image")))


@pytest.mark.parametrize(
    "name, params, field",
    [
        ("gemini", {"quality": "high"}, "quality"),
        ("gemini", {"size": "333x444"}, "size"),
        ("grok", {"size": "1024x1024"}, "size"),
        ("grok", {"style": "vivid"}, "style"),
        ("demo", {"size": "4096x16"}, "size"),
    ],
)
def test_what_a_kind_does_not_know_is_refused_by_name(
    upstream: Upstream, name: str, params: dict[str, Any], field: str
) -> None:
    made = asker(name, upstream, model=named(PAINTERS[name]))
    with pytest.raises(InvalidRequest) as caught:
        draw(made, **params)
    assert caught.value.param == field
    assert upstream.requests == []


def test_it_is_left_out_where_the_caller_wants_that(upstream: Upstream) -> None:
    made = asker("grok", upstream, model=named("grok-imagine-image"))
    found = draw(made, size="1024x1024", drop_params=True, extras={"aspect_ratio": "16:9"})
    assert found.dropped == ["size"]
    assert upstream.requests[-1].body["aspect_ratio"] == "16:9"


def test_images_may_be_larger_than_words(upstream: Upstream) -> None:
    data = base64.b64encode(PIXEL + bytes(BODY_CAP)).decode()
    upstream.script(faults.raw({"created": 1, "data": [{"b64_json": data}]}))
    assert draw(asker("openai", upstream)).images == [{"b64_json": data}]


# -- what the vendors' own SDKs send -----------------------------------------------------------------------------------


@pytest.fixture
def clients(upstream: Upstream) -> Iterator[dict[str, openai.OpenAI]]:
    key = upstream.keys["azure"]
    endpoint = upstream.azure_endpoint
    with (
        openai.OpenAI(base_url=upstream.openai_base, api_key=upstream.keys["openai"], max_retries=0) as plain,
        openai.AzureOpenAI(azure_endpoint=endpoint, api_key=key, api_version="2024-10-21", max_retries=0) as classic,
        openai.OpenAI(base_url=f"{endpoint}/openai/v1", api_key=key, max_retries=0) as newer,
    ):
        yield {"openai": plain, "azure classic": classic, "azure v1": newer}


@pytest.mark.parametrize("name", ["openai", "azure classic", "azure v1"])
def test_openai_s_requests_are_its_sdk_s(upstream: Upstream, clients: dict[str, openai.OpenAI], name: str) -> None:
    small = "text-embedding-3-small"
    embed(asker(name, upstream, model=named(small)), "one", "two", dimensions=7, user="u")
    clients[name].embeddings.create(
        model=small, input=["one", "two"], dimensions=7, user="u", encoding_format=openai.omit
    )
    draw(asker(name, upstream, model=named("gpt-image-1")), n=2, size="1536x1024", quality="low", background="opaque")
    clients[name].images.generate(
        model="gpt-image-1", prompt="a cat", n=2, size="1536x1024", quality="low", background="opaque"
    )
    ours, theirs, drawn, wanted = upstream.requests
    assert (ours.path, ours.query) == (theirs.path, theirs.query)
    assert {**ours.body, "encoding_format": "base64"} == theirs.body
    assert (drawn.path, drawn.query, drawn.body) == (wanted.path, wanted.query, wanted.body)


@pytest.mark.parametrize("name", ["azure classic", "azure v1"])
def test_azure_s_deployments_are_called_by_their_names(upstream: Upstream, name: str) -> None:
    mapped = {"text-embedding-ada-002": "our-vectors", "dall-e-3": "our-painter"}
    for model, ask in (("text-embedding-ada-002", embed), ("dall-e-3", draw)):
        ask(asker(name, upstream, model=named(model), connection={"deployments": mapped}), "a cat")
        sent = upstream.requests[-1]
        if name == "azure v1":
            assert sent.body["model"] == mapped[model]
        else:
            assert f"/deployments/{mapped[model]}/" in sent.path


def test_gemini_s_requests_are_its_sdk_s(upstream: Upstream) -> None:
    made = asker("gemini", upstream, model=named("gemini-embedding-001"))
    embed(made, "one", "two", dimensions=7, extras={"task_type": "CLUSTERING"})
    draw(asker("gemini", upstream, model=named("gemini-2.5-flash-image")), size="1792x1024")
    options = types.HttpOptions(base_url=upstream.gemini_base, api_version="v1beta")
    with genai.Client(api_key=upstream.keys["gemini"], http_options=options) as client:
        client.models.embed_content(
            model="gemini-embedding-001",
            contents=["one", "two"],
            config=types.EmbedContentConfig(output_dimensionality=7, task_type="CLUSTERING"),
        )
        client.models.generate_content(
            model="gemini-2.5-flash-image",
            contents="a cat",
            config=types.GenerateContentConfig(
                response_modalities=["TEXT", "IMAGE"], image_config=types.ImageConfig(aspect_ratio="16:9")
            ),
        )
    embedded, drawn, wanted_vectors, wanted_picture = upstream.requests
    for one in wanted_vectors.body["requests"]:
        assert one["content"].pop("role") == "user"  # which means nothing here
    assert (embedded.path, embedded.body) == (wanted_vectors.path, wanted_vectors.body)
    assert (drawn.path, drawn.body) == (wanted_picture.path, wanted_picture.body)
