"""What the orchestrator gives back, the answer and what is to be told about it; and an answer as it went out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatResult
from flaskllm.domain.usage import Usage

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RateStatus:
    """One limit as it stands after this call: most, left, and seconds until the window ends."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Tried:
    """One way that a call tried, and how that went.

    ``name``: ``provider/model``; ``endpoint``: which of its addresses, by its id. ``outcome``: `OK`, `OPEN` (its stream
    goes on), or a word for its failure. ``asked``: a call went out; else the reason why none did is the outcome.
    """

    name: str
    endpoint: str
    outcome: str
    asked: bool = True


OK, OPEN, RESTING, TOO_LONG, NOT_SENT = "ok", "open", "resting", "too_long", "not_sent"
"""`RESTING`: its breaker is open. `NOT_SENT`: a fault of the request, or of ours, came before."""


@dataclass(frozen=True)
class Told(Generic[Result]):
    """One whole answer of any kind. ``cost`` in 10⁻⁹ dollar, None where unknown; ``attempts``: upstream calls.

    ``story``: how each of them went, in order. ``cache``: ``hit`` or ``miss`` where the caller asked for the cache,
    else ``none``.
    """

    result: Result
    candidate: Candidate
    usage: Usage
    cost: int | None
    attempts: int = 1
    dropped: tuple[str, ...] = ()
    rates: tuple[tuple[str, RateStatus], ...] = ()
    story: tuple[Tried, ...] = ()
    cache: str = "none"


@dataclass(frozen=True)
class Answer(Told[ChatResult]):
    """An answer in words."""

    @property
    def text(self) -> str:
        return self.result.text

    @property
    def model(self) -> str:
        return self.result.model or self.candidate.model.name


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as it went out; ``body`` is None where it was too large to be kept."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None
