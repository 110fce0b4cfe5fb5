"""A column asked at once: what was sent, what it would take, how far it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flaskllm.domain.principal import NO_CLAIMS, Budget, Claims
from flaskllm.domain.prompt import PromptAsk, PromptKind
from flaskllm.domain.spreadsheet import AnsweredRow, AskedRow

MOST_RANGE_ROWS = 5_000
"""Rows in one request; Excel moves at most 5 MB at a time, which is about as many rows of a thousand characters."""
ROWS_AT_ONCE = 8
USUAL_DEADLINE_S = 25.0
"""Apps Script and custom functions die at 30 to 60 s."""


@dataclass(frozen=True, slots=True)
class RangeAsk:
    """Rows, and what is asked of each: a kind or a template. ``most_cost`` in 10⁻⁹ dollar.

    ``deadline_s``: seconds; 0: it is accepted and not waited for.
    """

    rows: tuple[AskedRow, ...]
    kind: PromptKind | None = None
    template: str | None = None
    language: str | None = None
    model: str | None = None
    deadline_s: float = USUAL_DEADLINE_S
    dry_run: bool = False
    confirm: bool = False
    most_cost: int | None = None
    cell_safe: bool = False

    def prompt(self, text: str) -> PromptAsk:
        """One row's question, as the webhook would be asked."""
        return PromptAsk(
            variables={"text": text},
            kind=self.kind,
            template=self.template,
            language=self.language,
            model=self.model,
        )


@dataclass(frozen=True, slots=True)
class RangeEstimate:
    """What a range would take about: ``cost`` in 10⁻⁹ dollar, ``seconds`` while eight rows run at a time.

    ``new_rows``: those that would be asked.
    """

    rows: int
    new_rows: int
    cost: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RangeState:
    """A range as far as it is. ``cost`` in 10⁻⁹ dollar."""

    rows: Sequence[AnsweredRow]
    continuation: str
    cost: int
    estimate: RangeEstimate
    cell_safe: bool

    @property
    def done(self) -> bool:
        """No row is open any more."""
        return all(row.status != "pending" for row in self.rows)


@dataclass(frozen=True, slots=True)
class RowQuestion:
    """One row while it waits to be asked.

    ``until``: so long (milliseconds since 1970) it waits for providers that are not well or asked too much. ``cap``:
    the budget that all rows of its range share. ``fresh``: an answer that was given before will not do.
    """

    ask: PromptAsk
    until: int
    cap: Budget | None = None
    fresh: bool = False
    claims: Claims = NO_CLAIMS

    def to_json(self) -> dict[str, Any]:
        """As it is kept with its job."""
        ask = self.ask
        return {
            "text": ask.variables["text"],
            "ask": [ask.kind, ask.template, ask.language, ask.model],
            "until": self.until,
            "cap": self.cap and [self.cap.id, self.cap.amount],
            "fresh": self.fresh,
            "claims": {name: told for name, told in asdict(self.claims).items() if told is not None},
        }

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> RowQuestion:
        """The same again."""
        kind, template, language, model = kept["ask"]
        ask = PromptAsk(
            {"text": kept["text"]}, PromptKind(kind) if kind else None, template, language=language, model=model
        )
        cap = Budget(kept["cap"][0], kept["cap"][1], "total") if kept["cap"] else None
        return cls(ask, kept["until"], cap, kept["fresh"], Claims(**kept["claims"]))
