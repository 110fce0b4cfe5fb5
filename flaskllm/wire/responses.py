"""OpenAI's Responses dialect at the door: a body into an `Asked`.

Checked by tables, as ``/v1/chat/completions`` is (``docs/adr/0005-tables-on-hot-doors.md``). No provider is spoken to
in this dialect, so there is nobody to pass an unknown field on to: it is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.response import Asked, Item, unseal
from flaskllm.errors import Detail, invalid, refuse
from flaskllm.wire import shapes
from flaskllm.wire.checks import (
    MOST_MESSAGES,
    MOST_TOOLS,
    SAFE_INTEGER,
    Check,
    boolean,
    given_of,
    integer,
    mapping,
    number,
    one_of,
    sequence,
    text,
)
from flaskllm.wire.openai import metadata, stream_options
from flaskllm.wire.shapes import of_form

MOST_TEXT = 2**25
"""Characters; beyond any body that is taken."""
LONGEST_NAME, LONGEST_ID = 128, 512
LONGEST_SHOWN = 80
HOSTED = (
    "only function tools are offered: what a provider runs by itself (web_search, file_search, code_interpreter, "
    "mcp, …) has no counterpart at the others"
)
INCLUDES = (
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs",
    "reasoning.encrypted_content", "message.output_text.logprobs",
)  # fmt: skip
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
SUMMARIES = ("auto", "concise", "detailed")
_IMAGE = re.compile(r"data:image/|https?://")


# -- parameters --------------------------------------------------------------------------------------------------------


@of_form(const=False)
def off(value: Any) -> str | None:
    return None if value is False else "is not offered here; leave it out"


@of_form(type="null")
def unknown_here(_value: Any) -> str | None:
    return "is not offered here; leave it out"


@of_form(type="array", items=shapes.one_of(*INCLUDES), maxItems=32)
def includes(value: Any) -> str | None:
    if not isinstance(value, list) or len(value) > 32:
        return "must be a list of at most 32"
    fits = all(isinstance(one, str) and one in INCLUDES for one in value)
    return None if fits else f"must hold only {', '.join(INCLUDES)}"


def opaque(value: Any) -> str | None:
    return None if unseal(value) is not None else "was not given out by this gateway"


LONG = text(MOST_TEXT)
NAME = text(LONGEST_NAME, least=1)
ID = text(LONGEST_ID, least=1)
PLAIN: dict[str, Check] = {
    "background": off,
    "drop_params": boolean,
    "include": includes,
    "instructions": LONG,
    "max_output_tokens": integer(1, SAFE_INTEGER),
    "max_tool_calls": integer(1, SAFE_INTEGER),
    "metadata": metadata,
    "model": text(256, least=1),
    "parallel_tool_calls": boolean,
    "previous_response_id": ID,
    "prompt_cache_key": text(1024),
    "safety_identifier": text(512),
    "service_tier": text(32),
    "store": boolean,
    "stream": boolean,
    "stream_options": stream_options,
    "temperature": number(0, 2),
    "top_logprobs": integer(0, 20),
    "top_p": number(0, 1),
    "truncation": one_of("auto", "disabled"),
    "user": text(512),
    **dict.fromkeys(
        ("access_programs", "context_management", "conversation", "image", "moderation", "prompt",
         "prompt_cache_options", "prompt_cache_retention"),
        unknown_here,
    ),
}  # fmt: skip
"""Parameters of ``POST /v1/responses`` that are one value each; source: OpenAI's API reference."""
SAME = ("prompt_cache_key", "safety_identifier", "service_tier", "temperature", "top_p", "user")
"""Those that a chat has under the same name."""
TEXT: dict[str, Check] = {"format": mapping, "verbosity": one_of("low", "medium", "high")}
REASONING: dict[str, Check] = {
    "effort": one_of(*EFFORTS),
    "summary": one_of(*SUMMARIES),
    "generate_summary": one_of(*SUMMARIES),
}
NESTED = {"text": TEXT, "reasoning": REASONING}


