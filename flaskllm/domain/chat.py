"""The inner shape: OpenAI's chat objects in small typed envelopes, carried and not rebuilt."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flaskllm.domain.estimate import JSON_CHAR, answer_chars
from flaskllm.domain.usage import Usage

CARRIED = ("reasoning_content", "thinking_blocks", "extra_content")
"""Fields of an answer's message that have to come back with it, for its vendor alone: what a model thought, Anthropic's
signed thoughts, and Gemini's signature (of a call, it stands in the call)."""


@dataclass(frozen=True, slots=True)
class Native:
    """A question as it came in a dialect other than OpenAI's, so that a provider who speaks the same misses nothing.

    ``wire``: the dialect, by the name that adapters give theirs. ``body``: the caller's, less what is the gateway's;
    None where it may not go out as it came and has to be put together anew from the inner shape. ``headers``: those of
    the caller's that the vendor reads. ``only``: the fields that the inner shape has no words for, so that nobody of
    another wire can be asked.
    """

    wire: str
    body: Mapping[str, Any] | None
    headers: Mapping[str, str] = field(default_factory=dict)
    only: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question to a model, whoever asked it.

    ``model``: a name, ``provider/name``, an alias, a tier, ``auto``; None means the default.
    ``provider``: narrows the choice to one provider's models (S1's and S2's field).
    ``messages``: OpenAI's message objects, checked at the door.
    ``params``: every other parameter by OpenAI's name; ``extras`` are the ones OpenAI does not know,
    passed on to a provider of the same wire and refused by name for another; ``hints`` names those of both that are
    left out instead, and told, where a provider has no use for them. ``native``: the question in its own dialect.
    """

    model: str | None
    messages: list[dict[str, Any]]
    params: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    provider: str | None = None
    stream: bool = False
    include_usage: bool = False
    drop_params: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    native: Native | None = None
    hints: frozenset[str] = frozenset()

    @property
    def wire(self) -> str:
        """The dialect that ``extras`` belong to."""
        return self.native.wire if self.native else "openai"

    @property
    def output_cap(self) -> int | None:
        """The caller's own bound on output tokens; the newer name wins."""
        for name in ("max_completion_tokens", "max_tokens"):
            if (cap := self.params.get(name)) is not None:
                return int(cap)
        return None

    @property
    def choices(self) -> int:
        return int(self.params.get("n") or 1)


@dataclass(frozen=True, slots=True)
class ChatResult:
    """One whole answer, as OpenAI's ``chat.completion``.

    ``raw`` is the provider's own bytes where its wire is OpenAI's, so that they can be passed on as they came; ``own``
    the same where the question went out as a `Native` one.
    ``usage`` is None where the provider reported none, or nonsense.
    ``dropped`` names what was left out or clamped on the way.
    """

    body: dict[str, Any]
    usage: Usage | None
    raw: bytes | None = None
    dropped: Sequence[str] = ()
    upstream_id: str | None = None
    own: bytes | None = None

    @property
    def text(self) -> str:
        return text_of(self.body)

    @property
    def finish_reason(self) -> str | None:
        choices = self.body.get("choices") or [{}]
        return choices[0].get("finish_reason")

    @property
    def model(self) -> str:
        return str(self.body.get("model") or "")


@dataclass(frozen=True, slots=True)
class Chunk:
    """One frame of a streamed answer, as OpenAI's ``chat.completion.chunk``.

    ``raw``: the JSON bytes as the provider sent them, where its wire is OpenAI's. ``own``: the provider's event, whole,
    where the question went out as a `Native` one; each event is in one chunk, which may hold nothing else.
    ``has_content``: something of the answer is in it, so that no other provider may be asked any more.
    """

    body: dict[str, Any]
    raw: bytes | None = None
    has_content: bool = False
    usage: Usage | None = None
    own: bytes | None = None

    @property
    def text(self) -> str:
        choices = self.body.get("choices") or []
        return "".join((choice.get("delta") or {}).get("content") or "" for choice in choices)


class Gathered:
    """What of an answer has to come back with it, from its whole message or from the frames of a stream."""

    def __init__(self) -> None:
        self._thoughts: list[dict[str, Any]] = []
        self._words = ""
        self._extra: dict[str, Any] | None = None

    def note(self, message: Mapping[str, Any]) -> None:
        """A message, or one delta of it. A signed thought may come in pieces, its signature last."""
        blocks, extra = message.get("thinking_blocks"), message.get("extra_content")
        for block in blocks if isinstance(blocks, list) else ():
            if isinstance(block, dict):
                self._note_block(block)
        if isinstance(extra, dict):
            self._extra = extra

    def _note_block(self, block: dict[str, Any]) -> None:
        if block.get("type") != "thinking":
            self._thoughts.append(without(block, ("index",)))
            return
        self._words += str(block.get("thinking") or "")
        if signature := block.get("signature"):
            self._thoughts.append({"type": "thinking", "thinking": self._words, "signature": signature})
            self._words = ""

    def fields(self) -> dict[str, Any]:
        """The fields to put into the message when it is sent again."""
        found = {"thinking_blocks": self._thoughts, "extra_content": self._extra}
        return {name: held for name, held in found.items() if held}


def without(thing: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A copy that lacks these fields; the thing itself where it has none of them."""
    return thing if thing.keys().isdisjoint(names) else {k: v for k, v in thing.items() if k not in names}


def text_of(body: Mapping[str, Any]) -> str:
    """The text of the first choice; the refusal where there is one instead."""
    choices = body.get("choices") or []
    message = (choices[0].get("message") or {}) if choices else {}
    return message.get("content") or message.get("refusal") or ""


def content_text(content: Any) -> str:
    """The text of a message's ``content``, which is a string, a list of parts, or null."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(text for text in texts if isinstance(text, str))
    return ""


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    for message in reversed(messages):
        if message.get("role") == "user":
            return content_text(message.get("content"))
    return ""


def output_chars(body: Mapping[str, Any]) -> float:
    """How long a whole answer is, tool arguments included: the base of an estimate (`estimate.answer_chars`)."""
    return sum(_chars(choice.get("message") or {}) for choice in body.get("choices") or [])


def chunk_chars(body: Mapping[str, Any]) -> float:
    """The same for one streamed frame."""
    return sum(_chars(choice.get("delta") or {}) for choice in body.get("choices") or [])


def _chars(message: Mapping[str, Any]) -> float:
    found = sum(answer_chars(message.get(name) or "") for name in ("content", "refusal", "reasoning_content"))
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        found += JSON_CHAR * (answer_chars(function.get("name") or "") + answer_chars(function.get("arguments") or ""))
    return found
