"""The first page: figures of the chosen span beside those before, by whom, and what a new gateway is told."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, text

from flaskllm.domain.audit import SYSTEM
from flaskllm.extensions import db
from flaskllm.repositories import rollups
from flaskllm.repositories.database import Database
from flaskllm.repositories.postgresql import patience
from flaskllm.services.overview import WINDOWS
from flaskllm.wiring import prepare_database
from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.databases import MISSING, database_of_its_own
from tests.doors.visitor import Visitor, words
from tests.ledgers import calls_until, write_ledger
from tests.people import PASSWORD
from tests.upstream import Upstream

PAYLOAD = '"><img src=x onerror=alert(1)><script>alert(1)</script>'


def with_calls(app: Flask, count: int, *, within: timedelta, until: datetime | None = None, **more: Any) -> None:
    """Calls evenly over so much time."""
    rows = [row | more for row in calls_until(until or datetime.now(UTC), count, within=within)]
    with app.app_context():
        write_ledger(db.engine, iter(rows))


def add_up(app: Flask) -> None:
    for _ in app.extensions["flaskllm"].rollups.finish():
        pass


def tile(page: str, name: str) -> list[str]:
    """What stands in one tile: the figure, and what is beside it."""
    found = re.search(rf"<dt>{name}</dt>(.*?)</div>", page, re.DOTALL)
    assert found is not None
    return [each.strip() for each in re.findall(r"<dd[^>]*>(.*?)</dd>", found[1])]


def test_a_new_gateway_is_told_what_to_do_first(app: Flask) -> None:
    root = Visitor.admin(app)
    told = root.get("/admin/overview").text
    assert "Nothing was called yet" in told
    for address in ("/admin/providers", "/admin/tokens/new"):
        assert f'href="{address}"' in told
    Caller.on(app).chat(model="demo")
    assert "Nothing was called yet" not in root.get("/admin/overview").text


def test_it_is_where_one_comes_to(app: Flask) -> None:
    root = Visitor.admin(app)
    assert root.get("/admin", status=302).headers["Location"] == "/admin/overview"
    assert 'href="/admin/overview" aria-current="page"' in root.get("/admin/overview").text


def test_a_call_stands_on_it_at_once_and_when_it_is_added_up(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "openai"))
    root, caller = Visitor.admin(app), Caller.on(app, name="sheet", tags=["sales"])
    caller.chat(model="gpt-4o-mini")
    before = root.get("/admin/overview").text
    assert tile(before, "Requests") == ["1"]
    add_up(app)
    after = root.get("/admin/overview").text
    for name in ("Requests", "Errors", "Tokens in", "Tokens out", "Cost"):
        assert tile(before, name) == tile(after, name)
    for name in ("gpt-4o-mini", "openai", "sheet", "sales"):
        assert f'<td class="long">{name}</td>' in after


def test_what_is_wrong_right_now_is_told_with_the_way_to_it(app: Flask) -> None:
    root = Visitor.admin(app)
    services = app.extensions["flaskllm"]
    assert "Note: No provider is on but the built-in demo" in words(root.get("/admin/overview"))
    ann = services.accounts.create_user(
        "ann", "ann@example.com", PASSWORD, fields={"budget": {"amount": 10, "period": "total"}}
    )
    bob = services.accounts.create_user("bob", "bob@example.com", PASSWORD, fields={"status": "waiting"})
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO budgets (id, period, spent, reserved) VALUES (:id, 'total', 11000000000, 0)"),
            {"id": f"user:{ann.id}"},
        )
    found = root.get("/admin/overview")
    assert "Now: The account ann has spent 110% of its budget of $10.00 in all." in words(found)
    assert "Note: 1 account waits for approval." in words(found)
    assert "Mode without Redis, on SQLite; no worker at work on batches." in words(found)
    assert found.text.index("The account ann") < found.text.index("No provider is on"), "the worst first"
    for address in (f"/admin/people/{ann.id}", "/admin/people?status=waiting", "/admin/providers"):
        assert f'href="{address}"' in found.text
    services.workers.beat()
    services.accounts.close_user(bob.id, actor=SYSTEM)
    after = words(root.get("/admin/overview"))
    assert "1 worker at work" in after
    assert "waits for approval" not in after


def test_a_stream_has_a_time_to_its_first_token(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "openai"))
    root, caller = Visitor.admin(app), Caller.on(app)
    caller.chat(model="gpt-4o-mini")
    assert tile(root.get("/admin/overview").text, "First token, half within") == ["–"]
    assert b"[DONE]" in caller.chat(model="gpt-4o-mini", stream=True).data
    assert "ms" in tile(root.get("/admin/overview").text, "First token, half within")[0]


@pytest.mark.parametrize(
    "span, within",
    [("hour", timedelta(hours=1)), ("day", timedelta(days=1)), ("week", timedelta(days=7)),
     ("month", timedelta(days=30)), ("year", timedelta(days=364))],
)  # fmt: skip
def test_each_span_counts_its_calls_and_compares_as_much_time_before(app: Flask, span: str, within: timedelta) -> None:
    """Twice as many calls, evenly over the span, as in the one before."""
    root = Visitor.admin(app)
    now = datetime.now(UTC)
    with_calls(app, 400, within=within * 0.8, until=now)
    rows = list(calls_until(now - within * 1.2, 200, within=within * 0.6))
    with app.app_context():
        write_ledger(db.engine, iter(rows))
    add_up(app)
    told = root.get(f"/admin/overview?span={span}").text
    assert tile(told, "Requests")[0] == "400"
    assert tile(told, "Requests")[1] == "100 % more"
    table = re.findall(r'<tr><th scope="row">.*?</tr>', told)
    assert len(table) == WINDOWS[span].bars
    assert sum(int(re.findall(r'data-number="(\d+)"', row)[0]) for row in table) == 400


@pytest.mark.parametrize("query", ["span=eon", "span=", "span=day&span=hour", "from=2026-01-01"])
def test_a_span_that_there_is_not_is_told(app: Flask, query: str) -> None:
    root = Visitor.admin(app)
    root.get(f"/admin/overview?{query}", status=200 if query == "span=" else 400)


def test_what_callers_name_is_shown_as_text(app: Flask) -> None:
    root = Visitor.admin(app)
    with_calls(app, 5, within=timedelta(minutes=20), model=PAYLOAD, backend_model=None, provider=PAYLOAD[:60])
    for _ in range(2):
        told = root.get("/admin/overview")
        assert "<script>alert" not in told.text
        assert "<img" not in told.text
        assert PAYLOAD in words(told).replace("  ", " ") or "onerror=alert(1)" in told.text
        add_up(app)


def test_calls_without_token_provider_or_tag_have_a_row_of_words(app: Flask) -> None:
    root = Visitor.admin(app)
    with_calls(app, 3, within=timedelta(minutes=20), token_id=None, provider=None, tags=None, status=502)
    told = root.get("/admin/overview").text
    for name in ("without a token", "none asked", "without a tag"):
        assert f'<td class="long">{name}</td>' in told
    assert tile(told, "Errors")[0] == "3"


def test_while_many_old_calls_are_added_up_it_says_so(app: Flask) -> None:
    root = Visitor.admin(app)
    with_calls(app, 10_050, within=timedelta(minutes=30))
    assert "still being added up" in root.get("/admin/overview").text
    add_up(app)
    told = root.get("/admin/overview").text
    assert "still being added up" not in told
    assert tile(told, "Requests")[0] == "10,050"


def test_only_administrators_see_it(app: Flask) -> None:
    Visitor.admin(app)
    assert Visitor(app).get("/admin/overview", status=302).headers["Location"].startswith("/admin/sign-in")


@pytest.fixture(params=["sqlite", "postgresql"])
def a_year(request: pytest.FixtureRequest, make_app: MakeApp) -> Flask:
    """20,000 calls of a year, added up, on each database."""
    if request.param == "sqlite":
        app = make_app(BUDGET_TIMEZONE="Europe/Berlin")
    else:
        address = database_of_its_own()
        if address is None:
            pytest.skip(MISSING)
        app = make_app(DATABASE_URL=address, BUDGET_TIMEZONE="Europe/Berlin")
        prepare_database(app)
    with_calls(app, 20_000, within=timedelta(days=365))
    zone, count = app.extensions["flaskllm"].rollups.zone, 1
    with app.app_context(), patience(None):
        while count:  # in larger steps than beside other writers
            with Database(db.engine).transaction() as session:
                count = rollups.roll(session, zone, most=2000)
    with app.app_context(), db.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0" if request.param == "postgresql" else "SELECT 1")
        connection.exec_driver_sql("ANALYZE calls")
    return app


def test_no_span_of_the_overview_reads_through_the_ledger(a_year: Flask) -> None:
    """Every statement that it runs is explained by the database: of calls only the index of what is new is used."""
    root = Visitor.admin(a_year)
    run: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        run.append((statement, values))

    with a_year.app_context():
        engine = db.engine
        event.listen(engine, "before_cursor_execute", note)
        try:
            for span in WINDOWS:
                root.get(f"/admin/overview?span={span}")
        finally:
            event.remove(engine, "before_cursor_execute", note)
        explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
        of_calls = [(one, values) for one, values in run if "FROM calls" in one]
        assert len(of_calls) >= 2 * len(WINDOWS)
        assert len(run) / len(WINDOWS) < 60
        with engine.connect() as connection:
            for statement, values in of_calls:
                plan = " ".join(str(row) for row in connection.exec_driver_sql(explain + statement, values))
                assert "ix_calls_new" in plan, (statement, plan)
