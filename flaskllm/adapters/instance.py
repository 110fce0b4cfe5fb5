"""The smallest value that a JSON schema lets through: what `demo` answers and calls tools with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flaskllm.errors import invalid

DEPTHS = (4, 8, 16, 32)
"""Levels of nesting that are tried: a schema that speaks of itself has its smallest instance at the flattest."""
MOST_STEPS = 20_000
"""A schema may be made to branch without end."""
LETTERS_A_STEP = 100
"""Texts cost steps by their length: a schema of forty bytes may ask for a gigabyte."""
MOST_PAIRS = 250_000
"""Pairs that laying two lists together may look at."""
MOST_ITEMS = 1000
FORMATS = {
    "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "P0D",
    "email": "a@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "hostname": "example.com",
}
_KINDS: tuple[tuple[str, frozenset[str]], ...] = (
    ("object", frozenset({"properties", "required", "additionalProperties", "minProperties"})),
    ("array", frozenset({"items", "prefixItems", "minItems", "maxItems", "uniqueItems"})),
    ("string", frozenset({"minLength", "maxLength", "format", "pattern"})),
    ("number", frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})),
)
"""What a schema without a type speaks of."""


class _NoInstance(Exception):
    """This way through the schema leads nowhere; another alternative may."""


def smallest_instance(schema: Mapping[str, Any] | bool, field: str) -> Any:
    """A value that validates, with required members and least items only. ``field`` names the schema in a refusal.

    Understands what OpenAI's structured outputs take, but ``pattern`` and ``not``. Raises `InvalidRequest`.
    """
    for depth in DEPTHS:
        try:
            return _Maker(schema, depth).make(schema, 0)
        except _NoInstance:
            continue
        except (RecursionError, TypeError, ValueError, KeyError, AttributeError, OverflowError):
            break
    raise invalid(field, "is a schema that the demo model finds no instance of")


class _Maker:
    def __init__(self, root: Any, deepest: int) -> None:
        self._root = root
        self._deepest = deepest
        self._steps = 0

    def _spend(self, letters: int) -> None:
        self._steps += 1 + letters // LETTERS_A_STEP
        if self._steps > MOST_STEPS:
            raise ValueError("the schema branches too much, or asks for too much text")

    def _given(self, value: Any) -> Any:
        """A value as it stands in the schema; it may be long, and asked for many times."""
        self._spend(len(str(value)))
        return value

    def _count(self, schema: Any, depth: int) -> None:
        self._spend(0)
        if depth > self._deepest or schema is False:
            raise _NoInstance

    def make(self, schema: Any, depth: int) -> Any:
        self._count(schema, depth)
        if schema is True:
            return None
        flat = self._flat(schema, depth)
        alternatives = next((flat[name] for name in ("anyOf", "oneOf") if flat.get(name)), None)
        if alternatives is None:
            return self._plain(flat, depth)
        rest = {name: value for name, value in flat.items() if value is not alternatives}
        return self._first([{"allOf": [rest, option]} for option in alternatives], depth)

    def _first(self, options: list[Any], depth: int) -> Any:
        for option in options:
            try:
                return self.make(option, depth + 1)
            except _NoInstance:
                continue
        raise _NoInstance

    def _flat(self, schema: Mapping[str, Any] | bool, depth: int) -> dict[str, Any]:
        """``$ref`` and ``allOf`` laid together with what stands beside them."""
        self._count(schema, depth)
        if isinstance(schema, bool):
            return {}
        flat = {name: value for name, value in schema.items() if name not in ("$ref", "allOf")}
        parts = [self._follow(schema["$ref"])] if "$ref" in schema else []
        for part in (*parts, *(schema.get("allOf") or ())):
            flat = _laid_together(flat, self._flat(part, depth + 1))
        return flat

    def _follow(self, reference: str) -> Any:
        found = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                raise _NoInstance
            found = found[name]
        return found

    def _plain(self, schema: dict[str, Any], depth: int) -> Any:
        if "const" in schema:
            return self._given(schema["const"])
        kinds = _kinds(schema)
        if "enum" in schema:
            return self._given(_first_of_kinds(schema["enum"], kinds))
        for kind in kinds:
            try:
                return self._of_kind(kind, schema, depth)
            except _NoInstance:
                continue
        raise _NoInstance

    def _of_kind(self, kind: str, schema: dict[str, Any], depth: int) -> Any:
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind == "string":
            self._spend(int(schema.get("minLength", 0)))
            return _text(schema)
        if kind in ("number", "integer"):
            return _number(schema, whole=kind == "integer")
        return {"boolean": False, "null": None}[kind]

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        beyond = schema.get("additionalProperties", True)
        names = list(dict.fromkeys(schema.get("required") or ()))
        required = set(names)
        spare = [name for name in properties if name not in required]
        extra = (f"key{number}" for number in range(MOST_ITEMS))
        while len(names) < min(int(schema.get("minProperties", 0)), MOST_ITEMS):
            names.append(spare.pop(0) if spare else next(extra))
        self._spend(sum(len(str(name)) for name in names))
        return {name: self.make(properties.get(name, beyond), depth + 1) for name in names}

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        firsts = schema.get("prefixItems") or []
        size = min(int(schema.get("minItems", 0)), MOST_ITEMS)
        items = [self.make(part, depth + 1) for part in firsts[:size]]
        unique = bool(schema.get("uniqueItems"))
        others = self._others(schema.get("items", True), depth) if unique else None
        while len(items) < size:
            item = next(others, _NoInstance) if others else self.make(schema.get("items", True), depth + 1)
            if item is _NoInstance:
                raise _NoInstance
            if not unique or item not in items:
                items.append(item)
        return items

    def _others(self, schema: Any, depth: int) -> Iterator[Any]:
        """Different items of one schema: its enum's, or numbers and texts that grow."""
        flat = {} if schema is True else self._flat(schema, depth + 1)
        if "enum" in flat:
            yield from map(self._given, flat["enum"])
            return
        first = self.make(schema, depth + 1)
        for more in range(MOST_ITEMS):
            yield self._given(_grown(first, more, flat))


