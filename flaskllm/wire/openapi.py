"""One OpenAPI 3.1 document out of what each door says of itself (``docs/adr/0007-openapi.md``). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.common import resolve_schema_instance
from marshmallow import Schema

from flaskllm.errors import DomainError
from flaskllm.wire import fields as ours
from flaskllm.wire.errors import ANTHROPIC_TYPES, OPENAI_TYPES
from flaskllm.wire.ranges import ESTIMATE
from flaskllm.wire.shapes import NO_NUL, NULL, STRING, Shape, form_of, one_of, record, several

OPENAPI = "3.1.0"
LITERAL = frozenset({"const", "enum", "default", "example", "examples"})
"""Keywords of JSON Schema whose values are data and no schemas."""

Body = type[Schema] | Schema | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path, as the document tells it.

    ``answers``: status to (media type to form); an empty mapping is an answer without a body. ``errors``: statuses that
    are answered in ``dialect``. ``model_call``: its answers tell of the call in headers.
    """

    path: str
    method: str
    name: str
    summary: str
    family: str
    dialect: str
    description: str = ""
    security: Sequence[Mapping[str, Sequence[str]]] = ()
    parameters: Sequence[Mapping[str, Any]] = ()
    body: Body | None = None
    body_media: Sequence[str] = ("application/json",)
    body_required: bool = True
    example: Mapping[str, Any] | None = None
    answers: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    errors: Sequence[int] = ()
    model_call: bool = False


@dataclass(frozen=True, slots=True)
class About:
    """What stands at the head of the document."""

    title: str
    version: str
    description: str
    families: Mapping[str, str]
    security_schemes: Mapping[str, Mapping[str, Any]]


def write_document(about: About, operations: Iterable[Operation]) -> dict[str, Any]:
    """The document; components that nothing refers to are left out."""
    plugin = MarshmallowPlugin(schema_name_resolver=component_name)
    spec = APISpec(about.title, about.version, OPENAPI, plugins=[plugin], info={"description": about.description})
    assert plugin.converter is not None
    plugin.converter.add_attribute_function(strict_field)
    writer = _Writer(plugin.converter)
    paths: dict[str, dict[str, Any]] = {}
    families: set[str] = set()
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = writer.operation(operation)
        families.add(operation.family)
    document = spec.to_dict()
    document["paths"] = paths
    document["tags"] = [
        {"name": name, "description": told} for name, told in about.families.items() if name in families
    ]
    components = document.get("components", {})
    components["schemas"] = {**components.get("schemas", {}), **writer.shapes}
    components["responses"], components["headers"] = writer.responses, HEADERS
    components["securitySchemes"] = dict(about.security_schemes)
    document["components"] = components
    return _pruned(document)


