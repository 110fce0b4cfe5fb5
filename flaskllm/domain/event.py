"""What somebody outside is told of by a signed POST, in the form that Standard Webhooks asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flaskllm.domain.period import iso

OPERATOR = "operator"
"""The lane of what is sent to the operator's own address."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened, once the transaction that writes it down is committed.

    ``id``: the same on every try, so that a receiver can tell a repetition. ``at``: milliseconds since 1970. ``lane``:
    whose events wait behind one another. ``url``: where to; None: to the operator.
    """

    id: str
    type: str
    at: int
    data: Mapping[str, Any]
    lane: str = OPERATOR
    url: str | None = None

    @property
    def body(self) -> str:
        """What is sent, to the byte, on every try."""
        return json.dumps({"type": self.type, "timestamp": iso(self.at), "data": dict(self.data)})
