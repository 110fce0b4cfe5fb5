"""The administrators' playground: a chat as its form holds it."""

from __future__ import annotations

from typing import Any

import orjson

from flaskllm.domain.text import can_be_held
from flaskllm.errors import invalid
from flaskllm.wire.json import decode_value

ROLES = ("user", "assistant")


def read_history(text: str) -> list[dict[str, str]]:
    """What was said before, as JSON of messages with a role and a text. Raises `InvalidRequest`."""
    found = decode_value((text or "[]").encode())
    if not isinstance(found, list) or not all(_is_turn(one) for one in found):
        raise invalid("history", "must be a list of messages of text")
    return [{"role": one["role"], "content": one["content"]} for one in found]


def _is_turn(one: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("content"), str):
        return False
    return one.get("role") in ROLES and can_be_held(one["content"])


def write_history(turns: list[dict[str, str]]) -> str:
    return orjson.dumps(turns).decode()


def chat_body(
    turns: list[dict[str, str]], *, model: str | None, system: str | None, temperature: Any, max_tokens: Any
) -> dict[str, Any]:
    """The body for ``/v1/chat/completions``; what is None is left out."""
    head = [{"role": "system", "content": system}] if system else []
    given = {"model": model, "messages": [*head, *turns], "temperature": temperature, "max_tokens": max_tokens}
    return {name: value for name, value in given.items() if value is not None}
