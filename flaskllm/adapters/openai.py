"""OpenAI's wire: OpenAI itself and all that speak like it.

Both translations are close to the identity; answers and frames are passed on as the bytes that came.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import orjson

from flaskllm.adapters.base import (
    COMMON_CONNECTION,
    NOTHING_ASKED,
    TIMES,
    Field,
    ListedModel,
    Mapped,
    Table,
    broken_off,
    parse_object,
    versioned,
)
from flaskllm.adapters.errors import failure_in_body, mask_keys
from flaskllm.adapters.http import Response
from flaskllm.adapters.messages import without_carried
from flaskllm.adapters.openai_media import OpenAIMedia
from flaskllm.adapters.openai_models import models_in
from flaskllm.adapters.sse import Event
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest, ChatResult, Chunk, without
from flaskllm.domain.usage import Usage, count, usage_from_openai
from flaskllm.errors import ProviderError

DONE = b"[DONE]"


class OpenAIAdapter(OpenAIMedia):
    """OpenAI's own service."""

    kind = "openai"
    TITLE = "OpenAI"
    wire = "openai"
    ABILITIES = frozenset(
        {
            "chat", "stream", "tools", "json_schema", "images", "image_url", "image_http", "embeddings",
            "image_generation", "files",
        }
    )  # fmt: skip
    CONNECTION: ClassVar[tuple[Field, ...]] = (
        *COMMON_CONNECTION,
        Field("organization", help="Sent as OpenAI-Organization."),
        Field("project", help="Sent as OpenAI-Project."),
        Field("stream_options", bool, True, help="Whether the server takes stream_options."),
    )
    DEFAULT_BASE = "https://api.openai.com/v1"
    KEY_FAULT = re.compile(r"billing hard limit", re.IGNORECASE)
    old_cap_only: ClassVar[bool] = False
    """Servers that ignore ``max_completion_tokens`` without a word get ``max_tokens``."""
    takes_carried: ClassVar[bool] = False
    """Whether thoughts and signatures, which answers carry in fields that OpenAI does not know, may come back in them
    from callers who were given them so."""

    def at(self, candidate: Candidate, path: str) -> str:
        return f"{versioned(candidate.endpoint.base_url or self.DEFAULT_BASE)}/{path}"

    def url(self, candidate: Candidate, *, stream: bool) -> str:
        return self.at(candidate, "chat/completions")

    def listed_models(self, candidate: Candidate, deadline: float) -> list[ListedModel]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "FlaskLLM"}
        headers |= self.headers(candidate, NOTHING_ASKED)
        address = self.at(candidate, "models")
        response = self.transport.send("GET", address, headers=headers, body=None, deadline=deadline)
        if response.status == 404:
            response.close()
            raise ProviderError("It has no list of models there (404).", may_be_billed=False)
        self.check(response, candidate)
        return models_in(response.read())

    def headers(self, candidate: Candidate, request: ChatRequest) -> dict[str, str]:
        found = {"Authorization": f"Bearer {candidate.key.value}"} if candidate.key else {}
        for name, header in (("organization", "OpenAI-Organization"), ("project", "OpenAI-Project")):
            if value := self.provider.connection.get(name):
                found[header] = str(value)
        return found

    def map_params(self, request: ChatRequest, candidate: Candidate) -> Mapped:
        mapped = super().map_params(request, candidate)
        self._one_cap(mapped.params, candidate)
        return mapped

    def _one_cap(self, params: dict[str, Any], candidate: Candidate) -> None:
        """Both names of the cap may have come: the new one wins, under the name that the target knows."""
        new, old = params.pop("max_completion_tokens", None), params.pop("max_tokens", None)
        if (cap := old if new is None else new) is None:
            return
        reasons = "reasoning" in candidate.model.abilities
        knows_new = not self.old_cap_only and (reasons or new is not None)
        params["max_completion_tokens" if knows_new else "max_tokens"] = cap

    def encode(self, request: ChatRequest, candidate: Candidate, mapped: Mapped) -> dict[str, Any]:
        body = {"model": self.called(candidate), "messages": self._messages(request), **mapped.params}
        if request.native and "tools" in body:
            body["tools"] = [without(tool, ("cache_control",)) for tool in body["tools"]]
        if request.metadata and body.get("store"):
            body["metadata"] = dict(request.metadata)
        if request.stream:
            body["stream"] = True
            if self.provider.connection.get("stream_options", True):
                body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        return body

    def _messages(self, request: ChatRequest) -> list[dict[str, Any]]:
        """As they came; without what answers of other vendors carry, which OpenAI refuses, and without those marks of
        another dialect that mean nothing here."""
        messages = request.messages
        if request.native or not self.takes_carried:
            messages = [without_carried(message) for message in messages]
        return [_unmarked(message) for message in messages] if request.native else messages

    def decode(self, body: dict[str, Any], raw: bytes, request: ChatRequest, candidate: Candidate) -> ChatResult:
        choices = body.get("choices")
        if not isinstance(choices, list) or not choices or not all(_is_choice(choice) for choice in choices):
            raise ProviderError("The provider's answer holds no choices.", may_be_billed=True)
        usage = self.usage_told(body)
        if usage is None and body.get("usage") is not None:
            body = {name: value for name, value in body.items() if name != "usage"}
            raw = orjson.dumps(body)
        return ChatResult(body=body, usage=usage, raw=raw)

    def decoder(self, request: ChatRequest, candidate: Candidate) -> OpenAIDecoder:
        return OpenAIDecoder(self._secrets(candidate), self.read_usage)

    def usage_told(self, body: Mapping[str, Any]) -> Usage | None:
        return self.read_usage(body.get("usage"))

    def read_usage(self, raw: Any) -> Usage | None:
        """The usage in our buckets; None for nonsense, which is not shown to callers either."""
        return usage_from_openai(raw)


