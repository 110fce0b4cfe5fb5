"""Anthropic's dialect at the door for ``/openapi.json``: the form of what ``wire/anthropic.py`` reads."""

from __future__ import annotations

from collections.abc import Mapping

from flaskllm.wire import shapes
from flaskllm.wire.anthropic import ENVELOPE, PARAMS, TEXT_BLOCK
from flaskllm.wire.anthropic_turns import IMAGE_TYPES
from flaskllm.wire.checks import MOST_FIELDS, MOST_MESSAGES, MOST_TOOLS, REFUSED


def _block_form(kind: str, needed: Mapping[str, shapes.Shape], **more: shapes.Shape) -> shapes.Shape:
    return {
        "type": "object",
        "properties": {"type": {"const": kind}, **needed, **more},
        "required": ["type", *needed],
    }


_ADDRESS_FORM: shapes.Shape = {
    "type": "object",
    "properties": {"type": {"const": "url"}, "url": {"type": "string", "pattern": "^https?://"}},
    "required": ["type", "url"],
}


def _base64_form(*types: str) -> shapes.Shape:
    return {
        "type": "object",
        "properties": {
            "type": {"const": "base64"},
            "media_type": shapes.one_of(*types),
            "data": {"type": "string", "minLength": 1},
        },
        "required": ["type", "media_type", "data"],
    }


_TEXT_SOURCE: shapes.Shape = {
    "type": "object", "properties": {"type": {"const": "text"}, "data": shapes.STRING}, "required": ["type", "data"],
}  # fmt: skip
_SHOWN = [
    TEXT_BLOCK,
    _block_form("image", {"source": {"oneOf": [_base64_form(*IMAGE_TYPES), _ADDRESS_FORM]}}),
    _block_form(
        "document",
        {"source": {"oneOf": [_base64_form("application/pdf"), _TEXT_SOURCE, _ADDRESS_FORM]}},
        title={"type": ["string", "null"]},
    ),
    _block_form(
        "search_result",
        {"source": shapes.STRING, "title": shapes.STRING, "content": shapes.several(TEXT_BLOCK)},
    ),
]
_CALL_ID: shapes.Shape = {"type": "string", "minLength": 1}
_RESULT = _block_form(
    "tool_result",
    {"tool_use_id": _CALL_ID},
    content={"anyOf": [{"type": ["string", "null"]}, shapes.several({"oneOf": _SHOWN})]},
    is_error={"type": ["boolean", "null"]},
)
_SAID = [
    TEXT_BLOCK,
    _block_form("tool_use", {"id": _CALL_ID, "name": shapes.STRING, "input": shapes.ANY_OBJECT}),
    _block_form("thinking", {"thinking": shapes.STRING, "signature": shapes.STRING}),
    _block_form("redacted_thinking", {"data": shapes.STRING}),
]


def _turn_form(role: str, blocks: list[shapes.Shape], least: int) -> shapes.Shape:
    content = {"anyOf": [{"type": "string", "minLength": least}, shapes.several({"oneOf": blocks}, minItems=least)]}
    return {
        "type": "object",
        "properties": {"role": {"const": role}, "content": content},
        "required": ["role", "content"],
    }


TURN: shapes.Shape = {
    "title": "MessageTurn",
    "description": "Blocks of other types go on to Anthropic; for other providers they are refused by name.",
    "oneOf": [_turn_form("user", [*_SHOWN, _RESULT], 1), _turn_form("assistant", _SAID, 0)],
}
TOOL: shapes.Shape = {
    "title": "MessageTool",
    "type": "object",
    "description": "Tools of other types go on to Anthropic; for other providers they are refused by name.",
    "properties": {"type": {"type": ["string", "null"]}},
    "if": {"properties": {"type": shapes.one_of("custom", None)}},
    "then": {
        "properties": {
            "name": shapes.STRING,
            "description": {"type": ["string", "null"]},
            "input_schema": shapes.ANY_OBJECT,
        },
        "required": ["name", "input_schema"],
    },
}


def _form(title: str, *needed: str) -> shapes.Shape:
    checks = ENVELOPE | PARAMS
    return {
        "title": title,
        "type": "object",
        "description": "A field that is null counts as absent, unless it is required. Fields not named here go on to "
        "Anthropic; another provider's are refused by name, as is what only an administrator may set.",
        "properties": {
            **{
                name: shapes.form_of(check) if name in needed else shapes.maybe(shapes.form_of(check))
                for name, check in checks.items()
            },
            "messages": shapes.several(TURN, minItems=1, maxItems=MOST_MESSAGES),
            "tools": shapes.maybe(shapes.several(TOOL, maxItems=MOST_TOOLS)),
        },
        "required": list(needed),
        "maxProperties": MOST_FIELDS,
        "propertyNames": {"not": {"anyOf": [shapes.one_of(*sorted(REFUSED)), {"pattern": "^extra_"}]}},
    }


MESSAGES = _form("MessagesRequest", "model", "max_tokens", "messages")
COUNT = _form("CountTokensRequest", "model", "messages")
COUNTED: shapes.Shape = shapes.record("CountedTokens", input_tokens=shapes.COUNT)