def read_response(body: dict[str, Any]) -> Asked:
    """A ``/v1/responses`` body.

    Raises `InvalidRequest` with a detail for each field at fault. A field that is null counts as absent.
    """
    given = given_of(body)
    refuse(_faults(given))
    given |= {name: _without_nulls(given[name]) for name in NESTED if name in given}
    items, places = _items(given["input"])
    include = given.get("include", ())
    return Asked(
        request=ChatRequest(
            model=given.get("model"),
            messages=[],
            params=_params(given),
            stream=given.get("stream", False),
            drop_params=given.get("drop_params", False),
            metadata=given.get("metadata", {}),
        ),
        items=items,
        places=places,
        said=_said(given),
        instructions=given.get("instructions"),
        previous_id=given.get("previous_response_id"),
        store=given.get("store", True),
        sealed="reasoning.encrypted_content" in include,
        cuts=given.get("truncation") == "auto",
    )


def _items(given: str | list[Item]) -> tuple[list[Item], list[str]]:
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}], ["input"]
    items = [_without_nulls(item) for item in given]
    return items, [f"input[{place}]" for place in range(len(items))]


def _without_nulls(held: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in held.items() if value is not None}


def _params(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters by the names that a chat has for them."""
    params = {name: given[name] for name in SAME if name in given}
    said, thinks = given.get("text", {}), given.get("reasoning", {})
    if "max_output_tokens" in given:
        params["max_completion_tokens"] = given["max_output_tokens"]
    if "effort" in thinks:
        params["reasoning_effort"] = thinks["effort"]
    if said.get("verbosity", "medium") != "medium":
        params["verbosity"] = said["verbosity"]
    if (wanted := _response_format(said.get("format", {}))) is not None:
        params["response_format"] = wanted
    if tops := given.get("top_logprobs"):
        params["top_logprobs"] = tops
    if tops or "message.output_text.logprobs" in given.get("include", ()):
        params["logprobs"] = True
    if tools := given.get("tools"):
        params["tools"] = [_tool(tool) for tool in tools]
        if "tool_choice" in given:
            params["tool_choice"] = _tool_choice(given["tool_choice"])
        if "parallel_tool_calls" in given:
            params["parallel_tool_calls"] = given["parallel_tool_calls"]
    return params


def _response_format(told: Mapping[str, Any]) -> dict[str, Any] | None:
    if told.get("type", "text") == "text":
        return None
    if told["type"] == "json_object":
        return {"type": "json_object"}
    names = ("name", "description", "schema", "strict")
    return {"type": "json_schema", "json_schema": {name: told[name] for name in names if told.get(name) is not None}}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, str):
        return choice
    if choice["type"] == "function":
        return {"type": "function", "function": {"name": choice["name"]}}
    tools = [{"type": "function", "function": {"name": tool["name"]}} for tool in choice["tools"]]
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": tools}}


def _said(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as every answer repeats them, with the values that hold where none were given."""
    said, thinks = given.get("text", {}), given.get("reasoning", {})
    return {
        "instructions": given.get("instructions"),
        "max_output_tokens": given.get("max_output_tokens"),
        "max_tool_calls": given.get("max_tool_calls"),
        "metadata": given.get("metadata", {}),
        "parallel_tool_calls": given.get("parallel_tool_calls", True),
        "previous_response_id": given.get("previous_response_id"),
        "prompt_cache_key": given.get("prompt_cache_key"),
        "reasoning": {
            "effort": thinks.get("effort"),
            "summary": thinks.get("summary") or thinks.get("generate_summary"),
        },
        "safety_identifier": given.get("safety_identifier"),
        "service_tier": given.get("service_tier", "default"),
        "temperature": given.get("temperature", 1.0),
        "text": {"format": said.get("format", {"type": "text"}), "verbosity": said.get("verbosity", "medium")},
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": [
            {"description": None, "parameters": None, "strict": False, **_without_nulls(tool)}
            for tool in given.get("tools", ())
        ],
        "top_logprobs": given.get("top_logprobs", 0),
        "top_p": given.get("top_p", 1.0),
        "truncation": given.get("truncation", "disabled"),
        "user": given.get("user"),
    }


