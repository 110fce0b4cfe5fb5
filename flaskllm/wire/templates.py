"""Prompt templates as administrators write and callers read them (``/api/v1/templates``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from marshmallow import Schema, fields

from flaskllm.domain.prompt import PromptKind, PromptTemplate
from flaskllm.errors import Detail, InvalidRequest, invalid, refuse
from flaskllm.wire import shapes
from flaskllm.wire.fields import Choice, Flag, Text, load
from flaskllm.wire.openai import PARAMS

LONGEST_TEXT = 100_000
MOST_VARIABLES = 32
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
PARAMETERS = (
    "temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "presence_penalty",
    "frequency_penalty", "reasoning_effort", "verbosity",
)  # fmt: skip
"""What a template may set of a call; the form of its answer is its type's."""
CHANGEABLE = ("type", "description", "system_text", "user_text", "variables", "model", "parameters", "cache")
"""What may differ from one version to the next."""


class VariableSchema(Schema):
    name = Text(required=True, most=64, least=1, pattern=VARIABLE, form="must be a name of letters, digits and _")
    default = Text(allow_none=True, load_default=None, most=LONGEST_TEXT)


class ChangeSchema(Schema):
    """``PUT /api/v1/templates/{name}``: what is sent changes, the rest stays."""

    type = Choice(*PromptKind)
    description = Text(most=1000)
    system_text = Text(most=LONGEST_TEXT)
    user_text = Text(least=1, most=LONGEST_TEXT)
    variables = fields.List(fields.Nested(VariableSchema))
    model = Text(allow_none=True, least=1, most=256)
    parameters = fields.Dict(keys=fields.String())
    cache = Flag()


class TemplateSchema(ChangeSchema):
    """``POST /api/v1/templates``. Without ``variables`` those that the texts use are declared, each to be given."""

    name = Text(required=True, least=1, most=64, pattern=NAME, form="must be of letters, digits, dot, _ and -")
    user_text = Text(required=True, least=1, most=LONGEST_TEXT)


def read_template(body: dict[str, Any]) -> PromptTemplate:
    """A new template. Raises `InvalidRequest`."""
    changes = _fields(load(TemplateSchema(), body))
    variables = changes.pop("variables", {})
    return PromptTemplate(**{"kind": PromptKind.CUSTOM, **changes}, variables=variables, shipped=False)


def read_change(body: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `PromptTemplate` that are to differ, at least one. Raises `InvalidRequest`."""
    changes = _fields(load(ChangeSchema(), body))
    if not changes:
        raise InvalidRequest("body: must change at least one field")
    return changes


def _fields(given: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(given)
    if "type" in found:
        found["kind"] = PromptKind(found.pop("type"))
    if "variables" in found:
        found["variables"] = _variables(found["variables"])
    _check_parameters(found.get("parameters", {}))
    return found


def _variables(given: list[dict[str, Any]]) -> dict[str, str | None]:
    if len(given) > MOST_VARIABLES:
        raise invalid("variables", f"must have at most {MOST_VARIABLES} entries")
    found: dict[str, str | None] = {}
    for place, variable in enumerate(given):
        if variable["name"] in found:
            raise invalid(f"variables[{place}].name", "stands more than once")
        found[variable["name"]] = variable["default"]
    return found


def _check_parameters(given: Mapping[str, Any]) -> None:
    faults: list[Detail] = []
    for name, value in given.items():
        fault = PARAMS[name](value) if name in PARAMETERS else f"is not one of {', '.join(PARAMETERS)}"
        if fault:
            faults.append({"field": f"parameters.{name[:80]}", "message": fault})
    refuse(faults)


def write_templates(templates: Iterable[PromptTemplate]) -> dict[str, Any]:
    """A list like all of ours; there are few, so it is never paged."""
    return {"data": [write_template(template) for template in templates], "next": None}


def write_template(template: PromptTemplate) -> dict[str, Any]:
    return {
        "name": template.name,
        "type": template.kind.value,
        "description": template.description,
        "system_text": template.system_text,
        "user_text": template.user_text,
        "variables": [{"name": name, "default": default} for name, default in template.variables.items()],
        "model": template.model,
        "parameters": dict(template.parameters),
        "cache": template.cache,
        "version": template.version,
        "shipped": template.shipped,
    }


TEMPLATE = shapes.record(
    name=shapes.STRING,
    type=shapes.one_of(*(kind.value for kind in PromptKind)),
    description=shapes.STRING,
    system_text=shapes.STRING,
    user_text=shapes.STRING,
    variables=shapes.several(shapes.record(name=shapes.STRING, default=shapes.maybe(shapes.STRING))),
    model=shapes.maybe(shapes.STRING),
    parameters=shapes.ANY_OBJECT,
    cache={**shapes.FLAG, "description": "An answer to an equal question will do, unless the request says otherwise"},
    version={"type": "integer", "minimum": 1},
    shipped=shapes.FLAG,
)
"""The document, for ``/openapi.json``."""
TEMPLATES = shapes.record(data=shapes.several(TEMPLATE), next=shapes.NULL)
