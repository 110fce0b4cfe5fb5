"""marshmallow's verdicts in our words, and the strict field types that its own are too kind for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from flaskllm.errors import Detail, InvalidRequest

PLAIN_WORDS = {
    "Missing data for required field.": "is missing",
    "Unknown field.": "is unknown",
    "Field may not be null.": "may not be null",
    "Not a valid string.": "must be a string",
    "Not a valid integer.": "must be a whole number",
    "Not a valid number.": "must be a number",
    "Not a valid boolean.": "must be true or false",
    "Not a valid list.": "must be a list",
    "Not a valid mapping type.": "must be an object",
    "Invalid input type.": "must be an object",
}


def load(schema: Schema, body: Any) -> dict[str, Any]:
    """The body as the schema reads it.

    Raises `InvalidRequest` with one detail for each field at fault; unknown fields are faults too.
    """
    try:
        return dict(schema.load(body))
    except ValidationError as error:
        faults = list(_faults(error.messages, ""))
        first = faults[0]
        raise InvalidRequest(f"{first['field']}: {first['message']}", details=faults) from None


def _faults(messages: Any, where: str) -> Iterator[Detail]:
    if isinstance(messages, Mapping):
        for name, held in messages.items():
            yield from _faults(held, _joined(where, name))
    elif isinstance(messages, list):
        for held in messages:
            yield from _faults(held, where)
    else:
        text = str(messages)
        yield {"field": where or "body", "message": PLAIN_WORDS.get(text, text)}


def _joined(where: str, name: Any) -> str:
    if isinstance(name, int):
        return f"{where}[{name}]"
    if name == "_schema":
        return where
    name = str(name)[:128]
    return f"{where}.{name}" if where else name


class Text(fields.String):
    """A string that every store can hold: no NUL, no half characters, and not too long."""

    def __init__(self, *, most: int = 4096, least: int = 0, **rest: Any) -> None:
        super().__init__(**rest)
        self.validators.insert(0, validate.Length(least, most))

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        if text is not None and ("\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text)):
            raise ValidationError("must not hold NUL or half characters")
        return str(text)


class Whole(fields.Integer):
    """A whole number: neither ``"1"`` nor ``1.0`` nor ``true``."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValidationError("must be a whole number")
        return value


class Number(fields.Float):
    """A finite number: neither ``"1"`` nor ``true``."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 2**53:
            raise ValidationError("must be a number")
        return value


class Flag(fields.Boolean):
    """True or false: neither ``"yes"`` nor ``1``."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("must be true or false")
        return value


class Moment(fields.Field[datetime]):
    """A moment in ISO 8601 with its zone."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> datetime:
        try:
            found = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            raise ValidationError("must be a moment in ISO 8601, such as 2026-11-21T12:00:00Z") from None
        if found.tzinfo is None:
            raise ValidationError("must name its zone, such as Z")
        return found.astimezone(UTC)


def iso(moment: datetime | None) -> str | None:
    """A moment as the contract writes it: ISO 8601 in UTC with ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None
