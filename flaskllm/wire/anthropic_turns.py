"""Anthropic's turns and their blocks as OpenAI's messages and parts, for ``wire/anthropic.py``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flaskllm.errors import invalid
from flaskllm.wire.carried import call_of, google_signature

IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_ID = re.compile(r"[a-zA-Z0-9_-]+")


class Turns:
    """Anthropic's turns as OpenAI's messages.

    ``places``: our names of fields to the caller's. ``only``: blocks that nobody but Anthropic knows. ``is_mixed``:
    ids or signatures of other vendors are among them, which Anthropic would refuse.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.places: dict[str, str] = {}
        self.only: list[str] = []
        self.is_mixed = False

    def begin(self, given: str | list[dict[str, Any]] | None) -> None:
        """The system's message, where there is one."""
        if given:
            parts = [marked({"type": "text", "text": block["text"]}, block) for block in _blocks(given)]
            self._say(
                {"role": "system", "content": _slim(parts)}, "system", [f"system[{n}]" for n in range(len(parts))]
            )

    def add(self, message: Any, where: str) -> None:
        if not isinstance(message, dict):
            raise invalid(where, "must be an object")
        role, content = message.get("role"), message.get("content")
        if role not in ("user", "assistant"):
            raise invalid(f"{where}.role", "must be user or assistant")
        if not isinstance(content, str | list) or not (content or role == "assistant"):
            raise invalid(f"{where}.content", "must be a text or a list of blocks, and not empty")
        blocks = [(f"{where}.content[{place}]", _typed(block, f"{where}.content[{place}]"))
                  for place, block in enumerate(_blocks(content))]  # fmt: skip
        if role == "user":
            self._user(blocks, where)
        else:
            self._assistant(blocks, where)

    def _say(self, message: dict[str, Any], where: str, parts: Sequence[str] = ()) -> None:
        name = f"messages[{len(self.messages)}]"
        self.places[name] = where
        for place, at in enumerate(parts):
            self.places[f"{name}.content[{place}]"] = at
        self.messages.append(message)

    # -- the user's ------------------------------------------------------------------------------------------------

    def _user(self, blocks: list[tuple[str, dict[str, Any]]], where: str) -> None:
        """Results of tools are messages of their own and come first; images among them are shown after them."""
        parts: list[dict[str, Any]] = []
        places: list[str] = []
        for at, block in blocks:
            found = self._result(block, at) if block["type"] == "tool_result" else self._parts(block, at)
            parts += found
            places += [at] * len(found)
        if parts:
            self._say({"role": "user", "content": _slim(parts)}, where, places)

    def _result(self, block: dict[str, Any], at: str) -> list[dict[str, Any]]:
        """A tool's message is text here; gives what else it holds."""
        call_id = self._id(block.get("tool_use_id"), f"{at}.tool_use_id")[0]
        content, is_error = block.get("content"), block.get("is_error")
        if not isinstance(content, str | list | None):
            raise invalid(f"{at}.content", "must be a text or a list of blocks")
        if not isinstance(is_error, bool | None):
            raise invalid(f"{at}.is_error", "must be true or false")
        parts: list[dict[str, Any]] = []
        for place, inner in enumerate(_blocks(content or [])):
            parts += self._parts(_typed(inner, f"{at}.content[{place}]"), f"{at}.content[{place}]")
        said = "\n".join(part["text"] for part in parts if part["type"] == "text")
        message = {"role": "tool", "tool_call_id": call_id, "content": said}
        self._say(marked({**message, "is_error": True} if is_error else message, block), at)
        shown = [part for part in parts if part["type"] != "text"]
        return [{"type": "text", "text": f"From the result of {call_id}:"}, *shown] if shown else []

    def _parts(self, block: dict[str, Any], at: str) -> list[dict[str, Any]]:
        reader = _READERS.get(block["type"])
        found = reader(block, at) if reader else None
        return self._unknown(block, at) if found is None else [marked(part, block) for part in found]

    def _unknown(self, block: dict[str, Any], at: str) -> list[dict[str, Any]]:
        """Counts as the text it is written in, and goes to Anthropic alone."""
        self.only.append(at)
        return [{"type": "text", "text": json.dumps(block, ensure_ascii=False)}]

    # -- the model's -----------------------------------------------------------------------------------------------

    def _assistant(self, blocks: list[tuple[str, dict[str, Any]]], where: str) -> None:
        message: dict[str, Any] = {"role": "assistant", "content": None}
        texts: list[str] = []
        for at, block in blocks:
            kind = block["type"]
            if kind == "text":
                texts.append(_string(block, "text", at))
            elif kind == "tool_use":
                message.setdefault("tool_calls", []).append(self._call(block, at))
            elif kind == "thinking":
                self._thought(block, at, message)
            elif kind == "redacted_thinking":
                thought = {"type": kind, "data": _string(block, "data", at)}
                message.setdefault("thinking_blocks", []).append(thought)
            else:
                texts += [part["text"] for part in self._unknown(block, at)]
        if texts or "tool_calls" not in message:
            message["content"] = "".join(texts)
        self._say(message, where)

    def _call(self, block: dict[str, Any], at: str) -> dict[str, Any]:
        call_id, signature = self._id(block.get("id"), f"{at}.id")
        if not isinstance(block.get("input"), dict):
            raise invalid(f"{at}.input", "must be an object")
        function = {"name": _string(block, "name", at), "arguments": json.dumps(block["input"], ensure_ascii=False)}
        call = {"id": call_id, "type": "function", "function": function}
        return {**call, "extra_content": _google(signature)} if signature else call

    def _id(self, given: Any, where: str) -> tuple[str, str | None]:
        """A call's id as its provider gave it, and the signature that we put into it."""
        if not isinstance(given, str) or not given:
            raise invalid(where, "must be a string, and not empty")
        call_id, signature = call_of(given)
        self.is_mixed = self.is_mixed or signature is not None or not _ID.fullmatch(call_id)
        return call_id, signature

    def _thought(self, block: dict[str, Any], at: str, message: dict[str, Any]) -> None:
        """Signed by Anthropic, by Google, or by nobody."""
        said, signature = _string(block, "thinking", at), _string(block, "signature", at)
        message["reasoning_content"] = message.get("reasoning_content", "") + said
        if not signature:
            self.is_mixed = True
        elif (others := google_signature(signature)) is not None:
            self.is_mixed = True
            message["extra_content"] = _google(others)
        else:
            thought = {"type": "thinking", "thinking": said, "signature": signature}
            message.setdefault("thinking_blocks", []).append(thought)


