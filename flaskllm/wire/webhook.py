"""The webhook (S3): a prompt in, text and its typed form out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields

from flaskllm.domain.language import LANGUAGES
from flaskllm.domain.prompt import SOURCES, PromptAnswer, PromptAsk, PromptKind
from flaskllm.domain.text import can_be_held
from flaskllm.errors import invalid
from flaskllm.wire import shapes
from flaskllm.wire.fields import Choice, Text, load

MOST_VARIABLES = 32
MOST_TEXT = 10_000_000
"""The most that the setting may be."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@shapes.of_form(enum=sorted(LANGUAGES))
def language_code(value: str) -> None:
    """A check of marshmallow's kind: raises its error."""
    if value.lower() not in LANGUAGES:
        raise ValidationError("must be a code of ISO 639-1, such as en")


class PromptSchema(Schema):
    """``POST /api/v1/webhook``. Lengths are checked apart: their bound is a setting."""

    prompt = Text(most=MOST_TEXT)
    source = Choice(*SOURCES, allow_none=True)
    language = Text(allow_none=True, most=16, validate=language_code)
    type = Choice(*PromptKind, allow_none=True)
    model = Text(allow_none=True, least=1, most=256)
    template = Text(allow_none=True, least=1, most=64)
    variables = fields.Dict(
        allow_none=True,
        metadata={
            "maxProperties": MOST_VARIABLES,
            "propertyNames": {"pattern": f"^{_NAME.pattern}$"},
            "additionalProperties": {"type": ["string", "number"], "pattern": shapes.NO_NUL},
        },
    )


RESULTS: dict[PromptKind, shapes.Shape] = {
    PromptKind.KEYWORDS: {"type": "array", "items": shapes.STRING, "title": "Keywords"},
    PromptKind.SENTIMENT: shapes.record("Sentiment", label=shapes.STRING, score={"type": "number"}),
    PromptKind.ENTITIES: {
        "type": "array",
        "items": shapes.record(text=shapes.STRING, type=shapes.STRING),
        "title": "Entities",
    },
}
"""The form of a typed answer, for the types that have one."""
_RESULT = {"anyOf": [*RESULTS.values(), shapes.NULL]}
ANSWER = shapes.record(
    "PromptAnswer",
    summary=shapes.STRING,
    processing_time={"type": "number", "minimum": 0, "description": "seconds"},
    type=shapes.one_of(*PromptKind),
    model=shapes.STRING,
    result=_RESULT,
    usage=shapes.USAGE,
    request_id=shapes.STRING,
)
HEALTH = shapes.record(status={"const": "ok"}, version=shapes.STRING, environment=shapes.STRING)
"""The answers' forms, for ``/openapi.json``."""


def read_prompt(body: dict[str, Any], *, longest: int) -> PromptAsk:
    """S3's prompt; ``longest``: most characters of it and of each variable. Raises `InvalidRequest`."""
    given = {name: value for name, value in load(PromptSchema(), body).items() if value is not None}
    variables = _read_variables(given.get("variables", {}), longest)
    kind, language = given.get("type"), given.get("language")
    return PromptAsk(
        variables=_with_prompt(variables, given, longest),
        kind=PromptKind(kind) if kind else None,
        template=given.get("template"),
        language=language.lower() if language else None,
        source=given.get("source"),
        model=given.get("model"),
    )


def _with_prompt(variables: dict[str, str], given: Mapping[str, Any], longest: int) -> dict[str, str]:
    """The prompt is the variable ``text`` under S3's name; one of the two has to stand, and not both.

    A template that is named says itself whether it needs one.
    """
    prompt = given.get("prompt")
    if prompt is not None and "text" in variables:
        raise invalid("variables.text", "stands beside prompt; give one of them")
    if prompt is None and "text" not in variables:
        if given.get("template"):
            return variables
        raise invalid("prompt", "is required")
    if prompt is not None:
        variables = {**variables, "text": _bounded("prompt", prompt, longest)}
    if not variables["text"].strip():
        raise invalid("prompt" if prompt is not None else "variables.text", "must not be empty")
    return variables


def _read_variables(given: Mapping[Any, Any], longest: int) -> dict[str, str]:
    if len(given) > MOST_VARIABLES:
        raise invalid("variables", f"must have at most {MOST_VARIABLES} entries")
    for name in given:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise invalid("variables", "must have names of letters, digits and underscores")
    return {name: _read_variable(name, value, longest) for name, value in given.items()}


def _read_variable(name: str, value: Any, longest: int) -> str:
    """A text; a number too, since a cell of a spreadsheet may hold one."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not can_be_held(value):
        raise invalid(f"variables.{name}", "must be a string")
    return _bounded(f"variables.{name}", value, longest)


def _bounded(field: str, value: str, longest: int) -> str:
    if len(value) > longest:
        raise invalid(field, f"must have at most {longest} characters")
    return value


def write_metadata(ask: PromptAsk) -> dict[str, str]:
    """What the usage row remembers of the prompt."""
    told = {"template": ask.template_name, "source": ask.source, "language": ask.language}
    return {name: str(value) for name, value in told.items() if value}


def write_answer(told: PromptAnswer, request_id: str) -> dict[str, Any]:
    """S3's two fields first; ``result`` is the typed form, null where there is none."""
    return {
        "summary": told.text,
        "processing_time": round(told.seconds, 3),
        "type": told.kind.value,
        "model": told.model,
        "result": told.result,
        "usage": told.usage.to_openai(),
        "request_id": request_id,
    }


def write_health(version: str, environment: str) -> dict[str, str]:
    """S3's health."""
    return {"status": "ok", "version": version, "environment": environment}
