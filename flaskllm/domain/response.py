"""OpenAI's Responses: items where a chat has messages, and items into messages. The other way round goes
``domain/response_output.py``.

An item's ``encrypted_content`` is what its provider wants to see again with it (`Opaque`): Anthropic's signed thoughts
with a ``reasoning`` item, Gemini's signature with a ``function_call`` or a ``message``. It is kept with stored items,
and told to callers who ask for it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from uuid import uuid4

from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.estimate import message_estimate
from flaskllm.errors import InvalidRequest, invalid

Item = dict[str, Any]
PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}
MOST_OPAQUE = 2**22
"""Characters of one opaque field."""
_ID = re.compile(r"resp_[0-9a-f]{32}")
_ITEM_ID = re.compile(r"(?:msg|rs|fc|fco)_([0-9a-f]{32})_[a-z0-9]{1,8}")


@dataclass(frozen=True, slots=True)
class Asked:
    """One question in items.

    ``request``: model and parameters, still without messages. ``items``: the caller's own, checked; ``places`` says
    where in the body each one stood. ``said``: the parameters as the answer repeats them. ``sealed``: whether opaque
    fields are told. ``cuts``: the oldest items may be left out where not all fit.
    """

    request: ChatRequest
    items: list[Item]
    places: list[str]
    said: Mapping[str, Any]
    instructions: str | None = None
    previous_id: str | None = None
    store: bool = True
    sealed: bool = False
    cuts: bool = False

    @property
    def summarised(self) -> bool:
        """Whether thoughts are wanted as summaries."""
        return bool((self.said.get("reasoning") or {}).get("summary"))


@dataclass(frozen=True, slots=True)
class Response:
    """An answer as it is told and stored. ``output``: items with their opaque fields; ``said``: see `Asked`.

    ``created_at``, ``completed_at``: epoch seconds. ``reason``: why it is incomplete. ``error``: ``{code, message}``.
    ``usage``: as `usage_of` writes it.
    """

    id: str
    created_at: int
    status: str
    model: str
    said: Mapping[str, Any]
    store: bool
    sealed: bool
    output: list[Item] = field(default_factory=list)
    completed_at: int | None = None
    reason: str | None = None
    error: Mapping[str, str] | None = None
    usage: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """All but the output, which is stored beside the input."""
        return {name: value for name, value in asdict(replace(self, output=[])).items() if name != "output"}

    @classmethod
    def from_json(cls, found: Mapping[str, Any], output: list[Item]) -> Response:
        return cls(**{**found, "output": output})


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens to an output while it is being said.

    ``kind``: ``opened`` and ``done`` (an item, as it is then), ``part`` and ``part_done`` (a part of one), ``delta``
    (more text of a part, or of a call's arguments where ``part`` is None). ``place`` counts items, ``at`` parts.
    """

    kind: str
    place: int
    item: Item
    part: Mapping[str, Any] | None = None
    at: int = 0
    text: str = ""
    logprobs: Sequence[Any] = ()


def new_response_id() -> str:
    return f"resp_{uuid4().hex}"


def is_response_id(name: str) -> bool:
    """Whether it has the form of ours: no other is looked for."""
    return _ID.fullmatch(name) is not None


def response_of(item_id: Any) -> str | None:
    """The response that an item of ours is part of: its id tells.

    >>> response_of("fc_0123456789abcdef0123456789abcdef_2")
    'resp_0123456789abcdef0123456789abcdef'
    """
    found = _ITEM_ID.fullmatch(item_id) if isinstance(item_id, str) else None
    return f"resp_{found[1]}" if found else None


def item_id(response_id: str, kind: str, place: int | str) -> str:
    return f"{PREFIXES[kind]}_{response_id.removeprefix('resp_')}_{place}"


def named_input(items: Iterable[Item], response_id: str) -> list[Item]:
    """A request's items as they are stored and listed: each with an id and a type."""
    named = []
    for place, item in enumerate(items):
        kind = item.get("type") or "message"
        named.append({**item, "type": kind, "id": item.get("id") or item_id(response_id, kind, f"in{place}")})
    return named


