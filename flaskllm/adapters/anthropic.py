"""Anthropic's Messages API, over our own transport."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from flaskllm.adapters.answers import completion, head_of, whole_choice
from flaskllm.adapters.anthropic_answers import FINISH, AnthropicDecoder, message_of, usage_of
from flaskllm.adapters.base import (
    COMMON_CONNECTION,
    Field,
    Mapped,
    ProviderAdapter,
    Rule,
    parse_object,
    versioned,
)
from flaskllm.adapters.messages import (
    NOTHING_SAID,
    Turn,
    as_list,
    calls_of,
    data_of,
    is_system,
    one_of,
    parts_of,
    schema_of,
    signed_thoughts,
    spoken,
    tools_of,
    turns_of,
    wants_object,
)
from flaskllm.adapters.schemas import closed
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest, ChatResult
from flaskllm.domain.usage import Usage, count
from flaskllm.errors import ProviderError, invalid

VERSION = "2026-10-21"
SAMPLING_VERSION = "2023-06-01"
SAMPLING = ("temperature", "top_p", "top_k")
"""The current version of the API knows none of these; they go out under the old one."""
DEFAULT_CAP = 4096
BUDGETS = {"low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 65536}
LEAST_BUDGET = 1024
EFFORTS: dict[str, str | None] = {
    "none": None,
    "minimal": None,
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}
JSON_PLEASE = "Answer with a single JSON object and nothing else."
NOT_COUNTED = frozenset({
    "container", "diagnostics", "inference_geo", "max_tokens", "metadata", "service_tier", "stop_sequences", "stream",
    "temperature", "top_k", "top_p", "user_profile_id", "workspace_id",
})  # fmt: skip
"""What the endpoint that counts does not take: none of it makes a prompt longer."""
_NOT_IN_ID = re.compile(r"[^a-zA-Z0-9_-]")


class AnthropicAdapter(ProviderAdapter):
    """Claude, at Anthropic's own address or a proxy of the same wire."""

    kind = "anthropic"
    TITLE = "Anthropic"
    wire = "anthropic"
    KEY_FAULT = re.compile(r"your credit balance is too low", re.IGNORECASE)
    DEFAULT_BASE = "https://api.anthropic.com"
    CONNECTION: ClassVar[tuple[Field, ...]] = (
        *COMMON_CONNECTION,
        Field(
            "api_version", help=f"Pins anthropic-version; empty means {VERSION}, or {SAMPLING_VERSION} where needed."
        ),
    )
    PARAMS: ClassVar[Mapping[str, str | Rule | None]] = {
        "max_tokens": "max_tokens",
        "max_completion_tokens": "max_tokens",
        "temperature": Rule("temperature", clamp=(0, 1)),
        "top_p": "top_p",
        "stop": Rule("stop_sequences", convert=as_list),
        "user": Rule("metadata", convert=lambda user: {"user_id": user}),
        "safety_identifier": Rule("metadata", convert=lambda user: {"user_id": user}),
        "service_tier": Rule(
            "service_tier", convert=one_of("service_tier", {"auto": "auto", "default": "standard_only"})
        ),
        "tools": "tools",
        "tool_choice": "tool_choice",
        "parallel_tool_calls": "parallel_tool_calls",
        "response_format": "response_format",
        "reasoning_effort": Rule("reasoning_effort", convert=one_of("reasoning_effort", EFFORTS)),
        "top_k": "top_k",
        "thinking": "thinking",
        "output_config": "output_config",
        "cache_control": "cache_control",
        "container": "container",
        "inference_geo": "inference_geo",
        "speed": "speed",
    }
    """The last seven are Anthropic's own, for callers who know whom they speak to."""

    def url(self, candidate: Candidate, *, stream: bool) -> str:
        return f"{versioned(candidate.endpoint.base_url or self.DEFAULT_BASE)}/messages"

    def headers(self, candidate: Candidate, request: ChatRequest) -> dict[str, str]:
        given = {*request.params, *request.extras}
        unwanted = {name for name, rule in candidate.model.params.items() if rule in ("drop", "refuse")}
        samples = not given.isdisjoint({*SAMPLING} - unwanted)
        version = self.provider.connection.get("api_version") or (SAMPLING_VERSION if samples else VERSION)
        found = {"anthropic-version": str(version)}
        if request.native and request.native.wire == self.wire:
            found |= request.native.headers
        return {**found, "x-api-key": candidate.key.value} if candidate.key else found

    # -- asking ----------------------------------------------------------------------------------------------------

    def encode(self, request: ChatRequest, candidate: Candidate, mapped: Mapped) -> dict[str, Any]:
        if request.native and request.native.body is not None and self.goes_as_it_came(request):
            return _as_it_came(request.native.body, request, candidate, mapped)
        params = dict(mapped.params)
        wanted, effort = params.pop("response_format", None), params.pop("reasoning_effort", None)
        body: dict[str, Any] = {"model": candidate.model.backend_model}
        body["max_tokens"] = request.output_cap or candidate.model.max_tokens or DEFAULT_CAP
        body["messages"] = _turns(request)
        if system := _system(request, wanted):
            body["system"] = system
        body |= {name: value for name, value in params.items() if name not in _HANDLED}
        body |= _tools(params)
        if (schema := schema_of(wanted)) is not None:
            body["output_config"] = {
                **body.get("output_config", {}),
                "format": {"type": "json_schema", "schema": closed(schema)},
            }
        if effort and "thinking" not in body:
            _think(body, effort, candidate, mapped)
        if request.stream:
            body["stream"] = True
        return body

    # -- being answered --------------------------------------------------------------------------------------------

    def decode(self, body: dict[str, Any], raw: bytes, request: ChatRequest, candidate: Candidate) -> ChatResult:
        blocks = body.get("content")
        if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
            raise ProviderError("The provider's answer holds no content.", may_be_billed=True)
        native = str(body.get("stop_reason"))
        choice = whole_choice(0, message_of(blocks, body), FINISH.get(native, "stop"), native=native)
        head = head_of(body.get("id"), body.get("model"), streamed=False)
        result = completion(head, [choice], self.usage_told(body))
        return replace(result, own=raw) if self.goes_as_it_came(request) else result

    def usage_told(self, body: Mapping[str, Any]) -> Usage | None:
        return usage_of(body.get("usage"))

    def decoder(self, request: ChatRequest, candidate: Candidate) -> AnthropicDecoder:
        return AnthropicDecoder(self._secrets(candidate), keeps_events=self.goes_as_it_came(request))

    def count_tokens(self, request: ChatRequest, candidate: Candidate, deadline: float) -> int | None:
        body = self.encode(request, candidate, self.map_params(request, candidate))
        asked = {name: value for name, value in body.items() if name not in NOT_COUNTED}
        url = f"{self.url(candidate, stream=False)}/count_tokens"
        response = self._send(url, asked, request, candidate, deadline).response(deadline)
        self.check(response, candidate)
        found, _ = parse_object(response.read())
        counted = count(found.get("input_tokens"))
        if counted is None:
            raise ProviderError("The provider's count of tokens is none.", may_be_billed=False)
        return counted


