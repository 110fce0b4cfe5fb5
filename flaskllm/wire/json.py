"""Bodies as strict JSON: what two readers could understand in two ways is refused (``hardening.md`` 5.12).

UTF-8 without a mark, one object at the root, no key twice, no NaN or Infinity, no number that overflows, no lone
surrogate, at most 64 levels. The standard library's decoder, because orjson takes a key twice without a word.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from flaskllm.errors import InvalidRequest

MOST_DEPTH = 64
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


def decode(raw: bytes) -> dict[str, Any]:
    """The object that a body holds. Raises `InvalidRequest` in words that say what is wrong with it."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8 (at byte {error.start}).") from None
    if text.startswith("\ufeff"):
        raise InvalidRequest("The body begins with a byte order mark.")
    _check_depth(text)
    body = _parse(text)
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    if "\\u" in text:
        _refuse_surrogates(body)
    return body


def _parse(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from None
    except (RecursionError, ValueError) as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest("The body holds a number that is too long.") from None


def _check_depth(text: str) -> None:
    """Counted before parsing: a parser's own limit is its stack."""
    if text.count("[") + text.count("{") <= MOST_DEPTH:
        return
    depth = 0
    for found in _BRACKETS.finditer(text):
        mark = found[0]
        if mark in "[{":
            depth += 1
            if depth > MOST_DEPTH:
                raise InvalidRequest(f"The body is nested deeper than {MOST_DEPTH} levels.")
        elif mark in "]}":
            depth -= 1


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InvalidRequest(
            f"The key {twice[:64]!r} stands twice in one object.",
            details=[{"field": twice[:64], "message": "stands twice"}],
        )
    return found


def _no_constant(name: str) -> Any:
    raise InvalidRequest(f"{name} is not a JSON number.")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidRequest("The body holds a number that is too large.")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)


def _refuse_surrogates(value: Any) -> None:
    """Only an escape can write one; half a character cannot be stored or sent on."""
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise InvalidRequest("The body holds half a surrogate pair, which is no character.")
    elif isinstance(value, dict):
        for name, held in value.items():
            _refuse_surrogates(name)
            _refuse_surrogates(held)
    elif isinstance(value, list):
        for held in value:
            _refuse_surrogates(held)
