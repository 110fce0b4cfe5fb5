"""OpenAI's messages taken apart, for the vendors whose wire is another: what their encoders have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flaskllm.domain.chat import CARRIED, without
from flaskllm.errors import invalid

SYSTEM = ("system", "developer")
NOTHING_SAID = "…"
"""Stands for the user where a conversation has no user's word to begin with, which these vendors insist on."""
_MAGIC = {"iVBORw0KGgo": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}
"""How base64 of an image begins: providers refuse an image whose declared type is another than its bytes'."""


@dataclass(slots=True)
class Turn:
    """Neighbouring messages of one side; ``results`` (of tools) go before ``blocks``."""

    role: str
    blocks: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def content(self) -> list[dict[str, Any]]:
        return [*self.results, *self.blocks]


def turns_of(turns: Sequence[Turn]) -> list[Turn]:
    """Neighbours of one role merged, empty ones left out, a user's turn first."""
    merged: list[Turn] = []
    for turn in turns:
        if not turn.content:
            continue
        if merged and merged[-1].role == turn.role:
            merged[-1].blocks += turn.blocks
            merged[-1].results += turn.results
        else:
            merged.append(turn)
    return merged


def is_system(message: Mapping[str, Any]) -> bool:
    return message.get("role") in SYSTEM


def spoken(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All but the system's messages, each with the name of its field. Raises `InvalidRequest` for an old one."""
    for index, message in enumerate(messages):
        if is_system(message):
            continue
        where = f"messages[{index}]"
        if message.get("role") not in ("user", "assistant", "tool"):
            raise invalid(f"{where}.role", f"{message.get('role')} is not known to this model's provider")
        yield where, message


def parts_of(message: Mapping[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The parts of a message's content with the names of their fields; empty texts, which these vendors refuse, left
    out."""
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for index, part in enumerate(content or ()):
        if part.get("type") != "text" or (part.get("text") or "").strip():
            yield f"{where}.content[{index}]", part


def calls_of(message: Mapping[str, Any], where: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The tool calls of an assistant's message, each with its arguments as an object."""
    for index, call in enumerate(message.get("tool_calls") or ()):
        at = f"{where}.tool_calls[{index}]"
        if not isinstance(call.get("function"), dict):
            raise invalid(f"{at}.type", "only functions are known to this model's provider")
        yield call, arguments_of(call["function"].get("arguments"), f"{at}.function.arguments")


def arguments_of(text: Any, where: str) -> dict[str, Any]:
    """Arguments as an object; an empty string is no arguments. Raises `InvalidRequest` naming the field."""
    if not (text or "").strip():
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise invalid(where, "is not valid JSON") from None
    if not isinstance(found, dict):
        raise invalid(where, "must be a JSON object")
    return found


def data_of(url: Any, where: str) -> tuple[str, str] | None:
    """Media type and base64 of a data URL; None where it is an address. Raises `InvalidRequest` for other data URLs."""
    if not isinstance(url, str) or not url.startswith("data:"):
        return None
    kind, mark, data = url.removeprefix("data:").partition(";base64,")
    if not mark or not data:
        raise invalid(where, "must hold base64 data")
    found = next((known for start, known in _MAGIC.items() if data.startswith(start)), None)
    return found or kind.partition(";")[0], data


def signed_thoughts(message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Anthropic's thoughts as they came with an answer; their index is of use in a stream only.

    Raises `InvalidRequest` where they cannot have come so.
    """
    blocks = message.get("thinking_blocks") or []
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise invalid(f"{where}.thinking_blocks", "must be the list that came with the answer")
    return [without(block, ("index",)) for block in blocks]


def google_signature(thing: Mapping[str, Any], where: str) -> str | None:
    """Gemini's signature of a call or a message, where there is one. Raises `InvalidRequest` for what cannot be one."""
    google = (thing.get("extra_content") or {}) if isinstance(thing.get("extra_content"), dict | None) else None
    google = google.get("google") or {} if google is not None else None
    signature = google.get("thought_signature") if isinstance(google, dict) else False
    if not isinstance(signature, str | None):
        raise invalid(f"{where}.extra_content", "must be what came with the answer")
    return signature or None


def without_carried(message: dict[str, Any]) -> dict[str, Any]:
    """An assistant's message for a vendor who made none of its thoughts and signatures."""
    if message.get("role") != "assistant":
        return message
    calls = message.get("tool_calls")
    if calls and any("extra_content" in call for call in calls):
        message = {**message, "tool_calls": [without(call, ("extra_content",)) for call in calls]}
    return without(message, CARRIED)


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools a model may call, and whether it must: ``mode`` is auto, none, any, or tool (just ``name``)."""

    functions: tuple[tuple[str, dict[str, Any]], ...]
    mode: str = "auto"
    name: str = ""


def tools_of(params: Mapping[str, Any]) -> Tools:
    """OpenAI's ``tools`` and ``tool_choice``, every form of it. Raises `InvalidRequest` for tools of another type."""
    functions = tuple(_function(tool, f"tools[{index}]") for index, tool in enumerate(params.get("tools") or ()))
    choice = params.get("tool_choice") or "auto"
    if isinstance(choice, str):
        return Tools(functions, {"required": "any"}.get(choice, choice))
    if choice.get("type") == "allowed_tools":
        return _allowed(functions, choice.get("allowed_tools") or {})
    name = (choice.get("function") or {}).get("name")
    if not isinstance(name, str):
        raise invalid("tool_choice", "must name a function")
    return Tools(functions, "tool", name)


def _function(tool: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    function = tool.get("function")
    if tool.get("type", "function") != "function" or not isinstance(function, dict):
        raise invalid(f"{where}.type", "only functions are known to this model's provider")
    return where, {"cache_control": tool.get("cache_control"), **function}


def _allowed(functions: tuple[tuple[str, dict[str, Any]], ...], allowed: Mapping[str, Any]) -> Tools:
    names = [(tool.get("function") or {}).get("name") for tool in allowed.get("tools") or ()]
    kept = tuple(entry for entry in functions if entry[1]["name"] in names)
    return Tools(kept, "any" if allowed.get("mode") == "required" else "auto")


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def schema_of(response_format: Any) -> dict[str, Any] | None:
    """The JSON schema that ``response_format`` asks for."""
    if not isinstance(response_format, dict) or response_format.get("type") != "json_schema":
        return None
    return (response_format.get("json_schema") or {}).get("schema") or {"type": "object"}


def wants_object(response_format: Any) -> bool:
    return isinstance(response_format, dict) and response_format.get("type") == "json_object"


def one_of(field_name: str, words: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A rule's conversion: a word there for a word here; any other is refused by name."""

    def convert(value: Any) -> Any:
        if value not in words:
            raise invalid(field_name, f"must be one of {', '.join(words)}")
        return words[value]

    return convert
