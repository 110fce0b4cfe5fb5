"""The spreadsheet contract: rows of cells in, the same rows answered out, each with the same fields."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields

from flaskllm.domain.pricing import from_dollars, to_dollars
from flaskllm.domain.prompt import PromptKind
from flaskllm.domain.range import MOST_RANGE_ROWS, USUAL_DEADLINE_S, RangeAsk, RangeEstimate, RangeState
from flaskllm.domain.spreadsheet import AnsweredRow, AskedRow, RowStatus, cell_safe, fits_a_cell, joined
from flaskllm.errors import Detail, invalid, refuse
from flaskllm.wire import shapes
from flaskllm.wire.fields import Choice, Dollars, Flag, Number, Text, load
from flaskllm.wire.webhook import language_code

MOST_TEXT = 10_000_000
MOST_CELLS = 100
LONGEST_ID = 128
LONGEST_DEADLINE_S = 120.0
"""What stands before us waits for an answer no longer than a little more (``deploy/nginx.conf``)."""


class Cell(fields.Field[Any]):
    """What a cell may hold: a text, a number, true or false, nothing."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        return TEXT.deserialize(value)


TEXT = Text(most=MOST_TEXT)


class RowSchema(Schema):
    """One row: a prompt, or cells that are joined by line feeds."""

    id = Text(allow_none=True, most=LONGEST_ID)
    prompt = Text(allow_none=True, most=MOST_TEXT)
    cells = fields.List(
        Cell(allow_none=True, metadata={"type": ["string", "number", "boolean"], "pattern": shapes.NO_NUL}),
        allow_none=True,
    )


class RangeSchema(Schema):
    """``POST /api/v1/range``."""

    rows = fields.List(fields.Nested(RowSchema), required=True, metadata={"minItems": 1, "maxItems": MOST_RANGE_ROWS})
    type = Choice(*PromptKind, allow_none=True)
    template = Text(allow_none=True, least=1, most=64)
    language = Text(allow_none=True, most=16, validate=language_code)
    model = Text(allow_none=True, least=1, most=256)
    deadline_s = Number(allow_none=True, least=0, most=LONGEST_DEADLINE_S)
    dry_run = Flag(allow_none=True)
    confirm = Flag(allow_none=True)
    max_cost = Dollars(allow_none=True)
    cell_safe = Flag(allow_none=True)


ESTIMATE = shapes.record(
    "RangeEstimate",
    rows=shapes.COUNT,
    new_rows={**shapes.COUNT, "description": "that would be asked: neither equal to another nor answered before"},
    cost={"type": "number", "minimum": 0, "description": "US dollars, about; what has no price counts 0"},
    seconds={"type": "number", "minimum": 0},
)
ROW = shapes.record(
    "AnsweredRow",
    id=shapes.STRING,
    status=shapes.one_of(*RowStatus),
    text=shapes.STRING,
    values=shapes.several(shapes.STRING),
    error_code=shapes.STRING,
    error_message=shapes.STRING,
    cached=shapes.FLAG,
    cost={"type": "number", "minimum": 0},
)
RANGE = shapes.record(
    "RangeAnswer",
    rows=shapes.several(ROW),
    done=shapes.FLAG,
    continuation={**shapes.STRING, "description": "for `GET /api/v1/range/{continuation}`; empty where all is done"},
    cost={"type": "number", "minimum": 0, "description": "US dollars so far"},
    estimate=ESTIMATE,
)
"""The answers' forms, for ``/openapi.json``. Nothing is ever null: Office Scripts has no ``any``."""


def read_range(body: dict[str, Any]) -> RangeAsk:
    """The rows and what is asked of each. A row without an id is known by its place, from 0.

    Raises `InvalidRequest` naming each field at fault, ``rows[3].cells`` and the like.
    """
    given = {name: value for name, value in load(RangeSchema(), body).items() if value is not None}
    rows = given["rows"]
    if not 1 <= len(rows) <= MOST_RANGE_ROWS:
        raise invalid("rows", f"must be a list of 1 to {MOST_RANGE_ROWS}")
    if "type" in given and "template" in given:
        raise invalid("template", "stands beside type; give one of them")
    refuse(fault for place, row in enumerate(rows) if (fault := _fault(place, row)))
    kind = given.get("type")
    language = given.get("language")
    most = given.get("max_cost")
    return RangeAsk(
        rows=tuple(_read_row(place, row) for place, row in enumerate(rows)),
        kind=PromptKind(kind) if kind else None,
        template=given.get("template"),
        language=language.lower() if language else None,
        model=given.get("model"),
        deadline_s=float(given.get("deadline_s", USUAL_DEADLINE_S)),
        dry_run=given.get("dry_run", False),
        confirm=given.get("confirm", False),
        most_cost=None if most is None else from_dollars(most),
        cell_safe=given.get("cell_safe", False),
    )


def _fault(place: int, row: dict[str, Any]) -> Detail | None:
    prompt, cells = row.get("prompt"), row.get("cells")
    if (prompt is None) == (cells is None):
        return {"field": f"rows[{place}].prompt", "message": "is required, or cells; one of the two"}
    if cells is not None and not 1 <= len(cells) <= MOST_CELLS:
        return {"field": f"rows[{place}].cells", "message": f"must be a list of 1 to {MOST_CELLS}"}
    return None


def _read_row(place: int, row: dict[str, Any]) -> AskedRow:
    prompt, name = row.get("prompt"), row.get("id")
    return AskedRow(str(place) if name is None else name, joined(row["cells"]) if prompt is None else prompt)


def write_estimate(estimate: RangeEstimate) -> dict[str, Any]:
    """What a range would take, before it is asked."""
    return {
        "rows": estimate.rows,
        "new_rows": estimate.new_rows,
        "cost": to_dollars(estimate.cost),
        "seconds": round(estimate.seconds, 1),
    }


def write_range(state: RangeState) -> dict[str, Any]:
    """The rows as far as they are, in the order in which they were sent."""
    return {
        "rows": [_write_row(row, safe=state.cell_safe) for row in state.rows],
        "done": state.done,
        "continuation": "" if state.done else state.continuation,
        "cost": to_dollars(state.cost),
        "estimate": write_estimate(state.estimate),
    }


def _write_row(row: AnsweredRow, *, safe: bool) -> dict[str, Any]:
    text, values = row.text, row.values
    if safe:
        text, values = cell_safe(text), tuple(cell_safe(value) for value in values)
    told = {
        "id": row.id,
        "status": row.status.value,
        "text": text,
        "values": list(values),
        "error_code": row.error_code,
        "error_message": row.error_message,
        "cached": row.cached,
        "cost": to_dollars(row.cost),
    }
    if safe and not all(fits_a_cell(held) for held in (text, *values)):
        told |= {
            "status": RowStatus.ERROR.value,
            "text": "",
            "values": [],
            "error_code": "cell_too_long",
            "error_message": "The answer is longer than a cell holds; without cell_safe it comes whole, at no cost.",
        }
    return told
