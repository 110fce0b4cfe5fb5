"""From a form's fields to the documents that the JSON doors take, so that one place knows what is right.

What cannot be read as its kind is handed on as the text it is: the document's own check then names the field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from flask import request

from flaskllm.errors import DomainError

DAY_ENDS = "T23:59:59Z"


def text(name: str) -> str | None:
    return request.form.get(name, "").strip() or None


def boxes(name: str) -> list[str]:
    """What is ticked."""
    return [value for value in request.form.getlist(name) if value]


def several(name: str) -> list[str]:
    """One a line, or set apart by commas."""
    return [part.strip() for part in re.split(r"[,\r\n]+", request.form.get(name, "")) if part.strip()]


def whole(name: str) -> int | str | None:
    given = text(name)
    return int(given) if given is not None and re.fullmatch(r"[0-9]{1,15}", given, re.ASCII) else given


def amount(name: str) -> float | str | None:
    given = text(name)
    return float(given) if given is not None and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", given, re.ASCII) else given


def plain(number: float) -> str:
    """As `amount` reads it again: without an exponent, or zeros that say nothing."""
    return f"{number:.9f}".rstrip("0").rstrip(".")


def budget() -> dict[str, Any] | None:
    """From ``budget_amount`` and ``budget_period``; no amount: no bound."""
    bound = amount("budget_amount")
    return None if bound is None else {"amount": bound, "period": request.form.get("budget_period", "")}


def end_of_day(name: str) -> str | None:
    """The last second of the day, in UTC."""
    given = text(name)
    return given + DAY_ENDS if given is not None and re.fullmatch(r"[0-9-]{10}", given, re.ASCII) else given


def filled_in(document: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was left empty."""
    return {name: value for name, value in document.items() if value not in (None, "", [])}


def changed(document: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the thing as it is: nothing else is sent on, or told in the trail."""
    return {name: value for name, value in document.items() if value != known[name]}


def refilled(names: Iterable[str]) -> dict[str, Any]:
    """What had been typed, for the same form once more; never a password."""
    return {name: request.form.get(name, "") for name in names}


def faults_of(error: DomainError | None) -> dict[str, str]:
    """What is wrong with which field of the form; a budget's parts are two fields."""
    found: dict[str, str] = {}
    for detail in () if error is None else error.details:
        field = detail["field"].partition("[")[0].replace("budget.", "budget_")
        found.setdefault("budget_amount" if field == "budget" else field, detail["message"])
    return found