# -- faults ------------------------------------------------------------------------------------------------------------


def _faults(given: Mapping[str, Any]) -> Iterator[Detail]:
    for name, value in given.items():
        if check := PLAIN.get(name):
            yield from _told(name, check(value))
        elif name not in (*NESTED, "input", "tools", "tool_choice"):
            yield {"field": name[:LONGEST_SHOWN], "message": "is not known here"}
    for name, checks in NESTED.items():
        if name in given:
            yield from _nested_faults(given[name], name, checks)
    if isinstance(given.get("text"), dict) and isinstance(wanted := given["text"].get("format"), dict):
        yield from _format_faults(wanted)
    yield from _input_faults(given.get("input"))
    tools = given.get("tools")
    if tools is not None:
        yield from _tool_faults(tools)
    if "tool_choice" in given:
        yield from _choice_faults(given["tool_choice"], tools if isinstance(tools, list) else [])


def _told(where: str, fault: str | None) -> Iterator[Detail]:
    if fault:
        yield {"field": where, "message": fault}


def _nested_faults(held: Any, name: str, checks: Mapping[str, Check]) -> Iterator[Detail]:
    if not isinstance(held, dict):
        yield from _told(name, "must be an object")
        return
    for inner, value in held.items():
        if inner not in checks:
            yield from _told(f"{name}.{inner[:LONGEST_SHOWN]}", "is not known here")
        elif value is not None:
            yield from _told(f"{name}.{inner}", checks[inner](value))


def _format_faults(wanted: Mapping[str, Any]) -> Iterator[Detail]:
    kind = wanted.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        yield from _told("text.format.type", "must be one of text, json_object, json_schema")
    elif kind == "json_schema":
        yield from _field(wanted, "name", "text.format", text(LONGEST_NAME, least=1))
        yield from _field(wanted, "schema", "text.format", mapping)
        yield from _field(wanted, "description", "text.format", LONG, required=False)
        yield from _field(wanted, "strict", "text.format", boolean, required=False)


def _field(held: Mapping[str, Any], name: str, where: str, check: Check, *, required: bool = True) -> Iterator[Detail]:
    value = held.get(name)
    if value is not None:
        yield from _told(f"{where}.{name}", check(value))
    elif required:
        yield from _told(f"{where}.{name}", "is missing")


def _tool_faults(tools: Any) -> Iterator[Detail]:
    if fault := sequence(MOST_TOOLS)(tools):
        yield from _told("tools", fault)
        return
    for place, tool in enumerate(tools):
        where = f"tools[{place}]"
        if not isinstance(tool, dict):
            yield from _told(where, "must be an object")
        elif tool.get("type") != "function":
            yield from _told(f"{where}.type", f"{_shown(tool.get('type'))}: {HOSTED}")
        else:
            yield from _field(tool, "name", where, NAME)
            yield from _field(tool, "parameters", where, mapping, required=False)
            yield from _field(tool, "description", where, LONG, required=False)
            yield from _field(tool, "strict", where, boolean, required=False)


def _shown(value: Any) -> str:
    return value[:LONGEST_SHOWN] if isinstance(value, str) else "not a string"


def _choice_faults(choice: Any, tools: list[Any]) -> Iterator[Detail]:
    if isinstance(choice, str):
        fault = one_of("none", "auto", "required")(choice)
        yield from _told("tool_choice", fault or ("needs tools" if choice == "required" and not tools else None))
        return
    if not isinstance(choice, dict):
        yield from _told("tool_choice", "must be none, auto, required or an object")
        return
    named = (tool.get("name") for tool in tools if isinstance(tool, dict))
    names = {name for name in named if isinstance(name, str)}
    if choice.get("type") == "function":
        yield from _chosen_faults(choice, "tool_choice", names)
    elif choice.get("type") == "allowed_tools":
        yield from _field(choice, "mode", "tool_choice", one_of("auto", "required"), required=False)
        allowed = choice.get("tools")
        if not isinstance(allowed, list) or not allowed or len(allowed) > MOST_TOOLS:
            yield from _told("tool_choice.tools", "must be a list of at least one tool")
            return
        for place, tool in enumerate(allowed):
            yield from _chosen_faults(tool, f"tool_choice.tools[{place}]", names)
    else:
        yield from _told("tool_choice.type", f"{_shown(choice.get('type'))}: {HOSTED}")


