"""Stored responses in SQL: each its owner's alone, until it expires or is deleted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, literal, select
from sqlalchemy.orm import aliased

from flaskllm.domain.response import Item, Response
from flaskllm.errors import NotFound
from flaskllm.models.response import ResponseRow
from flaskllm.models.types import JsonText
from flaskllm.repositories.database import Database

KEPT = timedelta(days=30)
SWEEP = 500


@dataclass(frozen=True, slots=True)
class Thread:
    """What was said in a response and those before it, oldest first.

    ``depth``, ``size``: how many responses and characters it has in all. ``is_whole``: none was left out.
    """

    items: list[Item]
    depth: int = 0
    size: int = 0
    is_whole: bool = True


NO_THREAD = Thread([])


def missing() -> NotFound:
    """One answer for what never was, what is gone, and what is somebody else's."""
    return NotFound("There is no such response.")


class ResponseStore:
    """Responses as rows. Each method raises `Unavailable` where the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, owner_id: str, response: Response, given: Sequence[Item], previous: str | None, on: Thread) -> None:
        """Keep a response with the items that it answers; ``on``: the thread that it goes on from."""
        items = {"input": list(given), "output": response.output}
        size = len(JsonText().process_bind_param(items, self._database.engine.dialect) or "")
        created = datetime.fromtimestamp(response.created_at, UTC)
        row = ResponseRow(
            id=response.id, owner_id=owner_id, previous_id=previous, depth=on.depth + 1, size=size,
            thread_size=on.size + size, items=items, document=response.to_json(), created_at=created,
            expires_at=created + KEPT,
        )  # fmt: skip
        with self._database.transaction() as session:
            session.add(row)

    def read(self, owner_id: str, response_id: str) -> tuple[Response, list[Item]]:
        """A response and the items that it answers. Raises `NotFound`."""
        with self._database.reading() as session:
            row = session.scalars(select(ResponseRow).where(_live(owner_id), ResponseRow.id == response_id)).first()
        if row is None:
            raise missing()
        return Response.from_json(row.document, row.items["output"]), row.items["input"]

    def items(self, owner_id: str, response_ids: Collection[str]) -> dict[str, Item]:
        """Every item of these responses, as far as they are the owner's, by its id."""
        found: dict[str, Item] = {}
        query = select(ResponseRow.items).where(_live(owner_id), ResponseRow.id.in_(response_ids))
        with self._database.reading() as session:
            for items in session.scalars(query):
                found |= {item["id"]: item for item in (*items["input"], *items["output"])}
        return found

    def thread(self, owner_id: str, response_id: str, *, most_depth: int, most_size: int) -> Thread:
        """The response and all before it; of a thread beyond the bounds, the newest part within them.

        Raises `NotFound` where it, or one before it, is not there.
        """
        about = select(ResponseRow.depth, ResponseRow.thread_size)
        with self._database.reading() as session:
            end = session.execute(about.where(_live(owner_id), ResponseRow.id == response_id)).one_or_none()
            rows = session.scalars(_newest(owner_id, response_id, most_depth, most_size)).all() if end else []
        if end is None:
            raise missing()
        is_whole = len(rows) == end.depth
        if not is_whole and end.depth <= most_depth and end.thread_size <= most_size:
            raise missing()
        items = [item for row in reversed(rows) for item in (*row["input"], *row["output"])]
        return Thread(items, end.depth, end.thread_size, is_whole)

    def delete(self, owner_id: str, response_id: str) -> None:
        """Raises `NotFound`."""
        with self._database.transaction() as session:
            gone = session.execute(
                delete(ResponseRow).where(_live(owner_id), ResponseRow.id == response_id).returning(ResponseRow.id)
            )
            if gone.first() is None:
                raise missing()

    def sweep(self) -> int:
        """Delete what has expired. Gives how many."""
        expired = select(ResponseRow.id).where(ResponseRow.expires_at <= datetime.now(UTC)).limit(SWEEP)
        with self._database.transaction() as session:
            ids = session.scalars(expired).all()
            session.execute(delete(ResponseRow).where(ResponseRow.id.in_(ids)))
        return len(ids)


def _live(owner_id: str) -> ColumnElement[bool]:
    return and_(ResponseRow.owner_id == owner_id, ResponseRow.expires_at > datetime.now(UTC))


def _newest(owner_id: str, response_id: str, most_depth: int, most_size: int) -> Any:
    """The items of a thread from its end on, newest first, as many responses as the bounds allow."""
    row = ResponseRow
    end = select(row.id, row.previous_id, row.size.label("total"), literal(1).label("number"))
    back = end.where(_live(owner_id), row.id == response_id).cte("back", recursive=True)
    before = aliased(ResponseRow)
    step = select(before.id, before.previous_id, back.c.total + before.size, back.c.number + 1).where(
        before.id == back.c.previous_id,
        before.owner_id == owner_id,
        before.expires_at > datetime.now(UTC),
        back.c.number < most_depth,
        back.c.total + before.size <= most_size,
    )
    back = back.union_all(step)
    return select(row.items).join(back, back.c.id == row.id).order_by(back.c.number)
