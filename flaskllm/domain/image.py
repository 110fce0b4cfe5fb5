"""Words into images: what is asked and what comes back, whoever draws."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flaskllm.domain.media import MediaRequest
from flaskllm.domain.usage import Usage

USUAL_SIZE = (1024, 1024)
"""What is drawn where no size was asked for (OpenAI's default of every model)."""
_SIZE = re.compile(r"([1-9]\d{1,4})x([1-9]\d{1,4})", re.ASCII)


def size_of(text: str | None) -> tuple[int, int] | None:
    """Width and height in pixels; None for ``auto``, and for what is no size.

    >>> size_of("1792x1024")
    (1792, 1024)
    """
    found = _SIZE.fullmatch(text or "")
    return (int(found[1]), int(found[2])) if found else None


@dataclass(frozen=True, slots=True)
class ImageRequest(MediaRequest):
    """One question for images. ``params`` by OpenAI's names: ``n``, ``size``, ``quality``, ``style`` and so on."""

    prompt: str

    @property
    def count(self) -> int:
        return int(self.params.get("n") or 1)

    @property
    def as_url(self) -> bool:
        """Whether addresses were asked for; a provider's own choice where nothing was."""
        return self.params.get("response_format") == "url"


@dataclass(frozen=True, slots=True)
class ImageResult:
    """``images``: each with ``url`` or ``b64_json``, maybe ``revised_prompt``. ``size``, ``quality``: as drawn, where
    the provider says so. ``usage``: None where it reported none. ``created``: seconds since 1970.
    """

    images: Sequence[Mapping[str, Any]]
    usage: Usage | None
    created: int | None = None
    size: str | None = None
    quality: str | None = None
    dropped: Sequence[str] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
