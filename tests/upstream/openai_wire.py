"""OpenAI's wire: chat completions, embeddings, images, models; the base for Azure and the compatible servers."""

from __future__ import annotations

import base64
import struct
from typing import Any, ClassVar

from . import images, media_rules
from . import openai_rules as rules
from .core import IMAGE_TOKENS, Answer, Ask, Frame, Refusal, Usage, count_words, decoded, fragments, split_words, vector
from .transport import Request
from .vendor import UNKNOWN_MODEL, Keys, Wire, bearer, masked

FINISH = {"tool": "tool_calls", "filter": "content_filter", "stop_sequence": "stop"}
CREATED = 1_767_225_600


class OpenAIWire(Wire):
    """Strict OpenAI. Subclasses change who may come in, which fields they know, and how an error looks."""

    statuses: ClassVar = {
        400: ("We could not process your request.", "invalid_request_error", None),
        401: (
            "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.",
            "invalid_request_error",
            "invalid_api_key",
        ),
        402: ("Your account has no active billing plan.", "billing_error", "billing_not_active"),
        403: ("You are not allowed to sample from this model", "invalid_request_error", "model_access_denied"),
        404: (
            "The model `gone` does not exist or you do not have access to it.",
            "invalid_request_error",
            "model_not_found",
        ),
        408: ("Request timed out.", "timeout", None),
        413: ("Maximum content size limit exceeded.", "invalid_request_error", "request_too_large"),
        422: ("Unprocessable request.", "invalid_request_error", None),
        429: ("Rate limit reached for requests. Please try again in 1s.", "requests", "rate_limit_exceeded"),
        500: ("The server had an error while processing your request. Sorry about that!", "server_error", None),
        503: ("The server is currently overloaded. Please try again later.", "server_error", "overloaded"),
        529: ("The engine is currently overloaded, please try again later", "server_error", "overloaded"),
    }

    def __init__(self, vendor: str, keys: Keys) -> None:
        super().__init__(vendor, keys)
        self.base = ""
        """Where the simulator lives, for answers that carry a URL; set when it has its port."""

    # --- reading --------------------------------------------------------------------------------------------------

    def accept(self, request: Request, path: str) -> Ask:
        self.authorise(request)
        return self.route(request, path.removeprefix("/v1"))

    def authorise(self, request: Request) -> None:
        key = bearer(request)
        if key is None:
            raise Refusal(
                401,
                "You didn't provide an API key. You need to provide your API key in an Authorization "
                "header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
                kind="invalid_request_error",
            )
        if not self.keys.good(self.vendor, key):
            raise self.wrong_key(key)

    def wrong_key(self, key: str) -> Refusal:
        return Refusal(
            401,
            f"Incorrect API key provided: {masked(key)}. You can find your API key at "
            "https://platform.openai.com/account/api-keys.",
            kind="invalid_request_error",
            code="invalid_api_key",
        )

    def route(self, request: Request, path: str) -> Ask:
        if path == "/models" and request.method == "GET":
            return Ask(self.vendor, "models", "")
        readers = {
            "/chat/completions": self.read_chat,
            "/embeddings": self.read_embeddings,
            "/images/generations": self.read_images,
        }
        if path not in readers:
            raise Refusal(404, f"Invalid URL ({request.method} {request.path})", kind="invalid_request_error")
        if request.method != "POST":
            raise Refusal(
                405,
                f"Not allowed to {request.method} on {request.path}.",
                kind="invalid_request_error",
                code="method_not_supported",
            )
        return readers[path](self.body(request))

    def body(self, request: Request) -> dict[str, Any]:
        body = request.json()
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise rules.refuse("you must provide a model parameter")
        if not isinstance(body, dict):
            raise rules.refuse(
                "We could not parse the JSON body of your request. (HINT: This likely means you aren't "
                "using your HTTP library correctly. The OpenAI API expects a JSON payload.)"
            )
        return body

    def model(self, body: dict[str, Any]) -> str:
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise rules.refuse("you must provide a model parameter")
        if UNKNOWN_MODEL in model:
            raise Refusal(
                404,
                f"The model `{model}` does not exist or you do not have access to it.",
                kind="invalid_request_error",
                code="model_not_found",
            )
        return model

    def check_chat(self, body: dict[str, Any]) -> None:
        rules.check_chat(body)

    def check_embeddings(self, body: dict[str, Any]) -> None:
        media_rules.check_embeddings(body)

    def check_images(self, body: dict[str, Any]) -> None:
        media_rules.check_images(body)

    def limit(self, body: dict[str, Any]) -> int | None:
        limits = [body[name] for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None]
        return int(limits[0]) if limits else None

    def read_chat(self, body: dict[str, Any]) -> Ask:
        model = self.model(body)
        self.check_chat(body)
        ask = Ask(
            self.vendor,
            "chat",
            model,
            stream=bool(body.get("stream")),
            limit=self.limit(body),
            count=body.get("n") or 1,
            parallel=body.get("parallel_tool_calls") is not False,
        )
        stop = body.get("stop") or []
        ask.stops = [stop] if isinstance(stop, str) else stop
        ask.tools = {
            tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in body.get("tools") or []
        }
        ask.force = _force(body.get("tool_choice"))
        ask.schema = _schema(body.get("response_format"))
        ask.extra["include_usage"] = bool((body.get("stream_options") or {}).get("include_usage"))
        _read_messages(ask, body["messages"])
        return ask

    def read_embeddings(self, body: dict[str, Any]) -> Ask:
        model = self.model(body)
        self.check_embeddings(body)
        given = body["input"]
        texts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
        ask = Ask(self.vendor, "embeddings", model, input_tokens=count_words(*map(str, texts)))
        ask.extra.update(texts=texts, size=body.get("dimensions") or 64, base64=body.get("encoding_format") == "base64")
        return ask

    def read_images(self, body: dict[str, Any]) -> Ask:
        model = body.get("model") or "dall-e-2"
        self.check_images({**body, "model": model})
        as_url = not model.startswith("gpt-image") and body.get("response_format", "url") == "url"
        ask = Ask(self.vendor, "images", model, count=body.get("n") or 1, input_tokens=count_words(body["prompt"]))
        ask.extra.update(as_url=as_url, told={name: body.get(name) for name in ("size", "quality", "output_format")})
        return ask

    # --- writing --------------------------------------------------------------------------------------------------

    def error(self, refusal: Refusal) -> dict[str, Any]:
        return {
            "error": {"message": refusal.message, "type": refusal.kind, "param": refusal.param, "code": refusal.code}
        }

    def out_of_quota(self) -> Refusal:
        return Refusal(
            429,
            "You exceeded your current quota, please check your plan and billing details.",
            kind="insufficient_quota",
            code="insufficient_quota",
        )

    def headers(self, number: int) -> dict[str, str]:
        return {"x-request-id": f"req_{number:012d}", "openai-version": "2020-10-01", "openai-processing-ms": "1"}

    def plain(self, ask: Ask, answer: Answer) -> Any:
        writers = {"models": self.models, "embeddings": self.embeddings, "images": self.images}
        return writers.get(ask.route, self.completion)(ask, answer)

    def models(self, ask: Ask, answer: Answer) -> Any:
        names = ("gpt-4o", "gpt-4o-mini", "gpt-5", "o4-mini", "text-embedding-3-small", "gpt-image-1")
        return {
            "object": "list",
            "data": [{"id": name, "object": "model", "created": CREATED, "owned_by": self.vendor} for name in names],
        }

    def embeddings(self, ask: Ask, answer: Answer) -> Any:
        rows = [vector(str(text), ask.extra["size"]) for text in ask.extra["texts"]]
        packed: list[Any] = [_base64(row) for row in rows] if ask.extra["base64"] else rows
        return {
            "object": "list",
            "model": answer.model,
            "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(packed)],
            "usage": {"prompt_tokens": answer.usage.input, "total_tokens": answer.usage.input},
        }

    def images(self, ask: Ask, answer: Answer) -> Any:
        pixel = base64.b64encode(images.PIXEL).decode()
        one = {"url": f"{self.base}/images/pixel.png"} if ask.extra["as_url"] else {"b64_json": pixel}
        if ask.model.startswith("dall-e-3"):
            one["revised_prompt"] = "as it was drawn"
        data: dict[str, Any] = {"created": CREATED, "data": [one] * ask.count}
        if ask.model.startswith("gpt-image"):  # the only ones that are paid by tokens
            answer.usage.output = IMAGE_TOKENS * ask.count
            usual = {"size": "1024x1024", "quality": "low", "output_format": "png"}
            data.update({name: ask.extra["told"][name] or usual[name] for name in usual}, background="opaque")
            data["usage"] = {
                "input_tokens": answer.usage.input,
                "output_tokens": answer.usage.output,
                "total_tokens": answer.usage.input + answer.usage.output,
                "input_tokens_details": {"text_tokens": answer.usage.input, "image_tokens": 0},
            }
        return data

    def completion(self, ask: Ask, answer: Answer) -> Any:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": answer.text if not answer.calls else None,
            "refusal": None,
            "annotations": [],
        }
        if answer.calls:
            message["tool_calls"] = [
                {"id": f"call_{call.id}", "type": "function", "function": {"name": call.name, "arguments": call.text()}}
                for call in answer.calls
            ]
        choices = [
            self.choice({"index": index, "message": message, "logprobs": None, "finish_reason": _finish(answer)})
            for index in range(ask.count)
        ]
        return {
            **self.envelope(answer, "chat.completion"),
            "choices": choices,
            "usage": self.usage(answer.usage),
        }

    def choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        return choice

    def envelope(self, answer: Answer, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{answer.number:024d}",
            "object": kind,
            "created": CREATED,
            "model": answer.model,
            "service_tier": "default",
            "system_fingerprint": "fp_sim",
        }

    def usage(self, usage: Usage) -> dict[str, Any]:
        prompt, completion = usage.input + usage.cached + usage.cache_write, usage.output + usage.reasoning
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": usage.reasoning,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def frames(self, ask: Ask, answer: Answer) -> list[Frame]:
        with_usage = ask.extra["include_usage"]
        head = self.envelope(answer, "chat.completion.chunk")
        tail: dict[str, Any] = {"usage": None} if with_usage else {}

        def chunk(index: int, delta: dict[str, Any], finish: str | None = None, tokens: int = 0) -> Frame:
            choice = self.choice({"index": index, "delta": delta, "logprobs": None, "finish_reason": finish})
            return Frame({**head, "choices": [choice], **tail}, tokens=tokens)

        made: list[Frame] = []
        for index in range(ask.count):
            empty = {"role": "assistant", "content": None if answer.calls else "", "refusal": None}
            made.append(chunk(index, empty))
            made += [chunk(index, {"content": word}, tokens=1) for word in split_words(answer.text) if not answer.calls]
            made += [chunk(index, delta, tokens=tokens) for delta, tokens in _call_deltas(answer)]
            made.append(chunk(index, {}, _finish(answer)))
        if with_usage:
            made.append(Frame({**head, "choices": [], "usage": self.usage(answer.usage)}))
        return [*made, Frame("[DONE]")]


