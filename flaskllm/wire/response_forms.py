"""The Responses dialect at the door for ``/openapi.json``: the form of what ``wire/responses.py`` reads."""

from __future__ import annotations

from collections.abc import Mapping

from flaskllm.wire import shapes
from flaskllm.wire.checks import MOST_MESSAGES, MOST_TOOLS, Check
from flaskllm.wire.response_checks import ID, LONG, LONGEST_NAME, NAME, PLAIN, REASONING, TEXT, unknown_here


def _kind(name: str, /, *required: str, **fields: shapes.Shape) -> shapes.Shape:
    """An object known by its type; fields that are null count as absent but for the required ones."""
    held = {key: form if key in required else shapes.maybe(form) for key, form in fields.items()}
    return {"type": "object", "properties": {"type": {"const": name}, **held}, "required": ["type", *required]}


_LONG, _NAME, _ID = shapes.form_of(LONG), shapes.form_of(NAME), shapes.form_of(ID)
_NOTHING = {"type": "null", "description": "Not offered here"}
_INPUT_PART: shapes.Shape = {
    "title": "ResponseInputPart",
    "oneOf": [
        _kind("input_text", "text", text=_LONG),
        _kind(
            "input_image",
            "image_url",
            image_url={"type": "string", "pattern": "^(data:image/|https?://)[^\\u0000]*$"},
            detail=shapes.one_of("low", "high", "auto", "original"),
        )
        | {"not": {"required": ["file_id"]}},
        {
            **_kind("input_file", file_data=_LONG, file_url=_LONG, filename=_LONG),
            "anyOf": [
                {"required": [name], "properties": {name: {"type": "string"}}} for name in ("file_data", "file_url")
            ],
            "not": {"required": ["file_id"]},
        },
        _kind("input_audio", "input_audio", input_audio=shapes.ANY_OBJECT),
    ],
}
_SAID_PART: shapes.Shape = {
    "oneOf": [_kind("output_text", "text", text=_LONG), _kind("refusal", "refusal", refusal=_LONG)]
}


_OPAQUE = {"type": "null", "description": "Or as an answer of this gateway had it"}


def _message_form(roles: shapes.Shape, part: shapes.Shape) -> shapes.Shape:
    content = {"anyOf": [_LONG, shapes.several(part, minItems=1)]}
    kind = {"enum": ["message", None]}
    fields = {"type": kind, "role": roles, "content": content, "id": shapes.maybe(_ID), "encrypted_content": _OPAQUE}
    return {"type": "object", "properties": fields, "required": ["role", "content"]}


INPUT_ITEM: shapes.Shape = {
    "title": "ResponseInputItem",
    "anyOf": [
        _message_form(shapes.one_of("user", "system", "developer"), _INPUT_PART),
        _message_form({"const": "assistant"}, _SAID_PART),
        _kind(
            "function_call", "call_id", "name", "arguments",
            call_id=_ID, name=_NAME, arguments=_LONG, id=_ID, encrypted_content=_OPAQUE,
        ),
        _kind(
            "function_call_output", "call_id", "output",
            call_id=_ID, output={"anyOf": [_LONG, shapes.several(_INPUT_PART)]}, id=_ID,
        ),
        _kind(
            "reasoning",
            summary=shapes.several(_kind("summary_text", "text", text=_LONG)),
            content=shapes.several(_kind("reasoning_text", "text", text=_LONG)), id=_ID, encrypted_content=_OPAQUE,
        ),
        _kind("item_reference", "id", id=_ID),
    ],
}  # fmt: skip
TOOL: shapes.Shape = {
    "title": "ResponseFunctionTool",
    **_kind("function", "name", name=_NAME, description=_LONG, parameters=shapes.ANY_OBJECT, strict=shapes.FLAG),
}
_NAMED_TOOL = _kind("function", "name", name=_NAME)
TOOL_CHOICE: shapes.Shape = {
    "description": "A tool is named as `tools` has it",
    "anyOf": [
        shapes.one_of("none", "auto", "required"),
        _NAMED_TOOL,
        _kind(
            "allowed_tools", "tools",
            tools=shapes.several(_NAMED_TOOL, minItems=1, maxItems=MOST_TOOLS), mode=shapes.one_of("auto", "required"),
        ),
    ],
}  # fmt: skip
FORMAT: shapes.Shape = {
    "anyOf": [
        {"type": "object", "properties": {"type": shapes.one_of("text", "json_object")}, "required": ["type"]},
        _kind(
            "json_schema", "name", "schema",
            name={"type": "string", "minLength": 1, "maxLength": LONGEST_NAME, "pattern": shapes.NO_NUL},
            schema=shapes.ANY_OBJECT, description=_LONG, strict=shapes.FLAG,
        ),
    ],
}  # fmt: skip


def _table_form(checks: Mapping[str, Check], **more: shapes.Shape) -> shapes.Shape:
    fields = {name: shapes.maybe(shapes.form_of(check)) for name, check in checks.items()}
    return {"type": "object", "properties": {**fields, **more}, "additionalProperties": False}


BODY: shapes.Shape = {
    "title": "ResponseRequest",
    "description": "A field that is null counts as absent.",
    **_table_form(
        {name: check for name, check in PLAIN.items() if check is not unknown_here},
        **{name: _NOTHING for name, check in PLAIN.items() if check is unknown_here},
        input={"anyOf": [_LONG, shapes.several(INPUT_ITEM, minItems=1, maxItems=MOST_MESSAGES)]},
        tools=shapes.maybe(shapes.several(TOOL, maxItems=MOST_TOOLS)),
        tool_choice=shapes.maybe(TOOL_CHOICE),
        text=shapes.maybe(_table_form(TEXT, format=shapes.maybe(FORMAT))),
        reasoning=shapes.maybe(_table_form(REASONING)),
    ),
    "required": ["input"],
}
