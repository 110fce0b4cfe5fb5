"""What calls added up to: in all, and by day, user, token, model, provider and tag."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Select, case, func, literal, select, text
from sqlalchemy.orm import Session

from flaskllm.domain.usage import PARTS
from flaskllm.models.account import ApiToken, User
from flaskllm.models.ledger import AttemptRow, CallRow
from flaskllm.repositories.ledger import ID_SHIFT
from flaskllm.repositories.postgresql import patience

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
HALF = 2**31
"""Sums are taken in two halves: two absurd counts would overflow a database's integer, and the whole report with it."""
REPORT_MS = 30_000
"""How long a report may take on PostgreSQL: longer than a call's own statements, which nobody should wait for."""
UTC = ZoneInfo("UTC")

KEYS: Mapping[str, Any] = {
    "user": CallRow.user_id,
    "token": CallRow.token_id,
    "model": func.coalesce(CallRow.backend_model, CallRow.model),
    "provider": CallRow.provider,
    "tag": CallRow.tags,
}
"""What calls are grouped by, besides days: ``model`` as called, or as asked where none was; ``tag`` by all of a call's
tags together, as JSON."""


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Sums over calls; ``cost`` in 10⁻⁹ dollar, as ``saved``: what answers from the cache had cost before.

    ``unpriced``, ``estimated`` and ``interrupted`` count calls without a price, calls whose tokens are not a
    provider's word, and calls whose process died. ``parts``: `PARTS` by name.
    """

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: int = 0
    unpriced: int = 0
    estimated: int = 0
    interrupted: int = 0
    saved: int = 0
    parts: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))

    def __add__(self, other: UsageTotals) -> UsageTotals:
        names = [one.name for one in fields(self) if one.name != "parts"]
        counts = {name: getattr(self, name) + getattr(other, name) for name in names}
        return UsageTotals(**counts, parts={name: held + other.parts[name] for name, held in self.parts.items()})


@dataclass(frozen=True, slots=True)
class Span:
    """Which calls: one user's (None: everybody's), from ``since`` to before ``until``; either may be left open.

    Only those of a token, to a ``model`` (as the reports name it) or a provider, or under a tag, where these are given.
    """

    user_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    token_id: str | None = None
    model: str | None = None
    provider: str | None = None
    tag: str | None = None


def series(
    session: Session,
    span: Span,
    by: Sequence[str],
    *,
    most: int,
    zone: tzinfo = UTC,
    only: ColumnElement[bool] | None = None,
) -> list[tuple[tuple[Any, ...], UsageTotals]]:
    """The sums of each group, at most ``most`` groups: the values of `KEYS` in the order asked, and the sums.

    ``day`` is in days since 1970 in ``zone``. ``only``: of calls for which this holds. Without groups there is one,
    unless there are no calls.
    """
    with _taking_long(session):
        keys = [_days(session, span, zone, only) if name == "day" else KEYS[name] for name in by]
        rows = session.execute(_within(select(*keys, *_sums()), span, only).group_by(*keys).limit(most)).all()
    return [(tuple(row[: len(keys)]), _totals(row[len(keys) :])) for row in rows]


def attempts_between(session: Session, providers: Sequence[str], since: datetime, until: datetime) -> Iterator[Any]:
    """The attempts at these providers that may have been billed, begun from ``since`` to before ``until``.

    They are found by their ids, which grow with time, so that no index has to be kept for this alone.
    """
    first, last = (int(moment.timestamp() * 1000) for moment in (since, until))
    query = (
        select(
            AttemptRow.id, AttemptRow.state, AttemptRow.backend_model, AttemptRow.started_at, AttemptRow.prompt_tokens,
            AttemptRow.completion_tokens, AttemptRow.cost, AttemptRow.priced, AttemptRow.estimated, AttemptRow.usage,
        )
        .where(AttemptRow.id.between(max(0, first - HOUR_MS) << ID_SHIFT, (last + HOUR_MS) << ID_SHIFT))
        .where(AttemptRow.started_at >= first, AttemptRow.started_at < last)
        .where(AttemptRow.provider.in_(providers), AttemptRow.state.in_(("settled", "interrupted")))
    )  # fmt: skip
    with _taking_long(session):
        yield from session.execute(query.execution_options(yield_per=5000))


@contextmanager
def _taking_long(session: Session) -> Iterator[None]:
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"SET LOCAL statement_timeout = {REPORT_MS}"))
    with patience(REPORT_MS / 1000 + 1):
        yield


def user_names(session: Session, ids: Sequence[str]) -> dict[str, str]:
    """Also of closed accounts, whose rows stay."""
    return {row.id: row.username for row in session.execute(select(User.id, User.username).where(User.id.in_(ids)))}


def token_names(session: Session, ids: Sequence[str]) -> dict[str, str]:
    """Also of revoked tokens, whose rows stay."""
    return {row.id: row.name for row in session.execute(select(ApiToken.id, ApiToken.name).where(ApiToken.id.in_(ids)))}


def tags_of(held: str | None) -> list[str]:
    """The tags that a row holds as JSON."""
    return json.loads(held) if held else []


def has_tag(column: Any, tag: str) -> ColumnElement[bool]:
    """Whether a row's tags, JSON as `tags_of` reads it, hold this one; by its exact letters in any database."""
    return func.replace(column, json.dumps(tag, ensure_ascii=False), "") != column


