"""``/openapi.json``, ``/docs`` and the gate's own part of both: what `documented` and the table of doors say, told.

The document holds no secret and is open to all; it is put together once a process, when it is first asked for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson
from flask import Blueprint, Flask, Response, current_app, render_template, request
from werkzeug.routing import Rule

from flaskllm.blueprints._calls import CACHE_HEADER
from flaskllm.blueprints._doc import Doc, documented
from flaskllm.blueprints._errors import dialect
from flaskllm.blueprints._examples import BODIES, PATHS
from flaskllm.blueprints._guard import Policy, admin_only, metrics_reader, open_to_all
from flaskllm.blueprints._once import HEADER as KEY_HEADER
from flaskllm.version import VERSION
from flaskllm.wire.shapes import STRING

if TYPE_CHECKING:
    from flaskllm.blueprints import Door
    from flaskllm.wire.openapi import Operation

bp = Blueprint("docs", __name__)
gate = Blueprint("gate_docs", __name__)

KEY = "flaskllm.openapi"
STRICT_PAGE = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'self'"
)
"""No inline script or style and nothing from elsewhere; Swagger UI has its icons as data URLs."""
NO_DOCUMENT = frozenset({"static", "admin"})
"""Blueprints that are no part of the API: our own pages and their files."""
MODEL_SCOPES = frozenset({"chat", "webhook", "embeddings", "images"})
MODEL_ERRORS = (402, 404, 429, 502, 504)
_PARAMETER = re.compile(r"<(?:([^:<>]+):)?([^<>]+)>")
_FORMS = {"uuid": {"type": "string", "format": "uuid"}}
"""Of path parameters, by the converter that takes nothing else; all others are any text."""

ABOUT = """\
A self-hosted gateway to language models: one service behind several dialects. Each family of paths keeps its own field
names, envelopes and errors. One credential a request: an API token or an access token as a bearer, or an API token in
`X-API-Token`, `api-key` or `x-api-key`. Bodies are strict JSON: UTF-8, one object, no key twice, no NaN, at most 64
levels deep. Every answer has `X-Request-Id`; every error `X-FlaskLLM-Error` with its code.
"""
FAMILIES = {
    "Accounts": "Register, log in, the profile, API tokens and usage of one's own",
    "Conversations": "Chats that remember",
    "Webhook": "Prompts from spreadsheets and flows, and their templates",
    "OpenAI": "What OpenAI's SDKs speak, Azure's client classes included",
    "Anthropic": "What Anthropic's SDKs speak",
    "Gate": "Providers, chat, images and embeddings in camelCase, with three headers that say who calls",
    "Providers": "Providers, their models and keys; for administrators",
    "Administration": "Everybody's accounts, tokens and usage, and who changed what; for administrators",
    "Batches": "Many questions in one request, answered by workers",
    "External calls": "HTTP calls to public addresses",
    "Operations": "Health, metrics and this document",
}
FAMILY_OF = {
    "auth": "Accounts", "tokens": "Accounts", "usage": "Accounts", "conversations": "Conversations",
    "webhook": "Webhook", "templates": "Webhook", "openai": "OpenAI", "ops": "Operations", "docs": "Operations",
    "gate": "Gate", "gate_docs": "Gate", "external": "External calls", "messages": "Anthropic", "responses": "OpenAI",
    "azure": "OpenAI", "batch": "Batches", "files": "Batches", "providers": "Providers", "routes": "Providers",
    "administration": "Administration",
    "quotas": "Administration", "excel": "Webhook", "chat_page": "Accounts",
}  # fmt: skip
SECURITY_SCHEMES: dict[str, dict[str, Any]] = {
    "accessToken": {
        "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
        "description": "From `POST /api/auth/login`; carries its account's scopes",
    },
    "apiToken": {
        "type": "http", "scheme": "bearer", "bearerFormat": "fl_…",
        "description": "An API token, as OpenAI's SDKs send it",
    },
    "apiTokenHeader": {"type": "apiKey", "in": "header", "name": "X-API-Token", "description": "An API token"},
    "azureKey": {
        "type": "apiKey", "in": "header", "name": "api-key", "description": "An API token, as Azure's clients send it",
    },
    "anthropicKey": {
        "type": "apiKey", "in": "header", "name": "x-api-key",
        "description": "An API token, as Anthropic's SDKs send it",
    },
    "queryToken": {
        "type": "apiKey", "in": "query", "name": "api_token",
        "description": "An API token, on `/api/v1/*` only; taken out of the address before anything logs it",
    },
    "refreshToken": {
        "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "The refresh token of a login",
    },
    "metricsToken": {"type": "http", "scheme": "bearer", "description": "`METRICS_TOKEN`, for Prometheus"},
}  # fmt: skip
CARRIERS = ("accessToken", "apiToken", "apiTokenHeader", "azureKey", "anthropicKey")


# -- pages ------------------------------------------------------------------------------------------------------------


@bp.get("/openapi.json")
@documented("This document", answer={"type": "object"}, description="OpenAPI 3.1, with an ETag.")
def document() -> Response:
    return _send(current_app.extensions[KEY]("whole"))


@bp.get("/docs")
@documented("This document as a page (Swagger UI)", answer=STRING, media="text/html")
def page() -> Response:
    return _page("FlaskLLM", "docs.document")


@gate.get("/openapi.json")
@documented("The gate's part of the document", answer={"type": "object"})
def gate_document() -> Response:
    return _send(current_app.extensions[KEY]("gate"))


@gate.get("/docs")
@documented("The gate's part as a page (Swagger UI)", answer=STRING, media="text/html")
def gate_page() -> Response:
    return _page(current_app.config["GATE_TITLE"], "gate_docs.gate_document")


def _send(body: bytes) -> Response:
    """A document, or a 304 to who has it already."""
    response = Response(body, content_type="application/json", headers={"Cache-Control": "no-cache"})
    response.set_etag(hashlib.sha256(body).hexdigest()[:32])
    response.make_conditional(request)
    return response


def _page(title: str, endpoint: str) -> Response:
    html = render_template("swagger.html", title=title, document=endpoint, version=VERSION)
    headers = {"Content-Security-Policy": STRICT_PAGE, "Cache-Control": "no-cache"}
    return Response(html, content_type="text/html; charset=utf-8", headers=headers)


# -- the document -----------------------------------------------------------------------------------------------------


def publish(app: Flask, doors: Iterable[Door]) -> None:
    """Let the document be asked for, now that every door is in place."""
    known = {door.blueprint.name: door for door in doors}
    app.extensions[KEY] = cache(lambda part: orjson.dumps(describe(app, known, part)))


def describe(app: Flask, doors: Mapping[str, Door], part: str = "whole") -> dict[str, Any]:
    """The document of every route, or of the ``gate`` alone under its own title."""
    from flaskllm.wire.openapi import About, write_document  # 80 ms that only readers of the document wait for

    title, told = "FlaskLLM", ABOUT
    operations = list(_operations(app, doors))
    if part == "gate":
        title, told = app.config["GATE_TITLE"], app.config["GATE_DESCRIPTION"]
        operations = [each for each in operations if each.family == "Gate"]
    return write_document(About(title, VERSION, told, FAMILIES, SECURITY_SCHEMES), operations)


def _operations(app: Flask, doors: Mapping[str, Door]) -> Iterator[Operation]:
    named = _names(app)
    for rule, method in routes(app):
        blueprint = rule.endpoint.partition(".")[0]
        told: Doc | None = getattr(app.view_functions[rule.endpoint], "api_doc", None)
        if told is not None:
            door = doors[blueprint]
            policy = door.policy(rule.endpoint)
            yield _operation(app, rule, method, told, policy, name=named[rule.rule, method])


def routes(app: Flask) -> list[tuple[Rule, str]]:
    """Every path and method that the document has to tell of."""
    found = [
        (rule, method)
        for rule in app.url_map.iter_rules()
        if rule.endpoint.partition(".")[0] not in NO_DOCUMENT
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]
    return sorted(found, key=lambda each: (each[0].rule, each[1]))


def _names(app: Flask) -> dict[tuple[str, str], str]:
    """An operation's name: its view's; with the path behind it where a view stands at several."""
    found: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for rule, method in routes(app):
        name = _camel(rule.endpoint)
        if name in taken:
            name = _camel(f"{rule.endpoint} {method.lower()} {rule.rule}")
        taken.add(name)
        found[rule.rule, method] = name
    return found


def _camel(words: str) -> str:
    """One word of many, without the underscores that Swagger UI warns of in addresses.

    >>> _camel("tokens.create_token")
    'tokensCreateToken'
    """
    first, *rest = re.findall(r"[A-Za-z0-9]+", words)
    return first + "".join(word[0].upper() + word[1:] for word in rest)


def _operation(app: Flask, rule: Rule, method: str, told: Doc, policy: Policy, *, name: str) -> Operation:
    from flaskllm.wire.openapi import Operation

    blueprint = rule.endpoint.partition(".")[0]
    takes_a_key = hasattr(app.view_functions[rule.endpoint], "takes_a_key")
    calls_a_model = method == "POST" and getattr(policy, "scope", None) in MODEL_SCOPES
    return Operation(
        path=_PARAMETER.sub(r"{\2}", rule.rule),
        method=method.lower(),
        name=name,
        summary=told.summary,
        description=told.description,
        family=next(iter(told.tags), None) or FAMILY_OF.get(blueprint, "Operations"),
        dialect=dialect(rule.rule),
        security=_security(app, rule, policy) if told.security is None else told.security,
        parameters=(
            *_path_parameters(rule),
            *told.query,
            *told.headers,
            *([KEY_HEADER, CACHE_HEADER] if takes_a_key else []),
        ),
        body=told.body,
        body_media=told.body_media,
        example=BODIES.get(rule.endpoint),
        body_required=told.body_required,
        answers=_answers(told),
        errors=_errors(rule, told, policy, calls_a_model=calls_a_model, takes_a_key=takes_a_key),
        model_call=calls_a_model,
    )


def _path_parameters(rule: Rule) -> Iterator[dict[str, Any]]:
    for converter, name in _PARAMETER.findall(rule.rule):
        shown = {"example": PATHS[rule.endpoint]} if rule.endpoint in PATHS else {}
        form = _FORMS.get(converter, {"type": "string", "minLength": 1})
        yield {"name": name, "in": "path", "required": True, "schema": form, **shown}


def _answers(told: Doc) -> dict[int, dict[str, Any]]:
    media: dict[str, Any] = {} if told.answer is None else {told.media: told.answer}
    media |= told.or_as
    if told.streams:
        media["text/event-stream"] = {"description": "Server-sent events"}
    return {told.status: media} | {status: {"application/json": form} for status, form in told.also.items()}


def _errors(rule: Rule, told: Doc, policy: Policy, *, calls_a_model: bool, takes_a_key: bool) -> list[int]:
    """What may go wrong here, by guard, path and body, besides what the view says of itself."""
    found = {400, 500, 503, *told.errors}
    if policy is not open_to_all:
        found |= {401, 403}
    if rule.arguments:
        found.add(404)
    if told.body is not None:
        found |= {413, 415}
    if takes_a_key:
        found.add(409)
    if calls_a_model:
        found |= set(MODEL_ERRORS)
    return sorted(found - set(told.never) - {told.status})


def _security(app: Flask, rule: Rule, policy: Policy) -> list[dict[str, list[str]]]:
    """Each carrier by which this route may be entered, with the scope or role that is asked of it."""
    if policy is open_to_all:
        return []
    asked = [policy.scope] if hasattr(policy, "scope") else ["admin"] if policy in (admin_only, metrics_reader) else []
    carriers = list(CARRIERS)
    if app.config["ALLOW_QUERY_TOKEN"] and rule.rule.startswith("/api/v1/"):
        carriers.append("queryToken")
    metrics: list[dict[str, list[str]]] = [{"metricsToken": []}] if policy is metrics_reader else []
    return metrics + [{carrier: asked} for carrier in carriers]
