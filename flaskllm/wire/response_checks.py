"""What may be wrong with a ``/v1/responses`` body: the tables of its fields, and the checks of its items."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from flaskllm.domain.response import unseal
from flaskllm.errors import Detail
from flaskllm.wire import shapes
from flaskllm.wire.checks import (
    MOST_MESSAGES,
    MOST_TOOLS,
    SAFE_INTEGER,
    Check,
    boolean,
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
TEXT: dict[str, Check] = {"format": mapping, "verbosity": one_of("low", "medium", "high")}
REASONING: dict[str, Check] = {
    "effort": one_of(*EFFORTS),
    "summary": one_of(*SUMMARIES),
    "generate_summary": one_of(*SUMMARIES),
}
NESTED = {"text": TEXT, "reasoning": REASONING}


def faults_in(given: Mapping[str, Any]) -> Iterator[Detail]:
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
