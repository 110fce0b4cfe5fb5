"""Texts into vectors: what is asked and what comes back, whoever answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from flaskllm.domain.chat import Native
from flaskllm.domain.usage import Usage


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
