"""Typed answers: keywords, sentiment, entities, read out of what a model wrote.

Models fence their JSON, talk around it, leave commas behind and use Python's quotes. All that is mended here; what is
still not of the form is `Malformed`, and the model is asked again rather than the caller given a guess.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flaskllm.domain.prompt import PromptKind
from flaskllm.domain.text import holdable

LABELS = ("positive", "negative", "neutral", "mixed")
MOST_ANSWER = 64_000
"""Characters of an answer in which a typed form is looked for; longer ones are malformed."""
MOST_ITEMS, MOST_ITEM = 200, 200
MOST_DEPTH = 16
MOST_STARTS = 8
"""Places in an answer at which JSON is tried; a text full of brackets must not cost seconds."""


class Malformed(Exception):
    """An answer that is not of the form that was asked for; the message goes back to the model."""


def parse(kind: PromptKind, text: str) -> Any:
    """The typed form of an answer; None for kinds that are text alone.

    Takes fences, prose around it, trailing commas and single quotes for what they are. Raises `Malformed`.
    """
    if kind not in _SHAPES:
        return None
    if len(text) > MOST_ANSWER:
        raise Malformed(f"it is longer than {MOST_ANSWER} characters")
    shape, plain, expected = _SHAPES[kind]
    for value in _json_values(text):
        if (found := shape(_unwrapped(value, kind))) is not None:
            return found
    if plain is not None and (found := plain(text)) is not None:
        return found
    raise Malformed(f"it is not {expected}")


def expected_form(kind: PromptKind) -> str:
    """The form that is asked for, in words for a model."""
    return _SHAPES[kind][2]


# -- shapes: a JSON value in, the typed form or None out ---------------------------------------------------------------


def _keywords(value: Any) -> list[str] | None:
    if not isinstance(value, list) or len(value) > MOST_ITEMS:
        return None
    if not all(isinstance(item, str) and len(item) <= MOST_ITEM for item in value):
        return None
    words = [holdable(item.strip()) for item in value]
    return list(dict.fromkeys(word for word in words if word))


def _sentiment(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    label = _first(value, "label", "sentiment")
    score = _score(_first(value, "score", "confidence"))
    if not isinstance(label, str) or label.strip().lower() not in LABELS or score is None:
        return None
    return {"label": label.strip().lower(), "score": score}


def _score(value: Any) -> float | None:
    if isinstance(value, str) and (found := re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)(%?)", value.strip())):
        value = float(found[1]) / (100 if found[2] else 1)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if 0 <= value <= 1 else None


def _entities(value: Any) -> list[dict[str, str]] | None:
    if isinstance(value, dict):
        value = _by_type(value)
    if not isinstance(value, list) or len(value) > MOST_ITEMS:
        return None
    found = [_entity(item) for item in value]
    return None if None in found else [item for item in found if item]


def _entity(value: Any) -> dict[str, str] | None:
    if not isinstance(value, dict):
        return None
    text, kind = _first(value, "text", "name", "entity", "value"), _first(value, "type", "label", "category")
    if not _is_item(text) or not _is_item(kind):
        return None
    return {"text": holdable(text.strip()), "type": holdable(kind.strip())}


def _by_type(value: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """``{"PERSON": ["Ann"], …}``, as several models prefer it."""
    if not value or not all(isinstance(texts, list) for texts in value.values()):
        return None
    return [{"text": text, "type": kind} for kind, texts in value.items() for text in texts]


def _is_item(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value.strip()) <= MOST_ITEM


def _first(value: Mapping[str, Any], *names: str) -> Any:
    """Under the first of these names that is there, whatever its case."""
    by_name = {name.lower(): held for name, held in value.items() if isinstance(name, str)}
    return next((by_name[name] for name in names if name in by_name), None)


def _unwrapped(value: Any, kind: PromptKind) -> Any:
    """What stands inside ``{"keywords": […]}``, ``{"result": {…}}`` and the like."""
    for _ in range(2):
        if not isinstance(value, dict):
            return value
        inner = _first(value, kind.value, "result", "results", "data", "answer")
        if not isinstance(inner, dict | list):
            return value
        value = inner
    return value


# -- plain texts: what models write where they forget about JSON -------------------------------------------------------

_BULLET = re.compile(r"\s*(?:[-*•–]|[0-9]{1,3}[.)])\s+(.+)")
_BRACKETS = re.compile(r"[\[\]{}]")
_SENTENCE_END = (".", "!", "?", "。", "！", "？", ":")
_MOST_WORDS = 6


def _keyword_lines(text: str) -> list[str] | None:
    """A list by lines or bullets, or one line with commas; prose is none of these."""
    if _BRACKETS.search(text):
        return None
    lines = [line for line in text.strip().splitlines() if line.strip() and not line.strip().startswith("```")]
    bullets = [found[1] for line in lines if (found := _BULLET.fullmatch(line))]
    if len(lines) > 1 and lines[0].rstrip().endswith(":"):
        lines = lines[1:]
    if bullets and len(bullets) == len(lines):
        return _plain_items(bullets)
    if len(lines) == 1:
        before, colon, after = lines[0].partition(":")
        items = re.split(r"[,;、，]", after if colon and len(before.split()) <= _MOST_WORDS else lines[0])
        return _plain_items(items) if len(items) > 1 else None
    return None if bullets else _plain_items(lines)


def _plain_items(items: Sequence[str]) -> list[str] | None:
    words = [item.strip().strip("\"'*`“”").strip() for item in items]
    is_list = all(0 < len(word.split()) <= _MOST_WORDS and not word.endswith(_SENTENCE_END) for word in words)
    return _keywords(words) if words and is_list else None


_Shape = tuple[Callable[[Any], Any], Callable[[str], Any] | None, str]
_SHAPES: dict[PromptKind, _Shape] = {
    PromptKind.KEYWORDS: (_keywords, _keyword_lines, 'a JSON array of strings, such as ["first", "second"]'),
    PromptKind.SENTIMENT: (
        _sentiment,
        None,
        'a JSON object {"label": …, "score": …}, the label positive, negative, neutral or mixed, the score from 0 to 1',
    ),
    PromptKind.ENTITIES: (
        _entities,
        None,
        'a JSON array of objects {"text": …, "type": …}, such as [{"text": "Ann", "type": "PERSON"}]',
    ),
}


# -- JSON as models write it -------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""
    "(?:[^"\\]|\\.)*"            # a string
    | '(?:[^'\\]|\\.)*'          # one in Python's fashion
    | “[^”]*”                    # one in a typographer's
    | [\[\]{},:]
    | [^\s\[\]{},:"'“]+          # a number or a word
    | \s+
    | .
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENING = re.compile(r"[\[{]")
_WORDS = {"True": "true", "False": "false", "None": "null"}
_PAIRS = {"]": "[", "}": "{"}


def _json_values(text: str) -> Iterator[Any]:
    """The JSON values in a text, mended where models are known to slip, in the order in which they stand."""
    place = 0
    for _ in range(MOST_STARTS):
        if (found := _OPENING.search(text, place)) is None:
            return
        place = found.start() + 1
        strict, end = _mended(text, found.start())
        try:
            value = json.loads(strict, parse_constant=_refuse, strict=False)
        except (ValueError, RecursionError):
            continue
        yield value
        place = end


def _mended(text: str, start: int) -> tuple[str, int]:
    """The balanced value that begins there as strict JSON, and where it ends; nothing where it never ends."""
    out: list[str] = []
    opened: list[str] = []
    for token in _TOKEN.finditer(text, start):
        written = token[0]
        if written in _PAIRS:
            if not opened or opened.pop() != _PAIRS[written]:
                return "", start
            if out[-1] == ",":
                out.pop()
        elif written in ("[", "{"):
            opened.append(written)
        if len(opened) > MOST_DEPTH:
            return "", start
        if not written.isspace():
            out.append(_strict(written))
        if not opened:
            return "".join(out), token.end()
    return "", start


def _strict(token: str) -> str:
    if token[0] == "'" and len(token) > 1:
        return '"' + re.sub(r'(?<!\\)"', r"\"", token[1:-1].replace("\\'", "'")) + '"'
    if token[0] == "“":
        return json.dumps(token.strip("“”"))
    return _WORDS.get(token, token)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
