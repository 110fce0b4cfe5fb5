"""Forms drawn from what adapters say of themselves: a kind's parameters as fields, and what was typed as a document.

A field of the form is named ``param-NAME``. What cannot be read as its type is handed on as the text it is, so that the
same check as at the JSON door names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from flask import request

from flaskllm.blueprints.admin import _forms as forms
from flaskllm.errors import DomainError
from flaskllm.services.provider_factory import KindDescription

LABELS: Mapping[str, str] = {
    "api_base": "Address",
    "api_version": "API version",
    "stream_options": "Server takes stream_options",
    "timeout_s": "Time-out in seconds",
    "timeouts": "Time-outs, each by itself",
}
PREFIX = "param-"
FLAGS = {"true": True, "false": False}


class Input(NamedTuple):
    """One field of the form. ``kind``: ``text``, ``flag`` or ``pairs`` (one ``name: value`` a line)."""

    name: str
    label: str
    kind: str
    value: str
    help: str
    required: bool


def inputs(kind: KindDescription, held: Mapping[str, Any], *, typed: bool = False) -> list[Input]:
    """A kind's fields with what is held, or what has just been typed. Secrets have none: a key has its own form."""
    return [
        Input(
            name=PREFIX + field.name,
            label=LABELS.get(field.name, field.name.replace("_", " ").capitalize()),
            kind={bool: "flag", dict: "pairs"}.get(field.type, "text"),
            value=request.form.get(PREFIX + field.name, "") if typed else _written(held.get(field.name)),
            help=_help(field),
            required=field.required,
        )
        for field in kind.connection
        if not field.secret
    ]


def _help(field: Any) -> str:
    lines = " One a line, as name: value." if field.type is dict else ""
    usual = f" As usual: {_written(field.default)}." if field.default is not None and field.type is not bool else ""
    return f"{field.help}{usual}{lines}"


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {_written(one)}" for name, one in value.items())
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def said(kind: KindDescription) -> dict[str, Any]:
    """What was typed, as ``connection_params``; None where a field was left empty."""
    return {field.name: _read(field) for field in kind.connection if not field.secret}


def _read(field: Any) -> Any:
    name = PREFIX + field.name
    given = forms.text(name)
    if given is None:
        return None
    if field.type is bool:
        return FLAGS.get(given, given)
    if field.type is dict:
        return pairs(given, numbers=field.name == "timeouts")
    return {float: forms.amount, int: forms.whole}.get(field.type, forms.text)(name)


def pairs(given: str, *, numbers: bool = False) -> dict[str, Any] | str:
    """``name: value`` a line; the text itself where a line is none."""
    found: dict[str, Any] = {}
    for line in filter(None, map(str.strip, given.splitlines())):
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or not name:
            return given
        is_number = numbers and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value, re.ASCII)
        found[name] = float(value) if is_number else value
    return found


def faults_of(error: DomainError | None) -> dict[str, str]:
    """What is wrong with which field: a parameter's field, ``api_key`` for all that is said of a key."""
    found: dict[str, str] = {}
    for detail in () if error is None else error.details:
        first, *rest = detail["field"].split(".")
        name = PREFIX + rest[0].partition("[")[0] if first == "connection_params" and rest else first.partition("[")[0]
        found.setdefault(name, detail["message"])
    return found