def _grown(first: Any, more: int, schema: Mapping[str, Any]) -> Any:
    if isinstance(first, bool) and more < 2:
        return bool(more)
    if isinstance(first, int | float) and not isinstance(first, bool):
        return first + more * schema.get("multipleOf", 1)
    if isinstance(first, str):
        return first + "x" * more
    if more and isinstance(first, dict | list | bool | None):
        raise _NoInstance
    return first


def _laid_together(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two schemas that must both hold, as one; the narrower bound wins."""
    both = {**one, **other}
    for name in one.keys() & other.keys():
        both[name] = _NARROWER[name](one[name], other[name]) if name in _NARROWER else other[name]
    return both


def _bounded(one: list[Any], other: list[Any]) -> None:
    if len(one) * len(other) > MOST_PAIRS:
        raise ValueError("the schema's lists are too long to be laid together")


def _both_values(one: list[Any], other: list[Any]) -> list[Any]:
    _bounded(one, other)
    return [value for value in one if value in other]


def _both_options(one: list[Any], other: list[Any]) -> list[Any]:
    _bounded(one, other)
    return [{"allOf": [left, right]} for left in one for right in other]


def _both_members(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    shared = {key: {"allOf": [one[key], other[key]]} for key in one.keys() & other.keys()}
    return {**one, **other, **shared}


def _as_list(kinds: Any) -> list[str]:
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _shared_kinds(one: list[str], other: list[str]) -> list[str]:
    shared = [kind for kind in one if kind in other]
    if {"number", "integer"} <= {*one, *other} and "number" not in shared and "integer" not in shared:
        shared.append("integer")
    return shared


_LOW = ("minimum", "minLength", "minItems", "minProperties", "exclusiveMinimum")
_HIGH = ("maximum", "maxLength", "maxItems", "maxProperties", "exclusiveMaximum")
_NARROWER: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(_LOW, max),
    **dict.fromkeys(_HIGH, min),
    "required": lambda one, other: [*one, *other],
    "properties": _both_members,
    "enum": _both_values,
    "type": lambda one, other: _shared_kinds(_as_list(one), _as_list(other)),
    "anyOf": _both_options,
    "oneOf": _both_options,
    "items": lambda one, other: {"allOf": [one, other]},
}


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    """The types in the order to try them: null last, so that an instance shows something."""
    given = schema.get("type")
    if given is None:
        spoken = [kind for kind, words in _KINDS if words & schema.keys()]
        return spoken or ["object", "array", "string", "integer", "number", "boolean", "null"]
    return sorted(_as_list(given), key=lambda kind: kind == "null")


def _first_of_kinds(values: list[Any], kinds: list[str]) -> Any:
    for value in values:
        kind = _kind_of(value)
        if kind in kinds or (kind == "integer" and "number" in kinds):
            return value
    raise _NoInstance


def _kind_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "integer" if float(value).is_integer() else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _text(schema: Mapping[str, Any]) -> str:
    text = FORMATS.get(str(schema.get("format") or ""), "")
    text = text.ljust(int(schema.get("minLength", 0)), "x")
    if len(text) > schema.get("maxLength", len(text)):
        raise _NoInstance
    return text


def _number(schema: Mapping[str, Any], *, whole: bool) -> int | float:
    """Zero where it is let through, else something near to it."""
    step = schema.get("multipleOf") or (1 if whole else None)
    for value in _near_zero(schema, step):
        if _is_let_through(value, schema, step) and (not whole or float(value).is_integer()):
            return int(value) if float(value).is_integer() else value
    raise _NoInstance


def _near_zero(schema: Mapping[str, Any], step: float | None) -> list[float]:
    low = max((schema[name] for name in ("minimum", "exclusiveMinimum") if name in schema), default=None)
    high = min((schema[name] for name in ("maximum", "exclusiveMaximum") if name in schema), default=None)
    found: list[float] = [0]
    if low is not None:
        found += [math.ceil(low / step) * step, (math.floor(low / step) + 1) * step] if step else [low, low + 1]
    if high is not None:
        found += [math.floor(high / step) * step, (math.ceil(high / step) - 1) * step] if step else [high, high - 1]
    return [*found, (low + high) / 2] if low is not None and high is not None else found


def _is_let_through(value: float, schema: Mapping[str, Any], step: float | None) -> bool:
    return (
        schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)
        and schema.get("exclusiveMinimum", -math.inf) < value < schema.get("exclusiveMaximum", math.inf)
        and (not step or not value % step)
    )