def _as_it_came(given: Mapping[str, Any], request: ChatRequest, candidate: Candidate, mapped: Mapped) -> dict[str, Any]:
    """The caller's own body: only what the model's row drops, its name, and who wants a stream are ours to say."""
    body = {name: value for name, value in given.items() if name not in mapped.dropped}
    body["model"] = candidate.model.backend_model
    if request.stream:
        body["stream"] = True
    return body


_HANDLED = frozenset({"max_tokens", "tools", "tool_choice", "parallel_tool_calls"})


def _think(body: dict[str, Any], effort: str, candidate: Candidate, mapped: Mapped) -> None:
    """Models that lost sampling lost the fixed budget with it: they think as they see fit, by effort.

    With a budget, the service insists that a last turn of calls begins with its thinking; where the client has not
    brought it back, the call is made without.
    """
    if "temperature" in candidate.model.params:
        body["thinking"] = {"type": "adaptive"}
        body["output_config"] = {**body.get("output_config", {}), "effort": effort}
        return
    budget = min(BUDGETS[effort], body["max_tokens"] - 1)
    if budget < LEAST_BUDGET or _lacks_thinking(body["messages"]):
        mapped.dropped.append("reasoning_effort")
    else:
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _lacks_thinking(turns: list[dict[str, Any]]) -> bool:
    last = next((turn["content"] for turn in reversed(turns) if turn["role"] == "assistant"), "")
    kinds = [block["type"] for block in last] if isinstance(last, list) else []
    return "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking")


