"""What a view says of itself for ``/openapi.json``: a mark on the function, read when the document is put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from marshmallow import Schema

View = TypeVar("View", bound=Callable[..., Any])
Shape = type[Schema] | Schema | Mapping[str, Any]
"""A body's form: one of the marshmallow schemas that read it, or a JSON Schema."""


@dataclass(frozen=True, slots=True)
class Doc:
    """One operation.

    ``body``, ``answer``: their forms; None where there is none. ``query``, ``headers``: OpenAPI parameter objects.
    ``media``: the answer's type; ``or_as``: what else the same answer may come as, by media type. ``streams``: the
    answer may be server-sent events too. ``errors``: statuses beyond those that `blueprints.docs` knows of by guard,
    path and body; ``never``: statuses that it would name and that this view does not give. ``body_media``: what else
    than JSON is read. ``also``: forms of other answers in JSON, by their status. ``security``: alternatives, where
    the guard does not say them all.
    """

    summary: str
    body: Shape | None = None
    answer: Shape | None = None
    status: int = 200
    query: Sequence[Mapping[str, Any]] = ()
    headers: Sequence[Mapping[str, Any]] = ()
    media: str = "application/json"
    or_as: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    streams: bool = False
    errors: Sequence[int] = ()
    body_media: Sequence[str] = ("application/json",)
    body_required: bool = True
    tags: Sequence[str] = field(default_factory=tuple)
    description: str = ""
    never: Sequence[int] = ()
    also: Mapping[int, Shape] = field(default_factory=dict)
    security: Sequence[Mapping[str, Sequence[str]]] | None = None


def documented(summary: str, **said: Any) -> Callable[[View], View]:
    """Mark a view with its `Doc`; stands below the route's decorator."""

    def mark(view: View) -> View:
        view.api_doc = Doc(summary, **said)  # type: ignore[attr-defined]
        return view

    return mark


def parameter(
    name: str, about: str, schema: Mapping[str, Any] | None = None, *, required: bool = False
) -> dict[str, Any]:
    """A query parameter as OpenAPI writes it."""
    return {
        "name": name,
        "in": "query",
        "description": about,
        "required": required,
        "schema": schema or {"type": "string"},
    }


PAGE = (
    parameter("limit", "Most entries", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
    parameter("after", "`next` of the page before", {"type": "string", "maxLength": 1000}),
)
"""The parameters of our own lists."""
