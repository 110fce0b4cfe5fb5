"""Columns of cells: what a row asks, what comes back for it, and what a cell can hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from flaskllm.domain.prompt import PromptKind

MOST_CELL = 32_767
"""Characters that a cell holds (Excel's specifications and limits)."""
STARTS_A_FORMULA = re.compile(r"[\t\r\n]|[\s\x00-\x1f\ufeff\u200b\"';,]*[=+\-@|%＝＋－＠]")
"""What makes a spreadsheet take a text for a formula, full-width forms too (OWASP, CSV injection); also behind what one
skips, or splits cells at."""

_SPLITS = re.compile(r"[;\t\r\n][\s\x00-\x1f\ufeff\u200b\"';,]*([=@＝＠]|[+\-＋－](?!\s))?")
"""Where a reader that splits a table's lines at another character than the comma begins a cell, and what would start a
formula there. A plus or minus before a blank is the bullet of a list, of which answers are full."""


class RowStatus(StrEnum):
    OK = "ok"
    ERROR = "error"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class AskedRow:
    """A row as it was sent: the caller's ``id`` for it, and the text that it asks about."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """A row as it is answered: the same fields of the same types, whatever became of it. ``cost`` in 10⁻⁹ dollar."""

    id: str
    status: RowStatus
    text: str = ""
    values: tuple[str, ...] = ()
    error_code: str = ""
    error_message: str = ""
    cached: bool = False
    cost: int = 0


def joined(cells: Sequence[str | int | float | bool | None]) -> str:
    """The cells of a row as one text, a line each; a cell's number or truth is written as a spreadsheet shows it.

    >>> joined(["Ann", 3.0, True, None])
    'Ann\\n3\\nTRUE\\n'
    """
    return "\n".join(_written(cell) for cell in cells)


def _written(cell: str | int | float | bool | None) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)


def values_of(kind: PromptKind, text: str, result: Any) -> tuple[str, ...]:
    """An answer as a list of texts, whatever its kind: keywords; label and score; ``TYPE: text`` of each entity.

    >>> values_of(PromptKind.SENTIMENT, "…", {"label": "positive", "score": 0.9})
    ('positive', '0.9')
    """
    if kind is PromptKind.KEYWORDS and isinstance(result, list):
        return tuple(result)
    if kind is PromptKind.SENTIMENT and isinstance(result, Mapping):
        return (str(result["label"]), f"{result['score']:g}")
    if kind is PromptKind.ENTITIES and isinstance(result, list):
        return tuple(f"{entity['type']}: {entity['text']}" for entity in result)
    return (text,)


def cell_safe(text: str) -> str:
    """The text as one that no spreadsheet takes for a formula.

    >>> cell_safe("=1+1"), cell_safe("1+1")
    ("'=1+1", '1+1')
    """
    return f"'{text}" if STARTS_A_FORMULA.match(text) else text


def table_safe(text: str) -> str:
    """The text as a cell of a CSV file: also one that splits it at semicolons or tabs, as spreadsheets do in half of
    Europe, or does not see that a line's end is quoted, finds no formula behind these.

    >>> table_safe("=1"), table_safe("a;=1"), table_safe("a;b"), table_safe("- one")
    ("'=1", "a;'=1", 'a;b', "'- one")
    """
    return _SPLITS.sub(_guarded, cell_safe(text))


def _guarded(found: re.Match[str]) -> str:
    return found[0] if found[1] is None else f"{found[0][:-1]}'{found[1]}"


def fits_a_cell(text: str) -> bool:
    """Whether a cell can hold it whole. Excel counts UTF-16 units, of which a rare character takes two."""
    return len(text) <= MOST_CELL // 2 or len(text.encode("utf-16-le", "surrogatepass")) // 2 <= MOST_CELL
