"""Texts into vectors: what is asked and what comes back, whoever answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flaskllm.domain.media import MediaRequest
from flaskllm.domain.usage import Usage

MOST_VALUE = 3.4028234663852886e38
"""The largest 32-bit float: OpenAI's form of a vector, as base64, holds no other numbers."""


def vector_of(values: Iterable[Any]) -> list[float]:
    """A provider's numbers as a vector. Raises `ValueError` or `TypeError` for what is none.

    >>> vector_of([1, 0.5])
    [1.0, 0.5]
    """
    try:
        found = [float(value) for value in values]
    except OverflowError:
        raise ValueError("a number beyond every float") from None
    if not found or not all(-MOST_VALUE <= value <= MOST_VALUE for value in found):
        raise ValueError("a vector has finite numbers of 32 bits, and at least one")
    return found


@dataclass(frozen=True, slots=True)
class EmbedRequest(MediaRequest):
    """One question for vectors. ``inputs``: texts, or lists of token ids; one vector each."""

    inputs: Sequence[str | Sequence[int]]


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """``vectors``: one for each input, in order. ``usage``: None where the provider reported none."""

    vectors: Sequence[Sequence[float]]
    usage: Usage | None
    model: str | None = None
    dropped: Sequence[str] = ()