# -- days -------------------------------------------------------------------------------------------------------------


def _days(session: Session, span: Span, zone: tzinfo, only: ColumnElement[bool] | None = None) -> ColumnElement[Any]:
    """Days since 1970 as the zone's clocks count them: each call's moment shifted by what the clocks were ahead then.

    Clocks change a few times a year, so that a handful of shifts says it all, in any database.
    """
    first, last = session.execute(_within(select(*EDGES), span, only)).one()
    shifts = _shifts(int(first or 0), int(last or 0), zone)
    shifted = CallRow.started_at + literal(shifts[-1][1])
    if len(shifts) > 1:
        whens = [(CallRow.started_at < before, CallRow.started_at + ahead) for before, ahead in shifts[:-1]]
        shifted = case(*whens, else_=shifted)
    return shifted // DAY_MS


EDGES: tuple[ColumnElement[Any], ...] = (func.min(CallRow.started_at), func.max(CallRow.started_at))


def _shifts(first: int, last: int, zone: tzinfo) -> list[tuple[int, int]]:
    """(until when, how far the clocks are ahead of UTC), in milliseconds and in order, for all from first to last."""
    found, at, ahead = [], first, _ahead(first, zone)
    while at < last:
        following = min(at + DAY_MS, last)
        if (then := _ahead(following, zone)) != ahead:
            found.append((_change(at, following, ahead, zone), ahead))
            ahead = then
        at = following
    return [*found, (last + 1, ahead)]


def _change(low: int, high: int, ahead: int, zone: tzinfo) -> int:
    """The first millisecond at which the clocks are no more so far ahead, by halving."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _ahead(middle, zone) == ahead else (low, middle)
    return high


def _ahead(at: int, zone: tzinfo) -> int:
    offset = (EPOCH + timedelta(milliseconds=at)).astimezone(zone).utcoffset() or timedelta()
    return offset // timedelta(milliseconds=1)


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# -- sums -------------------------------------------------------------------------------------------------------------


def _within(query: Select[Any], span: Span, only: ColumnElement[bool] | None = None) -> Select[Any]:
    if only is not None:
        query = query.where(only)
    if span.user_id is not None:
        query = query.where(CallRow.user_id == span.user_id)
    if span.since is not None:
        query = query.where(CallRow.started_at >= int(span.since.timestamp() * 1000))
    if span.until is not None:
        query = query.where(CallRow.started_at < int(span.until.timestamp() * 1000))
    for key, value in (("token", span.token_id), ("model", span.model), ("provider", span.provider)):
        if value is not None:
            query = query.where(KEYS[key] == value)
    return query if span.tag is None else query.where(has_tag(CallRow.tags, span.tag))


def _sums() -> list[ColumnElement[Any]]:
    return [
        func.count(),
        func.count().filter(CallRow.status >= 400),
        func.count().filter(CallRow.cost.is_(None)),
        func.count().filter(CallRow.estimated),
        func.count().filter(CallRow.error_code == "interrupted"),
        *_halves(CallRow.prompt_tokens),
        *_halves(CallRow.completion_tokens),
        *_halves(CallRow.cost),
        *_halves(CallRow.saved),
        *(func.coalesce(func.sum(getattr(CallRow, name)), 0) for name in PARTS),
    ]


def _halves(column: Any) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    return func.coalesce(func.sum(column // HALF), 0), func.coalesce(func.sum(column % HALF), 0)


def _totals(row: Sequence[Any]) -> UsageTotals:
    requests, errors, unpriced, estimated, interrupted, *sums = map(int, row)
    prompt, completion, cost, saved = (high * HALF + low for high, low in zip(sums[0:8:2], sums[1:8:2], strict=True))
    return UsageTotals(
        requests=requests,
        errors=errors,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost=cost,
        unpriced=unpriced,
        estimated=estimated,
        interrupted=interrupted,
        saved=saved,
        parts=dict(zip(PARTS, sums[8:], strict=True)),
    )
