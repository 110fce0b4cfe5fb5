"""OpenAI's dialect at the door.

What we know is checked by a table, because a schema library costs a hundred times more on the hottest path
(``docs/adr/0005-tables-on-hot-doors.md``); what we do not know passes through, a gateway's first duty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

from flaskllm.domain.answer import Answer
from flaskllm.domain.chat import ChatRequest, Chunk
from flaskllm.domain.pricing import to_dollars
from flaskllm.domain.text import can_be_held
from flaskllm.errors import Detail, DomainError, refuse
from flaskllm.wire import errors, shapes
from flaskllm.wire.checks import (
    MOST_FIELDS,
    MOST_MESSAGES,
    MOST_TOOLS,
    REFUSED,
    SAFE_INTEGER,
    Check,
    boolean,
    faults_of,
    given_of,
    integer,
    mapping,
    number,
    sequence,
    text,
)
from flaskllm.wire.shapes import of_form

MOST_METADATA, MOST_NAME, MOST_VALUE = 16, 64, 512
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
NO_USAGE = re.compile(rb',\s*"usage":\s*null')


@of_form(
    type="object",
    properties={name: {"type": ["boolean", "null"]} for name in ("include_usage", "include_obfuscation")},
)
def stream_options(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "must be an object"
    flags = (value.get(name) for name in ("include_usage", "include_obfuscation"))
    return None if all(flag is None or isinstance(flag, bool) for flag in flags) else "must hold true or false"


@of_form(anyOf=[shapes.STRING, shapes.several(shapes.STRING, maxItems=4)])
def stop_words(value: Any) -> str | None:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return "must be a string or a list of strings"
    return None if len(words) <= 4 else "must have at most 4 entries"


@of_form(
    type="object",
    maxProperties=MOST_METADATA,
    propertyNames={"maxLength": MOST_NAME, "pattern": shapes.NO_NUL},
    additionalProperties={"type": "string", "maxLength": MOST_VALUE, "pattern": shapes.NO_NUL},
)
def metadata(value: Any) -> str | None:
    if not isinstance(value, dict) or not all(isinstance(held, str) for held in value.values()):
        return "must be an object of strings"
    if len(value) > MOST_METADATA:
        return f"must have at most {MOST_METADATA} pairs"
    fits = all(len(name) <= MOST_NAME and len(held) <= MOST_VALUE for name, held in value.items())
    if not fits:
        return f"names have at most {MOST_NAME} and values at most {MOST_VALUE} characters"
    return None if all(map(can_be_held, (*value, *value.values()))) else "must not hold NUL"


@of_form(
    anyOf=[
        shapes.one_of("none", "auto", "required"),
        {
            "type": "object",
            "properties": {"type": shapes.one_of("function", "allowed_tools", "custom")},
            "required": ["type"],
        },
    ]
)
def tool_choice(value: Any) -> str | None:
    if value in ("none", "auto", "required"):
        return None
    if isinstance(value, dict) and value.get("type") in ("function", "allowed_tools", "custom"):
        return None
    return "must be none, auto, required or name a function"


@of_form(
    anyOf=[
        {
            "type": "object",
            "properties": {"type": shapes.one_of("text", "json_object")},
            "required": ["type"],
        },
        {
            "type": "object",
            "properties": {
                "type": {"const": "json_schema"},
                "json_schema": {
                    "type": "object",
                    "properties": {"name": shapes.STRING, "schema": shapes.ANY_OBJECT},
                    "required": ["name"],
                },
            },
            "required": ["type", "json_schema"],
        },
    ]
)
def response_format(value: Any) -> str | None:
    if not isinstance(value, dict) or value.get("type") not in ("text", "json_object", "json_schema"):
        return "must be an object whose type is text, json_object or json_schema"
    if value["type"] == "json_schema":
        schema = value.get("json_schema")
        if not isinstance(schema, dict) or not isinstance(schema.get("name"), str):
            return "must hold json_schema with a name"
        if "schema" in schema and not isinstance(schema["schema"], dict):
            return "must hold json_schema with a schema that is an object"
    return None


PARAMS: dict[str, Check] = {
    "audio": mapping,
    "frequency_penalty": number(-2, 2),
    "logit_bias": mapping,
    "logprobs": boolean,
    "max_completion_tokens": integer(1, SAFE_INTEGER),
    "max_tokens": integer(1, SAFE_INTEGER),
    "modalities": sequence(16),
    "n": integer(1, 128),
    "parallel_tool_calls": boolean,
    "prediction": mapping,
    "presence_penalty": number(-2, 2),
    "prompt_cache_key": text(1024),
    "reasoning_effort": text(32),
    "response_format": response_format,
    "safety_identifier": text(512),
    "seed": integer(-(2**63), 2**63 - 1),
    "service_tier": text(32),
    "stop": stop_words,
    "store": boolean,
    "temperature": number(0, 2),
    "tool_choice": tool_choice,
    "tools": sequence(MOST_TOOLS),
    "top_logprobs": integer(0, 20),
    "top_p": number(0, 1),
    "user": text(512),
    "verbosity": text(32),
    "web_search_options": mapping,
}
"""Parameters of ``/v1/chat/completions`` that we know; source: OpenAI's API reference."""

