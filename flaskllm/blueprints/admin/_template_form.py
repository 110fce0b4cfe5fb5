"""The form of a template: from what is stored to its fields, and from its fields to the document of the JSON door.

Both go by one mapping of fields, so that what is stored, what was typed and what is tried out are drawn alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flask import request
from werkzeug.datastructures import MultiDict

from flaskllm.domain.prompt import PromptKind, PromptTemplate, variables_in
from flaskllm.wire.templates import PARAMETERS

Fields = MultiDict[str, str]
TEXTS = {"system_text": "system text", "user_text": "user text"}
PARAMETER, DEFAULT = "parameters.", "default."
WORDS = ("reasoning_effort", "verbosity")
NUMBER = re.compile(r"-?[0-9]{1,19}(\.[0-9]{1,9})?", re.ASCII)
NEW: Fields = MultiDict({"type": PromptKind.CUSTOM.value})


@dataclass(frozen=True, slots=True)
class Variable:
    """A row of the form. ``used``: the texts in which it stands; ``keep``: declared all the same where in none."""

    name: str
    default: str
    may_be_empty: bool
    used: tuple[str, ...]
    keep: bool


def typed() -> Fields:
    """What the form holds, with the line breaks that templates have."""
    return MultiDict((name, _unix(value)) for name, value in request.form.items(multi=True))


def fields_of(template: PromptTemplate) -> Fields:
    """The form as it shows what is stored."""
    return MultiDict(_pairs_of(template))


def _pairs_of(template: PromptTemplate) -> Iterator[tuple[str, str]]:
    yield "name", template.name
    yield "type", template.kind.value
    yield "description", template.description
    for name in TEXTS:
        yield name, _unix(getattr(template, name))
    yield "model", template.model or ""
    if template.cache:
        yield "cache", "1"
    for name, value in template.parameters.items():
        yield PARAMETER + name, _shown(value)
    for name, default in template.variables.items():
        yield DEFAULT + name, _unix(default or "")
        yield from (("empty", name),) if default == "" else ()
        yield from () if _uses(template, name) else (("keep", name),)


def _uses(template: PromptTemplate, name: str) -> bool:
    return any(name in variables_in(getattr(template, text)) for text in TEXTS)


def variables(fields: Fields, stored: PromptTemplate | None) -> list[Variable]:
    """The rows: what is declared already, then what the texts use beside it. A name in neither was only passed by
    while somebody typed."""
    used = {text: variables_in(fields.get(text, "")) for text in TEXTS}
    found = (name for names in used.values() for name in names)
    names = dict.fromkeys([*(stored.variables if stored else ()), *found])
    return [
        Variable(
            name,
            fields.get(DEFAULT + name, ""),
            name in fields.getlist("empty"),
            tuple(words for text, words in TEXTS.items() if name in used[text]),
            name in fields.getlist("keep"),
        )
        for name in names
    ]


def document(fields: Fields, stored: PromptTemplate | None) -> dict[str, Any]:
    """As ``PUT /api/v1/templates/{name}`` takes it, all fields of it."""
    rows = [row for row in variables(fields, stored) if row.used or row.keep]
    return {
        "type": fields.get("type", ""),
        "description": fields.get("description", "").strip(),
        **{name: fields.get(name, "") for name in TEXTS},
        "variables": [{"name": row.name, "default": row.default or ("" if row.may_be_empty else None)} for row in rows],
        "model": fields.get("model", "").strip() or None,
        "parameters": _parameters(fields, stored.parameters if stored else {}),
        "cache": fields.get("cache") == "1",
    }


def _parameters(fields: Fields, stored: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: fields.get(PARAMETER + name, "").strip("\n") for name in (*stored, *PARAMETERS)}
    found = {name: _read(name, text) for name, text in given.items() if text.strip()}
    if "stop" in found and stored.get("stop") == [found["stop"]]:
        found["stop"] = stored["stop"]
    return found


def _read(name: str, text: str) -> Any:
    """A parameter as JSON has it. What is no number stays the text it is: the document's check then names the field."""
    if name == "stop":
        words = [_unescaped(line) for line in text.split("\n") if line]
        return words[0] if len(words) == 1 else words
    text = text.strip()
    if name in WORDS or not NUMBER.fullmatch(text):
        return text
    return float(text) if "." in text else int(text)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(map(_escaped, value))
    return _escaped(value) if isinstance(value, str) else str(value)


def _escaped(text: str) -> str:
    """On one line, whatever stands in it: two line breaks are a usual word to stop at."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _unescaped(line: str) -> str:
    try:
        return str(json.loads(f'"{line}"'))
    except ValueError:
        return line


def _unix(text: str) -> str:
    """A browser sends every line break as two characters."""
    return text.replace("\r\n", "\n")
