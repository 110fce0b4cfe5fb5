"""OpenAI's Responses dialect at the door: a body into an `Asked`.

Checked by tables, as ``/v1/chat/completions`` is (``docs/adr/0005-tables-on-hot-doors.md``). No provider is spoken to
in this dialect, so there is nobody to pass an unknown field on to: it is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.response import Asked, Item
from flaskllm.errors import invalid, refuse
from flaskllm.wire.checks import given_of
from flaskllm.wire.response_checks import LONGEST_ID, NESTED, faults_in

SAME = ("prompt_cache_key", "safety_identifier", "service_tier", "temperature", "top_p", "user")
"""Those that a chat has under the same name."""


def read_response(body: dict[str, Any]) -> Asked:
    """A ``/v1/responses`` body.

    Raises `InvalidRequest` with a detail for each field at fault. A field that is null counts as absent.
    """
    given = given_of(body)
    refuse(faults_in(given))
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


# -- queries -----------------------------------------------------------------------------------------------------------

MOST_LISTED, USUALLY_LISTED = 100, 20


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
