"""Lists of single calls on SQLite and PostgreSQL: what is found, page by page, by an index or within a bound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session

from flaskllm.domain.call import CallFilters, CallKey
from flaskllm.models.ledger import AttemptRow, CallRow
from flaskllm.repositories.requests import attempts_of, list_calls
from tests.databases import database_addresses
from tests.doors.test_usage import CALL

NOON = 1_763_720_000_000


@pytest.fixture(params=database_addresses())
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    engine = create_engine(request.param(tmp_path))
    for table in (CallRow.__table__, AttemptRow.__table__):
        table.drop(engine, checkfirst=True)
        table.create(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


def write(session: Session, *calls: dict[str, Any]) -> None:
    """Calls with the numbers 1, 2, 3…, a second apart unless they say when they began."""
    for number, call in enumerate(calls, 1):
        values = {"id": number, "request_id": f"r{number}", "user_id": "u", "started_at": NOON + 1000 * number, **call}
        session.execute(CallRow.__table__.insert(), {**CALL, "finished_at": values["started_at"], **values})


def ids(session: Session, *, limit: int = 50, **filters: Any) -> list[int]:
    return [row.id for row in list_calls(session, CallFilters(**filters), limit=limit).rows]


@pytest.mark.parametrize(
    "filters, found",
    [
        ({}, [7, 6, 5, 4, 3, 2, 1]), ({"request_id": "r2"}, [2]), ({"user_id": "v"}, [2]), ({"token_id": "t"}, [3]),
        ({"model": "claude"}, [4]), ({"model": "alias"}, [4]), ({"model": "gpt-4o"}, [7, 6, 5, 3, 2, 1]),
        ({"provider": "anthropic"}, [4]), ({"failed": True}, [6, 5]), ({"failed": False}, [7, 4, 3, 2, 1]),
        ({"error_code": "provider_error"}, [5]), ({"error_code": "none"}, []), ({"door": "webhook"}, [6]),
        ({"tag": "sales"}, [7]), ({"since": NOON + 5000}, [7, 6, 5]), ({"until": NOON + 3000}, [2, 1]),
        ({"failed": True, "door": "webhook", "user_id": "u", "model": "gpt-4o"}, [6]),
        ({"user_id": "u", "provider": "anthropic", "since": NOON + 4000, "until": NOON + 4001}, [4]),
        ({"token_id": "t", "tag": "sales"}, []),
    ],
)  # fmt: skip
def test_what_is_asked_for_is_found_newest_first(session: Session, filters: dict[str, Any], found: list[int]) -> None:
    write(
        session, {}, {"user_id": "v"}, {"token_id": "t"},
        {"backend_model": "claude", "model": "alias", "provider": "anthropic"},
        {"status": 502, "error_code": "provider_error"}, {"status": 401, "door": "webhook"},
        {"tags": '["emea","sales"]'},
    )  # fmt: skip
    assert ids(session, **filters) == found


@pytest.mark.parametrize(
    "filters", [{}, {"user_id": "u"}, {"model": "small"}, {"failed": False}, {"user_id": "u", "door": "openai"}]
)
def test_pages_follow_each_other_without_a_gap_also_within_one_moment(
    session: Session, filters: dict[str, Any]
) -> None:
    write(session, *({"started_at": NOON + n // 4} for n in range(10)))
    seen: list[int] = []
    key: CallKey | None = None
    for _ in range(4):
        page = list_calls(session, CallFilters(**filters), limit=3, after=key)
        seen, key = [*seen, *(row.id for row in page.rows)], page.following
    assert (seen, key) == (list(range(10, 0, -1)), None)


RARE = {"door": "webhook", "tags": '["rare"]'}


@pytest.mark.parametrize(
    "filters",
    [
        {"door": "webhook"}, {"tag": "rare"}, {"provider": "openai", "door": "webhook"},
        {"model": "small", "tag": "rare"}, {"failed": False, "tag": "rare"},
    ],
)  # fmt: skip
def test_a_page_looks_through_so_many_and_the_next_one_goes_on_from_there(
    session: Session, filters: dict[str, Any]
) -> None:
    write(session, *({"started_at": NOON + n // 2, **(RARE if n == 0 else {})} for n in range(14)))
    key: CallKey | None = None
    looked: list[int | None] = []
    found: list[int] = []
    for _ in range(5):
        page = list_calls(session, CallFilters(**filters), limit=2, after=key, most=4)
        key, looked, found = page.following, [*looked, page.looked_to], [*found, *(row.id for row in page.rows)]
        if key is None:
            break
    assert (found, looked) == ([1], [NOON + 4, NOON + 2, NOON, None])


def test_attempts_are_those_of_this_call_where_its_name_was_used_before(session: Session) -> None:
    same = {"request_id": "same", "attempts": 2}
    write(session, same, same, {**same, "user_id": "v"}, {**same, "attempts": 0})
    for number, (user, at, place) in enumerate(
        [("u", 0, 1), ("u", 900, 2), ("u", 1100, 1), ("u", 1200, 2), ("v", 1150, 1), ("u", 2500, 1)], 1
    ):
        session.execute(AttemptRow.__table__.insert(), _attempt(number, user, NOON + at, place))
    calls = {row.id: row for row in list_calls(session, CallFilters(), limit=9).rows}
    told = {number: [row.id for row in attempts_of(session, call)] for number, call in calls.items()}
    assert told == {1: [1, 2], 2: [3, 4], 3: [5], 4: []}


def _attempt(id_: int, user_id: str, at: int, number: int) -> dict[str, Any]:
    return {
        "id": id_, "request_id": "same", "number": number, "state": "settled", "user_id": user_id, "door": "openai",
        "model": "m", "backend_model": "m", "provider": "p", "endpoint": "main", "price_version": "", "reserved": 0,
        "priced": False, "holds": "[]", "started_at": at, "lease_until": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "index, filters",
    [
        ("started", {}), ("user_started", {"user_id": "x"}), ("token_started", {"token_id": "x"}),
        ("provider_started", {"provider": "x"}), ("failed", {"failed": True}), ("error", {"error_code": "x"}),
        ("request", {"request_id": "x"}), ("model_started", {"model": "x"}), ("backend_started", {"model": "x"}),
    ],
)  # fmt: skip
def test_a_filter_of_its_own_goes_by_its_index(session: Session, index: str, filters: dict[str, Any]) -> None:
    """So that a million rows do not make it slower."""
    write(session, *({} for _ in range(100)))
    asked: list[tuple[str, Any]] = []
    engine = session.get_bind()
    prefix = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    if engine.dialect.name == "postgresql":
        for other in ("seqscan", "bitmapscan"):  # as it does with more rows than there are here
            session.execute(text(f"SET LOCAL enable_{other} = off"))
        session.execute(text("ANALYZE calls"))

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        asked.append((statement, values))

    event.listen(engine, "before_cursor_execute", note)
    list_calls(session, CallFilters(**filters), limit=5)
    event.remove(engine, "before_cursor_execute", note)
    plans = [session.connection().exec_driver_sql(prefix + one, values).all() for one, values in asked]
    assert f"ix_calls_{index}" in str(plans)
    assert len(plans) == (2 if "model" in filters else 1)