# -- what is opaque ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opaque:
    """What a provider wants to see again with an item, and nobody else: signed thoughts, or a signature."""

    provider: str
    thoughts: tuple[Mapping[str, str], ...] = ()
    signature: str = ""


def seal(opaque: Opaque) -> str:
    """As text that clients keep and do not read."""
    return base64.urlsafe_b64encode(json.dumps(asdict(opaque), separators=(",", ":")).encode()).decode()


def unseal(text: Any) -> Opaque | None:
    """What `seal` took; None for anything else."""
    if not isinstance(text, str) or len(text) > MOST_OPAQUE or not text.isascii():
        return None
    try:
        found = json.loads(base64.b64decode(text, altchars=b"-_", validate=True))
        json.dumps(found, ensure_ascii=False).encode()  # half a character could not be sent on
        provider, thoughts, signature = found["provider"], found["thoughts"], found["signature"]
    except (binascii.Error, ValueError, RecursionError, KeyError, TypeError):
        return None
    are_texts = isinstance(provider, str) and isinstance(signature, str)
    if not are_texts or not isinstance(thoughts, list) or not all(map(is_thought, thoughts)):
        return None
    return Opaque(provider, tuple(thoughts), signature)


def is_thought(block: Any) -> bool:
    if not isinstance(block, dict) or not all(isinstance(value, str) for value in block.values()):
        return False
    named = {"thinking": {"type", "thinking", "signature"}, "redacted_thinking": {"type", "data"}}
    return block.keys() == named.get(str(block.get("type")))


# -- items into messages -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One message, and where in the caller's body it comes from."""

    message: dict[str, Any]
    place: str


def lines_of(items: Iterable[tuple[str, Item]], *, provider: str | None = None) -> list[Line]:
    """Items, each with its place, as messages: what a model said and called in one breath is one message.

    ``provider``: who will be asked; what is opaque goes to nobody but who made it. Raises `InvalidRequest` for an
    output without its call, and for a call without its output, which no vendor takes.
    """
    made = _Dialogue(provider)
    for place, item in items:
        made.take(place, item)
    if made.open_calls:
        raise invalid("input", f"holds no output for the function call {next(iter(made.open_calls))[:80]!r}")
    return [line for line in made.lines if not _is_thought_alone(line.message)]


def _is_thought_alone(message: Mapping[str, Any]) -> bool:
    """Thoughts that led to nothing, which no vendor takes back."""
    return message["role"] == "assistant" and message["content"] is None and not message.get("tool_calls")


