"""What Gemini answers, as OpenAI's: candidates, counts, and the chunks of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

from flaskllm.adapters.answers import Frames, tool_call, whole_choice
from flaskllm.adapters.base import broken_off, parse_object
from flaskllm.adapters.errors import failure_in_body
from flaskllm.adapters.sse import Event
from flaskllm.domain.chat import Chunk
from flaskllm.domain.usage import Usage, count
from flaskllm.errors import PromptFiltered, ProviderError

FILTERED = frozenset({
    "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR",
})  # fmt: skip
FAILED = frozenset({
    "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE",
    "MALFORMED_RESPONSE",
})  # fmt: skip
"""Reasons that come with no answer worth the name: another try may have one."""


def candidates_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = body.get("candidates") or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ProviderError("The provider's candidates make no sense.", may_be_billed=True)
    return found


def blocked(body: Mapping[str, Any]) -> PromptFiltered | None:
    feedback = body.get("promptFeedback")
    reason = feedback.get("blockReason") if isinstance(feedback, dict) else None
    return PromptFiltered(f"The provider refused the prompt: {str(reason)[:64]}.") if reason else None


def parts_in(candidate: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _reason(native: str, *, calls: bool) -> str:
    """OpenAI's word for why it ended. Raises `ProviderError` for endings without an answer."""
    if native in FAILED:
        raise ProviderError(f"The provider's model failed: {native}.", may_be_billed=True)
    if native in FILTERED:
        return "content_filter"
    if native == "MAX_TOKENS":
        return "length"
    return "tool_calls" if calls else "stop"


def choice_of(place: int, candidate: Mapping[str, Any]) -> dict[str, Any]:
    parts = parts_in(candidate)
    texts = [part["text"] for part in parts if part.get("text") and not part.get("thought")]
    thoughts = "".join(part["text"] for part in parts if part.get("text") and part.get("thought"))
    calls = [_call(part) for part in parts if isinstance(part.get("functionCall"), dict)]
    native = str(candidate.get("finishReason") or "STOP")
    message: dict[str, Any] = {"content": "".join(texts) if texts or not calls else None}
    if calls:
        message["tool_calls"] = calls
    if thoughts:
        message["reasoning_content"] = thoughts
    if signature := next((part["thoughtSignature"] for part in reversed(parts) if _is_signed_text(part)), None):
        message["extra_content"] = signed(signature)
    index = count(candidate.get("index"))
    return whole_choice(
        place if index is None else index,
        message,
        _reason(native, calls=bool(calls)),
        native=native,
        logprobs=_logprobs(candidate.get("logprobsResult")),
    )


def _call(part: Mapping[str, Any]) -> dict[str, Any]:
    """A call as OpenAI's; its signature travels in the field that Google's own OpenAI-compatible API uses for it."""
    found = part["functionCall"]
    call_id = str(found.get("id") or f"call_{uuid4().hex[:24]}")
    signature = part.get("thoughtSignature")
    more = {"extra_content": signed(signature)} if signature else {}
    return tool_call(call_id, str(found.get("name")), json.dumps(found.get("args") or {}), **more)


def signed(signature: Any) -> dict[str, Any]:
    """Where Google's own OpenAI-compatible API has the signature of a call, and that of a text for its message."""
    return {"google": {"thought_signature": str(signature)}}


def _is_signed_text(part: Mapping[str, Any]) -> bool:
    return bool(part.get("thoughtSignature")) and "functionCall" not in part


def _logprobs(result: Any) -> dict[str, Any] | None:
    if not isinstance(result, dict) or not isinstance(result.get("chosenCandidates"), list):
        return None
    others = result.get("topCandidates") or []
    content = []
    for place, chosen in enumerate(result["chosenCandidates"]):
        beside = (others[place].get("candidates") or []) if place < len(others) else []
        content.append({**_logprob(chosen), "top_logprobs": [_logprob(one) for one in beside]})
    return {"content": content, "refusal": None}


def _logprob(one: Mapping[str, Any]) -> dict[str, Any]:
    token = str(one.get("token") or "")
    return {"token": token, "logprob": one.get("logProbability", 0.0), "bytes": list(token.encode())}


