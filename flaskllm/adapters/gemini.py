"""Gemini's own wire: generateContent, plain and streamed, over our own transport."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from flaskllm.adapters.answers import completion, head_of
from flaskllm.adapters.base import (
    COMMON_CONNECTION,
    Field,
    Mapped,
    Rule,
    versioned,
)
from flaskllm.adapters.gemini_answers import GeminiDecoder, blocked, candidates_of, choice_of, usage_of
from flaskllm.adapters.gemini_media import GeminiMedia
from flaskllm.adapters.messages import (
    NOTHING_SAID,
    Tools,
    Turn,
    as_list,
    calls_of,
    data_of,
    google_signature,
    is_system,
    one_of,
    parts_of,
    schema_of,
    spoken,
    tools_of,
    turns_of,
    wants_object,
)
from flaskllm.adapters.schemas import Unsayable, for_gemini
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest, ChatResult, content_text
from flaskllm.domain.usage import Usage
from flaskllm.errors import ProviderError, invalid

VERSION = "v1beta"
MODES = {"auto": "AUTO", "none": "NONE", "any": "ANY", "tool": "ANY"}
LEVELS = {
    "none": "MINIMAL",
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "HIGH",
    "max": "HIGH",
}
BUDGETS = {"none": 0, "minimal": 512, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
UNSIGNED = base64.b64encode(b"skip_thought_signature_validator").decode()
"""Google's own word for a call whose signature is lost, because the client or another vendor's model made it."""
SEEDS = 2**31
"""Seeds are 32-bit here; a larger one is folded, which keeps equal ones equal."""
ADDRESS_REFUSED = "must be a data URL for Gemini"


class GeminiAdapter(GeminiMedia):
    """Google's Gemini API. It fetches no addresses: the orchestrator puts images into the request."""

    kind = "gemini"
    TITLE = "Google Gemini"
    wire = "gemini"
    ABILITIES = frozenset({"chat", "stream", "tools", "json_schema", "images", "embeddings", "image_generation"})
    KEY_FAULT = re.compile(r"api key (?:not valid|expired)", re.IGNORECASE)
    DEFAULT_BASE = "https://generativelanguage.googleapis.com"
    CONNECTION: ClassVar[tuple[Field, ...]] = (
        *COMMON_CONNECTION,
        Field("api_version", default=VERSION, help="v1beta or v1; names ending in -latest exist on v1beta only."),
    )
    PARAMS: ClassVar[Mapping[str, str | Rule | None]] = {
        "max_tokens": "maxOutputTokens",
        "max_completion_tokens": "maxOutputTokens",
        "temperature": Rule("temperature", clamp=(0, 2)),
        "top_p": "topP",
        "top_k": "topK",
        "n": "candidateCount",
        "stop": Rule("stopSequences", convert=as_list),
        "seed": Rule("seed", convert=lambda seed: seed % SEEDS),
        "presence_penalty": "presencePenalty",
        "frequency_penalty": "frequencyPenalty",
        "logprobs": "responseLogprobs",
        "top_logprobs": "logprobs",
        "tools": "tools",
        "tool_choice": "tool_choice",
        "response_format": "response_format",
        "reasoning_effort": Rule(
            "reasoning_effort", convert=one_of("reasoning_effort", {name: name for name in LEVELS})
        ),
        "safety_settings": "safetySettings",
        "cached_content": "cachedContent",
    }
    """The last two and ``top_k`` are Gemini's own, for callers who know whom they speak to."""

    def url(self, candidate: Candidate, *, stream: bool) -> str:
        return self.at(candidate, "streamGenerateContent?alt=sse" if stream else "generateContent")

    def at(self, candidate: Candidate, method: str) -> str:
        version = str(self.provider.connection.get("api_version") or VERSION)
        base = versioned(candidate.endpoint.base_url or self.DEFAULT_BASE, version)
        return f"{base}/models/{quote(self.called(candidate), safe='')}:{method}"

    def headers(self, candidate: Candidate, request: ChatRequest) -> dict[str, str]:
        return {"x-goog-api-key": candidate.key.value} if candidate.key else {}

    # -- asking ----------------------------------------------------------------------------------------------------

    def encode(self, request: ChatRequest, candidate: Candidate, mapped: Mapped) -> dict[str, Any]:
        params = dict(mapped.params)
        body: dict[str, Any] = {"contents": _contents(request, candidate)}
        if texts := list(_system(request)):
            body["systemInstruction"] = {"parts": [{"text": text} for text in texts]}
        body |= _tools(tools_of(params))
        body |= {name: params[name] for name in ("safetySettings", "cachedContent") if name in params}
        config = {name: value for name, value in params.items() if name not in _HANDLED}
        if request.output_cap is not None:
            config["maxOutputTokens"] = request.output_cap
        config |= _format(params.get("response_format"))
        if effort := params.get("reasoning_effort"):
            config["thinkingConfig"] = _thinking(effort, candidate)
        if config:
            body["generationConfig"] = config
        return body

    # -- being answered --------------------------------------------------------------------------------------------

    def decode(self, body: dict[str, Any], raw: bytes, request: ChatRequest, candidate: Candidate) -> ChatResult:
        candidates = candidates_of(body)
        if not candidates:
            raise blocked(body) or ProviderError("The provider's answer holds no candidates.", may_be_billed=True)
        choices = [choice_of(place, found) for place, found in enumerate(candidates)]
        model = body.get("modelVersion") or candidate.model.backend_model
        head = head_of(body.get("responseId"), model, streamed=False)
        return completion(head, choices, self.usage_told(body))

    def usage_told(self, body: Mapping[str, Any]) -> Usage | None:
        return usage_of(body.get("usageMetadata"))

    def decoder(self, request: ChatRequest, candidate: Candidate) -> GeminiDecoder:
        return GeminiDecoder(self._secrets(candidate), candidate.model.backend_model)


