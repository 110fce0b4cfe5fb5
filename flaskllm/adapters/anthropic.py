"""Anthropic's Messages API, over our own transport."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from flaskllm.adapters.answers import Frames, completion, head_of, tool_call, whole_choice
from flaskllm.adapters.base import (
    COMMON_CONNECTION,
    Field,
    Mapped,
    ProviderAdapter,
    Rule,
    broken_off,
    parse_object,
    versioned,
)
from flaskllm.adapters.errors import failure_in_body
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
    spoken,
    tools_of,
    turns_of,
    wants_object,
)
from flaskllm.adapters.schemas import closed
from flaskllm.adapters.sse import Event
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest, ChatResult, Chunk
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
FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
JSON_PLEASE = "Answer with a single JSON object and nothing else."
_NOT_IN_ID = re.compile(r"[^a-zA-Z0-9_-]")


class AnthropicAdapter(ProviderAdapter):
    """Claude, at Anthropic's own address or a proxy of the same wire."""

    kind = "anthropic"
    wire = "anthropic"
    KEY_FAULT = re.compile(r"credit balance is too low", re.IGNORECASE)
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
        return {**found, "x-api-key": candidate.key.value} if candidate.key else found

    # -- asking ----------------------------------------------------------------------------------------------------

    def encode(self, request: ChatRequest, candidate: Candidate, mapped: Mapped) -> dict[str, Any]:
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
        choice = whole_choice(0, _message(blocks, body), FINISH.get(native, "stop"), native=native)
        return completion(
            head_of(body.get("id"), body.get("model"), streamed=False), [choice], usage_of(body.get("usage"))
        )

    def decoder(self, request: ChatRequest, candidate: Candidate) -> AnthropicDecoder:
        return AnthropicDecoder(self._secrets(candidate))


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
    thoughts = [_without_index(block) for block in message.get("thinking_blocks") or ()]
    calls = [
        _marked({"type": "tool_use", "id": _id(call["id"]), "name": call["function"]["name"], "input": arguments}, call)
        for call, arguments in calls_of(message, where)
    ]
    return Turn("assistant", [*thoughts, *blocks, *calls])


def _without_index(block: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in block.items() if name != "index"}


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


def _message(blocks: list[dict[str, Any]], body: Mapping[str, Any]) -> dict[str, Any]:
    texts = [str(block.get("text") or "") for block in blocks if block.get("type") == "text"]
    calls = [_call(block) for block in blocks if block.get("type") == "tool_use"]
    thoughts = [block for block in blocks if block.get("type") in ("thinking", "redacted_thinking")]
    message: dict[str, Any] = {"content": "".join(texts) if texts or not calls else None}
    if calls:
        message["tool_calls"] = calls
    if body.get("stop_reason") == "refusal":
        message["refusal"] = _explanation(body.get("stop_details"))
    if thoughts:
        message["reasoning_content"] = "".join(block.get("thinking") or "" for block in thoughts)
        message["thinking_blocks"] = thoughts
    return message


def _explanation(details: Any) -> str | None:
    return details.get("explanation") if isinstance(details, dict) else None


def _call(block: Mapping[str, Any]) -> dict[str, Any]:
    return tool_call(str(block.get("id")), str(block.get("name")), json.dumps(block.get("input") or {}))


def usage_of(raw: Any) -> Usage | None:
    """Anthropic's counts are apart already, but for the thinking inside the output and the split of what was cached."""
    if not isinstance(raw, dict):
        return None
    taken, given = count(raw.get("input_tokens")), count(raw.get("output_tokens"))
    if taken is None or given is None:
        return None
    written = count(raw.get("cache_creation_input_tokens")) or 0
    long = min(_inside(raw, "cache_creation", "ephemeral_1h_input_tokens"), written)
    thought = min(_inside(raw, "output_tokens_details", "thinking_tokens"), given)
    return Usage(
        input=taken,
        cache_read=count(raw.get("cache_read_input_tokens")) or 0,
        cache_write_5m=written - long,
        cache_write_1h=long,
        output=given - thought,
        reasoning=thought,
    )


def _inside(raw: Mapping[str, Any], group: str, name: str) -> int:
    details = raw.get(group)
    return (count(details.get(name)) or 0) if isinstance(details, dict) else 0


