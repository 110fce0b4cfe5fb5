"""Gemini beside the chat: ``batchEmbedContents``, and images by the models that draw in their answer."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from flaskllm.adapters.base import ProviderAdapter, Table
from flaskllm.adapters.gemini_answers import blocked, usage_of
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.embedding import EmbedRequest, EmbedResult
from flaskllm.domain.image import ImageRequest, ImageResult
from flaskllm.domain.usage import Usage
from flaskllm.errors import ProviderError, invalid

AT_ONCE = 100
"""Texts in one ``batchEmbedContents`` (Google's limit)."""
SHAPES = {
    "1024x1024": "1:1", "1536x1024": "3:2", "1024x1536": "2:3", "1792x1024": "16:9", "1024x1792": "9:16",
    "1152x896": "5:4", "896x1152": "4:5", "1280x960": "4:3", "960x1280": "3:4",
}  # fmt: skip
"""OpenAI's sizes as Gemini's aspect ratios: it is told the shape, and draws about a million pixels."""


class GeminiMedia(ProviderAdapter):
    """Vectors of texts, and images."""

    EMBEDS: ClassVar[Table] = {"dimensions": "outputDimensionality", "task_type": "taskType"}
    DRAWS: ClassVar[Table] = {"size": "size"}

    @abstractmethod
    def at(self, candidate: Candidate, method: str) -> str:
        """The address of a method of the candidate's model."""

    def called(self, candidate: Candidate) -> str:
        return candidate.model.backend_model.removeprefix("models/")

    def embed(self, request: EmbedRequest, candidate: Candidate, deadline: float) -> EmbedResult:
        mapped = self._mapped(request, candidate, self.EMBEDS)
        texts = [_text(one, place) for place, one in enumerate(request.inputs)]
        vectors: list[Sequence[float]] = []
        url = self.at(candidate, "batchEmbedContents")
        for start in range(0, len(texts), AT_ONCE):
            some = texts[start : start + AT_ONCE]
            body = {"requests": [self._one(text, candidate, mapped.params) for text in some]}
            vectors += self._exchanged(url, body, candidate, deadline, _reader(len(some)))
        return EmbedResult(vectors, None, candidate.model.name, mapped.dropped)

    def _one(self, text: str, candidate: Candidate, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": f"models/{self.called(candidate)}", "content": {"parts": [{"text": text}]}, **params}

    def create_images(self, request: ImageRequest, candidate: Candidate, deadline: float) -> ImageResult:
        """One image a call, so that several are several calls, one after the other."""
        params = {name: value for name, value in request.params.items() if name not in ("n", "response_format")}
        asked = ImageRequest(request.prompt, params=params, extras=request.extras, drop_params=request.drop_params)
        mapped = self._mapped(asked, candidate, self.DRAWS)
        config: dict[str, Any] = {"responseModalities": ["TEXT", "IMAGE"]}
        if (size := mapped.params.get("size")) not in (None, "auto"):
            if size not in SHAPES:
                raise invalid("size", f"must be one of {', '.join(SHAPES)}, auto for {candidate.name}")
            config["imageConfig"] = {"aspectRatio": SHAPES[str(size)]}
        body = {"contents": [{"role": "user", "parts": [{"text": request.prompt}]}], "generationConfig": config}
        url = self.at(candidate, "generateContent")
        drawn = [self._exchanged(url, body, candidate, deadline, _read_image) for _ in range(request.count)]
        usages = [usage for _, usage in drawn if usage is not None]
        whole = _sum(usages) if len(usages) == len(drawn) else None
        return ImageResult([image for image, _ in drawn], whole, int(time.time()), dropped=mapped.dropped)


def _text(one: str | Sequence[int], place: int) -> str:
    if not isinstance(one, str):
        raise invalid(f"input[{place}]", "must be a text: this model takes no token ids")
    return one


class _reader:  # noqa: N801  (a function that remembers how many are wanted)
    def __init__(self, wanted: int) -> None:
        self._wanted = wanted

    def __call__(self, body: Mapping[str, Any]) -> list[list[float]]:
        vectors = [[float(value) for value in row["values"]] for row in body["embeddings"]]
        if len(vectors) != self._wanted or not all(row and all(map(math.isfinite, row)) for row in vectors):
            raise ProviderError("The provider's vectors are not those that were asked for.", may_be_billed=True)
        return vectors


def _read_image(body: Mapping[str, Any]) -> tuple[dict[str, Any], Usage | None]:
    """The first picture of the answer. Raises `ProviderError` where there is none."""
    if failure := blocked(dict(body)):
        raise failure
    parts = [part for candidate in body.get("candidates") or () for part in _parts(candidate)]
    found = next((part["inlineData"] for part in parts if "inlineData" in part), None)
    if found is None:
        raise ProviderError("The provider answered without a picture.", may_be_billed=True)
    said = " ".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    image = {"b64_json": str(found["data"]), **({"revised_prompt": said} if said else {})}
    return image, usage_of(body.get("usageMetadata"))


def _parts(candidate: Mapping[str, Any]) -> list[dict[str, Any]]:
    return (candidate.get("content") or {}).get("parts") or []


def _sum(usages: Sequence[Usage]) -> Usage:
    return Usage(input=sum(one.prompt_tokens for one in usages), output=sum(one.completion_tokens for one in usages))
