"""Gemini's wire: generateContent and its streamed form, embeddings, token counts, models; /v1 and /v1beta."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from typing import Any, ClassVar

from . import gemini_rules as rules
from . import images
from .core import IMAGE_TOKENS, Answer, Ask, Frame, Refusal, Usage, count_words, decoded, split_words, vector
from .transport import Request
from .vendor import UNKNOWN_MODEL, Wire

FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "tool": "STOP", "filter": "SAFETY", "stop_sequence": "STOP"}
CHAT = ("generateContent", "streamGenerateContent")
MOST_EMBEDS, MOST_DIMENSIONS = 100, 3072
PICTURE_TOKENS = 1290
"""What a picture of about a million pixels takes."""
METHODS = (*CHAT, "countTokens", "embedContent", "batchEmbedContents")


class GeminiWire(Wire):
    """Strict Gemini. The key counts in the header only: one in the URL would stand in every access log."""

    statuses: ClassVar = {
        400: ("Request contains an invalid argument.", "INVALID_ARGUMENT", None),
        401: ("Request had invalid authentication credentials.", "UNAUTHENTICATED", None),
        402: ("Billing is not enabled.", "FAILED_PRECONDITION", None),
        403: ("Your API key was reported as leaked. Please use another API key.", "PERMISSION_DENIED", None),
        404: (
            (
                "models/gone is not found for API version v1beta, or is not supported for generateContent. Call "
                "ListModels to see the list of available models and their supported methods."
            ),
            "NOT_FOUND",
            None,
        ),
        408: ("The request timed out.", "DEADLINE_EXCEEDED", None),
        413: ("Request payload size exceeds the limit: 20971520 bytes.", "INVALID_ARGUMENT", None),
        422: ("Unprocessable request.", "INVALID_ARGUMENT", None),
        429: ("Resource has been exhausted (e.g. check quota).", "RESOURCE_EXHAUSTED", None),
        500: ("An internal error has occurred. Please retry.", "INTERNAL", None),
        503: ("The model is overloaded. Please try again later.", "UNAVAILABLE", None),
        504: ("The request timed out. Please try again.", "DEADLINE_EXCEEDED", None),
        529: ("The model is overloaded. Please try again later.", "UNAVAILABLE", None),
    }

    def key(self, request: Request) -> str | None:
        return request.headers.get("x-goog-api-key")

    # --- reading --------------------------------------------------------------------------------------------------

    def accept(self, request: Request, path: str) -> Ask:
        self._authorise(request)
        version, _, rest = path.removeprefix("/").partition("/")
        if version not in ("v1", "v1beta"):
            raise Refusal(404, "Not found", kind="NOT_FOUND")
        if rest == "models" and request.method == "GET":
            return Ask(self.vendor, "models", "")
        match = re.fullmatch(r"models/([^/:]+):(\w+)", rest)
        if not match or match[2] not in METHODS or request.method != "POST":
            raise Refusal(404, "Not found", kind="NOT_FOUND")
        model, method = match[1], match[2]
        if UNKNOWN_MODEL in model or (version == "v1" and model.endswith("-latest")):
            raise self._no_model(model, version, method)
        body = request.json()
        if not isinstance(body, dict):
            raise rules.refuse("Invalid JSON payload received. Expected an object.", violations=True)
        if method in CHAT:
            return self.read_chat(request, body, model, stream=method == CHAT[1])
        return self.read_count(body, model) if method == "countTokens" else self.read_embed(body, model, method)

    def _authorise(self, request: Request) -> None:
        key = self.key(request)
        if key is None or "key" in request.query:
            raise Refusal(
                403,
                "Method doesn't allow unregistered callers (callers without established identity). "
                "Please use API Key or other form of API consumer identity to call this API.",
                kind="PERMISSION_DENIED",
            )
        if not self.keys.good(self.vendor, key):
            raise Refusal(
                400,
                "API key not valid. Please pass a valid API key.",
                kind="INVALID_ARGUMENT",
                details=[
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": "API_KEY_INVALID",
                        "domain": "googleapis.com",
                        "metadata": {"service": "generativelanguage.googleapis.com"},
                    }
                ],
            )

    def _no_model(self, model: str, version: str, method: str) -> Refusal:
        return Refusal(
            404,
            f"models/{model} is not found for API version {version}, or is not supported for {method}. "
            "Call ListModels to see the list of available models and their supported methods.",
            kind="NOT_FOUND",
        )

    def read_chat(self, request: Request, given: dict[str, Any], model: str, *, stream: bool) -> Ask:
        body = rules.read("Request", given)
        rules.check(body, model)
        config = body.get("generationConfig", {})
        ask = Ask(
            self.vendor,
            "chat",
            model,
            stream=stream and request.query.get("alt") == "sse",
            limit=config.get("maxOutputTokens"),
            stops=config.get("stopSequences", []),
            count=config.get("candidateCount", 1),
        )
        ask.extra.update(
            array=stream and not ask.stream,
            image="IMAGE" in config.get("responseModalities", []),
            signs=model.startswith("gemini-3"),
        )
        if config.get("responseMimeType") == "application/json":
            ask.schema = _lowered(config.get("responseSchema") or config.get("responseJsonSchema") or {})
        for tool in body.get("tools", []):
            for one in tool.get("functionDeclarations", []):
                ask.tools[one["name"]] = _lowered(one.get("parameters") or one.get("parametersJsonSchema") or {})
        ask.force = _force(body.get("toolConfig", {}).get("functionCallingConfig", {}))
        ask.input_tokens = count_words(*_texts(body.get("systemInstruction", {"parts": []})))
        _read_contents(ask, body["contents"])
        return ask

    def read_count(self, given: dict[str, Any], model: str) -> Ask:
        body = rules.read("Count", given)
        body = body.get("generateContentRequest", body)
        rules.check({"contents": body.get("contents")}, "gemini")
        ask = Ask(self.vendor, "count_tokens", model)
        _read_contents(ask, body["contents"])
        return ask

    def read_embed(self, given: dict[str, Any], model: str, method: str) -> Ask:
        batch = method == "batchEmbedContents"
        body = rules.read("EmbedBatch" if batch else "Embed", given)
        requests = body.get("requests", []) if batch else [body]
        if not requests:
            raise rules.refuse("* BatchEmbedContentsRequest.requests: at least one request is required")
        if len(requests) > MOST_EMBEDS:
            raise rules.refuse(
                f"* BatchEmbedContentsRequest.requests: at most {MOST_EMBEDS} requests can be in one batch"
            )
        for index, one in enumerate(requests):
            if batch and one.get("model") != f"models/{model}":
                raise rules.refuse(
                    f"* BatchEmbedContentsRequest.requests[{index}].model: model must match the model in "
                    "the request path"
                )
            if not "".join(_texts(one.get("content", {"parts": []}))):
                raise rules.refuse("* EmbedContentRequest.content: content is empty")
            if not 1 <= one.get("outputDimensionality", 1) <= MOST_DIMENSIONS:
                raise rules.refuse("* EmbedContentRequest.output_dimensionality: must be between 1 and 3072")
        texts = [" ".join(_texts(one["content"])) for one in requests]
        ask = Ask(self.vendor, "embeddings", model, input_tokens=count_words(*texts))
        ask.extra.update(texts=texts, size=requests[0].get("outputDimensionality", 64), batch=batch)
        return ask

    # --- writing --------------------------------------------------------------------------------------------------

    def error(self, refusal: Refusal) -> dict[str, Any]:
        data: dict[str, Any] = {"code": refusal.status, "message": refusal.message, "status": refusal.kind or "UNKNOWN"}
        if refusal.details:
            data["details"] = refusal.details
        return {"error": data}

    def headers(self, number: int) -> dict[str, str]:
        return {"server-timing": f"gfet4t7; dur={number % 1000}", "vary": "Origin"}

    def out_of_quota(self) -> Refusal:
        return Refusal(
            429,
            "You exceeded your current quota, please check your plan and billing details.",
            kind="RESOURCE_EXHAUSTED",
            details=[
                {
                    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                    "violations": [
                        {
                            "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
                            "quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
                        }
                    ],
                }
            ],
        )

    def prompt_blocked(self, ask: Ask) -> Refusal | dict[str, Any]:
        prompt = ask.input_tokens
        return {
            "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
            "modelVersion": ask.model,
            "usageMetadata": {"promptTokenCount": prompt, "totalTokenCount": prompt},
        }

    def plain(self, ask: Ask, answer: Answer) -> Any:
        if ask.route == "models":
            return {
                "models": [
                    {
                        "name": f"models/{name}",
                        "version": "001",
                        "displayName": name,
                        "inputTokenLimit": 1_048_576,
                        "outputTokenLimit": 65_536,
                        "supportedGenerationMethods": ["generateContent", "countTokens"],
                    }
                    for name in ("gemini-2.5-flash", "gemini-2.5-pro", "gemini-3-pro")
                ]
            }
        if ask.route == "count_tokens":
            return {"totalTokens": answer.usage.input}
        if ask.route == "embeddings":
            rows = [{"values": vector(text, ask.extra["size"])} for text in ask.extra["texts"]]
            return {"embeddings": rows} if ask.extra["batch"] else {"embedding": rows[0]}
        if ask.extra["array"]:  # streamed without alt=sse: one JSON array of chunks
            return [frame.data for frame in self.frames(ask, answer)]
        candidates = [self.candidate(index, parts(ask, answer), _finish(answer)) for index in range(ask.count)]
        if not ask.extra.get("image"):
            return self.envelope(answer, candidates, self.usage(answer.usage))
        words, answer.usage.output = answer.usage.output, answer.usage.output + PICTURE_TOKENS
        details = [{"modality": "TEXT", "tokenCount": words}, {"modality": "IMAGE", "tokenCount": PICTURE_TOKENS}]
        return self.envelope(answer, candidates, {**self.usage(answer.usage), "candidatesTokensDetails": details})

    def candidate(self, index: int, parts: list[dict[str, Any]], finish: str | None) -> dict[str, Any]:
        made: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": index}
        if not parts:
            made.pop("content")
        return {**made, "finishReason": finish} if finish else made

    def envelope(self, answer: Answer, candidates: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        return {
            "candidates": candidates,
            "usageMetadata": usage,
            "modelVersion": answer.model,
            "responseId": f"resp{answer.number:012d}",
        }

    def usage(self, usage: Usage) -> dict[str, Any]:
        """Cached tokens are part of the prompt; thoughts are beside the candidates and inside the total only."""
        prompt, output = usage.input + usage.cached + usage.cache_write, usage.output
        data: dict[str, Any] = {
            "promptTokenCount": prompt,
            "candidatesTokenCount": output,
            "totalTokenCount": prompt + output + usage.reasoning,
        }
        if usage.cached:
            data["cachedContentTokenCount"] = usage.cached
        if usage.reasoning:
            data["thoughtsTokenCount"] = usage.reasoning
        return data

    def frames(self, ask: Ask, answer: Answer) -> list[Frame]:
        """Every chunk carries the usage so far; calls come whole; the last chunk has the reason."""
        made: list[Frame] = []
        sent = 0
        for index in range(ask.count):
            pieces = _pieces(ask, answer)
            for place, (part, tokens) in enumerate(pieces):
                last = place == len(pieces) - 1
                sent += tokens
                output = answer.usage.output if last and index == ask.count - 1 else min(sent, answer.usage.output)
                candidate = self.candidate(index, [part] if part else [], _finish(answer) if last else None)
                usage = self.usage(replace(answer.usage, output=output))
                made.append(Frame(self.envelope(answer, [candidate], usage), tokens=tokens))
        return made


def _finish(answer: Answer) -> str:
    return FINISH.get(answer.finish, answer.finish)


def parts(ask: Ask, answer: Answer) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    if answer.thinking:
        made.append({"text": answer.thinking, "thought": True})
    if answer.text:
        made.append({"text": answer.text})
        if ask.extra["signs"] and not answer.calls:
            made[-1]["thoughtSignature"] = rules.text_signature_of(answer.text)
    if ask.extra.get("image"):
        made.append({"inlineData": {"mimeType": "image/png", "data": base64.b64encode(images.PIXEL).decode()}})
    return made + _calls(ask, answer)


def _calls(ask: Ask, answer: Answer) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for call in answer.calls:
        part: dict[str, Any] = {"functionCall": {"name": call.name, "args": call.arguments}}
        if ask.extra["signs"] and not made:  # of parallel calls only the first is signed
            part["thoughtSignature"] = rules.signature_of(part["functionCall"])
        made.append(part)
    return made


def _pieces(ask: Ask, answer: Answer) -> list[tuple[dict[str, Any] | None, int]]:
    """Parts as they are streamed, with the output tokens each delivers: text by words, calls whole, thoughts free."""
    pieces: list[tuple[dict[str, Any] | None, int]] = []
    for part in parts(ask, answer):
        if "text" in part:
            bare = {name: value for name, value in part.items() if name != "thoughtSignature"}
            pieces += [({**bare, "text": word}, 0 if part.get("thought") else 1) for word in split_words(part["text"])]
            if "thoughtSignature" in part:  # it comes last, on a text that is empty
                pieces.append(({"text": "", "thoughtSignature": part["thoughtSignature"]}, 0))
        else:
            pieces.append(
                (part, count_words(json.dumps(part["functionCall"]["args"])) if "functionCall" in part else 0)
            )
    return pieces or [(None, 0)]


def _force(config: dict[str, Any]) -> str:
    mode, allowed = config.get("mode", "AUTO"), config.get("allowedFunctionNames", [])
    if mode == "ANY":
        return f"={allowed[0]}" if len(allowed) == 1 else "any"
    return "none" if mode == "NONE" else "auto"


def _lowered(schema: Any) -> Any:
    """A schema with the type names of JSON schema, for `instance`."""
    if isinstance(schema, list):
        return [_lowered(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value.lower() if key == "type" and isinstance(value, str) else _lowered(value)
        for key, value in schema.items()
    }


def _texts(content: dict[str, Any]) -> list[str]:
    return [part["text"] for part in content.get("parts", []) if "text" in part]


def _read_contents(ask: Ask, contents: list[dict[str, Any]]) -> None:
    for content in contents:
        given = content["parts"]
        notes = [_note(part) for part in given if "inlineData" in part or "fileData" in part]
        results = [str(part["functionResponse"]["response"]) for part in given if "functionResponse" in part]
        calls = [str(part["functionCall"].get("args", {})) for part in given if "functionCall" in part]
        ask.input_tokens += count_words(*_texts(content), *results, *calls) + IMAGE_TOKENS * len(notes)
        if content.get("role", "user") == "user":
            ask.text, ask.images, ask.results = " ".join(_texts(content)) or ask.text, notes, results


def _note(part: dict[str, Any]) -> str:
    if "fileData" in part:
        return f"image url {part['fileData']['fileUri']}"
    blob = part["inlineData"]
    what = "image" if blob["mimeType"].startswith("image/") else "document"
    return f"{what} {blob['mimeType']} {len(decoded(blob['data']) or b'')} bytes"
