"""The one decoder of JSON bodies: what two readers could understand differently is refused.

The standard library's scanner with a hook for pairs. orjson is faster, but takes a doubled key without a word, so it
only writes here.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, NoReturn

from flaskllm.errors import InvalidRequest, invalid

DEEPEST = 64
MOST_NAMES = 500_000
"""Of all the objects of one body: a refusal must not cost the seconds that reading a million names takes."""
LONGEST_NAME_SHOWN = 80
LARGEST = int(sys.float_info.max)

_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)  # possessive: linear on whatever is sent
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BOM = b"\xef\xbb\xbf"


def decode(body: bytes) -> dict[str, Any]:
    """A JSON object out of the bytes of a body. Raises `InvalidRequest`."""
    found = decode_value(body)
    if not isinstance(found, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return found


def decode_value(body: bytes) -> Any:
    """The same for any JSON value, such as a line of a batch."""
    if body.startswith(_BOM):
        raise InvalidRequest("The body must be UTF-8 without a byte order mark.")
    _refuse_depth(body)
    _refuse_names(body)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not UTF-8.") from None
    found = _parsed(text)
    if _HALF.search(body):  # without such an escape no text can hold half a character
        _refuse_halves(found)
    return found


def _parsed(text: str) -> Any:
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite, parse_int=_whole
        )
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: line {error.lineno}, column {error.colno}.") from None
    except (ValueError, RecursionError):  # a number of thousands of digits
        raise InvalidRequest("The body is not JSON that can be read here.") from None


def _refuse_depth(body: bytes) -> None:
    """Before parsing, and outside of strings; few bodies have brackets enough to be looked at twice."""
    if body.count(b"{") + body.count(b"[") <= DEEPEST:
        return
    brackets = _STRINGS.sub(b"", body).translate(None, _NO_BRACKETS)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > DEEPEST:
        raise InvalidRequest(f"The body is nested more than {DEEPEST} levels deep.")


def _refuse_names(body: bytes) -> None:
    """Before parsing; counts no name too many, and few less: in a text a quotation mark stands behind a backslash."""
    if body.count(b'":') - body.count(b'\\":') > MOST_NAMES:
        raise InvalidRequest(f"The body has more than {MOST_NAMES} fields.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twin = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise invalid(_holdable(twin), "stands twice in one object")
    return found


def _constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The body is not JSON: {name} is no number.")


def _whole(text: str) -> int | float:
    """A number beyond 64 bits as most readers have it: orjson, which writes it on, and SQL know no longer ones.

    One beyond every float is the largest of them, so that whoever bounds the field can name it.
    """
    value = int(text)  # raises for thousands of digits
    if -(2**63) <= value < 2**64:
        return value
    return float(max(-LARGEST, min(value, LARGEST)))


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidRequest("The body holds a number too large to be one.")
    return value


def _refuse_halves(value: Any) -> None:
    for place, text in _texts(value, ""):
        if _SURROGATE.search(text):
            raise invalid(_holdable(place) or "body", "must not hold half of a character (a lone surrogate)")


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Each text, names too, with the place where it stands."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            below = f"{place}.{name}" if place else name
            yield below, name
            yield from _texts(inner, below)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{place}[{number}]")


def _holdable(name: str) -> str:
    return _SURROGATE.sub("\ufffd", name)[:LONGEST_NAME_SHOWN]
