"""What OpenAI's chat endpoint refuses, with its own words. Order of the checks: fields, messages, tools, numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from .core import Refusal, decoded, sniffed
from .vendor import is_name, is_number, is_whole

CHAT_FIELDS = frozenset({
    "messages", "model", "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
    "max_completion_tokens", "max_tokens", "metadata", "modalities", "moderation", "n", "parallel_tool_calls",
    "prediction", "presence_penalty", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    "reasoning_effort", "response_format", "safety_identifier", "seed", "service_tier", "stop", "store", "stream",
    "stream_options", "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity",
    "web_search_options",
})  # fmt: skip
MESSAGE_FIELDS = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio", "function_call", "annotations"}
)
PARTS = {"text", "image_url", "input_audio", "file", "refusal"}
ROLES = ("system", "assistant", "user", "function", "tool", "developer")
IMAGE_KINDS = ("image/png", "image/jpeg", "image/gif", "image/webp")
RANGES = {"temperature": (0, 2), "top_p": (0, 1), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2)}
WHOLE_RANGES = {"n": (1, 128), "max_tokens": (1, None), "max_completion_tokens": (1, None), "top_logprobs": (0, 20)}
NOT_FOR_REASONING = (
    "max_tokens",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "stop",
)


def is_reasoning(model: str) -> bool:
    """o-series and gpt-5, but not the chat variants of gpt-5."""
    return re.match(r"(o[134](-|$)|gpt-5)", model) is not None and "chat" not in model


def refuse(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    return Refusal(400, message, kind="invalid_request_error", param=param, code=code)


def wrong_type(param: str, expected: str, value: Any) -> Refusal:
    names = {
        str: "a string",
        int: "an integer",
        float: "a decimal",
        bool: "a boolean",
        list: "an array",
        dict: "an object",
        type(None): "null",
    }
    got = names.get(type(value), "something else")
    return refuse(f"Invalid type for '{param}': expected {expected}, but got {got} instead.", param, "invalid_type")


def missing(param: str) -> Refusal:
    return refuse(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def empty_array(param: str) -> Refusal:
    return refuse(
        f"Invalid '{param}': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        param,
        "empty_array",
    )


def check_chat(body: dict[str, Any], *, fields: frozenset[str] = CHAT_FIELDS) -> None:
    """Everything but who asks and for which model."""
    unknown = [name for name in body if name not in fields]
    if unknown:
        raise refuse(
            f"Unrecognized request argument supplied: {unknown[0]}"
            if len(unknown) == 1
            else f"Unrecognized request arguments supplied: {', '.join(unknown)}"
        )
    check_messages(body)
    check_tools(body)
    check_numbers(body)
    check_stream(body)
    check_format(body)
    check_model_limits(body, str(body.get("model", "")))


def check_messages(body: dict[str, Any]) -> None:
    messages = body.get("messages")
    if messages is None:
        raise missing("messages")
    if not isinstance(messages, list):
        raise wrong_type("messages", "an array of objects", messages)
    if not messages:
        raise empty_array("messages")
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")
    _check_call_order(messages)


def _check_message(message: Any, at: str) -> None:
    if not isinstance(message, dict):
        raise wrong_type(at, "an object", message)
    unknown = [name for name in message if name not in MESSAGE_FIELDS]
    if unknown:
        raise refuse(f"Unknown parameter: '{at}.{unknown[0]}'.", f"{at}.{unknown[0]}", "unknown_parameter")
    role = message.get("role")
    if "role" not in message:
        raise missing(f"{at}.role")
    if role not in ROLES:
        raise refuse(
            f"Invalid value: '{role}'. Supported values are: 'system', 'assistant', 'user', 'function', "
            "'tool', and 'developer'.",
            f"{at}.role",
            "invalid_value",
        )
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise missing(f"{at}.tool_call_id")
    if role != "assistant" and "tool_calls" in message:
        raise refuse(f"Unknown parameter: '{at}.tool_calls'.", f"{at}.tool_calls", "unknown_parameter")
    _check_calls(message, at)
    _check_content(message, at)


def _check_calls(message: dict[str, Any], at: str) -> None:
    calls = message.get("tool_calls")
    if calls is None:
        return
    if not isinstance(calls, list):
        raise wrong_type(f"{at}.tool_calls", "an array of objects", calls)
    if not calls:
        raise empty_array(f"{at}.tool_calls")
    for index, call in enumerate(calls):
        here = f"{at}.tool_calls[{index}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or call.get("type") != "function":
            raise missing(f"{here}.type")
        if not isinstance(call.get("id"), str) or not call["id"]:
            raise missing(f"{here}.id")
        if len(call["id"]) > 40:
            raise refuse(
                f"Invalid '{here}.id': string too long. Expected a string with maximum length 40, but got a "
                f"string with length {len(call['id'])} instead.",
                f"{here}.id",
                "string_above_max_length",
            )
        if not isinstance(function.get("arguments"), str):
            raise wrong_type(f"{here}.function.arguments", "a string", function.get("arguments"))
        _check_name(function.get("name"), f"{here}.function.name")


def _check_name(name: Any, at: str) -> None:
    if not is_name(name):
        raise refuse(
            f"Invalid '{at}': string does not match pattern. Expected a string that matches the pattern "
            "'^[a-zA-Z0-9_-]+$'.",
            at,
            "invalid_value",
        )


def _check_content(message: dict[str, Any], at: str) -> None:
    content, role = message.get("content"), message["role"]
    if content is None:
        if role == "assistant" and (message.get("tool_calls") or message.get("function_call")):
            return
        raise refuse("Invalid value for 'content': expected a string, got null.", at.replace("[", ".[") + ".content")
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise wrong_type(f"{at}.content", "one of a string or array of objects", content)
    if not content:
        raise empty_array(f"{at}.content")
    for index, part in enumerate(content):
        _check_part(part, role, at, f"{at}.content[{index}]")


def _check_part(part: Any, role: str, at: str, here: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in PARTS:
        raise refuse(
            f"Invalid value: '{kind}'. Supported values are: 'text', 'image_url', 'input_audio', 'refusal', "
            "'audio', and 'file'.",
            f"{here}.type",
            "invalid_value",
        )
    if not set(part) <= {"type", kind, "prompt_cache_breakpoint"}:
        extra = min(set(part) - {"type", kind})
        raise refuse(f"Unknown parameter: '{here}.{extra}'.", f"{here}.{extra}", "unknown_parameter")
    if kind == "text" and not isinstance(part.get("text"), str):
        raise wrong_type(f"{here}.text", "a string", part.get("text"))
    if kind == "image_url":
        if role != "user":
            raise refuse(
                f"Invalid '{at}'. Image URLs are only allowed for messages with role 'user', but this message "
                f"with role '{role}' contains an image URL.",
                at,
                "invalid_value",
            )
        check_image(part.get("image_url"), f"{here}.image_url")


def check_image(image: Any, at: str) -> None:
    if not isinstance(image, dict):
        raise wrong_type(at, "an object", image)
    url = image.get("url")
    if not isinstance(url, str):
        raise missing(f"{at}.url")
    if image.get("detail", "auto") not in ("auto", "low", "high", "original"):
        raise refuse(
            f"Invalid value: '{image['detail']}'. Supported values are: 'low', 'high', 'original', and 'auto'.",
            f"{at}.detail",
            "invalid_value",
        )
    if not url.startswith("data:"):
        if urlsplit(url).scheme not in ("http", "https"):
            raise refuse(
                f"Invalid '{at}.url'. Expected a valid URL, but got a value with an invalid format.",
                f"{at}.url",
                "invalid_image_url",
            )
        return
    kind, _, data = url.removeprefix("data:").partition(";base64,")
    found = decoded(data)
    if found is None:
        raise refuse("Invalid base64 image_url.", f"{at}.url", "invalid_base64")
    if kind not in IMAGE_KINDS or sniffed(found) not in IMAGE_KINDS:
        raise refuse(
            "You uploaded an unsupported image. Please make sure your image has of one the following formats: "
            "['png', 'jpeg', 'gif', 'webp'].",
            at,
            "invalid_image_format",
        )


def _check_call_order(messages: list[dict[str, Any]]) -> None:
    waiting: list[str] = []
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                raise refuse(
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message "
                    "with 'tool_calls'.",
                    f"messages.[{index}].role",
                )
            waiting.remove(message["tool_call_id"])
            continue
        _none_waits(waiting, index)
        waiting = [call["id"] for call in message.get("tool_calls") or []]
    _none_waits(waiting, len(messages))


def _none_waits(waiting: list[str], index: int) -> None:
    if waiting:
        raise refuse(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            "'tool_call_id'. The following tool_call_ids did not have response messages: "
            f"{', '.join(waiting)}",
            f"messages.[{index}].role",
        )


def check_tools(body: dict[str, Any]) -> None:
    tools = body.get("tools")
    if tools is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if name in body and body[name] != "none":
                raise refuse(f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified.", name)
        return
    if not isinstance(tools, list):
        raise wrong_type("tools", "an array of objects", tools)
    if not tools:
        raise empty_array("tools")
    if len(tools) > 128:
        raise refuse(
            f"Invalid 'tools': array too long. Expected an array with maximum length 128, but got an array "
            f"with length {len(tools)} instead.",
            "tools",
            "array_above_max_length",
        )
    for index, tool in enumerate(tools):
        _check_tool(tool, f"tools[{index}]")
    _check_choice(body.get("tool_choice", "auto"), [tool["function"]["name"] for tool in tools])


def _check_tool(tool: Any, at: str) -> None:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise missing(f"{at}.type")
    if not isinstance(function, dict):
        raise missing(f"{at}.function")
    unknown = sorted(set(function) - {"name", "description", "parameters", "strict"})
    if unknown:
        raise refuse(
            f"Unknown parameter: '{at}.function.{unknown[0]}'.", f"{at}.function.{unknown[0]}", "unknown_parameter"
        )
    _check_name(function.get("name"), f"{at}.function.name")
    parameters = function.get("parameters")
    if parameters is None:
        return
    problem = schema_problem(parameters, strict=bool(function.get("strict")))
    if problem:
        raise refuse(
            f"Invalid schema for function '{function['name']}': {problem}",
            f"{at}.function.parameters",
            "invalid_function_parameters",
        )


def _check_choice(choice: Any, names: list[str]) -> None:
    if choice in ("auto", "none", "required"):
        return
    if isinstance(choice, str):
        raise refuse(
            f"Invalid value: '{choice}'. Supported values are: 'none', 'auto', and 'required'.",
            "tool_choice",
            "invalid_value",
        )
    name = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or choice.get("type") != "function" or name is None:
        raise missing("tool_choice.function")
    if name not in names:
        raise refuse(f"Tool choice '{name}' not found in 'tools' parameter.", "tool_choice")


def schema_problem(schema: Any, *, strict: bool, path: tuple[str, ...] = ()) -> str | None:
    """What is wrong with a schema, in OpenAI's words; None when it passes."""
    if not isinstance(schema, dict):
        return f"In context={path}, schema must be a JSON object."
    if not path and "$ref" not in schema and schema.get("type") != "object":
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{schema.get('type')}\"'."
    if schema.get("type") == "array" and "items" not in schema:
        return f"In context={path}, array schema missing items."
    properties = schema.get("properties", {})
    if strict and schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            return f"In context={path}, 'additionalProperties' is required to be supplied and to be false."
        absent = [name for name in properties if name not in schema.get("required", [])]
        if absent:
            return (
                f"In context={path}, 'required' is required to be supplied and to be an array including every key "
                f"in properties. Missing '{absent[0]}'."
            )
    inner = [((*path, "properties", name), part) for name, part in properties.items()]
    inner += [((*path, "items"), schema["items"])] if "items" in schema else []
    inner += [((*path, "anyOf", str(index)), part) for index, part in enumerate(schema.get("anyOf", []))]
    inner += [((*path, "$defs", name), part) for name, part in schema.get("$defs", {}).items()]
    return next(filter(None, (schema_problem(part, strict=strict, path=where) for where, part in inner)), None)


