"""OpenAI's wire beside the chat: embeddings and images."""

from __future__ import annotations

import base64
import struct
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from flaskllm.adapters.base import PassAll, ProviderAdapter, Table
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.embedding import EmbedRequest, EmbedResult, vector_of
from flaskllm.domain.image import ImageRequest, ImageResult
from flaskllm.domain.usage import Usage, count, usage_from_openai
from flaskllm.errors import ProviderError

ADDRESSES = ("https://", "http://", "data:image/")
SHOWN = ("background", "output_format")
"""What is told of images beside their size and quality."""


class OpenAIMedia(ProviderAdapter):
    """``POST /embeddings`` and ``POST /images/generations``."""

    EMBEDS: ClassVar[Table] = {"dimensions": "dimensions", "user": "user"}
    DRAWS: ClassVar[Table] = PassAll

    @abstractmethod
    def at(self, candidate: Candidate, path: str) -> str:
        """The address of a path of this wire."""

    def called(self, candidate: Candidate) -> str:
        """The model as it is called there."""
        return candidate.model.backend_model

    def embed(self, request: EmbedRequest, candidate: Candidate, deadline: float) -> EmbedResult:
        mapped = self._mapped(request, candidate, self.EMBEDS)
        body = {"model": self.called(candidate), "input": list(request.inputs), **mapped.params}
        url = self.at(candidate, "embeddings")
        wanted = len(request.inputs)
        return self._exchanged(
            url, body, candidate, deadline, lambda found: _read_vectors(found, wanted, mapped.dropped)
        )

    def create_images(self, request: ImageRequest, candidate: Candidate, deadline: float) -> ImageResult:
        mapped = self._mapped(_without_form(request), candidate, self.DRAWS)
        body = {"model": self.called(candidate), "prompt": request.prompt, **mapped.params}
        wants_bytes = request.params.get("response_format") == "b64_json"
        if wants_bytes and candidate.model.params.get("response_format") != "drop":
            body["response_format"] = "b64_json"  # models that know the word give addresses without it
        url = self.at(candidate, "images/generations")
        return self._exchanged(url, body, candidate, deadline, lambda found: _read_images(found, mapped.dropped))


def _without_form(request: ImageRequest) -> ImageRequest:
    """Address or bytes: the door gives either, so a vendor that knows only one has nothing to refuse."""
    params = {name: value for name, value in request.params.items() if name != "response_format"}
    return replace(request, params=params)


def _read_vectors(body: Mapping[str, Any], wanted: int, dropped: Sequence[str]) -> EmbedResult:
    rows = _in_order(body["data"])
    if len(rows) != wanted:
        raise ProviderError(f"The provider made {len(rows)} vectors of {wanted} texts.", may_be_billed=True)
    vectors = [_vector(row["embedding"]) for row in rows]
    return EmbedResult(vectors, usage_from_openai(body.get("usage")), _text(body.get("model")), dropped)


def _in_order(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows by their index; as they stand where none is told.

    Raises `ValueError` for numbers that do not say which text a vector is of: a wrong vector is worse than none.
    """
    if all(row.get("index") is None for row in rows):
        return list(rows)
    if sorted(row["index"] for row in rows) != list(range(len(rows))):
        raise ValueError("the indexes of the vectors make no sense")
    return sorted(rows, key=lambda row: row["index"])


def _vector(told: Any) -> list[float]:
    """A vector as numbers, or as base64 of little-endian floats. Raises `ValueError` for what is none."""
    if isinstance(told, str):
        raw = base64.b64decode(told, validate=True)
        if len(raw) % 4:
            raise ValueError("base64 of a broken float")
        told = struct.unpack(f"<{len(raw) // 4}f", raw)
    return vector_of(told)


def _read_images(body: Mapping[str, Any], dropped: Sequence[str]) -> ImageResult:
    images = [_image(one) for one in body["data"]]
    if not images:
        raise ProviderError("The provider drew nothing.", may_be_billed=True)
    return ImageResult(
        images=images,
        usage=_usage(body.get("usage")),
        created=count(body.get("created")),
        size=_text(body.get("size")),
        quality=_text(body.get("quality")),
        dropped=dropped,
        more={name: body[name] for name in SHOWN if _text(body.get(name))},
    )


def _image(one: Mapping[str, Any]) -> dict[str, Any]:
    """Raises `KeyError` for an image that is neither at an address nor in bytes, `ValueError` for what is none."""
    found = {name: one[name] for name in ("url", "b64_json", "revised_prompt") if _text(one.get(name))}
    if not found.keys() & {"url", "b64_json"}:
        raise KeyError("url")
    if not found.get("url", "https://").startswith(ADDRESSES):
        raise ValueError("no address of an image")
    base64.b64decode(found.get("b64_json", ""), validate=True)
    return found


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _usage(raw: Any) -> Usage | None:
    """The tokens of images; None where they are paid by the piece."""
    if not isinstance(raw, dict):
        return None
    inward, outward = count(raw.get("input_tokens")), count(raw.get("output_tokens"))
    if inward is None or outward is None:
        return None
    shown = _of_images(raw.get("input_tokens_details"), inward) or 0
    drawn = _of_images(raw.get("output_tokens_details"), outward)
    drawn = outward if drawn is None else drawn
    return Usage(input=inward - shown, image_input=shown, output=outward - drawn, image_output=drawn)


def _of_images(details: Any, whole: int) -> int | None:
    """How many of the tokens are of images; None where that is not told."""
    found = count(details.get("image_tokens")) if isinstance(details, dict) else None
    return None if found is None else min(found, whole)
