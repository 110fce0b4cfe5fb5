"""Checks of single fields, for the tables of the hot doors (``docs/adr/0005-tables-on-hot-doors.md``).

A check carries the JSON Schema of what passes it, so that the document and the door are one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flaskllm.domain.text import can_be_held
from flaskllm.errors import Detail, InvalidRequest
from flaskllm.wire import shapes
from flaskllm.wire.shapes import of_form

Check = Callable[[Any], str | None]
"""What is wrong with a value, in words that say what was expected; None where nothing is."""

SAFE_INTEGER = 2**53
MOST_MESSAGES, MOST_TOOLS, MOST_FIELDS = 100_000, 1000, 1000
"""Far beyond what any model takes; they bound the work of looking."""
REFUSED = frozenset({"api_base", "base_url", "headers", "api_key", "timeout", "organization"})
"""Routing is the administrators'; a caller who names an address could send our key there (CVE-2024-6587)."""


def number(low: float, high: float) -> Check:
    @of_form(type="number", minimum=low, maximum=high)
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124  NaN
            return "must be a number"
        return None if low <= value <= high else f"must be between {low:g} and {high:g}"

    return check


def integer(low: int, high: int) -> Check:
    @of_form(type="integer", minimum=low, maximum=high)
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int):
            return "must be a whole number"
        return None if low <= value <= high else f"must be between {low} and {high}"

    return check


def text(most: int = 4096, *, least: int = 0) -> Check:
    @of_form(type="string", minLength=least, maxLength=most, pattern=shapes.NO_NUL)
    def check(value: Any) -> str | None:
        if not isinstance(value, str) or not can_be_held(value):
            return "must be a string without NUL"
        return None if least <= len(value) <= most else f"must have {least} to {most} characters"

    return check


@of_form(type="boolean")
def boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


@of_form(type="object")
def mapping(value: Any) -> str | None:
    return None if isinstance(value, dict) else "must be an object"


def sequence(most: int) -> Check:
    @of_form(type="array", maxItems=most)
    def check(value: Any) -> str | None:
        if not isinstance(value, list):
            return "must be a list"
        return None if len(value) <= most else f"must have at most {most} entries"

    return check


def one_of(*words: str) -> Check:
    @of_form(enum=list(words))
    def check(value: Any) -> str | None:
        return None if isinstance(value, str) and value in words else f"must be one of {', '.join(words)}"

    return check


def given_of(body: dict[str, Any]) -> dict[str, Any]:
    """The fields of a body; one that is null counts as absent. Raises `InvalidRequest` for too many."""
    if len(body) > MOST_FIELDS:
        raise InvalidRequest(f"The body has more than {MOST_FIELDS} fields.")
    return {name: value for name, value in body.items() if value is not None}


def faults_of(given: Mapping[str, Any], known: Mapping[str, Check]) -> list[Detail]:
    """What is wrong with the known fields, and which others are not a caller's to set."""
    faults: list[Detail] = []
    for name, value in given.items():
        check = known.get(name)
        if check is not None:
            if fault := check(value):
                faults.append(Detail(field=name, message=fault))
        elif name in REFUSED or name.startswith("extra_"):
            faults.append(Detail(field=name, message="is not a caller's to set"))
    return faults
