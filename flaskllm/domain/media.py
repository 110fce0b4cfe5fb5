"""What questions for vectors and for images have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from flaskllm.domain.chat import Native


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRequest:
    """One question that is no chat; its fields as in `ChatRequest`."""

    model: str | None = None
    provider: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    drop_params: bool = False

    stream: ClassVar[bool] = False
    native: ClassVar[Native | None] = None
    hints: ClassVar[frozenset[str]] = frozenset()
    wire: ClassVar[str] = "openai"
