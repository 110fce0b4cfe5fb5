"""Gemini beside the chat: ``batchEmbedContents``, and images by the models that draw in their answer."""

from __future__ import annotations

import base64
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, TypeVar

from flaskllm.adapters.base import ProviderAdapter, Table
from flaskllm.adapters.gemini_answers import FILTERED, blocked, candidates_of, parts_in, usage_of
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.embedding import EmbedRequest, EmbedResult, vector_of
from flaskllm.domain.image import ImageRequest, ImageResult
from flaskllm.domain.usage import Usage, sum_of
from flaskllm.errors import PromptFiltered, ProviderError, ProviderFailure, invalid

AT_ONCE = 100
"""Texts in one ``batchEmbedContents`` (Google's limit)."""
SHAPES = {
    "1024x1024": "1:1", "1536x1024": "3:2", "1024x1536": "2:3", "1792x1024": "16:9", "1024x1792": "9:16",
    "1152x896": "5:4", "896x1152": "4:5", "1280x960": "4:3", "960x1280": "3:4",
}  # fmt: skip
"""OpenAI's sizes as Gemini's aspect ratios: it is told the shape, and draws about a million pixels."""

Made = TypeVar("Made")


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
        """A hundred texts a call, one call after the other."""
        mapped = self._mapped(request, candidate, self.EMBEDS)
        texts = [_text(one, place) for place, one in enumerate(request.inputs)]
        url = self.at(candidate, "batchEmbedContents")

        def ask(some: Sequence[str]) -> tuple[list[list[float]], Usage | None]:
            body = {"requests": [self._one(text, candidate, mapped.params) for text in some]}
            return self._exchanged(url, body, candidate, deadline, partial(_read_vectors, wanted=len(some)))

        found, usage = _one_after_the_other(
            partial(ask, texts[start : start + AT_ONCE]) for start in range(0, len(texts), AT_ONCE)
        )
        vectors = [vector for some in found for vector in some]
        return EmbedResult(vectors, usage, candidate.model.name, mapped.dropped)

    def _one(self, text: str, candidate: Candidate, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": f"models/{self.called(candidate)}", "content": {"parts": [{"text": text}]}, **params}

    def create_images(self, request: ImageRequest, candidate: Candidate, deadline: float) -> ImageResult:
        """One image a call, so that several are several calls, one after the other."""
        params = {name: value for name, value in request.params.items() if name not in ("n", "response_format")}
        mapped = self._mapped(replace(request, params=params), candidate, self.DRAWS)
        config: dict[str, Any] = {"responseModalities": ["TEXT", "IMAGE"]}
        if (size := mapped.params.get("size")) not in (None, "auto"):
            if size not in SHAPES:
                raise invalid("size", f"must be one of {', '.join(SHAPES)}, auto for {candidate.name}")
            config["imageConfig"] = {"aspectRatio": SHAPES[str(size)]}
        body = {"contents": [{"role": "user", "parts": [{"text": request.prompt}]}], "generationConfig": config}
        url = self.at(candidate, "generateContent")
        ask = partial(self._exchanged, url, body, candidate, deadline, _read_image)
        drawn, usage = _one_after_the_other([ask] * request.count)
        kinds = {kind for _, kind in drawn}
        return ImageResult(
            images=[image for image, _ in drawn],
            usage=usage,
            created=int(time.time()),
            dropped=mapped.dropped,
            more={"output_format": kinds.pop()} if len(kinds) == 1 else {},
        )


def _one_after_the_other(asks: Iterable[Callable[[], tuple[Made, Usage | None]]]) -> tuple[list[Made], Usage | None]:
    """What several calls that are one attempt have made, and what they took together.

    What was made before a failure is billed all the same: it is settled at what those calls told, or at the attempt's
    bound where one told nothing, or where the call that failed may be billed too.
    """
    made: list[tuple[Made, Usage | None]] = []
    for ask in asks:
        try:
            made.append(ask())
        except ProviderFailure as failure:
            if made:
                was_free = not failure.may_be_billed or failure.received == 0
                failure.taken = _together(made) if was_free else None
                failure.may_be_billed, failure.received = True, None
            raise
    return [one for one, _ in made], _together(made)


def _together(made: Sequence[tuple[Any, Usage | None]]) -> Usage | None:
    """The sum; None where one is missing."""
    told = [usage for _, usage in made if usage is not None]
    return sum_of(told) if len(told) == len(made) else None


def _text(one: str | Sequence[int], place: int) -> str:
    if not isinstance(one, str):
        raise invalid(f"input[{place}]", "must be a text: this model takes no token ids")
    return one


def _read_vectors(body: Mapping[str, Any], *, wanted: int) -> tuple[list[list[float]], Usage | None]:
    vectors = [vector_of(row["values"]) for row in body["embeddings"]]
    if len(vectors) != wanted:
        raise ProviderError(f"The provider made {len(vectors)} vectors of {wanted} texts.", may_be_billed=True)
    return vectors, usage_of(body.get("usageMetadata"))


def _read_image(body: Mapping[str, Any]) -> tuple[tuple[dict[str, Any], str], Usage | None]:
    """The last picture of the answer with its format, and what it took. Pictures among the thoughts are drafts.

    Raises `PromptFiltered` where a filter took it, `ProviderError` where there is none.
    """
    if failure := blocked(body):
        raise failure
    candidates = candidates_of(body)
    parts = [part for candidate in candidates for part in parts_in(candidate) if not part.get("thought")]
    pictures = [part["inlineData"] for part in parts if "inlineData" in part]
    if not pictures:
        raise _without_picture([str(candidate.get("finishReason")) for candidate in candidates])
    data, kind = pictures[-1]["data"], str(pictures[-1].get("mimeType") or "image/png")
    base64.b64decode(data, validate=True)
    said = " ".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    image = {"b64_json": data, **({"revised_prompt": said} if said else {})}
    return (image, kind.removeprefix("image/")), _usage(usage_of(body.get("usageMetadata")))


def _without_picture(reasons: Sequence[str]) -> ProviderFailure:
    if filtered := FILTERED.intersection(reasons):
        return PromptFiltered(f"The provider's filter took the picture: {min(filtered)}.")
    return ProviderError("The provider answered without a picture.", may_be_billed=True)


def _usage(told: Usage | None) -> Usage | None:
    """Where the counts name no modality, what came out is the picture."""
    if told is None or told.image_output:
        return told
    return replace(told, output=0, image_output=told.output)
