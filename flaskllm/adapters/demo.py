"""The built-in answerer: no key, no network, no cost, and the same answer to the same question.

For a first look at the gateway, and the tests' double of a provider (``docs/api.md``, section 4).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from flaskllm.adapters import demo_media
from flaskllm.adapters.answers import completion, frames_of, head_of, tool_call, whole_choice
from flaskllm.adapters.base import Decoder, Field, Mapped, ProviderAdapter
from flaskllm.adapters.instance import smallest_instance
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest, ChatResult, Chunk, content_text, last_user_text
from flaskllm.domain.embedding import EmbedRequest, EmbedResult
from flaskllm.domain.image import ImageRequest, ImageResult
from flaskllm.domain.usage import Usage
from flaskllm.errors import ProviderError, ProviderTimeout, invalid

MARK = "[demo]"
MOST_SAID = 2**25
"""Characters of all choices together: a question of 20 MB echoed 128 times would fill the machine."""
_TOOL = re.compile(r"\btools?\b", re.IGNORECASE)
_WORDS = re.compile(r"\s*\S+\s*$|\s*\S+")
"""Words with the space before them, so that joining them gives the text back."""


class DemoAdapter(ProviderAdapter):
    """Answers by itself; takes every parameter, since none changes what it has to say but length, stop and count."""

    kind = "demo"
    TITLE = "Demo"
    wire = "openai"
    ABILITIES = frozenset({"chat", "stream", "tools", "json_schema", "images", "embeddings", "image_generation"})
    CONNECTION: ClassVar[tuple[Field, ...]] = ()
    KEY_REQUIRED = False

    def chat(self, request: ChatRequest, candidate: Candidate, deadline: float) -> ChatResult:
        if time.monotonic() >= deadline:
            raise ProviderTimeout("There was no time left to answer.", may_be_billed=False)
        mapped = self.map_params(request, candidate)
        return self.decode(self.encode(request, candidate, mapped), b"", request, candidate)

    def stream(self, request: ChatRequest, candidate: Candidate, deadline: float) -> DemoSource:
        return DemoSource(self.chat(request, candidate, deadline))

    def embed(self, request: EmbedRequest, candidate: Candidate, deadline: float) -> EmbedResult:
        return demo_media.embedded(request, candidate.model.backend_model)

    def create_images(self, request: ImageRequest, candidate: Candidate, deadline: float) -> ImageResult:
        return demo_media.drawn(request)

    def encode(self, request: ChatRequest, candidate: Candidate, mapped: Mapped) -> dict[str, Any]:
        """The answer: for want of a wire, question and answer are one."""
        message, reason = _answer(request)
        if request.choices * _letters(message) > MOST_SAID:
            raise invalid("n", "times an answer of this length is more than the demo model says")
        usage = Usage(input=_prompt_words(request), output=_output_words(message) * request.choices)
        choices = [whole_choice(index, message, reason) for index in range(request.choices)]
        return completion(head_of(None, candidate.model.backend_model, streamed=False), choices, usage).body

    def decode(self, body: dict[str, Any], raw: bytes, request: ChatRequest, candidate: Candidate) -> ChatResult:
        usage = body["usage"]
        return ChatResult(body, Usage(input=usage["prompt_tokens"], output=usage["completion_tokens"]))

    def decoder(self, request: ChatRequest, candidate: Candidate) -> Decoder:
        raise ProviderError("The demo model has no wire to decode.")

    def url(self, candidate: Candidate, *, stream: bool) -> str:
        return ""

    def headers(self, candidate: Candidate, request: ChatRequest) -> dict[str, str]:
        return {}


class DemoSource:
    """The answer as a stream: one frame a read, never a wait."""

    def __init__(self, result: ChatResult) -> None:
        self.dropped: Sequence[str] = result.dropped
        self.upstream_id: str | None = None
        self._frames: Iterator[Chunk] | None = frames_of(result, _WORDS.findall)

    def fileno(self) -> int | None:
        return None

    def ready(self) -> bool:
        return True

    def read(self, deadline: float) -> list[Chunk] | None:
        frame = next(self._frames, None) if self._frames else None
        return None if frame is None else [frame]

    def close(self) -> None:
        self._frames = None


# -- what it says ------------------------------------------------------------------------------------------------------


def _answer(request: ChatRequest) -> tuple[dict[str, Any], str]:
    """The message, and why it ends."""
    last = request.messages[-1] if request.messages else {}
    answers_tool = last.get("role") in ("tool", "function")
    if not answers_tool and (call := _call(request)):
        return {"tool_calls": [call]}, "tool_calls"
    text, reason = _cut(_under_format(request, _speech(request, last, answers_tool)), request)
    return {"content": text}, reason


def _speech(request: ChatRequest, last: Mapping[str, Any], answers_tool: bool) -> str:
    if answers_tool:
        return f"{MARK} The tool answered: {content_text(last.get('content'))}"
    return " ".join(filter(None, (MARK, last_user_text(request.messages), *_images(request.messages))))


def _under_format(request: ChatRequest, text: str) -> str:
    wanted = request.params.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        schema = (wanted.get("json_schema") or {}).get("schema")
        field = "response_format.json_schema.schema"
        return json.dumps(smallest_instance({"type": "object"} if schema is None else schema, field))
    return json.dumps({"answer": text}) if wanted.get("type") == "json_object" else text


def _cut(text: str, request: ChatRequest) -> tuple[str, str]:
    """Stop words first, then the cap on tokens, as the real ones do."""
    stops = request.params.get("stop") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        if stop:
            text = text.partition(stop)[0]
    words = _WORDS.findall(text)
    cap = request.output_cap
    if cap is not None and len(words) > cap:
        return "".join(words[:cap]), "length"
    return text, "stop"


def _call(request: ChatRequest) -> dict[str, Any] | None:
    """The call of the tool that ``tool_choice`` names, or of the first where it or the text asks for one."""
    tools = [tool for tool in request.params.get("tools") or () if tool.get("type", "function") == "function"]
    choice = request.params.get("tool_choice", "auto")
    if not tools or choice == "none":
        return None
    if choice == "auto" and not _TOOL.search(last_user_text(request.messages)):
        return None
    place, function = _chosen(tools, choice)
    schema = function.get("parameters") or {"type": "object"}
    arguments = smallest_instance(schema, f"tools[{place}].function.parameters")
    return tool_call(f"call_demo{len(request.messages)}", function["name"], json.dumps(arguments))


def _chosen(tools: list[dict[str, Any]], choice: Any) -> tuple[int, dict[str, Any]]:
    wanted = (choice.get("function") or {}).get("name") if isinstance(choice, dict) else None
    for place, tool in enumerate(tools):
        if wanted in (None, tool["function"]["name"]):
            return place, tool["function"]
    raise invalid("tool_choice", "names no tool of this request")


# -- images ------------------------------------------------------------------------------------------------------------


def _images(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Type and size of each image of the last user message."""
    place = next((at for at in range(len(messages) - 1, -1, -1) if messages[at].get("role") == "user"), None)
    content = messages[place].get("content") if place is not None else None
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if part.get("type") == "image_url":
            field = f"messages[{place}].content[{index}].image_url.url"
            yield _image(str((part.get("image_url") or {}).get("url") or ""), field)