def _google(signature: str) -> dict[str, Any]:
    return {"google": {"thought_signature": signature}}


def _blocks(content: str | list[Any]) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _typed(block: Any, at: str) -> dict[str, Any]:
    if not isinstance(block, dict):
        raise invalid(at, "must be an object")
    if not isinstance(block.get("type"), str):
        raise invalid(f"{at}.type", "must be a string")
    return block


def _string(block: Mapping[str, Any], name: str, at: str) -> str:
    if not isinstance(found := block.get(name), str):
        raise invalid(f"{at}.{name}", "must be a string")
    return found


def _slim(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """One plain text as a string: many servers know nothing else."""
    return parts[0]["text"] if len(parts) == 1 and parts[0].keys() == {"type", "text"} else parts


def marked(part: dict[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """With the block's mark for the cache, which has to be an object."""
    mark = block.get("cache_control")
    return {**part, "cache_control": mark} if isinstance(mark, dict) else part


# -- blocks that OpenAI has parts for ----------------------------------------------------------------------------------


def _text(block: dict[str, Any], at: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": _string(block, "text", at)}]


def _image(block: dict[str, Any], at: str) -> list[dict[str, Any]] | None:
    kind, source = _source(block, at)
    if kind == "base64":
        url = _data_url(source, at, IMAGE_TYPES)
    elif kind == "url":
        url = _address(source, at)
    else:
        return None
    return [{"type": "image_url", "image_url": {"url": url}}]


def _document(block: dict[str, Any], at: str) -> list[dict[str, Any]] | None:
    kind, source = _source(block, at)
    title = block.get("title")
    if not isinstance(title, str | None):
        raise invalid(f"{at}.title", "must be a string")
    if kind == "text":
        return [{"type": "text", "text": "\n\n".join(filter(None, (title, _string(source, "data", f"{at}.source"))))}]
    name = {"filename": title or "document.pdf"}
    if kind == "base64":
        return [{"type": "file", "file": {**name, "file_data": _data_url(source, at, ("application/pdf",))}}]
    return [{"type": "file", "file": {**name, "file_url": _address(source, at)}}] if kind == "url" else None


def _search_result(block: dict[str, Any], at: str) -> list[dict[str, Any]]:
    content = block.get("content")
    if not isinstance(content, list):
        raise invalid(f"{at}.content", "must be a list of text blocks")
    texts = [
        _string(_typed(inner, f"{at}.content[{place}]"), "text", f"{at}.content[{place}]")
        for place, inner in enumerate(content)
    ]
    head = f"{_string(block, 'title', at)} ({_string(block, 'source', at)})"
    return [{"type": "text", "text": "\n\n".join([head, *texts])}]


_READERS = {"text": _text, "image": _image, "document": _document, "search_result": _search_result}
"""A block as parts of a message; None where its source is one that only Anthropic has."""


def _source(block: dict[str, Any], at: str) -> tuple[str, dict[str, Any]]:
    source = block.get("source")
    if not isinstance(source, dict):
        raise invalid(f"{at}.source", "must be an object")
    return _string(source, "type", f"{at}.source"), source


def _data_url(source: dict[str, Any], at: str, types: Sequence[str]) -> str:
    if source.get("media_type") not in types:
        raise invalid(f"{at}.source.media_type", f"must be one of {', '.join(types)}")
    if not _string(source, "data", f"{at}.source"):
        raise invalid(f"{at}.source.data", "must be base64, and not empty")
    return f"data:{source['media_type']};base64,{source['data']}"


def _address(source: dict[str, Any], at: str) -> str:
    url = _string(source, "url", f"{at}.source")
    if not url.startswith(("http://", "https://")):
        raise invalid(f"{at}.source.url", "must be an http(s) address")
    return url
