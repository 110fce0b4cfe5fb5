"""What every vendor's wire shares: what was asked, what is answered, what it costs.

A wire reads its vendor's body into an `Ask`; `compose` turns that into an `Answer` by fixed rules, so a test knows the
answer beforehand; the wire writes it back in its own words. What the real service would refuse is a `Refusal`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

IMAGE_TOKENS = 85
"""Tokens that one image counts, whatever its size."""

SIGNATURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}


class Refusal(Exception):
    """The real service would refuse this; the wire writes it in its vendor's error shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        param: str | None = None,
        code: str | None = None,
        details: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.details = details
        self.headers: dict[str, str] = {}


@dataclass
class Usage:
    """Tokens in buckets that do not overlap; each wire adds them up as its vendor does."""

    input: int = 0
    cached: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0


@dataclass
class ToolCall:
    """One call the model makes; `id` is unique over the life of the simulator."""

    id: str
    name: str
    arguments: dict[str, Any]
    raw: str | None = None
    """Arguments exactly as text, for a script that wants them broken."""

    def text(self) -> str:
        return self.raw if self.raw is not None else json.dumps(self.arguments)


@dataclass
class Ask:
    """A request, in no vendor's words."""

    vendor: str
    route: str
    model: str
    stream: bool = False
    text: str = ""
    images: list[str] = field(default_factory=list)
    tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    force: str = "auto"
    """auto, none, any, or `=name` for one tool."""
    parallel: bool = True
    results: list[str] = field(default_factory=list)
    schema: dict[str, Any] | None = None
    limit: int | None = None
    stops: list[str] = field(default_factory=list)
    count: int = 1
    thinks: bool = False
    input_tokens: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    """What only the wire itself needs to write its answer."""


@dataclass
class Answer:
    """An answer, in no vendor's words. finish: stop, length, tool, stop_sequence, filter, or the vendor's own word."""

    number: int
    text: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    finish: str = "stop"
    stop_sequence: str | None = None
    thinking: str = ""
    usage: Usage = field(default_factory=Usage)
    model: str = ""


@dataclass
class Frame:
    """One server-sent event. `data` is JSON-able, or a string that goes out as it is; `tokens` is what it delivers."""

    data: Any
    event: str | None = None
    tokens: int = 0


def count_words(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)


def split_words(text: str) -> list[str]:
    """The words with the space that follows them, so that joining gives the text back."""
    return re.findall(r"\S+\s*|^\s+", text)