class _Writer:
    """Writes operations; collects the components that they stand on."""

    def __init__(self, converter: Any) -> None:
        self._converter = converter
        self.shapes: dict[str, Shape] = {}
        self.responses: dict[str, Any] = {}

    def operation(self, told: Operation) -> dict[str, Any]:
        answers = {str(status): self._answer(told, status, media) for status, media in told.answers.items()}
        written: dict[str, Any] = {
            "operationId": told.name,
            "tags": [told.family],
            "summary": told.summary,
            "security": [{name: list(roles) for name, roles in each.items()} for each in told.security],
            "responses": answers | {str(s): self._error(told.dialect, s) for s in told.errors if str(s) not in answers},
        }
        if told.description:
            written["description"] = told.description
        if told.parameters:
            written["parameters"] = [self._parameter(each) for each in told.parameters]
        if told.parameters:
            written["responses"]["414"] = self._too_long()
        if told.body is not None:
            form = self._form(told.body)
            shown = {} if told.example is None else {"example": told.example}
            content = {media: {"schema": form, **shown} for media in told.body_media}
            written["requestBody"] = {"required": told.body_required, "content": content}
        return written

    def _parameter(self, told: Mapping[str, Any]) -> dict[str, Any]:
        return {**told, "schema": self._hoisted(told["schema"])}

    def _answer(self, told: Operation, status: int, media: Mapping[str, Any]) -> dict[str, Any]:
        names = COMMON_HEADERS + (MODEL_HEADERS if told.model_call and status < 300 else ())
        written: dict[str, Any] = {
            "description": STATUS_WORDS.get(status, "The answer"),
            "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        }
        if media:
            written["content"] = {kind: {"schema": self._form(form)} for kind, form in media.items()}
        return written

    def _error(self, dialect: str, status: int) -> dict[str, Any]:
        """A reference to the answer of this dialect with this status."""
        form, name = ERRORS[dialect], f"{ERRORS[dialect]['title']}{status}"
        headers = COMMON_HEADERS + ERROR_HEADERS.get(status, ("X-FlaskLLM-Error",))
        self.responses[name] = {
            "description": STATUS_WORDS.get(status, "It failed"),
            "headers": {header: {"$ref": f"#/components/headers/{header}"} for header in headers},
            "content": {"application/json": {"schema": self._hoisted(form)}},
        }
        return {"$ref": f"#/components/responses/{name}"}

    def _too_long(self) -> dict[str, Any]:
        """What no view sees: the server's own page for an address that it does not read to the end."""
        self.responses["AddressTooLong"] = {
            "description": "The address is too long; told by the server before the gateway",
            "content": {"text/html": {"schema": STRING}},
        }
        return {"$ref": "#/components/responses/AddressTooLong"}

    def _form(self, told: Body) -> Any:
        if isinstance(told, Mapping):
            return self._hoisted(told)
        return self._converter.resolve_nested_schema(told)

    def _hoisted(self, shape: Any) -> Any:
        """The schema with every part that has a title moved to the components."""
        if isinstance(shape, list):
            return [self._hoisted(each) for each in shape]
        if not isinstance(shape, Mapping):
            return shape
        written = {name: held if name in LITERAL else self._hoisted(held) for name, held in shape.items()}
        title = written.get("title")
        if not isinstance(title, str):
            return written
        if self.shapes.setdefault(title, written) != written:
            raise ValueError(f"two forms have the title {title}")
        return {"$ref": f"#/components/schemas/{title}"}


# -- marshmallow's schemas --------------------------------------------------------------------------------------------


def component_name(schema: Any) -> str:
    """A name for a schema's component: its module and its class, since several doors have a ``MessageSchema``."""
    found = resolve_schema_instance(schema)
    kind = type(found)
    module = kind.__module__.rpartition(".")[2].title().replace("_", "")
    changed = "Changes" if found.partial else ""
    return f"{module}{kind.__name__.strip('_').removesuffix('Schema')}{changed}"


def strict_field(_converter: Any, told: Any, ret: dict[str, Any], **_: Any) -> dict[str, Any]:
    """What apispec cannot know of `flaskllm.wire.fields`."""
    more: dict[str, Any] = {}
    if isinstance(told, ours.Text):
        more["pattern"] = _pattern(ret.get("pattern"))
    elif isinstance(told, ours.Several):
        more |= {"minItems": told.least, "maxItems": told.most}
    elif isinstance(told, ours.Network):
        more["anyOf"] = [{"format": "ipv4"}, {"format": "ipv6"}, {"pattern": r"^[0-9A-Fa-f.:]{2,45}/[0-9]{1,3}$"}]
    for validator in told.validators:
        more |= form_of(validator)
    if told.allow_none and "enum" in more:
        more["enum"] = [*more["enum"], None]
    more |= {name: told.metadata[name] for name in ("propertyNames",) if name in told.metadata}
    if told.allow_none and "type" not in ret:
        more |= {name: [*ret[name], NULL] for name in ("anyOf", "oneOf") if name in ret and NULL not in ret[name]}
    return more


def _pattern(given: str | None) -> str:
    r"""A whole-text pattern of Python's as ECMAScript has it.

    >>> _pattern(r"(?:[a-z]+)\Z")
    '^(?:[a-z]+)$'
    """
    return NO_NUL if given is None else "^" + given.removesuffix(r"\Z") + "$"


# -- errors and headers -----------------------------------------------------------------------------------------------


def _codes() -> list[str]:
    """Every code that an error of ours may have."""

    def tree(kind: type[DomainError]) -> Iterator[type[DomainError]]:
        yield kind
        for below in kind.__subclasses__():
            yield from tree(below)

    return sorted({kind.code for kind in tree(DomainError) if kind.__module__ == DomainError.__module__})


_DETAIL = record("ErrorDetail", field=STRING, message=STRING)
_OPENAI_WORDS = sorted({*OPENAI_TYPES.values(), "insufficient_quota", "server_error"})
_ANTHROPIC_WORDS = sorted({*ANTHROPIC_TYPES.values(), "api_error"})
ERRORS: dict[str, Shape] = {
    "house": record(
        "HouseError",
        status={"const": "error"},
        error=record(code=one_of(*_codes()), message=STRING, details=several(_DETAIL), request_id=STRING),
        optional={"estimate": ESTIMATE},
    ),
    "openai": record(
        "OpenAIError",
        error=record(
            message=STRING,
            type=one_of(*_OPENAI_WORDS),
            param={"type": ["string", "null"]},
            code=one_of(*_codes()),
        ),
    ),
    "anthropic": record(
        "AnthropicError",
        type={"const": "error"},
        error=record(type=one_of(*_ANTHROPIC_WORDS), message=STRING),
        request_id=STRING,
    ),
}
"""One form of error a dialect."""

STATUS_WORDS = {
    200: "The answer",
    201: "Made",
    202: "Taken",
    204: "Done; there is nothing to say",
    304: "Not changed since",
    400: "The request is not as it should be; the error names what is wrong",
    401: "No credential, or one that is not valid (any more)",
    402: "The model has no price, and the administrator wants none such used; or nothing is left to spend",
    403: "Not allowed",
    404: "There is no such thing, or it is somebody else's",
    409: "It exists already, or its state does not allow this",
    413: "The body is too large",
    415: "The body is of a type that is not read here",
    429: "Too many requests, or the budget is spent",
    500: "A fault of the gateway's own",
    502: "What was called outside failed",
    503: "Not now: something that is needed is away",
    504: "What was called outside gave no answer in time",
}


def _header(about: str, shape: Shape, *, required: bool = False) -> dict[str, Any]:
    return {"description": about, "schema": shape, "required": required}


HEADERS: dict[str, Any] = {
    "X-Request-Id": _header("The request's id: the caller's own where it was well formed", STRING, required=True),
    "X-FlaskLLM-Error": _header("The error's code", one_of(*_codes()), required=True),
    "WWW-Authenticate": _header("How to come with a credential", STRING, required=True),
    "Retry-After": _header("Seconds to wait", {"type": "integer", "minimum": 1}),
    "x-should-retry": _header("`false` where another try cannot help", one_of("false", "true")),
    "X-FlaskLLM-Provider": _header("The provider that answered", STRING),
    "X-FlaskLLM-Model": _header("The model that answered, as the provider calls it", STRING),
    "X-FlaskLLM-Cost": _header("US dollars, where a price is known", {"type": "number", "minimum": 0}),
    "X-FlaskLLM-Cache": _header(
        "`hit`: the answer was at hand already; `miss`: it was looked for, and asked; `none`: it was not looked for",
        one_of("hit", "miss", "none"),
    ),
    "Idempotency-Replayed": _header("`true` where this `Idempotency-Key` was answered before", one_of("true")),
    "X-FlaskLLM-Attempts": _header(
        "How many calls went out, and how each went: a structured list",
        {"type": "string", "pattern": "^[0-9]+(, .+)?$", "examples": ['1, "openai/gpt-4o";at="main";is=ok']},
    ),
    "X-FlaskLLM-Dropped-Params": _header("Parameters that were left out or changed", STRING),
    **{
        f"x-ratelimit-{what}-{of}": _header(f"{about}, {of}", STRING)
        for what, about in (("limit", "Most a minute"), ("remaining", "What is left"), ("reset", "Until all is back"))
        for of in ("requests", "tokens")
    },
}
COMMON_HEADERS = ("X-Request-Id",)
MODEL_HEADERS = (
    *(name for name in HEADERS if name.startswith("x-ratelimit")),
    "X-FlaskLLM-Provider", "X-FlaskLLM-Model", "X-FlaskLLM-Cost", "X-FlaskLLM-Cache", "X-FlaskLLM-Attempts",
    "X-FlaskLLM-Dropped-Params", "Idempotency-Replayed",
)  # fmt: skip
ERROR_HEADERS = {
    401: ("X-FlaskLLM-Error", "WWW-Authenticate"),
    409: ("X-FlaskLLM-Error", "Retry-After", "x-should-retry"),
    429: ("X-FlaskLLM-Error", "Retry-After", "x-should-retry", "X-FlaskLLM-Attempts"),
    502: ("X-FlaskLLM-Error", "X-FlaskLLM-Attempts"),
    503: ("X-FlaskLLM-Error", "Retry-After", "X-FlaskLLM-Attempts"),
    504: ("X-FlaskLLM-Error", "X-FlaskLLM-Attempts"),
}


# -- components -------------------------------------------------------------------------------------------------------


def _pruned(document: dict[str, Any]) -> dict[str, Any]:
    """Without the components that nothing refers to."""
    wanted = set(_references({name: held for name, held in document.items() if name != "components"}))
    waiting = list(wanted)
    while waiting:
        _, _, kind, name = waiting.pop().split("/")
        fresh = set(_references(document["components"][kind][name])) - wanted
        wanted |= fresh
        waiting += fresh
    parts = document["components"]
    document["components"] = {
        kind: dict(sorted(
            (name, held)
            for name, held in parts.get(kind, {}).items()
            if kind == "securitySchemes" or f"#/components/{kind}/{name}" in wanted
        ))
        for kind in ("schemas", "responses", "headers", "securitySchemes")
    }  # fmt: skip
    return document


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for held in part.values():
            yield from _references(held)
    elif isinstance(part, list):
        for held in part:
            yield from _references(held)