ENVELOPE: dict[str, Check] = {
    "model": text(256, least=1),
    "messages": sequence(MOST_MESSAGES),
    "stream": boolean,
    "stream_options": stream_options,
    "metadata": metadata,
    "drop_params": boolean,
}
KNOWN = ENVELOPE | PARAMS
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
PARTS: dict[str, str | None] = {
    "text": "text",
    "image_url": "image_url",
    "input_audio": "input_audio",
    "file": "file",
    "refusal": "refusal",
}
"""Part types and the field each must have."""


_PART = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"type": {"const": kind}, kind: held},
            "required": ["type", kind],
        }
        for kind, held in (
            ("text", shapes.STRING),
            ("refusal", shapes.STRING),
            (
                "image_url",
                {
                    "type": "object",
                    "properties": {"url": {"type": "string", "pattern": "^(data:image/|https?://)"}},
                    "required": ["url"],
                },
            ),
            ("input_audio", shapes.ANY_OBJECT),
            ("file", shapes.ANY_OBJECT),
        )
    ]
}
CONTENT = {"anyOf": [shapes.STRING, shapes.several(_PART, minItems=1)]}
TOOL_CALL = {
    "type": "object",
    "properties": {
        "id": shapes.STRING,
        "function": {
            "type": "object",
            "properties": {"name": shapes.STRING, "arguments": shapes.STRING},
            "required": ["name"],
        },
    },
    "required": ["id", "function"],
}


def _message_form(role: Any, content: shapes.Shape, *required: str, **more: shapes.Shape) -> shapes.Shape:
    return {
        "type": "object",
        "properties": {"role": role, "content": content, **more},
        "required": ["role", *required],
    }


