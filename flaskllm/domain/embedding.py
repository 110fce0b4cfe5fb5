"""Texts into vectors: what is asked and what comes back, whoever answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from flaskllm.domain.chat import Native
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
class EmbedRequest:
    """One question for vectors.

    ``inputs``: texts, or lists of token ids; one vector each. ``model``, ``provider``, ``params``, ``extras``,
    ``drop_params``: as in `ChatRequest`.
    """

    inputs: Sequence[str | Sequence[int]]
    model: str | None = None
    provider: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    drop_params: bool = False

    stream: ClassVar[bool] = False
    native: ClassVar[Native | None] = None
    hints: ClassVar[frozenset[str]] = frozenset()
    wire: ClassVar[str] = "openai"


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """``vectors``: one for each input, in order. ``usage``: None where the provider reported none."""

    vectors: Sequence[Sequence[float]]
    usage: Usage | None
    model: str | None = None
    dropped: Sequence[str] = ()