def _image(url: str, field: str) -> str:
    kind, base64_mark, data = url.removeprefix("data:").partition(";base64,")
    if not base64_mark:
        return "(an image by its address)"
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(field, "holds data that is not base64") from None
    return f"({kind}, {_pixels(raw)}{len(raw)} bytes)"


def _pixels(raw: bytes) -> str:
    """Width and height where they stand at a fixed place."""
    if raw.startswith(b"\x89PNG") and len(raw) >= 24:
        width, height = struct.unpack(">II", raw[16:24])
    elif raw.startswith(b"GIF8") and len(raw) >= 10:
        width, height = struct.unpack("<HH", raw[6:10])
    else:
        return ""
    return f"{width}×{height} pixels, "


# -- a token a word ----------------------------------------------------------------------------------------------------


def _prompt_words(request: ChatRequest) -> int:
    return sum(len(content_text(message.get("content")).split()) for message in request.messages)


def _letters(message: Mapping[str, Any]) -> int:
    called = sum(len(call["function"]["arguments"]) for call in message.get("tool_calls") or ())
    return len(message.get("content") or "") + called


def _output_words(message: Mapping[str, Any]) -> int:
    calls = (call["function"] for call in message.get("tool_calls") or ())
    called = " ".join(f"{call['name']} {call['arguments']}" for call in calls)
    return len((message.get("content") or "").split()) + len(called.split())