def _chosen_faults(tool: Any, where: str, names: set[str]) -> Iterator[Detail]:
    if not isinstance(tool, dict):
        yield from _told(where, "must be an object")
    elif tool.get("type") != "function":
        yield from _told(f"{where}.type", f"{_shown(tool.get('type'))}: {HOSTED}")
    elif not isinstance(name := tool.get("name"), str) or name not in names:
        yield from _told(f"{where}.name", "must be the name of one of the tools")


# -- items -------------------------------------------------------------------------------------------------------------


def _input_faults(given: Any) -> Iterator[Detail]:
    if given is None:
        yield from _told("input", "is missing")
    elif isinstance(given, str):
        yield from _told("input", LONG(given))
    elif not isinstance(given, list) or not 1 <= len(given) <= MOST_MESSAGES:
        yield from _told("input", f"must be a string or a list of 1 to {MOST_MESSAGES} items")
    else:
        for place, item in enumerate(given):
            yield from _item_faults(item, f"input[{place}]")


def _item_faults(item: Any, where: str) -> Iterator[Detail]:
    if not isinstance(item, dict):
        yield from _told(where, "must be an object")
        return
    kind = item.get("type")
    check = ITEMS.get("message" if kind is None else kind) if isinstance(kind, str | None) else None
    if check is None:
        yield from _told(f"{where}.type", f"must be one of {', '.join(ITEMS)}")
        return
    if kind != "item_reference":
        yield from _field(item, "id", where, ID, required=False)
    yield from check(item, where)


def _message_faults(item: Mapping[str, Any], where: str) -> Iterator[Detail]:
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLE_PARTS:
        yield from _told(f"{where}.role", f"must be one of {', '.join(ROLE_PARTS)}")
        return
    yield from _content_faults(item.get("content"), f"{where}.content", ROLE_PARTS[role])
    yield from _field(item, "encrypted_content", where, opaque, required=False)


def _content_faults(content: Any, where: str, kinds: tuple[str, ...], *, least: int = 1) -> Iterator[Detail]:
    if content is None:
        yield from _told(where, "is missing")
    elif isinstance(content, str):
        yield from _told(where, LONG(content))
    elif not isinstance(content, list) or not least <= len(content) <= MOST_MESSAGES:
        yield from _told(where, "must be a string or a list of at least one part")
    else:
        for place, part in enumerate(content):
            yield from _part_faults(part, f"{where}[{place}]", kinds)


def _part_faults(part: Any, where: str, kinds: tuple[str, ...]) -> Iterator[Detail]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        yield from _told(f"{where}.type", f"must be one of {', '.join(kinds)}")
    elif kind == "input_image":
        yield from _image_faults(part, where)
    elif kind == "input_file":
        yield from _file_faults(part, where)
    elif kind == "input_audio":
        yield from _field(part, "input_audio", where, mapping)
    else:
        yield from _field(part, "refusal" if kind == "refusal" else "text", where, LONG)


def _image_faults(part: Mapping[str, Any], where: str) -> Iterator[Detail]:
    yield from _field(part, "file_id", where, unknown_here, required=False)
    yield from _field(part, "detail", where, one_of("low", "high", "auto", "original"), required=False)
    url = part.get("image_url")
    if not isinstance(url, str) or not _IMAGE.match(url) or LONG(url):
        yield from _told(f"{where}.image_url", "must be an http(s) address or a data URL of an image")