class _Dialogue:
    def __init__(self, provider: str | None) -> None:
        self._provider = provider
        self.lines: list[Line] = []
        self.open_calls: dict[str, None] = {}
        self._known: set[str] = set()
        self._speech: dict[str, Any] | None = None

    def take(self, place: str, item: Item) -> None:
        kind = item.get("type") or "message"
        if kind == "function_call_output":
            self._output(place, item)
        elif kind == "function_call":
            self._call(self._assistant(place), item)
        elif kind == "reasoning":
            self._think(self._assistant(place), item)
        elif item["role"] == "assistant":
            self._say(place, item)
        else:
            self._add(place, {"role": item["role"], "content": _content(item["content"])})

    def _add(self, place: str, message: dict[str, Any]) -> None:
        self._speech = None
        self.lines.append(Line(message, place))

    def _assistant(self, place: str) -> dict[str, Any]:
        if self._speech is None:
            self._add(place, {"role": "assistant", "content": None})
            self._speech = self.lines[-1].message
        return self._speech

    def _say(self, place: str, item: Item) -> None:
        """A second text is a second message, but for one among calls: their outputs must follow them at once."""
        speech = self._assistant(place)
        if speech["content"] is not None and "tool_calls" not in speech:
            self._speech = None
            speech = self._assistant(place)
        said = _content(item["content"])
        speech["content"] = said if speech["content"] is None else [*_parts(speech["content"]), *_parts(said)]
        speech |= self._signed(item)

    def _call(self, speech: dict[str, Any], item: Item) -> None:
        call_id = item["call_id"]
        function = {"name": item["name"], "arguments": item["arguments"]}
        call: dict[str, Any] = {"id": call_id, "type": "function", "function": function}
        call |= self._signed(item)
        speech.setdefault("tool_calls", []).append(call)
        self.open_calls[call_id] = None
        self._known.add(call_id)

    def _output(self, place: str, item: Item) -> None:
        call_id = item["call_id"]
        if call_id not in self._known:
            raise invalid(f"{place}.call_id", "is the id of no function call in this conversation")
        self.open_calls.pop(call_id, None)
        self._add(place, {"role": "tool", "tool_call_id": call_id, "content": _content(item["output"]) or ""})

    def _think(self, speech: dict[str, Any], item: Item) -> None:
        if (opaque := self._opaque(item)) is None:
            return
        texts = [part["text"] for part in (*(item.get("content") or ()), *(item.get("summary") or ()))]
        if texts:
            speech["reasoning_content"] = speech.get("reasoning_content", "") + "\n".join(texts)
        if opaque.thoughts:
            speech["thinking_blocks"] = [*speech.get("thinking_blocks", ()), *opaque.thoughts]

    def _signed(self, item: Item) -> dict[str, Any]:
        opaque = self._opaque(item)
        return {"extra_content": {"google": {"thought_signature": opaque.signature}}} if opaque else {}

    def _opaque(self, item: Item) -> Opaque | None:
        found = unseal(item.get("encrypted_content"))
        return found if found is not None and found.provider == self._provider else None


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _content(given: Any) -> Any:
    """A single text stays a string, which every vendor takes."""
    if isinstance(given, str):
        return given
    parts = [_part(part) for part in given]
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    kind = part["type"]
    if kind == "input_image":
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
    if kind == "input_file":
        names = ("file_data", "file_url", "filename")
        return {"type": "file", "file": {name: part[name] for name in names if part.get(name) is not None}}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    if kind == "refusal":
        return {"type": "refusal", "refusal": part["refusal"]}
    return {"type": "text", "text": part["text"]}


def newest(lines: Sequence[Line], room: int) -> list[Line]:
    """The last lines that fit into so many tokens, the last of all always; an output never without its call."""
    first = last = len(lines) - 1
    for place in range(last, -1, -1):
        room -= message_estimate(lines[place].message)
        if room < 0:
            break
        if lines[place].message["role"] != "tool":
            first = place
    while first > 0 and lines[first].message["role"] == "tool":
        first -= 1
    return list(lines[first:])


# -- errors in the words of this dialect -------------------------------------------------------------------------------

_NAMES = (
    ("response_format.json_schema.", "text.format."),
    ("response_format", "text.format"),
    ("max_completion_tokens", "max_output_tokens"),
    ("max_tokens", "max_output_tokens"),
    ("reasoning_effort", "reasoning.effort"),
    ("verbosity", "text.verbosity"),
    ("logprobs", "top_logprobs"),
    ("messages", "input"),
)
_MESSAGE = re.compile(r"messages\[(\d+)\](\.content\[\d+\])?")


def in_our_words(error: InvalidRequest, places: Sequence[str]) -> InvalidRequest:
    """An error about a field of the chat that was made of a question, as one about the field that the caller sent.

    ``places``: where each message of the chat comes from.
    """
    if not error.details:
        return error
    told = [{**detail, "field": _our_name(detail["field"], places)} for detail in error.details]
    message = f"{told[0]['field']}: {told[0]['message']}"
    return type(error)(message, details=told)  # type: ignore[arg-type]


def in_our_names(names: Iterable[str]) -> tuple[str, ...]:
    """Parameters of a chat by the names that they have here.

    >>> in_our_names(["verbosity", "temperature"])
    ('text.verbosity', 'temperature')
    """
    return tuple(_our_name(name, ()) for name in names)


def _our_name(name: str, places: Sequence[str]) -> str:
    if found := _MESSAGE.match(name):
        place = int(found[1])
        where = places[place] if place < len(places) else "input"
        return where + (found[2] or "") if where.startswith("input[") else where
    for theirs, ours in _NAMES:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name.replace(".function.", ".") if name.startswith("tools[") else name
