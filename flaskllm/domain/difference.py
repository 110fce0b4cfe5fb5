"""What differs between two texts, line by line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

CONTEXT = 3
"""Equal lines that are shown on both sides of a difference."""
MOST_LINES = 2000
"""Beyond it two texts are not held against each other, which would cost seconds, but told as one out and one in."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line as it is shown. ``before`` and ``after``: its number in either text, None where it is not in that one;
    None in both: equal lines were left out here."""

    text: str = ""
    before: int | None = None
    after: int | None = None

    @property
    def sign(self) -> str:
        """``-`` gone, ``+`` new, a blank where it stayed, ``…`` for what was left out."""
        if self.before is None and self.after is None:
            return "…"
        return " " if None not in (self.before, self.after) else "-" if self.after is None else "+"


def line_differences(before: str, after: str) -> list[Line]:
    """The lines that differ, with a few equal ones round them; none where the texts are equal.

    >>> [(line.sign, line.text) for line in line_differences("one\\ntwo", "one\\n2")]
    [(' ', 'one'), ('-', 'two'), ('+', '2')]
    """
    if before == after:
        return []
    old, new = (text.split("\n") if text else [] for text in (before, after))
    if max(len(old), len(new)) > MOST_LINES:
        return [*_gone(old, 0, len(old)), *_come(new, 0, len(new))]
    found: list[Line] = []
    shown_to = 0
    for group in SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(CONTEXT):
        if group[0][1] > shown_to:
            found.append(Line())
        for kind, i, i_end, j, j_end in group:
            found += _equal(old, i, i_end, j) if kind == "equal" else [*_gone(old, i, i_end), *_come(new, j, j_end)]
        shown_to = group[-1][2]
    return found if shown_to == len(old) else [*found, Line()]


def _equal(lines: Sequence[str], start: int, end: int, other: int) -> Iterator[Line]:
    return (Line(lines[i], i + 1, other + i - start + 1) for i in range(start, end))


def _gone(lines: Sequence[str], start: int, end: int) -> Iterator[Line]:
    return (Line(lines[i], before=i + 1) for i in range(start, end))


def _come(lines: Sequence[str], start: int, end: int) -> Iterator[Line]:
    return (Line(lines[i], after=i + 1) for i in range(start, end))
