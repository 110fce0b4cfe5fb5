"""The services that speak OpenAI's wire with an accent: Azure, Grok, an ngrok tunnel, llama.cpp and its like."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from . import media_rules
from . import openai_rules as rules
from .core import Answer, Ask, Frame, Refusal, Usage
from .openai_wire import OpenAIWire
from .transport import Request
from .vendor import UNKNOWN_MODEL, bearer

SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
AZURE_FIELDS = rules.CHAT_FIELDS | {"data_sources", "user_security_context"}
STREAM_OPTIONS_SINCE = "2024-09-01"
"""The first api-version of the classic path that knows stream_options."""


class AzureWire(OpenAIWire):
    """Deployments in the path with an api-version, or the newer /openai/v1 without; key in `api-key`."""

    statuses: ClassVar = {
        **OpenAIWire.statuses,
        401: (
            (
                "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid "
                "key for an active subscription and use a correct regional API endpoint for your resource."
            ),
            None,
            "401",
        ),
        404: (
            (
                "The API deployment for this resource does not exist. If you created the deployment within the "
                "last 5 minutes, please wait a moment and try again."
            ),
            None,
            "DeploymentNotFound",
        ),
        429: (
            (
                "Requests to the ChatCompletions_Create Operation under Azure OpenAI API have exceeded call rate "
                "limit of your current OpenAI pricing tier. Please retry after 1 seconds."
            ),
            None,
            "429",
        ),
        500: ("The server had an error processing your request.", "server_error", "500"),
    }

    def key(self, request: Request) -> str | None:
        return request.headers.get("api-key") or bearer(request)

    def accept(self, request: Request, path: str) -> Ask:
        if path.startswith("/openai/v1/"):
            self._authorise(request.headers.get("api-key") or bearer(request))
            return self.route(request, path.removeprefix("/openai/v1"))
        self._authorise(request.headers.get("api-key"))
        version = request.query.get("api-version", "")
        match = re.fullmatch(r"/openai/deployments/([^/]+)(/.+)", path)
        if not match or not re.fullmatch(r"\d{4}-\d{2}-\d{2}(-preview)?", version):
            raise Refusal(404, "Resource not found", code="404")
        if UNKNOWN_MODEL in match[1]:
            raise self.typical(404)
        if "stream_options" in (request.json() or {}) and version < STREAM_OPTIONS_SINCE:
            raise rules.refuse("Unrecognized request argument supplied: stream_options")
        ask = self.route(_with_model(request, match[1]), match[2])
        ask.model = match[1]
        return ask

    def _authorise(self, key: str | None) -> None:
        if not self.keys.good(self.vendor, key):
            raise self.typical(401)

    def check_chat(self, body: dict[str, Any]) -> None:
        rules.check_chat(body, fields=AZURE_FIELDS)

    def error(self, refusal: Refusal) -> dict[str, Any]:
        if refusal.kind is None and refusal.code != "content_filter":  # the gateway in front of the models speaks
            return {"error": {"code": refusal.code or str(refusal.status), "message": refusal.message}}
        data = super().error(refusal)
        if refusal.code == "content_filter":
            data["error"].update(
                status=400,
                innererror={
                    "code": "ResponsibleAIPolicyViolation",
                    "content_filter_result": {
                        **SAFE,
                        "jailbreak": {"filtered": False, "detected": False},
                        "violence": {"filtered": True, "severity": "medium"},
                    },
                },
            )
        return data

    def headers(self, number: int) -> dict[str, str]:
        return {"apim-request-id": f"{number:08d}-0000-4000-8000-000000000000", "x-ms-region": "Sim Central"}

    def prompt_blocked(self, ask: Ask) -> Refusal | dict[str, Any]:
        return Refusal(
            400,
            "The response was filtered due to the prompt triggering Azure OpenAI's content management "
            "policy. Please modify your prompt and retry.",
            param="prompt",
            code="content_filter",
        )

    def choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**choice, "content_filter_results": SAFE if "message" in choice else {}}

    def completion(self, ask: Ask, answer: Answer) -> Any:
        return {
            **super().completion(ask, answer),
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": SAFE}],
        }

    def frames(self, ask: Ask, answer: Answer) -> list[Frame]:
        start = {
            "choices": [],
            "created": 0,
            "id": "",
            "model": "",
            "object": "",
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": SAFE}],
        }
        return [Frame(start), *super().frames(ask, answer)]


def _with_model(request: Request, deployment: str) -> Request:
    """The classic path needs no model in the body; the readers want one."""
    body = request.json()
    if isinstance(body, dict) and request.method == "POST":
        return _Rewritten(request, {**body, "model": deployment})
    return request


class _Rewritten(Request):
    def __init__(self, request: Request, body: dict[str, Any]) -> None:
        super().__init__(**{name: getattr(request, name) for name in Request.__dataclass_fields__})
        self._body = body

    def json(self) -> Any:
        return self._body


class GrokWire(OpenAIWire):
    """xAI: errors are strings beside a code, a wrong key is a 400, some models take no penalties, stop or bias."""

    statuses: ClassVar = {
        400: ("Invalid request content.", None, "Client specified an invalid argument"),
        401: (
            "No or an invalid authorization header was provided.",
            None,
            "Unauthenticated: no or invalid credentials",
        ),
        403: (
            "Your team has no access to this model.",
            None,
            "The caller does not have permission to execute the specified operation",
        ),
        404: (
            "The model gone does not exist or your team does not have access to it.",
            None,
            "Some requested entity was not found",
        ),
        429: ("Too many requests for team. Please retry later.", None, "Some resource has been exhausted"),
        500: ("Service temporarily unavailable.", None, "Internal error"),
        503: (
            "Service temporarily unavailable. The model is at capacity.",
            None,
            "The service is currently unavailable",
        ),
    }
    refused: ClassVar = {
        "presence_penalty": "presencePenalty",
        "frequency_penalty": "frequencyPenalty",
        "stop": "stop",
        "logit_bias": "logitBias",
    }

    def authorise(self, request: Request) -> None:
        if bearer(request) is None:
            raise self.typical(401)
        super().authorise(request)

    def wrong_key(self, key: str) -> Refusal:
        return Refusal(
            400,
            f"Incorrect API key provided: {key[:2]}***{key[-2:]}. You can obtain an API key from https://console.x.ai.",
            code="Client specified an invalid argument",
        )

    def out_of_quota(self) -> Refusal:
        return Refusal(
            429,
            "Your team has either used all available credits or reached its monthly spending limit.",
            code="Some resource has been exhausted",
        )

    def error(self, refusal: Refusal) -> dict[str, Any]:
        return {"code": refusal.code or "Client specified an invalid argument", "error": refusal.message}

    def check_chat(self, body: dict[str, Any]) -> None:
        model = body["model"]
        if "reasoning" in model or "grok-4" in model:
            for name, said in self.refused.items():
                if body.get(name) is not None:
                    raise Refusal(400, f"Argument not supported on this model: {said}")
        if "grok-4" in model and body.get("reasoning_effort") is not None:
            raise Refusal(400, f"Model {model} does not support parameter reasoningEffort.")
        known = {name: value for name, value in body.items() if name in rules.CHAT_FIELDS - {"reasoning_effort"}}
        rules.check_chat({**known, "model": "grok"})

    def check_images(self, body: dict[str, Any]) -> None:
        """It draws by shape and not by size."""
        for name in ("quality", "size", "style"):
            if name in body:
                raise Refusal(400, f"Argument not supported: {name}")
        body = {name: value for name, value in body.items() if name not in ("aspect_ratio", "resolution")}
        media_rules.check_images(body)

    def usage(self, usage: Usage) -> dict[str, Any]:
        """xAI leaves reasoning out of completion_tokens, but counts it in the total."""
        data = super().usage(usage)
        return {**data, "completion_tokens": usage.output}

    def frames(self, ask: Ask, answer: Answer) -> list[Frame]:
        """Usage sits on the last chunk that has choices, whether it was asked for or not."""
        made = super().frames(Ask(**{**vars(ask), "extra": {"include_usage": False}}), answer)
        made[-2].data["usage"] = self.usage(answer.usage)
        return made


class LooseWire(OpenAIWire):
    """llama.cpp and its like: unknown fields are ignored, max_completion_tokens too, the key is optional."""

    known: ClassVar = rules.CHAT_FIELDS - {"max_completion_tokens", "reasoning_effort", "metadata", "store"}

    def authorise(self, request: Request) -> None:
        """Anybody may come in."""

    def check_chat(self, body: dict[str, Any]) -> None:
        if body["model"] == "llama-strict" and "stream_options" in body:
            raise rules.refuse("Unknown field: stream_options")
        rules.check_chat({**{name: body[name] for name in body if name in self.known}, "model": "llama"})

    def check_embeddings(self, body: dict[str, Any]) -> None:
        super().check_embeddings(_known(body, media_rules.EMBEDDING_FIELDS))

    def check_images(self, body: dict[str, Any]) -> None:
        super().check_images(_known(body, media_rules.IMAGE_FIELDS))

    def limit(self, body: dict[str, Any]) -> int | None:
        return body.get("max_tokens")

    def error(self, refusal: Refusal) -> dict[str, Any]:
        return {
            "error": {
                "code": refusal.status,
                "message": refusal.message,
                "type": refusal.kind or "invalid_request_error",
            }
        }


def _known(body: dict[str, Any], fields: set[str]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name in fields}


class Interstitial(Exception):
    """ngrok shows its page instead of the service behind it."""

    page = (
        b"<!DOCTYPE html><html><head><title>ngrok</title></head><body>You are about to visit this site, served for "
        b"free through ngrok.com. ERR_NGROK_6024</body></html>"
    )


class NgrokWire(LooseWire):
    """A laptop behind a free tunnel: without the skip header a web page comes back, with status 200."""

    def accept(self, request: Request, path: str) -> Ask:
        if "ngrok-skip-browser-warning" not in request.headers:
            raise Interstitial
        return super().accept(request, path)