_HANDLED = frozenset({"tools", "tool_choice", "response_format", "reasoning_effort", "safetySettings", "cachedContent"})


def _thinking(effort: str, candidate: Candidate) -> dict[str, Any]:
    """The models up to 2.5 take a budget of tokens, all later ones a level."""
    if candidate.model.backend_model.removeprefix("models/").startswith("gemini-2"):
        return {"thinkingBudget": BUDGETS[effort]}
    return {"thinkingLevel": LEVELS[effort]}


def _format(wanted: Any) -> dict[str, Any]:
    schema = schema_of(wanted)
    if schema is None:
        return {"responseMimeType": "application/json"} if wants_object(wanted) else {}
    return {"responseMimeType": "application/json", **_said(schema, "responseSchema", "responseJsonSchema")}


def _said(schema: Mapping[str, Any], name: str, plain_name: str) -> dict[str, Any]:
    """A schema in Gemini's own words, which every version of the API and every model takes; else as plain JSON schema,
    which v1beta takes, rather than with its meaning lost."""
    try:
        return {name: for_gemini(schema)}
    except Unsayable:
        return {plain_name: {key: value for key, value in schema.items() if key not in ("$schema", "strict")}}


def _tools(tools: Tools) -> dict[str, Any]:
    if not tools.functions:
        return {} if tools.mode in ("auto", "none") else {"toolConfig": _calling(tools)}
    body: dict[str, Any] = {"tools": [{"functionDeclarations": [_declaration(one) for _, one in tools.functions]}]}
    if tools.mode != "auto":
        body["toolConfig"] = _calling(tools)
    return body


def _calling(tools: Tools) -> dict[str, Any]:
    config: dict[str, Any] = {"mode": MODES.get(tools.mode, "AUTO")}
    if tools.mode == "tool":
        config["allowedFunctionNames"] = [tools.name]
    return {"functionCallingConfig": config}


