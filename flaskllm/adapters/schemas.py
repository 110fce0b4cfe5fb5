"""JSON schemas as other vendors take them: each knows a part of the language only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEEPEST = 24
FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
_KEPT = ("title", "description", "enum", "const", "format", "type", "required", "$ref")


def closed(schema: Any) -> Any:
    """For Anthropic's structured output: objects closed, and bounds, which it refuses, moved into the description.

    The vendor's own SDK does the same; what is moved there the model may still heed.
    """
    if not isinstance(schema, Mapping):
        return schema
    made: dict[str, Any] = {name: schema[name] for name in _KEPT if name in schema}
    inner, moved = _closed_parts(schema)
    made |= inner
    if made.get("type") == "object" or "properties" in made:
        made["additionalProperties"] = False
    if made.get("format") not in (None, *FORMATS):
        moved["format"] = made.pop("format")
    if moved:
        words = ", ".join(f"{name}: {value}" for name, value in moved.items())
        made["description"] = f"{made.get('description', '')}\n\n{{{words}}}".strip()
    return made


def _closed_parts(schema: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is kept or holds schemas itself, and what can only be described."""
    inner: dict[str, Any] = {}
    moved: dict[str, Any] = {}
    for name, value in schema.items():
        if name in ("properties", "$defs", "definitions"):
            inner[name] = {key: closed(part) for key, part in value.items()}
        elif name in ("anyOf", "oneOf", "allOf"):
            inner["anyOf" if name == "oneOf" else name] = [closed(part) for part in value]
        elif name == "items":
            inner[name] = closed(value)
        elif name == "minItems" and value in (0, 1):
            inner[name] = value
        elif name not in (*_KEPT, "additionalProperties", "$schema", "strict", "default"):
            moved[name] = value
    return inner, moved


class Unsayable(Exception):
    """Gemini's ``Schema`` has no words for it."""


_COPIED = (
    "title", "description", "nullable", "minItems", "maxItems", "minProperties", "maxProperties", "minLength",
    "maxLength", "pattern", "minimum", "maximum", "propertyOrdering",
)  # fmt: skip


def for_gemini(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema as Gemini's ``Schema``, by an allow-list: references inlined, type lists made nullable.

    Raises `Unsayable` where meaning would be lost (recursion, objects of any member, enums of numbers, tuples), so that
    the field for plain JSON schemas, which the API has since v1beta, can be used instead.
    """
    return _schema(schema, schema, 0)


def _schema(schema: Any, root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    if depth > DEEPEST or not isinstance(schema, Mapping):
        raise Unsayable
    schema = _resolved(schema, root)
    made = {name: schema[name] for name in _COPIED if name in schema}
    kinds = [kind for kind in _kinds(schema) if kind != "null"]
    if len(kinds) != len(_kinds(schema)):
        made["nullable"] = True
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return _options(made, options, root, depth)
    if len(kinds) > 1:
        return {**made, "anyOf": [_schema({**schema, "type": kind}, root, depth + 1) for kind in kinds]}
    return {**made, **_typed(kinds[0] if kinds else "", schema, root, depth)}


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """``$ref`` and a single ``allOf`` replaced by what they stand for; what is beside them counts more."""
    for _ in range(DEEPEST):
        if "$ref" in schema:
            target: Any = _followed(schema["$ref"], root)
        elif len(schema.get("allOf") or ()) == 1:
            target = schema["allOf"][0]
        else:
            break
        schema = {**target, **{name: value for name, value in schema.items() if name not in ("$ref", "allOf")}}
    if "allOf" in schema or "$ref" in schema:
        raise Unsayable
    return schema


def _followed(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not reference.startswith("#"):
        raise Unsayable
    return found


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    given = schema.get("type")
    if given is None:
        fixed = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
        if fixed and all(isinstance(value, str) for value in fixed):
            return ["string"]
        return ["object"] if "properties" in schema else []
    return [given] if isinstance(given, str) else list(given)


def _options(made: dict[str, Any], options: Any, root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    real = [option for option in options if option.get("type") != "null"]
    if len(real) < len(options):
        made["nullable"] = True
    said = [_schema(option, root, depth + 1) for option in real]
    return {**said[0], **made} if len(said) == 1 else {**made, "anyOf": said}


def _typed(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    fixed = schema.get("enum") or ([schema["const"]] if "const" in schema else None)
    if fixed and (kind != "string" or not all(isinstance(value, str) for value in fixed)):
        raise Unsayable
    made: dict[str, Any] = {"type": kind.upper()}
    if kind == "object":
        return made | _members(schema, root, depth)
    if kind == "array":
        if "items" not in schema or "prefixItems" in schema:
            raise Unsayable
        return made | {"items": _schema(schema["items"], root, depth + 1)}
    if kind == "string":
        made |= {"enum": fixed, "format": "enum"} if fixed else {}
        return made | ({"format": "date-time"} if schema.get("format") == "date-time" else {})
    if kind not in ("integer", "number", "boolean"):
        raise Unsayable
    return made


def _members(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    members = schema.get("properties") or {}
    if not members or isinstance(schema.get("additionalProperties"), Mapping):
        raise Unsayable
    made: dict[str, Any] = {"properties": {name: _schema(part, root, depth + 1) for name, part in members.items()}}
    if required := [name for name in schema.get("required") or () if name in members]:
        made["required"] = required
    return made
