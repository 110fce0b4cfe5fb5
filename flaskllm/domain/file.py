"""Files that callers keep here: what batches read, and what they wrote."""

from __future__ import annotations

from dataclasses import dataclass

BATCH, BATCH_OUTPUT = "batch", "batch_output"
"""Purposes: what is sent in, and what comes out."""
LONGEST_NAME = 255
"""Characters of a file's name."""
SHORTEST_LIFE_S, LONGEST_LIFE_S = 3600, 30 * 24 * 3600
"""What OpenAI takes for ``expires_after``; a file that says nothing is kept for the longest."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file without its bytes. ``size`` in bytes, times in milliseconds since 1970."""

    id: str
    filename: str
    purpose: str
    size: int
    created_at: int
    expires_at: int


def plain_name(given: str) -> str:
    """The last part of a name as clients send it, without what no header or file system takes; never empty.

    >>> plain_name("C:\\\\temp\\\\in put.jsonl"), plain_name("../../etc/passwd"), plain_name("..")
    ('in put.jsonl', 'passwd', 'file')
    """
    last = given.replace("\\", "/").rpartition("/")[2]
    kept = "".join(char for char in last if char.isprintable() and char not in '"<>|:*?').strip(" .")
    return kept[:LONGEST_NAME] or "file"