def _system(request: ChatRequest, wanted: Any) -> str | list[dict[str, Any]]:
    """One text, or blocks where a caller marks what is to be cached."""
    blocks = []
    for index, message in enumerate(request.messages):
        if is_system(message):
            blocks += [_block(part, at) for at, part in parts_of(message, f"messages[{index}]")]
    if wants_object(wanted):
        blocks.append({"type": "text", "text": JSON_PLEASE})
    if any("cache_control" in block for block in blocks):
        return blocks
    return "\n\n".join(block["text"] for block in blocks)


def _turns(request: ChatRequest) -> list[dict[str, Any]]:
    turns = turns_of([_turn(message, where) for where, message in spoken(request.messages)])
    if not turns or turns[0].role != "user":
        turns.insert(0, Turn("user", [{"type": "text", "text": NOTHING_SAID}]))
    if turns[-1].role == "assistant" and turns[-1].blocks[-1]["type"] == "text":
        last = turns[-1].blocks[-1]
        last["text"] = last["text"].rstrip()
    return [{"role": turn.role, "content": _content(turn)} for turn in turns]


def _content(turn: Turn) -> str | list[dict[str, Any]]:
    blocks = turn.content
    return blocks[0]["text"] if len(blocks) == 1 and blocks[0].keys() == {"type", "text"} else blocks


def _turn(message: Mapping[str, Any], where: str) -> Turn:
    blocks = [_block(part, at) for at, part in parts_of(message, where)]
    if message["role"] == "tool":
        return Turn("user", results=[_result(message, blocks)])
    if message["role"] == "user":
        return Turn("user", blocks)
    thoughts = signed_thoughts(message, where)
    calls = [
        _marked({"type": "tool_use", "id": _id(call["id"]), "name": call["function"]["name"], "input": arguments}, call)
        for call, arguments in calls_of(message, where)
    ]
    return Turn("assistant", [*thoughts, *blocks, *calls])


def _result(message: Mapping[str, Any], blocks: list[dict[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": _id(message["tool_call_id"])}
    if blocks:
        result["content"] = _content(Turn("user", blocks))
    if message.get("is_error"):
        result["is_error"] = True
    return _marked(result, message)


def _id(call_id: str) -> str:
    """Other vendors' ids may hold what Anthropic's may not; the same id always becomes the same."""
    return _NOT_IN_ID.sub("_", call_id) or "_"


def _marked(block: dict[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    return {**block, "cache_control": source["cache_control"]} if source.get("cache_control") else block


def _block(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind in ("text", "refusal"):
        return _marked({"type": "text", "text": part[kind]}, part)
    if kind == "image_url":
        return _marked(
            {"type": "image", "source": _source(part["image_url"].get("url"), f"{where}.image_url.url")}, part
        )
    if kind == "file":
        return _marked(_document(part["file"], f"{where}.file"), part)
    raise invalid(f"{where}.type", f"{kind} is not known to Anthropic")


def _source(url: Any, where: str) -> dict[str, Any]:
    data = data_of(url, where)
    return {"type": "base64", "media_type": data[0], "data": data[1]} if data else {"type": "url", "url": url}


def _document(file: Mapping[str, Any], where: str) -> dict[str, Any]:
    if file.get("file_url"):
        source: dict[str, Any] = {"type": "url", "url": file["file_url"]}
    elif isinstance(given := file.get("file_data"), str):
        url = given if given.startswith("data:") else f"data:application/pdf;base64,{given}"
        source = _source(url, f"{where}.file_data")
    else:
        raise invalid(where, "must hold file_data or file_url for Anthropic")
    title = {"title": file["filename"]} if file.get("filename") else {}
    return {"type": "document", "source": source, **title}


def _tools(params: Mapping[str, Any]) -> dict[str, Any]:
    tools = tools_of(params)
    single = params.get("parallel_tool_calls") is False
    made: dict[str, Any] = {"tools": [_tool(function) for _, function in tools.functions]} if tools.functions else {}
    choice: dict[str, Any] = {"type": tools.mode}
    if tools.mode == "tool":
        choice["name"] = tools.name
    if single and tools.mode != "none":
        choice["disable_parallel_tool_use"] = True
    if len(choice) > 1 or tools.mode not in ("auto", "none") or (tools.mode == "none" and tools.functions):
        made["tool_choice"] = choice
    return made


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    strict = bool(function.get("strict"))
    schema = {"type": "object", **(function.get("parameters") or {"properties": {}})}
    tool: dict[str, Any] = {"name": function["name"], "input_schema": closed(schema) if strict else schema}
    if function.get("description"):
        tool["description"] = function["description"]
    return _marked({**tool, "strict": True} if strict else tool, function)