def check_numbers(body: dict[str, Any]) -> None:
    for name, (low, high) in RANGES.items():
        _check_range(name, body.get(name), (low, high), "a decimal", is_number)
    for name, (least, most) in WHOLE_RANGES.items():
        _check_range(name, body.get(name), (least, most), "an integer", is_whole)
    stop = body.get("stop")
    if isinstance(stop, list) and len(stop) > 4:
        raise refuse(
            f"Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with "
            f"length {len(stop)} instead.",
            "stop",
            "array_above_max_length",
        )
    if stop is not None and not isinstance(stop, (str, list)):
        raise wrong_type("stop", "one of a string or array of strings", stop)
    if "top_logprobs" in body and not body.get("logprobs"):
        raise refuse("The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.", "top_logprobs")
    if "metadata" in body and not body.get("store"):
        raise refuse("The 'metadata' parameter is only allowed when 'store' is enabled.", "metadata")


def _check_range(
    name: str, value: Any, bounds: tuple[float, float | None], said: str, fits: Callable[[Any], bool]
) -> None:
    if value is None:
        return
    if not fits(value):
        raise wrong_type(name, said, value)
    (low, high), kind = bounds, said.rsplit(maxsplit=1)[-1]
    if value < low:
        raise refuse(
            f"Invalid '{name}': {kind} below minimum value. Expected a value >= {low}, but got {value} instead.",
            name,
            f"{kind}_below_min_value",
        )
    if high is not None and value > high:
        raise refuse(
            f"Invalid '{name}': {kind} above maximum value. Expected a value <= {high}, but got {value} instead.",
            name,
            f"{kind}_above_max_value",
        )