def _declaration(function: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"name": function["name"]}
    if function.get("description"):
        made["description"] = function["description"]
    schema = function.get("parameters") or {}
    if schema.get("properties") or "$ref" in schema or schema.get("additionalProperties"):
        made |= _said(schema, "parameters", "parametersJsonSchema")
    return made


def _system(request: ChatRequest) -> Iterator[str]:
    for message in request.messages:
        if is_system(message) and (text := content_text(message.get("content"))).strip():
            yield text


def _contents(request: ChatRequest, candidate: Candidate) -> list[dict[str, Any]]:
    """Calls and results are matched by name and place here, so results are put into the order of their calls."""
    order: dict[str, int] = {}
    names: dict[str, str] = {}
    turns = [_turn(message, where, names, order, candidate) for where, message in spoken(request.messages)]
    turns = turns_of(turns)
    for turn in turns:
        turn.results.sort(key=lambda result: result["place"])
        turn.results = [{"functionResponse": result["functionResponse"]} for result in turn.results]
    if not turns or turns[0].role != "user":
        turns.insert(0, Turn("user", [{"text": NOTHING_SAID}]))
    return [{"role": turn.role, "parts": turn.content} for turn in turns]


def _turn(
    message: Mapping[str, Any], where: str, names: dict[str, str], order: dict[str, int], candidate: Candidate
) -> Turn:
    if message["role"] == "tool":
        call_id = message["tool_call_id"]
        if call_id not in names:
            raise invalid(f"{where}.tool_call_id", "is the id of no call in this conversation")
        said = {"name": names[call_id], "response": _response(content_text(message.get("content")))}
        return Turn("user", results=[{"place": order[call_id], "functionResponse": said}])
    parts = [_part(part, at) for at, part in parts_of(message, where)]
    if message["role"] == "user":
        return Turn("user", parts)
    if (signature := google_signature(message, where)) and parts:
        parts[-1] = {**parts[-1], "thoughtSignature": signature}
    for place, (call, arguments) in enumerate(calls_of(message, where)):
        names[call["id"]], order[call["id"]] = call["function"]["name"], len(order)
        signature = google_signature(call, f"{where}.tool_calls[{place}]")
        parts.append(_call_part(call, arguments, signature, first=place == 0, candidate=candidate))
    return Turn("model", parts)


def _call_part(
    call: Mapping[str, Any], arguments: Any, signature: str | None, *, first: bool, candidate: Candidate
) -> dict[str, Any]:
    """Of parallel calls only the first is signed; from Gemini 3 on an unsigned first call is refused."""
    part: dict[str, Any] = {"functionCall": {"name": call["function"]["name"], "args": arguments}}
    if signature:
        part["thoughtSignature"] = signature
    elif first and not candidate.model.backend_model.removeprefix("models/").startswith(("gemini-1", "gemini-2")):
        part["thoughtSignature"] = UNSIGNED
    return part


def _response(text: str) -> dict[str, Any]:
    """A result must be an object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {"result": text}
    return found if isinstance(found, dict) else {"result": found}


def _part(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind in ("text", "refusal"):
        return {"text": part[kind]}
    if kind == "image_url":
        return _inline(part["image_url"].get("url"), f"{where}.image_url.url")
    if kind == "file":
        given = part["file"].get("file_data") or ""
        url = given if given.startswith("data:") else f"data:application/pdf;base64,{given}"
        return _inline(url, f"{where}.file.file_data")
    if kind == "input_audio":
        audio = part["input_audio"]
        return {"inlineData": {"mimeType": f"audio/{audio.get('format')}", "data": audio.get("data")}}
    raise invalid(f"{where}.type", f"{kind} is not known to Gemini")


def _inline(url: Any, where: str) -> dict[str, Any]:
    data = data_of(url, where)
    if data is None:
        raise invalid(where, ADDRESS_REFUSED)
    return {"inlineData": {"mimeType": data[0], "data": data[1]}}
