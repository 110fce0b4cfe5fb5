"""What calls added up to: in all, and by day, user, token, model and provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from flaskllm.models.account import ApiToken, User
from flaskllm.models.ledger import CallRow

DAY_MS = 86_400_000
HALF = 2**31
"""Sums are taken in two halves: two absurd counts would overflow a database's integer, and the whole report with it."""

KEYS: Mapping[str, Any] = {
    "day": CallRow.started_at // DAY_MS,
    "user": CallRow.user_id,
    "token": CallRow.token_id,
    "model": func.coalesce(CallRow.backend_model, CallRow.model),
    "provider": CallRow.provider,
}
"""What calls are grouped by: ``day`` in days since 1970 in UTC; ``model`` as called, or as asked where none was."""


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Sums over calls; ``cost`` in 10⁻⁹ dollar, ``unpriced`` counts calls without a price."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: int = 0
    unpriced: int = 0
    estimated: int = 0

    def __add__(self, other: UsageTotals) -> UsageTotals:
        return UsageTotals(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


@dataclass(frozen=True, slots=True)
class Span:
    """Which calls: one user's (None: everybody's), from ``since`` to before ``until``; either may be left open."""

    user_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def totals(session: Session, span: Span) -> UsageTotals:
    return _totals(session.execute(_within(select(*_sums()), span)).one())


def series(session: Session, span: Span, by: Sequence[str], *, most: int) -> list[tuple[tuple[Any, ...], UsageTotals]]:
    """The same for each group, at most ``most`` groups: the values of `KEYS` in the order asked, and the sums."""
    keys = [KEYS[name] for name in by]
    rows = session.execute(_within(select(*keys, *_sums()), span).group_by(*keys).limit(most)).all()
    return [(tuple(row[: len(keys)]), _totals(row[len(keys) :])) for row in rows]


def user_names(session: Session, ids: Sequence[str]) -> dict[str, str]:
    return {row.id: row.username for row in session.execute(select(User.id, User.username).where(User.id.in_(ids)))}


def token_facts(session: Session, ids: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """Name and tags of each token that is known."""
    rows = session.execute(select(ApiToken.id, ApiToken.name, ApiToken.tags).where(ApiToken.id.in_(ids)))
    return {row.id: (row.name, list(row.tags)) for row in rows}


def _within(query: Select[Any], span: Span) -> Select[Any]:
    if span.user_id is not None:
        query = query.where(CallRow.user_id == span.user_id)
    if span.since is not None:
        query = query.where(CallRow.started_at >= int(span.since.timestamp() * 1000))
    if span.until is not None:
        query = query.where(CallRow.started_at < int(span.until.timestamp() * 1000))
    return query


def _sums() -> list[ColumnElement[Any]]:
    return [
        func.count(),
        func.count().filter(CallRow.status >= 400),
        *_halves(CallRow.prompt_tokens),
        *_halves(CallRow.completion_tokens),
        *_halves(CallRow.cost),
        func.count().filter(CallRow.cost.is_(None)),
        func.count().filter(CallRow.estimated),
    ]


def _halves(column: Any) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    return func.coalesce(func.sum(column // HALF), 0), func.coalesce(func.sum(column % HALF), 0)


def _totals(row: Sequence[Any]) -> UsageTotals:
    requests, errors, prompt_h, prompt_l, completion_h, completion_l, cost_h, cost_l, unpriced, estimated = map(
        int, row
    )
    return UsageTotals(
        requests=requests,
        errors=errors,
        prompt_tokens=prompt_h * HALF + prompt_l,
        completion_tokens=completion_h * HALF + completion_l,
        cost=cost_h * HALF + cost_l,
        unpriced=unpriced,
        estimated=estimated,
    )