def _unmarked(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        message = {**message, "content": [without(part, ("cache_control",)) for part in content]}
    return without(message, ("cache_control", "is_error"))


def _is_choice(choice: Any) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("message"), dict)


class OpenAIDecoder:
    """Frames pass as they are; looked into for usage, errors and the first content."""

    def __init__(self, secrets: tuple[str, ...], read_usage: Callable[[Any], Usage | None]) -> None:
        self._secrets = secrets
        self._read_usage = read_usage
        self._begun: set[Any] = set()
        self._notes: dict[str, Any] = {}
        self.ended = False

    def decode(self, event: Event) -> list[Chunk]:
        data = event.data.strip()
        if data == DONE:
            self.ended = True
            return []
        body, data = parse_object(data)
        if failure := failure_in_body(body, self._secrets):
            raise failure
        if _only_notes(body):
            self._notes |= {name: value for name, value in body.items() if name not in _ENVELOPE}
            return []
        raw = orjson.dumps(body) if self._repair(body) else data
        return [Chunk(body, raw, has_content=_has_content(body), usage=self._read_usage(body.get("usage")))]

    def _repair(self, body: dict[str, Any]) -> bool:
        """The first delta of each choice carries the role, which some servers forget; it takes up held notes too."""
        changed = bool(self._notes)
        if changed:
            body |= {**self._notes, **body}
            self._notes = {}
        for choice in _choices(body):
            if (index := choice.get("index")) in self._begun:
                continue
            self._begun.add(index)
            delta = choice.get("delta")
            if isinstance(delta, dict) and not delta.get("role"):
                choice["delta"] = {"role": "assistant", **delta, **({"role": "assistant"} if "role" in delta else {})}
                changed = True
        return changed

    def at_end(self) -> list[Chunk]:
        raise broken_off()


_ENVELOPE = frozenset({"id", "object", "created", "model", "choices", "usage"})


def _only_notes(body: Mapping[str, Any]) -> bool:
    """Azure begins with a frame of filter notes and no choices, at which clients that read ``choices[0]`` stumble."""
    return not body.get("choices") and body.get("usage") is None


def _choices(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices = body.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _has_content(body: Mapping[str, Any]) -> bool:
    return any(_choice_has_content(choice) for choice in _choices(body))


def _choice_has_content(choice: Mapping[str, Any]) -> bool:
    if choice.get("finish_reason"):
        return True
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")


class GrokAdapter(OpenAIAdapter):
    """xAI: the same wire; which models take penalties and ``stop`` stands in the catalogue's rows."""

    kind = "grok"
    TITLE = "xAI Grok"
    DRAWS: ClassVar[Table] = {"n": "n", "user": "user"}
    DEFAULT_BASE = "https://api.x.ai/v1"
    KEY_FAULT = re.compile(r"incorrect api key", re.IGNORECASE)

    def read_usage(self, raw: Any) -> Usage | None:
        """xAI leaves reasoning out of ``completion_tokens`` and counts it in the total only."""
        usage = usage_from_openai(raw)
        if usage is None or not isinstance(details := raw.get("completion_tokens_details"), dict):
            return usage
        thought, total = count(details.get("reasoning_tokens")) or 0, count(raw.get("total_tokens")) or 0
        if total < usage.total_tokens + thought:
            return usage
        return replace(usage, output=usage.completion_tokens - usage.audio_output, reasoning=thought)


class CompatibleAdapter(OpenAIAdapter):
    """llama.cpp, vLLM, Ollama and all others that take OpenAI's requests; a key is optional."""

    kind = "openai_compatible"
    TITLE = "A server that speaks OpenAI's wire"
    DEFAULT_BASE = ""
    KEY_REQUIRED = False
    FOREIGN = frozenset({"top_k"})
    old_cap_only = True
    takes_carried = True
    CONNECTION: ClassVar[tuple[Field, ...]] = (
        Field("api_base", required=True, help="Address of the server; /v1 is added where it has no version."),
        *TIMES,
        Field("stream_options", bool, True, help="Whether the server takes stream_options."),
    )


class NgrokAdapter(CompatibleAdapter):
    """An OpenAI-compatible server behind an ngrok tunnel, whose free plan puts a page before it."""

    kind = "ngrok"
    TITLE = "A server behind an ngrok tunnel"

    def headers(self, candidate: Candidate, request: ChatRequest) -> dict[str, str]:
        return {**super().headers(candidate, request), "ngrok-skip-browser-warning": "true"}

    def check(self, response: Response, candidate: Candidate) -> None:
        """A page is ngrok's own: its warning, or the news that nothing is at the tunnel's other end."""
        code = response.headers.get("ngrok-error-code")
        if code or response.content_type == "text/html":
            response.close()
            said = f" ({mask_keys(code)[:40]})" if code else ""
            text = f"The ngrok tunnel answered with a page instead of the model{said}: it may be closed or have moved."
            raise ProviderError(text, may_be_billed=False)
        super().check(response, candidate)