MESSAGE: shapes.Shape = {
    "title": "ChatMessage",
    "oneOf": [
        _message_form(shapes.one_of("system", "developer", "user", "function"), CONTENT, "content"),
        _message_form(
            {"const": "assistant"}, shapes.maybe(CONTENT), tool_calls=shapes.maybe(shapes.several(TOOL_CALL))
        ),
        _message_form({"const": "tool"}, CONTENT, "content", "tool_call_id", tool_call_id=shapes.STRING),
    ],
}
TOOL: shapes.Shape = {
    "title": "Tool",
    "type": "object",
    "properties": {
        "type": {"default": "function"},
        "function": {"if": {"type": "object"}, "then": {"properties": {"parameters": shapes.ANY_OBJECT}}},
    },
    "if": {"properties": {"type": {"const": "function"}}},
    "then": {
        "properties": {"function": {"type": "object", "properties": {"name": shapes.STRING}, "required": ["name"]}},
        "required": ["function"],
    },
}
CHAT: shapes.Shape = {
    "title": "ChatCompletionRequest",
    "type": "object",
    "description": "A field that is null counts as absent. Fields not named here go on to providers of the same wire; "
    "another provider's are refused by name, as is what only an administrator may set.",
    "properties": {
        **{name: shapes.maybe(shapes.form_of(check)) for name, check in KNOWN.items()},
        "messages": shapes.several(MESSAGE, minItems=1, maxItems=MOST_MESSAGES),
        "tools": shapes.maybe(shapes.several(TOOL, maxItems=MOST_TOOLS)),
    },
    "required": ["messages"],
    "maxProperties": MOST_FIELDS,
    "propertyNames": {"not": {"anyOf": [shapes.one_of(*sorted(REFUSED)), {"pattern": "^extra_"}]}},
}
COMPLETION: shapes.Shape = {
    "title": "ChatCompletion",
    "type": "object",
    "description": "The provider's own bytes where its wire is OpenAI's, so it may hold more than this.",
    "properties": {
        "id": shapes.STRING,
        "object": {"const": "chat.completion"},
        "created": shapes.WHOLE,
        "model": shapes.STRING,
        "choices": shapes.several(
            {
                "type": "object",
                "properties": {
                    "index": shapes.COUNT,
                    "message": {
                        "type": "object",
                        "properties": {
                            "role": {"const": "assistant"},
                            "content": shapes.maybe(shapes.STRING),
                            "tool_calls": shapes.maybe(shapes.several(shapes.ANY_OBJECT)),
                        },
                        "required": ["role"],
                    },
                    "finish_reason": shapes.maybe(shapes.STRING),
                },
                "required": ["message"],
            }
        ),
        "usage": shapes.maybe(shapes.ANY_OBJECT),
    },
    "required": ["choices"],
}
"""Forms for ``/openapi.json``."""


def read_chat(body: dict[str, Any], *, model: str | None = None) -> ChatRequest:
    """A ``/v1/chat/completions`` body. ``model``: the one in the path, for Azure's clients.

    Raises `InvalidRequest` with a detail for each field at fault. A field that is null counts as absent.
    """
    given = given_of(body)
    faults = faults_of(given, KNOWN)
    if "messages" not in given:
        faults.append(Detail(field="messages", message="is missing"))
    elif sequence(MOST_MESSAGES)(given["messages"]) is None:
        faults += _message_faults(given["messages"])
    faults += _tool_faults(given.get("tools"))
    refuse(faults)
    options = given.get("stream_options") or {}
    return ChatRequest(
        model=model or given.get("model"),
        messages=given["messages"],
        params={name: value for name, value in given.items() if name in PARAMS},
        extras={name: value for name, value in given.items() if name not in PARAMS and name not in ENVELOPE},
        stream=given.get("stream", False),
        include_usage=bool(options.get("include_usage")),
        drop_params=given.get("drop_params", False),
        metadata=given.get("metadata", {}),
    )


def _message_faults(messages: list[Any]) -> list[Detail]:
    if not messages:
        return [Detail(field="messages", message="must have at least one message")]
    faults: list[Detail] = []
    for place, message in enumerate(messages):
        faults += _one_message(message, f"messages[{place}]")
    return faults


def _one_message(message: Any, where: str) -> list[Detail]:
    if not isinstance(message, dict):
        return [Detail(field=where, message="must be an object")]
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        return [Detail(field=f"{where}.role", message=f"must be one of {', '.join(sorted(ROLES))}")]
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        return [Detail(field=f"{where}.tool_call_id", message="must be a string")]
    return _content_faults(message, f"{where}.content") + _call_faults(message, where)


def _content_faults(message: dict[str, Any], where: str) -> list[Detail]:
    content = message.get("content")
    if isinstance(content, str):
        return []
    if content is None:
        may_be_empty = message["role"] == "assistant"
        return [] if may_be_empty else [Detail(field=where, message="must be a string or a list of parts")]
    if not isinstance(content, list) or not content:
        return [Detail(field=where, message="must be a string or a list of at least one part")]
    return [fault for place, part in enumerate(content) for fault in _part_faults(part, f"{where}[{place}]")]


