"""Single calls, newest first: found by one index each, and what no index finds within a bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, or_, select
from sqlalchemy.orm import Session

from flaskllm.domain.call import HIGHEST_ID, CallFilters, CallKey
from flaskllm.models.batch import BatchJobRow
from flaskllm.models.ledger import HAS_FAILED, AttemptRow, CallRow
from flaskllm.repositories.usage import has_tag

__all__ = [
    "AttemptRow",
    "CallPage",
    "CallRow",
    "attempts_of",
    "get_call",
    "job_of",
    "list_calls",
]

MOST_LOOKED = 20_000
"""Calls that one page looks through for what no index finds."""
MOST_ATTEMPTS = 32


@dataclass(frozen=True, slots=True)
class CallPage:
    """``following``: where the next page begins, if there may be one. ``looked_to``: this page ends there (ms) because
    enough was looked through, not because it is full."""

    rows: Sequence[CallRow]
    following: CallKey | None = None
    looked_to: int | None = None


def list_calls(
    session: Session, filters: CallFilters, *, limit: int, after: CallKey | None = None, most: int = MOST_LOOKED
) -> CallPage:
    """The next calls by when they began, newest first.

    One filter goes by its index. The others, and those that have none, are looked for among the next ``most`` that
    the first one finds: no page takes long, however rare a thing it looks for.
    """
    found: dict[int, CallRow] = {}
    floor: int | None = None
    for driver, others in _ways(filters):
        bounds = _bounds(filters, after)
        low = _edge(session, [*driver, *bounds], most) if others else None
        window = [] if low is None else [CallRow.started_at > low]
        query = _newest(select(CallRow).where(*driver, *others, *bounds, *window)).limit(limit + 1)
        found |= {row.id: row for row in session.scalars(query)}
        floor = low if floor is None else max(floor, low or floor)
    rows = sorted(found.values(), key=lambda row: (row.started_at, row.id), reverse=True)
    if floor is not None:
        rows = [row for row in rows if row.started_at > floor]
    if len(rows) > limit:
        last = rows[limit - 1]
        return CallPage(rows[:limit], CallKey(last.started_at, last.id))
    return CallPage(rows) if floor is None else CallPage(rows, CallKey(floor, HIGHEST_ID), floor)


FIRST_ERROR = 400
Conditions = list[ColumnElement[bool]]


def _ways(filters: CallFilters) -> list[tuple[Conditions, Conditions]]:
    """What an index finds, the one that finds least first, and what is left to be looked at.

    A model is found in two ways."""
    by_index: list[Any] = [
        column == value
        for column, value in (
            (CallRow.request_id, filters.request_id),
            (CallRow.token_id, filters.token_id),
            (CallRow.error_code, filters.error_code),
            (CallRow.user_id, filters.user_id),
            (CallRow.provider, filters.provider),
        )
        if value is not None
    ]
    if filters.failed:
        by_index.append(HAS_FAILED)  # word for word as the index has it, or it is not used
    slowly: Conditions = [] if filters.door is None else [CallRow.door == filters.door]
    slowly += [] if filters.tag is None else [has_tag(CallRow.tags, filters.tag)]
    if filters.failed is False:
        slowly.append(CallRow.status < FIRST_ERROR)
    named = [] if filters.model is None else [CallRow.backend_model == filters.model, CallRow.model == filters.model]
    if by_index:
        return [(by_index[:1], [*by_index[1:], *slowly, *([or_(*named)] if named else [])])]
    return [([way], slowly) for way in named] or [([], slowly)]


def _bounds(filters: CallFilters, after: CallKey | None) -> Conditions:
    found: Conditions = []
    if filters.since is not None:
        found.append(CallRow.started_at >= filters.since)
    if filters.until is not None:
        found.append(CallRow.started_at < filters.until)
    if after is not None:
        same = and_(CallRow.started_at == after.started_at, CallRow.id < after.id)
        found += [CallRow.started_at <= after.started_at, or_(CallRow.started_at < after.started_at, same)]
    return found


def _edge(session: Session, conditions: Conditions, most: int) -> int | None:
    """When the first call began that is not looked at any more; None where there are not so many."""
    began = select(CallRow.started_at).where(*conditions).order_by(CallRow.started_at.desc())
    return session.scalar(began.offset(most).limit(1))


def _newest(query: Select[Any]) -> Select[Any]:
    return query.order_by(CallRow.started_at.desc(), CallRow.id.desc())


def get_call(session: Session, call_id: int) -> CallRow | None:
    return session.get(CallRow, call_id)


def attempts_of(session: Session, call: CallRow) -> list[AttemptRow]:
    """In the order they were made; none for an answer from the cache.

    Callers name requests and may use a name again: the last attempts up to the call's end are its own.
    """
    if not call.attempts:
        return []
    query = select(AttemptRow).where(
        AttemptRow.request_id == call.request_id,
        AttemptRow.user_id == call.user_id,
        AttemptRow.started_at <= call.finished_at,
    )
    found: list[AttemptRow] = []
    for row in session.scalars(
        query.order_by(AttemptRow.started_at.desc(), AttemptRow.number.desc()).limit(MOST_ATTEMPTS)
    ):
        found.append(row)
        if row.number == 1:
            break
    return found[::-1]


def job_of(session: Session, call: CallRow) -> str | None:
    """The id of the batch job whose item it answered, while that is kept: it names its requests by itself."""
    job_id = call.request_id.rpartition("-")[0]
    if not job_id:
        return None
    known = select(BatchJobRow.id).where(BatchJobRow.id == job_id, BatchJobRow.user_id == call.user_id)
    return session.scalar(known)
