"""The outbox: written beside what it tells of, taken up by one sender at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from flaskllm.domain.event import Event
from flaskllm.models.outbox import OutboxRow
from flaskllm.repositories.clock import now_of, with_now
from flaskllm.repositories.committer import Connection

ADD = """
INSERT INTO outbox (id, lane, type, url, body, made_at, tries, next_at)
VALUES (:id, :lane, :type, :url, :body, {now}, 0, {now})
ON CONFLICT (id) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Message:
    """An event that somebody has taken up. ``tries``: how often that was done, this time included; who has it proves
    it by that."""

    id: str
    type: str
    url: str | None
    body: str
    tries: int


def add(connection: Connection, event: Event) -> None:
    """Into the transaction of what it tells of."""
    values = {name: getattr(event, name) for name in ("id", "lane", "type", "url", "body")}
    connection.execute(with_now(connection, ADD), values)


def lanes_due(session: Session) -> Sequence[str]:
    """Whose events have their time come."""
    row = OutboxRow
    return session.scalars(select(row.lane).where(row.next_at <= now_of(session)).distinct()).all()


def take(session: Session, lane: str, *, lease_ms: int) -> Message | None:
    """The next event of a lane, for oneself until the lease ends; None where none is due, or another was quicker."""
    row, at = OutboxRow, now_of(session)
    oldest = select(row.id).where(row.lane == lane, row.next_at <= at).order_by(row.next_at, row.id).limit(1)
    found = session.execute(
        update(row)
        .where(row.id == oldest.scalar_subquery(), row.next_at <= at)
        .values(next_at=at + lease_ms, tries=row.tries + 1)
        .returning(row.id, row.type, row.url, row.body, row.tries)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    return None if found is None else Message(*found)


def end(session: Session, message: Message, *, taken: bool, again_in_ms: int | None) -> None:
    """What came of a try: it was taken, or is to be tried again then, or (None) is given up.

    Nothing, where somebody else has taken it up meanwhile.
    """
    row, at = OutboxRow, now_of(session)
    next_at = None if taken or again_in_ms is None else at + again_in_ms
    session.execute(
        update(row)
        .where(row.id == message.id, row.tries == message.tries, row.sent_at.is_(None))
        .values(next_at=next_at, sent_at=at if taken else None)
        .execution_options(synchronize_session=False)
    )


def sweep(session: Session, *, kept_ms: int) -> None:
    """Forget what was taken or given up, of that age."""
    row = OutboxRow
    session.execute(delete(row).where(row.made_at < now_of(session) - kept_ms, row.next_at.is_(None)))
