"""S1's outgoing call and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ExternalCall:
    """What a caller wants sent, as it was said. ``payload``: JSON, or a form or a text where not ``use_json``."""

    method: str
    url: str
    headers: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    payload: Any = None
    use_json: bool = True


@dataclass(frozen=True, slots=True)
class ExternalAnswer:
    """What the target said; a header that came several times is one, its values joined by a comma."""

    status_code: int
    headers: Mapping[str, str]
    body: bytes
    elapsed_ms: int

    @property
    def content_type(self) -> str:
        return next((value for name, value in self.headers.items() if name.lower() == "content-type"), "")