def _file_faults(part: Mapping[str, Any], where: str) -> Iterator[Detail]:
    yield from _field(part, "file_id", where, unknown_here, required=False)
    for name in ("file_data", "file_url", "filename"):
        yield from _field(part, name, where, LONG, required=False)
    if part.get("file_data") is None and part.get("file_url") is None:
        yield from _told(where, "must hold file_data or file_url")


def _call_faults(item: Mapping[str, Any], where: str) -> Iterator[Detail]:
    yield from _field(item, "call_id", where, ID)
    yield from _field(item, "name", where, NAME)
    yield from _field(item, "arguments", where, LONG)
    yield from _field(item, "encrypted_content", where, opaque, required=False)


def _output_faults(item: Mapping[str, Any], where: str) -> Iterator[Detail]:
    yield from _field(item, "call_id", where, ID)
    yield from _content_faults(item.get("output"), f"{where}.output", INPUT_PARTS, least=0)


def _reasoning_faults(item: Mapping[str, Any], where: str) -> Iterator[Detail]:
    for name, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        parts = item.get(name)
        if parts is not None and (fault := sequence(MOST_MESSAGES)(parts)):
            yield from _told(f"{where}.{name}", fault)
        else:
            for place, part in enumerate(parts or ()):
                yield from _part_faults(part, f"{where}.{name}[{place}]", (kind,))
    yield from _field(item, "encrypted_content", where, opaque, required=False)


def _reference_faults(item: Mapping[str, Any], where: str) -> Iterator[Detail]:
    yield from _field(item, "id", where, ID)


INPUT_PARTS = ("input_text", "input_image", "input_file", "input_audio")
ROLE_PARTS = {
    "user": INPUT_PARTS,
    "system": INPUT_PARTS,
    "developer": INPUT_PARTS,
    "assistant": ("output_text", "refusal"),
}
"""The parts that each role's messages are made of."""
ITEMS = {
    "message": _message_faults,
    "function_call": _call_faults,
    "function_call_output": _output_faults,
    "reasoning": _reasoning_faults,
    "item_reference": _reference_faults,
}


# -- queries -----------------------------------------------------------------------------------------------------------

MOST_LISTED, USUALLY_LISTED = 100, 20
ITEMS_QUERY = (
    {
        "name": "limit",
        "in": "query",
        "description": "Most items",
        "required": False,
        "schema": {"type": "integer", "minimum": 1, "maximum": MOST_LISTED, "default": USUALLY_LISTED},
    },
    {
        "name": "order",
        "in": "query",
        "description": "Newest first or oldest first",
        "required": False,
        "schema": {"enum": ["asc", "desc"], "default": "desc"},
    },
    {
        "name": "after",
        "in": "query",
        "description": "The id of the last item of the page before",
        "required": False,
        "schema": {"type": "string", "maxLength": LONGEST_ID},
    },
)


def read_retrieval(query: Mapping[str, str]) -> None:
    """The query of ``GET /v1/responses/{id}``. Raises `InvalidRequest` for a stream: what is over is not said again."""
    if query.get("stream", "false").lower() not in ("false", "0", ""):
        raise invalid("stream", "is not offered for a stored response")


def read_items_page(query: Mapping[str, str]) -> dict[str, Any]:
    """The query of ``GET /v1/responses/{id}/input_items``. Raises `InvalidRequest`."""
    limit, order = query.get("limit", str(USUALLY_LISTED)), query.get("order", "desc")
    if not re.fullmatch(r"[0-9]{1,3}", limit, re.ASCII) or not 1 <= int(limit) <= MOST_LISTED:
        raise invalid("limit", f"must be a whole number from 1 to {MOST_LISTED}")
    if order not in ("asc", "desc"):
        raise invalid("order", "must be asc or desc")
    if len(query.get("after", "")) > LONGEST_ID:
        raise invalid("after", f"must have at most {LONGEST_ID} characters")
    return {"limit": int(limit), "after": query.get("after"), "newest_first": order == "desc"}


# -- forms for ``/openapi.json`` ---------------------------------------------------------------------------------------


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