def _part_faults(part: Any, where: str) -> list[Detail]:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str) or part["type"] not in PARTS:
        return [Detail(field=f"{where}.type", message=f"must be one of {', '.join(PARTS)}")]
    field = PARTS[part["type"]]
    held = part.get(field or "")
    if part["type"] in ("text", "refusal"):
        return [] if isinstance(held, str) else [Detail(field=f"{where}.{field}", message="must be a string")]
    if not isinstance(held, dict):
        return [Detail(field=f"{where}.{field}", message="must be an object")]
    return _image_faults(held, f"{where}.image_url.url") if part["type"] == "image_url" else []


def _image_faults(held: dict[str, Any], where: str) -> list[Detail]:
    url = held.get("url")
    if not isinstance(url, str) or not url.startswith(("data:image/", "http://", "https://")):
        return [Detail(field=where, message="must be an http(s) address or a data URL of an image")]
    return []


def _call_faults(message: dict[str, Any], where: str) -> list[Detail]:
    calls = message.get("tool_calls")
    if calls is None:
        return []
    if not isinstance(calls, list):
        return [Detail(field=f"{where}.tool_calls", message="must be a list")]
    faults: list[Detail] = []
    for place, call in enumerate(calls):
        at = f"{where}.tool_calls[{place}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(call.get("id"), str):
            faults.append(Detail(field=f"{at}.id", message="must be a string"))
        elif not isinstance(function, dict) or not isinstance(function.get("name"), str):
            faults.append(Detail(field=f"{at}.function.name", message="must be a string"))
        elif not isinstance(function.get("arguments", ""), str):
            faults.append(Detail(field=f"{at}.function.arguments", message="must be a string of JSON"))
    return faults


def _tool_faults(tools: Any) -> list[Detail]:
    if not isinstance(tools, list):
        return []
    faults: list[Detail] = []
    for place, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        named = isinstance(function, dict) and isinstance(function.get("name"), str)
        if not named and (not isinstance(tool, dict) or tool.get("type", "function") == "function"):
            faults.append(Detail(field=f"tools[{place}].function.name", message="must be a string"))
        elif isinstance(function, dict) and not isinstance(function.get("parameters", {}), dict):
            faults.append(Detail(field=f"tools[{place}].function.parameters", message="must be an object"))
    return faults


def write_answer(answer: Answer) -> bytes:
    """``chat.completion``: the provider's own bytes where its wire is ours."""
    return answer.result.raw or orjson.dumps(answer.result.body)


def write_chunks(stream: Any, request: ChatRequest, request_id: str) -> Iterator[bytes]:
    """A `ChatStream` as server-sent events: frames at hand are joined into one write.

    The usage frame comes only where it was asked for; an error is one frame, then the end.
    """
    for item in stream:
        yield _frame(item, request, request_id) + b"".join(
            _frame(more, request, request_id) for more in iter(stream.at_hand, None)
        )
    if request.include_usage and stream.error is None and stream.usage is not None:
        yield _usage_frame(stream)
    yield DONE


def _frame(item: Chunk | DomainError | None, request: ChatRequest, request_id: str) -> bytes:
    if item is None:
        return PING
    if isinstance(item, DomainError):
        return b"data: " + orjson.dumps(errors.openai(item, request_id)) + b"\n\n"
    return b"data: " + _chunk(item, request.include_usage) + b"\n\n"


def _chunk(chunk: Chunk, include_usage: bool) -> bytes:
    """With the usage asked for, every frame but the last says null; not asked for, none speaks of it.

    Inside a JSON string a quotation mark is escaped, so these bytes can only be the field itself.
    """
    if chunk.raw is None:
        body = {name: held for name, held in chunk.body.items() if name != "usage"}
        return orjson.dumps({**body, "usage": None} if include_usage else body)
    raw = chunk.raw.replace(b"\n", b" ")  # a frame that came on several lines goes out on one
    says = b'"usage":' in raw
    if include_usage and not says:
        return raw.rstrip()[:-1] + b',"usage":null}'
    return NO_USAGE.sub(b"", raw) if says and not include_usage else raw


def _usage_frame(stream: Any) -> bytes:
    body = {
        **stream.head,
        "object": "chat.completion.chunk",
        "choices": [],
        "usage": {**stream.usage.to_openai(), "cost": to_dollars(stream.cost)},
    }
    return b"data: " + orjson.dumps(body) + b"\n\n"
