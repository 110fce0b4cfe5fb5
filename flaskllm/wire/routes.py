"""The documents of routes: read strictly, written as they are kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from marshmallow import Schema, fields, validate

from flaskllm.domain.provider import MODEL_ID, ROUTE_NAME, TARGET
from flaskllm.domain.route import FALLBACKS, MOST_FALLBACKS, MOST_TARGETS, MOST_WEIGHT, STRATEGIES, RouteFields
from flaskllm.wire.fields import Choice, Several, Text, Whole, iso, load
from flaskllm.wire.shapes import COUNT, MOMENT, STRING, one_of, record, several

NAME_FORM = "must be letters, digits and . _ : @ + ~ -, beginning with a letter or digit"
TARGET_FORM = "must be provider/model"
MODEL_FORM = "must be provider/model, a model's name or an alias"


class TargetSchema(Schema):
    """One model of a route."""

    model = Text(least=3, most=193, pattern=TARGET, form=TARGET_FORM, required=True)
    weight = Whole(least=0, most=MOST_WEIGHT)


class FallbackSchema(Schema):
    """Who is asked instead, by why the request was refused."""

    context_window = Several(Text(least=1, most=193, pattern=MODEL_ID, form=MODEL_FORM), most=MOST_FALLBACKS)
    content_filter = Several(Text(least=1, most=193, pattern=MODEL_ID, form=MODEL_FORM), most=MOST_FALLBACKS)


class RouteSchema(Schema):
    """A route."""

    name = Text(least=1, most=128, pattern=ROUTE_NAME, form=NAME_FORM, required=True)
    strategy = Choice(*STRATEGIES)
    targets = fields.List(
        fields.Nested(TargetSchema),
        required=True,
        validate=validate.Length(min=1, max=MOST_TARGETS, error=f"must have 1 to {MOST_TARGETS} entries"),
    )
    fallbacks = fields.Nested(FallbackSchema)


ROUTE, ROUTE_CHANGES = RouteSchema(), RouteSchema(partial=("name", "targets"))


def read_route(body: dict[str, Any]) -> RouteFields:
    return cast("RouteFields", load(ROUTE, body))


def read_route_changes(body: dict[str, Any]) -> RouteFields:
    return cast("RouteFields", load(ROUTE_CHANGES, body))


def write_route(view: Any) -> dict[str, Any]:
    row = view.row
    return {
        "name": row.name,
        "strategy": row.strategy,
        "targets": [{"model": target["model"], "weight": target.get("weight", 1)} for target in row.targets],
        "fallbacks": {kind: list(row.fallbacks[kind]) for kind in FALLBACKS if row.fallbacks.get(kind)},
        "unavailable": list(view.unavailable),
        "origin": row.origin,
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
    }


def write_routes(views: Iterable[Any]) -> list[dict[str, Any]]:
    return [write_route(view) for view in views]


ROUTE_SHOWN = record(
    "Route",
    name=STRING,
    strategy=one_of(*STRATEGIES),
    targets=several(record(model=STRING, weight=COUNT)),
    fallbacks=record(optional={kind: several(STRING) for kind in FALLBACKS}),
    unavailable={**several(STRING), "description": "Targets that no provider that is on has"},
    origin=one_of("shipped", "touched", "own"),
    created_at=MOMENT,
    updated_at=MOMENT,
)