def check_stream(body: dict[str, Any]) -> None:
    if not isinstance(body.get("stream", False), (bool, type(None))):
        raise wrong_type("stream", "a boolean", body["stream"])
    options = body.get("stream_options")
    if options is None:
        return
    if not body.get("stream"):
        raise refuse("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")
    unknown = sorted(set(options) - {"include_usage", "include_obfuscation"})
    if unknown:
        raise refuse(
            f"Unknown parameter: 'stream_options.{unknown[0]}'.", f"stream_options.{unknown[0]}", "unknown_parameter"
        )


def check_format(body: dict[str, Any]) -> None:
    wanted = body.get("response_format")
    if wanted is None:
        return
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise refuse(
            f"Invalid value: '{kind}'. Supported values are: 'json_object', 'json_schema', and 'text'.",
            "response_format.type",
            "invalid_value",
        )
    if kind == "json_object" and "json" not in str([one.get("content") for one in body["messages"]]).lower():
        raise refuse(
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
            "messages",
        )
    if kind == "json_schema":
        _check_json_schema(wanted.get("json_schema"))


def _check_json_schema(wanted: Any) -> None:
    at = "response_format.json_schema"
    if not isinstance(wanted, dict):
        raise missing(at)
    if "name" not in wanted:
        raise missing(f"{at}.name")
    unknown = sorted(set(wanted) - {"name", "description", "schema", "strict"})
    if unknown:
        raise refuse(f"Unknown parameter: '{at}.{unknown[0]}'.", f"{at}.{unknown[0]}", "unknown_parameter")
    _check_name(wanted["name"], f"{at}.name")
    problem = schema_problem(wanted.get("schema", {}), strict=bool(wanted.get("strict")))
    if problem:
        raise refuse(f"Invalid schema for response_format '{wanted['name']}': {problem}", "response_format")


def check_model_limits(body: dict[str, Any], model: str) -> None:
    """What reasoning models do not take, and what only they take."""
    if not is_reasoning(model):
        if "max_tokens" in body and "max_completion_tokens" in body:
            raise refuse(
                "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
                "max_tokens",
                "invalid_parameter_combination",
            )
        if "reasoning_effort" in body:
            raise refuse("Unrecognized request argument supplied: reasoning_effort")
        return
    for name in NOT_FOR_REASONING:
        if body.get(name) is not None:
            hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
            raise refuse(
                f"Unsupported parameter: '{name}' is not supported with this model.{hint}",
                name,
                "unsupported_parameter",
            )
    if body.get("temperature", 1) not in (1, None):
        raise refuse(
            f"Unsupported value: 'temperature' does not support {body['temperature']} with this model. Only "
            "the default (1) value is supported.",
            "temperature",
            "unsupported_value",
        )