class AnthropicDecoder:
    """Named events as OpenAI's frames; block indexes become the indexes of calls."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self._secrets = secrets
        self._frames = Frames(None, "")
        self._blocks: dict[Any, dict[str, Any]] = {}
        self._calls = self._thoughts = 0
        self._usage: dict[str, Any] = {}
        self._native: str | None = None
        self.ended = False

    def decode(self, event: Event) -> list[Chunk]:
        body, _ = parse_object(event.data)
        if failure := failure_in_body(body, self._secrets):
            raise failure
        handler = self._HANDLERS.get(str(body.get("type")))
        try:
            return handler(self, body) if handler else []
        except (AttributeError, KeyError, TypeError):
            raise ProviderError(
                "The provider's stream holds an event that makes no sense.", may_be_billed=True
            ) from None

    def at_end(self) -> list[Chunk]:
        raise broken_off()

    def _message_start(self, body: dict[str, Any]) -> list[Chunk]:
        message = body["message"]
        self._frames = Frames(message.get("id"), message.get("model"))
        self._note_usage(message.get("usage"))
        return [self._frames.role()]

    def _block_start(self, body: dict[str, Any]) -> list[Chunk]:
        block = {**body["content_block"], "said": ""}
        self._blocks[body["index"]] = block
        if block["type"] == "tool_use":
            block["place"] = self._calls
            self._calls += 1
            call = tool_call(str(block["id"]), str(block["name"]), "")
            return [self._frames.delta(tool_calls=[{"index": block["place"], **call}])]
        if block["type"] == "text" and block.get("text"):
            return [self._frames.delta(content=block["text"])]
        return []

    def _block_delta(self, body: dict[str, Any]) -> list[Chunk]:
        block, delta = self._blocks[body["index"]], body["delta"]
        if text := delta.get("text"):
            return [self._frames.delta(content=text)]
        if part := delta.get("partial_json"):
            block["said"] += part
            return [self._arguments(block, part)]
        if thought := delta.get("thinking"):
            block["thinking"] = (block.get("thinking") or "") + thought
            return [self._frames.delta(reasoning_content=thought)]
        if signature := delta.get("signature"):
            block["signature"] = (block.get("signature") or "") + signature
        return []

    def _arguments(self, block: Mapping[str, Any], text: str) -> Chunk:
        return self._frames.delta(tool_calls=[{"index": block["place"], "function": {"arguments": text}}])

    def _block_stop(self, body: dict[str, Any]) -> list[Chunk]:
        """A call without arguments has no fragments; a thought is handed on whole, with the signature it needs to come
        back."""
        block = self._blocks.pop(body["index"])
        if block["type"] == "tool_use" and not block["said"]:
            return [self._arguments(block, json.dumps(block.get("input") or {}))]
        if block["type"] not in ("thinking", "redacted_thinking"):
            return []
        thought = {"index": self._thoughts, **{name: value for name, value in block.items() if name != "said"}}
        self._thoughts += 1
        return [self._frames.delta(thinking_blocks=[thought])]

    def _message_delta(self, body: dict[str, Any]) -> list[Chunk]:
        self._note_usage(body.get("usage"))
        delta = body.get("delta") or {}
        self._native = delta.get("stop_reason") or self._native
        if self._native == "refusal" and (why := _explanation(delta.get("stop_details"))):
            return [self._frames.delta(refusal=why)]
        return []

    def _note_usage(self, raw: Any) -> None:
        """Counts are running totals: what comes later replaces what came before, and null replaces nothing."""
        if isinstance(raw, dict):
            self._usage |= {name: value for name, value in raw.items() if value is not None}

    def _message_stop(self, body: dict[str, Any]) -> list[Chunk]:
        self.ended = True
        chunks = [self._frames.end(0, FINISH.get(self._native or "", "stop"), self._native)]
        usage = usage_of(self._usage)
        return [*chunks, self._frames.usage(usage)] if usage else chunks

    _HANDLERS: ClassVar = {
        "message_start": _message_start,
        "content_block_start": _block_start,
        "content_block_delta": _block_delta,
        "content_block_stop": _block_stop,
        "message_delta": _message_delta,
        "message_stop": _message_stop,
    }
