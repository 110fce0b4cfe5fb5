"""What a spreadsheet would take for a formula, made harmless."""

from __future__ import annotations

import re

_FORMULA = re.compile(r"[\s\x00-\x1f\ufeff\u200b\"';,]*[=+\-@|%＝＋－＠]")
"""Also behind what a spreadsheet skips, or splits cells at."""


def safe(text: str) -> str:
    """The same text, behind ``'`` where it would start a formula.

    >>> safe("=1+1"), safe("1+1")
    ("'=1+1", '1+1')
    """
    return f"'{text}" if _FORMULA.match(text) else text
