"""marshmallow's verdicts in our words, and strict field types where its own are too kind: no ``"1"`` for 1, no ``true``
for 1, no NUL in a text.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from flaskllm.domain.text import can_be_held
from flaskllm.errors import Detail, invalid_for

LONGEST_NAME = 80
MOST_NUMBER = 2**53
PLAIN_WORDS = {
    "Missing data for required field.": "is missing",
    "Unknown field.": "is unknown",
    "Field may not be null.": "may not be null",
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
        raise invalid_for(list(_faults(error.messages, ""))) from None


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
    shown = str(name)[:LONGEST_NAME]
    return f"{where}.{shown}" if where else shown


class Text(fields.String):
    """A string of bounded length that every store can hold: no NUL and no half characters."""

    def __init__(
        self, *, most: int, least: int = 0, pattern: str | None = None, form: str = "has the wrong form", **rest: Any
    ) -> None:
        super().__init__(**rest)
        self.validators.insert(0, validate.Length(least, most, error=f"must have {least} to {most} characters"))
        if pattern:
            self.validators.insert(1, validate.Regexp(rf"(?:{pattern})\Z", re.ASCII, error=form))

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("must be a string")
        if not can_be_held(value):
            raise ValidationError("must not hold NUL or half characters")
        return value


class Choice(fields.String):
    """One of a few words."""

    def __init__(self, *words: str, **rest: Any) -> None:
        super().__init__(**rest)
        self._words = f"must be one of {', '.join(words)}"
        self.validators.insert(0, validate.OneOf(words, error=self._words))

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError(self._words)
        return value


class Whole(fields.Integer):
    """A whole number: neither ``"1"`` nor ``1.0`` nor ``true``."""

    def __init__(self, *, least: int = -MOST_NUMBER, most: int = MOST_NUMBER, **rest: Any) -> None:
        super().__init__(**rest)
        self._words = f"must be a whole number from {least} to {most}"
        self.validators.insert(0, validate.Range(least, most, error=self._words))

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if type(value) is not int:
            raise ValidationError(self._words)
        return value


class Number(fields.Float):
    """A finite number, whole or not: neither ``"1"`` nor ``true``."""

    def __init__(self, *, least: float = -MOST_NUMBER, most: float = MOST_NUMBER, **rest: Any) -> None:
        super().__init__(**rest)
        self._words = f"must be a number from {least} to {most}"
        self.validators.insert(0, validate.Range(least, most, error=self._words))

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        if type(value) not in (int, float) or value != value:  # noqa: PLR0124  NaN, which is in every range
            raise ValidationError(self._words)
        return value


class Dollars(Number):
    """An amount of US dollars, as exact as it was written."""

    def __init__(self, *, most: int = 1_000_000_000, **rest: Any) -> None:
        super().__init__(least=0, most=most, **rest)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return Decimal(str(super()._deserialize(value, attr, data, **kwargs)))


class Flag(fields.Boolean):
    """True or false: neither ``"yes"`` nor ``1``."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("must be true or false")
        return value


class Moment(fields.AwareDateTime):
    """A moment in ISO 8601 with its zone."""

    WORDS = "must be a moment in ISO 8601 with its zone, such as 2026-11-21T12:00:00Z"

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> datetime:
        try:
            found = datetime.fromisoformat(value)
            if found.tzinfo is None:
                raise ValueError
            return found.astimezone(UTC)
        except (TypeError, ValueError, OverflowError):
            raise ValidationError(self.WORDS) from None


class Several(fields.List):
    """A list of bounded length, each thing in it once."""

    def __init__(self, inner: fields.Field[Any], *, most: int, least: int = 0, **rest: Any) -> None:
        super().__init__(inner, **rest)
        self.least, self.most = least, most

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            raise ValidationError(f"must be a list of {self.least} to {self.most}")
        return list(dict.fromkeys(super()._deserialize(value, attr, data, **kwargs)))


class Network(fields.String):
    """An address or a range in CIDR form; a zone (``%eth0``) would mean nothing here."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        try:
            if not isinstance(value, str) or "%" in value or len(value) > 50:
                raise ValueError
            return str(ipaddress.ip_network(value, strict=False))
        except ValueError:
            raise ValidationError("must be an address or a range such as 10.0.0.0/8") from None


def iso(moment: datetime | None) -> str | None:
    """A moment as the contract writes it: ISO 8601 in UTC with ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None
