"""Anthropic's wire: messages, plain and as named events, token counts, models."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from . import anthropic_rules as rules
from .core import IMAGE_TOKENS, Answer, Ask, Frame, Refusal, Usage, count_words, decoded, fragments, split_words
from .transport import Request
from .vendor import UNKNOWN_MODEL, Wire, bearer

STOP = {"stop": "end_turn", "length": "max_tokens", "tool": "tool_use", "filter": "refusal"}
CREATED = "2026-01-01T00:00:00Z"


class AnthropicWire(Wire):
    """Strict Anthropic; a key counts in `x-api-key` and as a bearer token."""

    statuses: ClassVar = {
        400: ("invalid request", "invalid_request_error", None),
        401: ("invalid x-api-key", "authentication_error", None),
        402: ("Your credit balance is too low to access the Anthropic API.", "billing_error", None),
        403: ("Your API key does not have permission to use the specified resource.", "permission_error", None),
        404: ("model: gone", "not_found_error", None),
        408: ("Request timed out", "timeout_error", None),
        413: ("Request exceeds the maximum size", "request_too_large", None),
        422: ("unprocessable request", "invalid_request_error", None),
        429: ("This request would exceed your organization's rate limit.", "rate_limit_error", None),
        500: ("Internal server error", "api_error", None),
        503: ("Service unavailable", "api_error", None),
        504: ("Request timed out", "timeout_error", None),
        529: ("Overloaded", "overloaded_error", None),
    }

    def key(self, request: Request) -> str | None:
        return request.headers.get("x-api-key") or bearer(request)

    # --- reading --------------------------------------------------------------------------------------------------

    def accept(self, request: Request, path: str) -> Ask:
        if not self.keys.good(self.vendor, self.key(request)):
            raise self.typical(401)
        version = request.headers.get("anthropic-version")
        if version is None:
            raise rules.refuse("anthropic-version: header is required")
        if version not in rules.VERSIONS:
            raise rules.refuse(f'anthropic-version: "{version}" is not a valid version')
        if path == "/v1/models" and request.method == "GET":
            return Ask(self.vendor, "models", "")
        if path not in ("/v1/messages", "/v1/messages/count_tokens"):
            raise Refusal(404, "Not found", kind="not_found_error")
        if request.method != "POST":
            raise Refusal(405, "Method Not Allowed", kind="invalid_request_error")
        return self.read(request, version, counting=path.endswith("count_tokens"))

    def read(self, request: Request, version: str, *, counting: bool) -> Ask:
        body = request.json()
        if not isinstance(body, dict):
            raise rules.refuse("The request body is not valid JSON: expected value at line 1 column 1")
        rules.check(body, version, counting=counting)
        if UNKNOWN_MODEL in body["model"]:
            raise Refusal(404, f"model: {body['model']}", kind="not_found_error")
        choice = body.get("tool_choice") or {"type": "auto"}
        ask = Ask(
            self.vendor,
            "count_tokens" if counting else "chat",
            body["model"],
            stream=bool(body.get("stream")),
            limit=body.get("max_tokens"),
            stops=body.get("stop_sequences") or [],
            parallel=not choice.get("disable_parallel_tool_use"),
        )
        ask.tools = {tool["name"]: tool["input_schema"] for tool in body.get("tools") or []}
        ask.force = f"={choice['name']}" if choice["type"] == "tool" else choice["type"]
        ask.schema = ((body.get("output_config") or {}).get("format") or {}).get("schema")
        ask.thinks = (body.get("thinking") or {}).get("type") == "enabled"
        ask.input_tokens = count_words(*(block["text"] for block in rules.blocks_of(body.get("system") or [])))
        _read_turns(ask, body["messages"])
        return ask

    # --- writing --------------------------------------------------------------------------------------------------

    def error(self, refusal: Refusal) -> dict[str, Any]:
        return {
            "type": "error",
            "error": {"type": refusal.kind or "api_error", "message": refusal.message},
            "request_id": "req_sim",
        }

    def error_frame(self, refusal: Refusal) -> Frame:
        return Frame({"type": "error", "error": {"type": refusal.kind, "message": refusal.message}}, "error")

    def headers(self, number: int) -> dict[str, str]:
        return {"request-id": f"req_{number:012d}", "anthropic-organization-id": "sim"}

    def prompt_blocked(self, ask: Ask) -> Refusal | dict[str, Any]:
        return rules.refuse("Output blocked by content filtering policy")

    def out_of_quota(self) -> Refusal:
        return rules.refuse(
            "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing "
            "to upgrade or purchase credits."
        )

    def plain(self, ask: Ask, answer: Answer) -> Any:
        if ask.route == "models":
            names = ("claude-sonnet-5", "claude-haiku-4-5", "claude-opus-5")
            return {
                "data": [
                    {"type": "model", "id": name, "display_name": name, "created_at": CREATED, "lifecycle": "active"}
                    for name in names
                ],
                "has_more": False,
                "first_id": names[0],
                "last_id": names[-1],
            }
        if ask.route == "count_tokens":
            return {"input_tokens": answer.usage.input}
        return {
            **self.message(answer),
            "content": blocks(answer),
            "stop_reason": _stop(answer),
            "stop_sequence": answer.stop_sequence,
            "usage": self.usage(answer.usage),
        }

    def message(self, answer: Answer) -> dict[str, Any]:
        return {
            "id": f"msg_{answer.number:024d}",
            "type": "message",
            "role": "assistant",
            "model": answer.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    def usage(self, usage: Usage) -> dict[str, Any]:
        """Cached tokens come on top of input_tokens here; thinking is part of output_tokens."""
        return {
            "input_tokens": usage.input,
            "cache_creation_input_tokens": usage.cache_write,
            "cache_read_input_tokens": usage.cached,
            "cache_creation": {"ephemeral_5m_input_tokens": usage.cache_write, "ephemeral_1h_input_tokens": 0},
            "output_tokens": usage.output + usage.reasoning,
            "service_tier": "standard",
        }

    def frames(self, ask: Ask, answer: Answer) -> list[Frame]:
        start = {**self.message(answer), "usage": {**self.usage(answer.usage), "output_tokens": 1}}
        made = [Frame({"type": "message_start", "message": start}, "message_start")]
        for index, block in enumerate(blocks(answer)):
            made += _block_frames(index, block, answer)
            if index == 0:
                made.insert(2, Frame({"type": "ping"}, "ping"))
        usage = {name: count for name, count in self.usage(answer.usage).items() if name.endswith("_tokens")}
        made.append(
            Frame(
                {
                    "type": "message_delta",
                    "usage": usage,
                    "delta": {"stop_reason": _stop(answer), "stop_sequence": answer.stop_sequence},
                },
                "message_delta",
            )
        )
        return [*made, Frame({"type": "message_stop"}, "message_stop")]


def _stop(answer: Answer) -> str:
    return STOP.get(answer.finish, answer.finish)


def blocks(answer: Answer) -> list[dict[str, Any]]:
    """The content of an answer: thinking first, then text, then calls."""
    made: list[dict[str, Any]] = []
    if answer.thinking:
        made.append({"type": "thinking", "thinking": answer.thinking, "signature": rules.signature_of(answer.thinking)})
    if answer.text:
        made.append({"type": "text", "text": answer.text, "citations": None})
    made += [
        {"type": "tool_use", "id": f"toolu_{call.id}", "name": call.name, "input": call.arguments}
        for call in answer.calls
    ]
    return made


def _block_frames(index: int, block: dict[str, Any], answer: Answer) -> list[Frame]:
    opening, deltas = _OPENERS[block["type"]](block, answer)
    start = {"type": "content_block_start", "index": index, "content_block": opening}
    stop = {"type": "content_block_stop", "index": index}
    middle = [
        Frame({"type": "content_block_delta", "index": index, "delta": delta}, "content_block_delta", tokens)
        for delta, tokens in deltas
    ]
    return [Frame(start, "content_block_start"), *middle, Frame(stop, "content_block_stop")]


Opened = tuple[dict[str, Any], list[tuple[dict[str, str], int]]]
"""A block as it is announced, and its deltas with the tokens each delivers."""


def _open_text(block: dict[str, Any], answer: Answer) -> Opened:
    return {"type": "text", "text": ""}, [
        ({"type": "text_delta", "text": word}, 1) for word in split_words(block["text"])
    ]


def _open_thinking(block: dict[str, Any], answer: Answer) -> Opened:
    words = [({"type": "thinking_delta", "thinking": word}, 0) for word in split_words(block["thinking"])]
    signed = ({"type": "signature_delta", "signature": block["signature"]}, 0)
    return {"type": "thinking", "thinking": "", "signature": ""}, [*words, signed]


def _open_tool_use(block: dict[str, Any], answer: Answer) -> Opened:
    sent = next(call.text() for call in answer.calls if block["id"].endswith(call.id))
    parts = [
        ({"type": "input_json_delta", "partial_json": part}, tokens) for part, tokens in [("", 0), *fragments(sent)]
    ]
    return {**block, "input": {}}, parts


_OPENERS = {"text": _open_text, "thinking": _open_thinking, "tool_use": _open_tool_use}


def _read_turns(ask: Ask, messages: list[dict[str, Any]]) -> None:
    for _, role, given in rules.merged(messages):
        texts = [block["text"] for block in given if block["type"] == "text"]
        notes = [_note(block) for block in given if block["type"] in ("image", "document")]
        results = [_result(block) for block in given if block["type"] == "tool_result"]
        inputs = [json.dumps(block["input"]) for block in given if block["type"] == "tool_use"]
        ask.input_tokens += count_words(*texts, *results, *inputs) + IMAGE_TOKENS * len(notes)
        if role == "user":
            ask.text, ask.images, ask.results = " ".join(texts) or ask.text, notes, results


def _note(block: dict[str, Any]) -> str:
    source = block["source"]
    if source["type"] == "url":
        return f"{block['type']} url {source['url']}"
    size = len(decoded(source["data"]) or b"") if source["type"] == "base64" else len(source["data"].encode())
    return f"{block['type']} {source['media_type']} {size} bytes"


def _result(block: dict[str, Any]) -> str:
    words = [one["text"] for one in rules.blocks_of(block.get("content", "")) if one["type"] == "text"]
    return ("error: " if block.get("is_error") else "") + " ".join(words)