def usage_of(raw: Any) -> Usage | None:
    """Cached tokens are part of the prompt, thoughts stand beside the candidates, and tools' own prompts on top."""
    if not isinstance(raw, dict):
        return None
    prompt, given = count(raw.get("promptTokenCount")), count(raw.get("candidatesTokenCount", 0))
    if prompt is None or given is None:
        return None
    cached = min(count(raw.get("cachedContentTokenCount")) or 0, prompt)
    heard = min(_told_of("AUDIO", raw.get("promptTokensDetails")), prompt - cached)
    spoken_aloud = min(_told_of("AUDIO", raw.get("candidatesTokensDetails")), given)
    drawn = min(_told_of("IMAGE", raw.get("candidatesTokensDetails")), given - spoken_aloud)
    return Usage(
        input=prompt - cached - heard + (count(raw.get("toolUsePromptTokenCount")) or 0),
        cache_read=cached,
        audio_input=heard,
        output=given - spoken_aloud - drawn,
        audio_output=spoken_aloud,
        image_output=drawn,
        reasoning=count(raw.get("thoughtsTokenCount")) or 0,
    )


def _told_of(modality: str, details: Any) -> int:
    rows = details if isinstance(details, list) else []
    return sum(count(row.get("tokenCount")) or 0 for row in rows if row.get("modality") == modality)


class GeminiDecoder:
    """Chunks as OpenAI's frames. The stream has no end mark: it is whole when every candidate has given its reason.

    Each tells the usage so far, so that a stream that breaks off is not left to guessing.
    """

    ended = False

    def __init__(self, secrets: tuple[str, ...], model: str) -> None:
        self._secrets = secrets
        self._model = model
        self._frames: Frames | None = None
        self._calls: dict[int, int] = {}
        self._ends: dict[int, bool] = {}
        self._usage: Usage | None = None
        self._refusal: PromptFiltered | None = None

    def decode(self, event: Event) -> list[Chunk]:
        body, _ = parse_object(event.data)
        if failure := failure_in_body(body, self._secrets):
            raise failure
        frames = self._frames or Frames(body.get("responseId"), body.get("modelVersion") or self._model)
        self._frames = frames
        self._note_usage(usage_of(body.get("usageMetadata")))
        chunks = self._chunks(frames, body)
        if self._usage is None:
            return chunks
        return [*chunks[:-1], replace(chunks[-1], usage=self._usage)] if chunks else [frames.usage(self._usage)]

    def _note_usage(self, told: Usage | None) -> None:
        """Running totals: they never fall, whatever comes after the end."""
        if told is not None and (self._usage is None or told.total_tokens >= self._usage.total_tokens):
            self._usage = told

    def _chunks(self, frames: Frames, body: dict[str, Any]) -> list[Chunk]:
        if (refusal := blocked(body)) and not body.get("candidates"):
            self._refusal = refusal
            return []
        return [chunk for found in candidates_of(body) for chunk in self._candidate(frames, found)]

    def _candidate(self, frames: Frames, candidate: Mapping[str, Any]) -> Iterator[Chunk]:
        index = count(candidate.get("index")) or 0
        if index not in self._ends:
            self._ends[index] = False
            yield frames.role(index)
        for part in parts_in(candidate):
            yield from self._part(frames, index, part)
        if native := candidate.get("finishReason"):
            self._ends[index] = True
            yield frames.end(index, _reason(str(native), calls=bool(self._calls.get(index))), native)

    def _part(self, frames: Frames, index: int, part: Mapping[str, Any]) -> Iterator[Chunk]:
        if isinstance(part.get("functionCall"), dict):
            place = self._calls.get(index, 0)
            self._calls[index] = place + 1
            yield frames.delta(index, tool_calls=[{"index": place, **_call(part)}])
        elif text := part.get("text"):
            yield frames.delta(index, **{"reasoning_content" if part.get("thought") else "content": text})
        if _is_signed_text(part):
            yield frames.delta(index, extra_content=signed(part["thoughtSignature"]))

    def at_end(self) -> list[Chunk]:
        if self._ends and all(self._ends.values()):
            return [self._frames.usage(self._usage)] if self._frames and self._usage else []
        raise self._refusal or broken_off()
