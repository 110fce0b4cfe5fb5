"""Text that every database, every JSON writer and every terminal can hold."""

from __future__ import annotations

import re

_UNHOLDABLE = re.compile("[\x00\ud800-\udfff]")
REPLACEMENT = "\ufffd"


def holdable(text: str) -> str:
    """The text with NUL and lone surrogates replaced: PostgreSQL refuses the first, UTF-8 the second.

    People's texts are refused for them at the door; this is for what models say, which nobody can be asked to repeat.
    """
    return _UNHOLDABLE.sub(REPLACEMENT, text)


def can_be_held(text: str) -> bool:
    return _UNHOLDABLE.search(text) is None


def on_one_line(text: str) -> str:
    """The text for a terminal: what would move its cursor, end the line or turn it round is written out.

    >>> on_one_line("Ann\\x1b[2J\\n")
    'Ann\\\\x1b[2J\\\\n'
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
