"""A stored body is written with its call's row or not at all, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, select

from flaskllm.domain.usage import PARTS
from flaskllm.errors import Unavailable
from flaskllm.extensions import Base
from flaskllm.models.body import BodyRow
from flaskllm.models.ledger import CallRow
from flaskllm.repositories.committer import GroupCommitter
from flaskllm.repositories.ledger import Record
from flaskllm.repositories.writes import write
from tests.databases import database_addresses
from tests.doors.test_usage import CALL


@pytest.fixture(params=database_addresses())
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(request.param(tmp_path))
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def committer(engine: Engine) -> Iterator[GroupCommitter]:
    running = GroupCommitter(engine, write)
    yield running
    running.stop()


def call(number: int, **more: Any) -> dict[str, Any]:
    nothing = (
        "saved", "error_code", "correlation_id", "claimed_user", "client_id", "metadata", "tags", "first_token_ms",
        *PARTS,
    )  # fmt: skip
    times = {"started_at": 5, "finished_at": 7}
    return {**dict.fromkeys(nothing), **CALL, **times, "id": number, "request_id": f"r{number}", "user_id": "u", **more}


def pairs(engine: Engine) -> list[tuple[int, str | None, int | None]]:
    """Each call with its body, and the body's moment."""
    query = select(CallRow.id, BodyRow.sealed, BodyRow.made_at).outerjoin(BodyRow, BodyRow.call_id == CallRow.id)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query.order_by(CallRow.request_id))]  # type: ignore[misc]


def test_a_body_stands_beside_its_call_where_there_is_one(engine: Engine, committer: GroupCommitter) -> None:
    committer.run(Record(call(1, sealed="one")))
    committer.run(Record(call(2)))
    assert pairs(engine) == [(1, "one", 7), (2, None, None)]


def test_a_call_that_is_given_another_id_takes_its_body_along(engine: Engine, committer: GroupCommitter) -> None:
    """Two processes have drawn the same id: the second try draws anew."""
    committer.run(Record(call(1, sealed="one")))
    second = Record(call(1, request_id="r2", sealed="two"))
    committer.run(second)
    assert pairs(engine) == [(1, "one", 7), (second.call["id"], "two", 7)]
    assert second.call["id"] != 1


def test_without_its_body_no_call_is_written(engine: Engine, committer: GroupCommitter) -> None:
    with pytest.raises(Unavailable):
        committer.run(Record(call(1, sealed=None)))  # a body that the table does not take
    with engine.connect() as connection:
        assert connection.execute(select(CallRow.id)).all() == []