def fragments(text: str) -> list[tuple[str, int]]:
    """A text in up to four pieces, as tool arguments travel, each with the words that end or begin in it."""
    size = max(1, -(-len(text) // 4))
    starts = range(0, len(text), size)
    return [
        (text[start : start + size], count_words(text[: start + size]) - count_words(text[:start])) for start in starts
    ]


def compose(ask: Ask, number: int) -> Answer:
    """The answer that follows from the request alone: calls, results, JSON, image or echo, in this order."""
    answer = Answer(number=number, model=ask.model)
    names = _called_tools(ask)
    if names:
        answer.calls = [
            ToolCall(f"{number:06d}{index}", name, as_object(instance(ask.tools[name])))
            for index, name in enumerate(names)
        ]
        answer.finish = "tool"
    elif ask.results:
        answer.text = "results: " + "; ".join(ask.results)
    elif ask.schema is not None:
        answer.text = json.dumps(instance(ask.schema) if ask.schema else {"ok": True})
    else:
        answer.text = "; ".join(ask.images) if ask.images else f"echo: {ask.text}"
    cut(ask, answer)
    answer.usage = Usage(input=max(1, ask.input_tokens), output=output_tokens(answer) if ask.route == "chat" else 0)
    if ask.thinks:
        answer.thinking, answer.usage.reasoning = "let me think", 3
    answer.usage.output *= ask.count  # n answers cost one prompt and n completions
    return answer


def as_object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def output_tokens(answer: Answer) -> int:
    return max(1, count_words(answer.text, *(call.text() for call in answer.calls)))


def cut(ask: Ask, answer: Answer) -> None:
    """Stop sequences first, then the token limit, as every vendor does."""
    hits = [(answer.text.find(stop), stop) for stop in ask.stops if stop in answer.text]
    if hits:
        position, stop = min(hits)
        answer.text, answer.finish, answer.stop_sequence = answer.text[:position], "stop_sequence", stop
    words = split_words(answer.text)
    if ask.limit is not None and len(words) > ask.limit:
        answer.text, answer.finish, answer.stop_sequence = "".join(words[: ask.limit]).rstrip(), "length", None


def _called_tools(ask: Ask) -> list[str]:
    if not ask.tools or ask.force == "none":
        return []
    names = list(ask.tools)
    if ask.force.startswith("="):
        return [ask.force[1:]]
    asked = not ask.results and re.search(r"\btools?\b", ask.text, re.IGNORECASE)
    if ask.force != "any" and not asked:
        return []
    two = ask.parallel and "two tools" in ask.text.lower()
    return (names * 2)[:2] if two else names[:1]


# --- JSON schema --------------------------------------------------------------------------------------------------

_FORMATS = {
    "date": "2026-01-02",
    "date-time": "2026-01-02T03:04:05Z",
    "time": "03:04:05Z",
    "duration": "P1D",
    "email": "a@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "hostname": "example.com",
}


def instance(schema: Any, root: Any = None) -> Any:
    """A small value that validates: required members only, or all where none is required. No `pattern`, no `not`."""
    root = schema if root is None else root
    if not isinstance(schema, dict):
        return "sample"
    if "$ref" in schema:
        return instance(_follow(schema["$ref"], root), root)
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    if schema.get("enum"):
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf"):
        if schema.get(choice):
            return instance(schema[choice][0], root)
    if schema.get("allOf"):
        return instance(_merged(schema["allOf"], root), root)
    return _typed(schema, root)


def _typed(schema: dict[str, Any], root: Any) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = str(kind[0] if isinstance(kind, list) else kind).lower()
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: instance(properties.get(name, {}), root) for name in schema.get("required") or properties}
    if kind == "array":
        return [instance(schema.get("items", {}), root)] * max(int(schema.get("minItems", 1)), 0)
    if kind in ("integer", "number"):
        return _number(schema, whole=kind == "integer")
    if kind in ("boolean", "null"):
        return True if kind == "boolean" else None
    text = _FORMATS.get(schema.get("format", ""), "sample").ljust(int(schema.get("minLength", 0)), "x")
    return text[: int(schema["maxLength"])] if "maxLength" in schema else text


def _number(schema: dict[str, Any], *, whole: bool) -> float:
    value = schema.get("minimum", 1)
    if "exclusiveMinimum" in schema:
        value = max(value, schema["exclusiveMinimum"] + 1)
    value = min(value, schema.get("maximum", value))
    return int(value) if whole else value


def _merged(parts: list[Any], root: Any) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for given in parts:
        part = _follow(given["$ref"], root) if "$ref" in given else given
        merged = {
            **merged,
            **part,
            "properties": {**merged.get("properties", {}), **part.get("properties", {})},
            "required": [*merged.get("required", []), *part.get("required", [])],
        }
    return merged


def _follow(reference: str, root: Any) -> Any:
    for step in reference.removeprefix("#").strip("/").split("/"):
        root = root.get(step, {}) if step and isinstance(root, dict) else root
    return root


# --- images and vectors -------------------------------------------------------------------------------------------


def decoded(data: Any) -> bytes | None:
    """The bytes behind strict base64, None when it is none."""
    try:
        return base64.b64decode(data, validate=True) if data else None
    except (binascii.Error, ValueError, TypeError):
        return None


def sniffed(data: bytes) -> str | None:
    """The media type that the first bytes say, None when unknown."""
    return next((kind for mark, kind in SIGNATURES.items() if data.startswith(mark)), None)


def vector(text: str, size: int) -> list[float]:
    """A unit vector that depends on the text alone."""
    seed = b""
    while len(seed) < size:
        seed += hashlib.sha256(f"{len(seed)}:{text}".encode()).digest()
    raw = [byte / 127.5 - 1 for byte in seed[:size]]
    norm = sum(value * value for value in raw) ** 0.5 or 1.0
    return [value / norm for value in raw]
