"""What Anthropic's messages endpoint refuses, with its own words."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from .core import Refusal, decoded, sniffed
from .vendor import is_number, is_whole

FIELDS = {
    "model",
    "messages",
    "max_tokens",
    "system",
    "metadata",
    "stop_sequences",
    "stream",
    "thinking",
    "tools",
    "tool_choice",
    "service_tier",
    "container",
    "output_config",
    "cache_control",
    "inference_geo",
    "diagnostics",
    "speed",
}
SAMPLING = {"temperature", "top_p", "top_k"}
COUNT_FIELDS = {
    "model",
    "messages",
    "system",
    "thinking",
    "tools",
    "tool_choice",
    "output_config",
    "cache_control",
    "speed",
}
SAMPLING_VERSION = "2023-06-01"
VERSIONS = (SAMPLING_VERSION, "2026-10-21")
BLOCKS = {
    "text": ({"text"}, {"cache_control", "citations"}),
    "image": ({"source"}, {"cache_control", "transformations"}),
    "document": ({"source"}, {"cache_control", "citations", "context", "title"}),
    "tool_use": ({"id", "name", "input"}, {"cache_control", "caller", "toolset_name"}),
    "tool_result": ({"tool_use_id"}, {"content", "is_error", "cache_control", "toolset_name"}),
    "thinking": ({"thinking", "signature"}, set()),
    "redacted_thinking": ({"data"}, set()),
    "search_result": ({"content", "source", "title"}, {"cache_control", "citations"}),
}
TOOL_FIELDS = {
    "name",
    "input_schema",
    "description",
    "cache_control",
    "type",
    "strict",
    "input_examples",
    "defer_loading",
    "allowed_callers",
    "eager_input_streaming",
}
IMAGE_KINDS = ("image/jpeg", "image/png", "image/gif", "image/webp")
NO_PREFILL = re.compile(r"claude-[a-z]+-(?:4-[6-9]|[5-9])(?:-|$)")
MOST_TOKENS = (("claude-3-haiku", 4096), ("claude-3-5", 8192), ("claude-opus-4-1", 32_000), ("claude-", 128_000))
"""Longest output by model name, first match wins."""


def refuse(message: str) -> Refusal:
    return Refusal(400, message, kind="invalid_request_error")


def signature_of(thinking: str) -> str:
    """What the simulator signs its thinking with, so that it knows a changed block when it comes back."""
    return "sim" + hashlib.sha256(thinking.encode()).hexdigest()


def check(body: dict[str, Any], version: str, *, counting: bool = False) -> None:
    fields = COUNT_FIELDS if counting else FIELDS | (SAMPLING if version == SAMPLING_VERSION else set())
    _only(body, fields, "")
    for name in ("model", "messages") if counting else ("model", "max_tokens", "messages"):
        if name not in body:
            raise refuse(f"{name}: Field required")
    if not counting:
        _check_numbers(body)
    check_tools(body)
    check_messages(body["messages"], str(body["model"]))
    _check_system(body.get("system"))
    _check_thinking(body)
    _check_output(body.get("output_config"))


def _only(given: dict[str, Any], known: set[str], at: str) -> None:
    for name in given:
        if name not in known:
            raise refuse(f"{at}{name}: Extra inputs are not permitted")


def _check_numbers(body: dict[str, Any]) -> None:
    most = next((limit for start, limit in MOST_TOKENS if str(body["model"]).startswith(start)), 128_000)
    if not is_whole(body["max_tokens"]):
        raise refuse("max_tokens: Input should be a valid integer")
    if body["max_tokens"] < 1:
        raise refuse("max_tokens: Input should be greater than or equal to 1")
    if body["max_tokens"] > most:
        raise refuse(
            f"max_tokens: {body['max_tokens']} > {most}, which is the maximum allowed number of output tokens "
            f"for {body['model']}"
        )
    for name, high in (("temperature", 1), ("top_p", 1)):
        value = body.get(name)
        if value is not None and not (is_number(value) and 0 <= value <= high):
            raise refuse(f"{name}: range: 0..{high}" if is_number(value) else f"{name}: Input should be a valid number")
    stops = body.get("stop_sequences") or []
    if len(stops) > 4:
        raise refuse(f"stop_sequences: List should have at most 4 items after validation, not {len(stops)}")
    if any(not isinstance(stop, str) or not stop.strip() for stop in stops):
        raise refuse("stop_sequences: each stop sequence must contain non-whitespace")
    _only(body.get("metadata") or {}, {"user_id"}, "metadata.")
    if body.get("service_tier", "auto") not in ("auto", "standard_only"):
        raise refuse("service_tier: Input should be 'auto' or 'standard_only'")


# --- tools --------------------------------------------------------------------------------------------------------


def check_tools(body: dict[str, Any]) -> None:
    tools = body.get("tools") or []
    for index, tool in enumerate(tools):
        _check_tool(tool, f"tools.{index}.")
    names = [tool["name"] for tool in tools]
    if len(set(names)) != len(names):
        raise refuse("tools: Tool names must be unique.")
    choice = body.get("tool_choice")
    if choice is not None:
        _check_choice(choice, names)


def _check_tool(tool: Any, at: str) -> None:
    if not isinstance(tool, dict) or "function" in tool:
        raise refuse(f"{at}custom.name: Field required")
    if tool.get("type", "custom") not in ("custom", None):
        raise refuse(
            f"{at[:-1]}: Input tag '{tool['type']}' found using 'type' does not match any of the expected tags"
        )
    at += "custom."
    _only(tool, TOOL_FIELDS, at)
    for name in ("name", "input_schema"):
        if name not in tool:
            raise refuse(f"{at}{name}: Field required")
    if not re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", str(tool["name"])):
        raise refuse(f"{at}name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
    schema = tool["input_schema"]
    if not isinstance(schema, dict):
        raise refuse(f"{at}input_schema: Input should be a valid dictionary")
    if "type" not in schema:
        raise refuse(f"{at}input_schema.type: Field required")
    if schema["type"] != "object":
        raise refuse(f"{at}input_schema.type: Input should be 'object'")


def _check_choice(choice: Any, names: list[str]) -> None:
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind not in ("auto", "any", "tool", "none"):
        raise refuse(
            "tool_choice: Input should be a valid dictionary or object to extract fields from"
            if not isinstance(choice, dict)
            else f"tool_choice: Input tag '{kind}' found using 'type' does not "
            "match any of the expected tags: 'auto', 'any', 'tool', 'none'"
        )
    known = {
        "auto": {"type", "disable_parallel_tool_use"},
        "any": {"type", "disable_parallel_tool_use"},
        "tool": {"type", "disable_parallel_tool_use", "name"},
        "none": {"type"},
    }
    _only(choice, known[kind], f"tool_choice.{kind}.")
    if not names and kind != "none":
        raise refuse("tool_choice: tool_choice may only be specified while providing tools")
    if kind == "tool" and "name" not in choice:
        raise refuse("tool_choice.tool.name: Field required")
    if kind == "tool" and choice["name"] not in names:
        raise refuse(f"tool_choice: Tool '{choice['name']}' not found in provided tools")


# --- messages -----------------------------------------------------------------------------------------------------


def blocks_of(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def check_messages(messages: Any, model: str) -> None:
    if not isinstance(messages, list):
        raise refuse("messages: Input should be a valid list")
    if not messages:
        raise refuse("messages: at least one message is required")
    for index, message in enumerate(messages):
        _check_message(message, f"messages.{index}", last=index == len(messages) - 1)
    if messages[0]["role"] != "user":
        raise refuse('messages: first message must use the "user" role')
    _check_tool_turns(merged(messages))
    if messages[-1]["role"] == "assistant" and NO_PREFILL.match(model):
        raise refuse(
            "This model does not support assistant message prefill. The conversation must end with a user message."
        )


def _check_message(message: Any, at: str, *, last: bool) -> None:
    if not isinstance(message, dict):
        raise refuse(f"{at}: Input should be a valid dictionary")
    if message.get("role") == "system":
        raise refuse(
            'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter, not '
            '"system" as an input message role.'
        )
    if message.get("role") not in ("user", "assistant"):
        raise refuse(f"{at}.role: Input should be 'user' or 'assistant'")
    _only(message, {"role", "content"}, f"{at}.")
    content = message.get("content")
    if "content" not in message:
        raise refuse(f"{at}.content: Field required")
    if not isinstance(content, (str, list)):
        raise refuse(f"{at}.content: Input should be a valid list")
    if not content and not (last and message["role"] == "assistant"):
        raise refuse(f"{at}: all messages must have non-empty content except for the optional final assistant message")
    for index, block in enumerate(blocks_of(content)):
        check_block(block, f"{at}.content.{index}", message["role"])
    if last and message["role"] == "assistant" and isinstance(content, str) and content != content.rstrip():
        raise refuse("messages: final assistant content cannot end with trailing whitespace")


def check_block(block: Any, at: str, role: str) -> None:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind not in BLOCKS:
        raise refuse(
            f"{at}: Input tag '{kind}' found using 'type' does not match any of the expected tags: "
            + ", ".join(f"'{name}'" for name in BLOCKS)
        )
    needed, allowed = BLOCKS[kind]
    for name in sorted(needed - set(block)):
        raise refuse(f"{at}.{kind}.{name}: Field required")
    _only(block, needed | allowed | {"type"}, f"{at}.{kind}.")
    if role == "user" and kind in ("tool_use", "thinking", "redacted_thinking"):
        raise refuse(f"{at}: `{kind}` blocks can only be in `assistant` messages")
    if role == "assistant" and kind in ("tool_result", "image", "document"):
        raise refuse(f"{at}: `{kind}` blocks can only be in `user` messages")
    checks = {
        "text": _check_text,
        "image": _check_image,
        "document": _check_document,
        "tool_use": _check_tool_use,
        "tool_result": _check_tool_result,
        "thinking": _check_signature,
    }
    if kind in checks:
        checks[kind](block, at)


def _check_text(block: dict[str, Any], at: str) -> None:
    if not isinstance(block["text"], str):
        raise refuse(f"{at}.text.text: Input should be a valid string")
    if not block["text"]:
        raise refuse("messages: text content blocks must be non-empty")
    if not block["text"].strip():
        raise refuse("messages: text content blocks must contain non-whitespace text")


def _check_source(block: dict[str, Any], at: str, kinds: tuple[str, ...]) -> None:
    source = block["source"]
    kind = source.get("type") if isinstance(source, dict) else None
    if kind == "url":
        _only(source, {"type", "url"}, f"{at}.source.url.")
        if not str(source.get("url", "")).startswith("https://"):
            raise refuse(f"{at}.source.url.url: Only HTTPS URLs are supported.")
        return
    if kind == "text" and block["type"] == "document":
        return
    if kind != "base64":
        raise refuse(
            f"{at}.source: Input tag '{kind}' found using 'type' does not match any of the expected tags: "
            "'base64', 'url', 'file'"
        )
    _only(source, {"type", "media_type", "data"}, f"{at}.source.base64.")
    if source.get("media_type") not in kinds:
        raise refuse(
            f"{at}.source.base64.media_type: Input should be "
            + ", ".join(f"'{one}'" for one in kinds[:-1])
            + (" or " if kinds[1:] else "")
            + f"'{kinds[-1]}'"
        )
    if decoded(source.get("data")) is None:
        raise refuse(f"{at}.source.base64: invalid base64 data")


def _check_image(block: dict[str, Any], at: str) -> None:
    at += ".image"
    _check_source(block, at, IMAGE_KINDS)
    source = block["source"]
    if source["type"] == "base64":
        found = sniffed(decoded(source["data"]) or b"")
        if found is None:
            raise refuse(f"{at}.source.base64.data: Could not process image")
        if found != source["media_type"]:
            raise refuse(
                f"{at}.source.base64.data: The image was specified using the {source['media_type']} media "
                f"type, but the image appears to be a {found} image"
            )


def _check_document(block: dict[str, Any], at: str) -> None:
    _check_source(block, f"{at}.document", ("application/pdf",))


def _check_tool_use(block: dict[str, Any], at: str) -> None:
    if not isinstance(block["input"], dict):
        raise refuse(f"{at}.tool_use.input: Input should be a valid dictionary")
    if not re.fullmatch(r"[a-zA-Z0-9_-]+", str(block["id"])):
        raise refuse(f"{at}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
    if not re.fullmatch(r"[a-zA-Z0-9_-]{1,200}", str(block["name"])):
        raise refuse(f"{at}.tool_use.name: String should match pattern '^[a-zA-Z0-9_-]{{1,200}}$'")


def _check_tool_result(block: dict[str, Any], at: str) -> None:
    content = block.get("content", "")
    if not isinstance(content, (str, list)):
        raise refuse(f"{at}.tool_result.content: Input should be a valid list")
    for index, inner in enumerate(content if isinstance(content, list) else []):
        check_block(inner, f"{at}.tool_result.content.{index}", "user")


def _check_signature(block: dict[str, Any], at: str) -> None:
    if block["signature"] != signature_of(block["thinking"]):
        raise refuse(f"{at}: Invalid `signature` in `thinking` block")


def merged(messages: list[dict[str, Any]]) -> list[tuple[int, str, list[dict[str, Any]]]]:
    """(index of the first message, role, blocks) with neighbours of one role put together, as the service does."""
    turns: list[tuple[int, str, list[dict[str, Any]]]] = []
    for index, message in enumerate(messages):
        blocks = blocks_of(message["content"])
        if turns and turns[-1][1] == message["role"]:
            turns[-1][2].extend(blocks)
        else:
            turns.append((index, message["role"], list(blocks)))
    return turns


def _check_tool_turns(turns: list[tuple[int, str, list[dict[str, Any]]]]) -> None:
    waiting: list[str] = []
    asked_at = 0
    for index, role, blocks in turns:
        if role == "user":
            _check_results(waiting, asked_at, index, blocks)
            waiting = []
        else:
            asked_at, waiting = index, [block["id"] for block in blocks if block["type"] == "tool_use"]
            if len(set(waiting)) != len(waiting):
                raise refuse(f"messages.{index}: `tool_use` ids must be unique")
    _check_results(waiting, asked_at, len(turns), [])


def _check_results(waiting: list[str], asked_at: int, index: int, blocks: list[dict[str, Any]]) -> None:
    leading = 0
    while leading < len(blocks) and blocks[leading]["type"] == "tool_result":
        leading += 1
    answered = [block["tool_use_id"] for block in blocks[:leading]]
    unanswered = [name for name in waiting if name not in answered]
    if unanswered:
        raise refuse(
            f"messages.{asked_at}: `tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(unanswered)}. Each `tool_use` block must have a corresponding `tool_result` block in "
            "the next message."
        )
    for position, block in enumerate(blocks):
        if block["type"] == "tool_result" and block["tool_use_id"] not in waiting:
            raise refuse(
                f"messages.{index}.content.{position}: unexpected `tool_use_id` found in `tool_result` blocks: "
                f"{block['tool_use_id']}. Each `tool_result` block must have a corresponding `tool_use` block "
                "in the previous message."
            )
    if len(set(answered)) != len(answered) or len(answered) != len([1 for b in blocks if b["type"] == "tool_result"]):
        raise refuse(
            f"messages.{index}.content: each tool_use must have a single result, before any other content. "
            "Found multiple `tool_result` blocks with one id or after other blocks"
        )


# --- system, thinking, output -------------------------------------------------------------------------------------


def _check_system(system: Any) -> None:
    if system is None or isinstance(system, str):
        return
    if not isinstance(system, list):
        raise refuse("system: Input should be a valid list")
    for index, block in enumerate(system):
        if not isinstance(block, dict) or block.get("type") != "text":
            raise refuse(f"system.{index}.type: Input should be 'text'")
        _only(block, {"type", "text", "cache_control", "citations"}, f"system.{index}.")
        if not str(block.get("text", "")).strip():
            raise refuse("system: text content blocks must be non-empty")


def _check_thinking(body: dict[str, Any]) -> None:
    thinking = body.get("thinking")
    if thinking is None or thinking.get("type") in ("disabled", "adaptive", "between_tools"):
        return
    if thinking.get("type") != "enabled":
        raise refuse(
            f"thinking: Input tag '{thinking.get('type')}' found using 'type' does not match any of the "
            "expected tags: 'adaptive', 'between_tools', 'disabled', 'enabled'"
        )
    budget = thinking.get("budget_tokens")
    if not is_whole(budget):
        raise refuse(
            "thinking.enabled.budget_tokens: Field required"
            if budget is None
            else "thinking.enabled.budget_tokens: Input should be a valid integer"
        )
    if budget < 1024:
        raise refuse("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
    if budget >= body.get("max_tokens", budget + 1):
        raise refuse("`max_tokens` must be greater than `thinking.budget_tokens`.")
    if body.get("temperature", 1) != 1:
        raise refuse("`temperature` may only be set to 1 when thinking is enabled.")
    if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
        raise refuse("Thinking may not be enabled when tool_choice forces tool use.")
    _check_thinking_comes_first(body["messages"])


def _check_thinking_comes_first(messages: list[dict[str, Any]]) -> None:
    last = next((turn for turn in reversed(merged(messages)) if turn[1] == "assistant"), None)
    if last and any(block["type"] == "tool_use" for block in last[2]):
        first = last[2][0]["type"]
        if first not in ("thinking", "redacted_thinking"):
            raise refuse(
                f"messages.{last[0]}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
                f"`{first}`. When `thinking` is enabled, a final `assistant` message must start with a "
                "thinking block."
            )


def _check_output(config: Any) -> None:
    if config is None:
        return
    _only(config, {"effort", "format"}, "output_config.")
    if config.get("effort", "high") not in (None, "low", "medium", "high", "xhigh", "max"):
        raise refuse("output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'")
    wanted = config.get("format")
    if wanted is None:
        return
    _only(wanted, {"type", "schema"}, "output_config.format.")
    if wanted.get("type") != "json_schema" or not isinstance(wanted.get("schema"), dict):
        raise refuse(
            "output_config.format.type: Input should be 'json_schema'"
            if wanted.get("type") != "json_schema"
            else "output_config.format.schema: Field required"
        )
    check_schema(wanted["schema"])


def check_schema(schema: Any) -> None:
    """Structured output takes a part of JSON schema: closed objects, no bounds on numbers, strings or arrays."""
    if not isinstance(schema, dict):
        return
    kind = schema.get("type")
    if kind == "object" and schema.get("additionalProperties") is not False:
        raise refuse(
            "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false"
        )
    bounds = {
        "integer": {"minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"},
        "string": {"minLength", "maxLength"},
        "array": {"maxItems", "uniqueItems"},
        "object": {"minProperties", "maxProperties"},
    }
    used = sorted(bounds.get("integer" if kind == "number" else str(kind), set()) & set(schema))
    if used:
        raise refuse(f"output_config.format.schema: For '{kind}' type, properties {', '.join(used)} are not supported")
    inner = [
        *schema.get("properties", {}).values(),
        *schema.get("$defs", {}).values(),
        *schema.get("anyOf", []),
        schema.get("items"),
    ]
    for part in inner:
        check_schema(part)