def _call_deltas(answer: Answer) -> list[tuple[dict[str, Any], int]]:
    deltas: list[tuple[dict[str, Any], int]] = []
    for index, call in enumerate(answer.calls):
        first = {
            "index": index,
            "id": f"call_{call.id}",
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }
        deltas.append(({"tool_calls": [first]}, 0))
        deltas += [
            ({"tool_calls": [{"index": index, "function": {"arguments": part}}]}, tokens)
            for part, tokens in fragments(call.text())
        ]
    return deltas


def _finish(answer: Answer) -> str:
    return FINISH.get(answer.finish, answer.finish)


def _base64(row: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()


def _force(choice: Any) -> str:
    if isinstance(choice, dict):
        return "=" + choice["function"]["name"]
    return {"required": "any", "none": "none"}.get(choice or "auto", "auto")


def _schema(wanted: dict[str, Any] | None) -> dict[str, Any] | None:
    if not wanted or wanted["type"] == "text":
        return None
    return wanted["json_schema"].get("schema", {}) if wanted["type"] == "json_schema" else {}


def _read_messages(ask: Ask, messages: list[dict[str, Any]]) -> None:
    """The last user message says what to answer; tool messages at the very end are results to quote."""
    for message in messages:
        words, notes = content_of(message)
        ask.input_tokens += count_words(words) + IMAGE_TOKENS * len(notes)
        ask.input_tokens += count_words(*(call["function"]["arguments"] for call in message.get("tool_calls") or []))
        if message["role"] == "user":
            ask.text, ask.images, ask.results = words, notes, []
        elif message["role"] == "tool":
            ask.results.append(words)
        elif message["role"] == "assistant":
            ask.results = []


def content_of(message: dict[str, Any]) -> tuple[str, list[str]]:
    """The text of a message, and a note for each image in it."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content, []
    words = " ".join(part["text"] for part in content if part["type"] == "text")
    return words, [image_note(part["image_url"]["url"]) for part in content if part["type"] == "image_url"]


def image_note(url: str) -> str:
    if not url.startswith("data:"):
        return f"image url {url}"
    kind, _, data = url.removeprefix("data:").partition(";base64,")
    return f"image {kind} {len(decoded(data) or b'')} bytes"
