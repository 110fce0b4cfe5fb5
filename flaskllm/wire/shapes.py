"""JSON Schemas of answers, put together in few words; what a door writes is told by these beside its writer.

A schema with a ``title`` becomes a component of ``/openapi.json`` under that name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Shape = dict[str, Any]
"""A JSON Schema (draft 2020-12)."""
Check = TypeVar("Check", bound=Callable[..., Any])

STRING: Shape = {"type": "string"}
WHOLE: Shape = {"type": "integer"}
COUNT: Shape = {"type": "integer", "minimum": 0}
FLAG: Shape = {"type": "boolean"}
MOMENT: Shape = {"type": "string", "format": "date-time"}
NULL: Shape = {"type": "null"}
COST: Shape = {"type": ["number", "null"], "minimum": 0, "description": "US dollars; null where no price is known"}
NO_NUL = "^[^\\u0000]*$"
"""Every text that all stores can hold."""
NOT_BLANK = "^[^\\u0000]*[^\\u0000\\s][^\\u0000]*$"
ANY_OBJECT: Shape = {"type": "object"}


def record(title: str | None = None, /, *, optional: Mapping[str, Shape] | None = None, **fields: Shape) -> Shape:
    """An object that has all these fields, perhaps the optional ones, and no other.

    >>> record(id=STRING)["required"]
    ['id']
    """
    named = {} if title is None else {"title": title}
    return {
        **named,
        "type": "object",
        "properties": {**fields, **(optional or {})},
        "required": list(fields),
        "additionalProperties": False,
    }


def several(item: Shape, **bounds: Any) -> Shape:
    """A list of such things."""
    return {"type": "array", "items": item, **bounds}


def one_of(*words: str | None) -> Shape:
    """One of a few words."""
    return {"enum": list(words)}


def maybe(shape: Shape) -> Shape:
    """That, or null.

    >>> maybe(STRING)
    {'type': ['string', 'null']}
    """
    kind = shape.get("type")
    if kind == "null":
        return shape
    if isinstance(kind, str) and "enum" not in shape and "title" not in shape:
        return {**shape, "type": [kind, "null"]}
    return {"anyOf": [shape, NULL]}


def success(data: Shape) -> Shape:
    """S1's envelope round it."""
    return record(status={"const": "success"}, data=data)


def listing(item: Shape) -> Shape:
    """One page of a list of ours."""
    return record(data=several(item), next=maybe({"type": "string", "description": "`after` of the next page"}))


def of_form(**shape: Any) -> Callable[[Check], Check]:
    """Mark a check with the JSON Schema of what passes it, for the document."""

    def mark(check: Check) -> Check:
        check.form = shape  # type: ignore[attr-defined]
        return check

    return mark


def form_of(check: Any) -> Shape:
    """What a check says of itself; nothing where it says nothing."""
    return dict(getattr(check, "form", {}))


USAGE: Shape = record(
    "TokenCounts",
    prompt_tokens=COUNT,
    completion_tokens=COUNT,
    total_tokens=COUNT,
    prompt_tokens_details=record(cached_tokens=COUNT, audio_tokens=COUNT),
    completion_tokens_details=record(reasoning_tokens=COUNT, audio_tokens=COUNT),
)
"""OpenAI's token counts, as our own doors write them."""
