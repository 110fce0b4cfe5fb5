"""Reports of usage: days of a time zone, tags as they were, buckets, and the forms a report comes in."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema
import pytest
from flask import Flask

from flaskllm.domain.usage import PARTS
from flaskllm.extensions import Base, db
from flaskllm.wire.usage import FORMATS, MEDIA
from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.databases import MISSING, database_of_its_own
from tests.doors.accounts_world import Person
from tests.upstream import Upstream
from tests.wire.test_xlsx import cells

CALL = {
    "token_id": None, "door": "openai", "model": "small", "backend_model": "gpt-4o", "provider": "openai",
    "latency_ms": 1, "prompt_tokens": 10, "completion_tokens": 5, "cost": 1_000_000, "status": 200,
    "attempts": 1, "streamed": False, "estimated": False,
}  # fmt: skip
HOUR = 3_600_000


def write_calls(app: Flask, *calls: dict[str, Any]) -> None:
    """Calls as the ledger writes them."""
    rows = [
        {"id": number, "request_id": f"r{number}", "user_id": "u", "started_at": 0, "finished_at": 0, **CALL, **call}
        for number, call in enumerate(calls, 1)
    ]
    with app.app_context(), db.engine.begin() as connection:
        for row in rows:
            connection.execute(Base.metadata.tables["calls"].insert(), row)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def report_of(person: Person, query: str, path: str = "/usage") -> dict[str, Any]:
    answer = person.call("GET", f"{path}?{query}")
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return dict(answer.json["data"] if path.startswith("/api") else answer.json)


@pytest.fixture(params=["sqlite", "postgresql"])
def in_berlin(request: pytest.FixtureRequest, make_app: MakeApp) -> Person:
    """An administrator of a gateway that counts Berlin's days, on this database."""
    from flaskllm.wiring import prepare_database

    if request.param == "sqlite":
        return Person(make_app(BUDGET_TIMEZONE="Europe/Berlin"), "root", admin=True)
    address = database_of_its_own()
    if address is None:
        pytest.skip(MISSING)
    app = make_app(DATABASE_URL=address, BUDGET_TIMEZONE="Europe/Berlin")
    prepare_database(app)
    return Person(app, "root", admin=True)


# -- days -------------------------------------------------------------------------------------------------------------


def test_days_are_cut_where_the_clocks_of_the_zone_stand_at_midnight(in_berlin: Person) -> None:
    """A call every half hour over both changes of the clocks: 23 and 25 hours are a day then."""
    spring, autumn = datetime(2026, 3, 27, tzinfo=UTC), datetime(2026, 10, 23, tzinfo=UTC)
    moments = [begin + timedelta(minutes=30 * n, seconds=1) for begin in (spring, autumn) for n in range(48 * 5)]
    write_calls(in_berlin.http.application, *({"started_at": ms(moment)} for moment in moments))
    expected: dict[str, int] = {}
    for moment in moments:
        day = moment.astimezone(ZoneInfo("Europe/Berlin")).date().isoformat()
        expected[day] = expected.get(day, 0) + 1
    report = report_of(in_berlin, "group_by=day")
    assert {row["day"]: row["requests"] for row in report["series"]} == expected
    assert (expected["2026-03-29"], expected["2026-10-25"]) == (46, 50)
    assert report["timezone"] == "Europe/Berlin"


@pytest.mark.parametrize(
    "query, since, until",
    [
        ("from=2026-03-29&to=2026-03-29", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
        ("from=2026-10-25&to=2026-10-25", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
        ("from=2026-07-01T12:00&to=2026-07-01T12:00Z", "2026-07-01T10:00:00Z", "2026-07-01T12:00:00Z"),
    ],
)
def test_a_day_that_is_asked_for_is_one_of_the_zone(make_app: MakeApp, query: str, since: str, until: str) -> None:
    report = report_of(Person(make_app(BUDGET_TIMEZONE="Europe/Berlin"), admin=True), query)
    assert (report["from"], report["to"]) == (since, until)


# -- tags and names ---------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway_caller(make_app: MakeApp, upstream: Upstream) -> tuple[Person, Caller, str]:
    """An administrator, a caller with the tags `sales` and `emea`, and the id of its token."""
    app = make_app(**provider_environment(upstream, "openai"))
    root, ana = Person(app, "root", admin=True), Person(app, "ana")
    token_id, text = ana.token(name="sheet", tags=["sales", "emea"])
    return root, Caller(app.test_client(), text), token_id


def test_a_call_keeps_the_tags_that_its_token_had_then(gateway_caller: tuple[Person, Caller, str]) -> None:
    root, caller, token_id = gateway_caller
    caller.chat(model="gpt-4o-mini")
    assert root.call("PATCH", f"/tokens/{token_id}", {"tags": ["other"]}).status_code == 200
    caller.chat(model="gpt-4o-mini")
    series = report_of(root, "group_by=tag")["series"]
    assert [(row["tag"], row["requests"]) for row in series] == [("emea", 1), ("other", 1), ("sales", 1)]


def test_names_stay_readable_when_token_and_account_are_gone(gateway_caller: tuple[Person, Caller, str]) -> None:
    root, caller, token_id = gateway_caller
    caller.chat(model="gpt-4o-mini")
    (owner,) = [user["id"] for user in root.call("GET", "/users?search=ana").json["data"]]
    assert root.call("DELETE", f"/tokens/{token_id}").status_code == 204
    assert root.call("DELETE", f"/users/{owner}").status_code == 204
    (row,) = report_of(root, "group_by=user,token,tag,model,provider,day")["series"][:1]
    assert (row["username"], row["token_name"], row["tag"], row["provider"]) == ("ana", "sheet", "emea", "openai")


# -- only some --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query, count",
    [
        ("user_id=v", 1), ("token_id=t", 1), ("model=gpt-4o", 4), ("model=unheard", 1), ("provider=anthropic", 1),
        ("tag=sales", 2), ("tag=Sales", 0), ("tag=%25", 0), ("tag=sales&token_id=t", 1), ("provider=none", 0),
    ],
)  # fmt: skip
def test_only_the_calls_that_are_asked_for_are_counted(in_berlin: Person, query: str, count: int) -> None:
    write_calls(
        in_berlin.http.application, {}, {"user_id": "v"}, {"token_id": "t", "tags": '["emea","sales"]'},
        {"provider": "anthropic", "backend_model": "claude"}, {"tags": '["sales"]'},
        {"backend_model": None, "provider": None, "model": "unheard", "tags": '["presales"]'},
    )  # fmt: skip
    report = report_of(in_berlin, f"{query}&group_by=day")
    assert report["requests"] == count
    assert report["cost"] == pytest.approx(count / 1000)


def test_nobody_reads_of_another_by_naming_them(app: Flask) -> None:
    refused = Person(app).call("GET", "/api/usage?user_id=v")
    assert (refused.status_code, refused.json["error"]["details"][0]["field"]) == (400, "user_id")  # type: ignore[index]


# -- sums -------------------------------------------------------------------------------------------------------------


def test_buckets_are_disjoint_and_add_up_to_prompt_and_completion(app: Flask) -> None:
    root = Person(app, "root", admin=True)
    parts = {name: number for number, name in enumerate(PARTS, 1)}
    write_calls(app, {"prompt_tokens": 1000, "completion_tokens": 500, **parts}, {})
    report = report_of(root, "group_by=model,provider,user")
    jsonschema.validate(report, app.view_functions["administration.read_usage"].api_doc.answer)  # type: ignore[attr-defined]
    tokens = report["tokens"]
    assert {name: tokens[name] for name in PARTS if name != "images"} == {
        name: count for name, count in parts.items() if name != "images"
    }
    assert report["images"] == parts["images"]
    assert sum(tokens.values()) == report["total_tokens"] == 1515
    assert report["series"][0]["tokens"] == tokens


def test_what_a_provider_reports_stands_in_its_buckets(gateway_caller: tuple[Person, Caller, str]) -> None:
    root, caller, _ = gateway_caller
    usage = caller.chat(model="gpt-4o-mini").json["usage"]
    report = report_of(root, "")
    assert (report["prompt_tokens"], report["completion_tokens"]) == (
        usage["prompt_tokens"], usage["completion_tokens"]
    )  # fmt: skip
    cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    assert (report["tokens"]["input"], report["tokens"]["cache_read"]) == (usage["prompt_tokens"] - cached, cached)


def test_interrupted_estimated_and_unpriced_calls_are_counted_and_told(app: Flask) -> None:
    root = Person(app, "root", admin=True)
    write_calls(app, {"error_code": "interrupted", "status": 499, "estimated": True}, {"cost": None}, {})
    report = report_of(root, "")
    assert [report[name] for name in ("interrupted_requests", "estimated_requests", "unpriced_requests", "errors")] == [
        1, 1, 1, 1
    ]  # fmt: skip


def test_an_empty_report_is_all_zeros_in_every_form(app: Flask) -> None:
    root = Person(app, "root", admin=True)
    assert (report_of(root, "")["requests"], report_of(root, "")["series"]) == (0, [])
    for form in FORMATS:
        assert root.call("GET", f"/usage?format={form}").status_code == 200


# -- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/usage", "/api/usage"])
def test_a_workbook_has_the_series_and_the_totals(app: Flask, path: str) -> None:
    root = Person(app, "root", admin=True)
    write_calls(app, *({"user_id": root.user.id, "backend_model": "=1+1", "started_at": n * 24 * HOUR} for n in (0, 1)))
    answer = root.call("GET", f"{path}?format=xlsx&group_by=model,day")
    assert (answer.mimetype, answer.status_code) == (MEDIA["xlsx"], 200)
    assert answer.headers["Content-Disposition"] == 'attachment; filename="usage.xlsx"'
    head, first, second = cells(answer.data)
    assert [value for _, value in head[:4]] == ["model", "day", "requests", "errors"]
    assert first[:3] == [("text", "=1+1"), ("day", str((date(1970, 1, 1) - date(1899, 12, 30)).days)), ("number", "1")]
    assert dict(zip(head, second, strict=True))["text", "cost"] == ("number", "0.001")
    totals = {name: value for (_, name), value in cells(answer.data, 2)}
    assert (totals["requests"], totals["cost"], totals["timezone"]) == (
        ("number", "2"), ("number", "0.002"), ("text", "UTC")
    )  # fmt: skip


@pytest.mark.parametrize(
    "accept, query, media",
    [
        ("*/*", "", "application/json"),
        ("text/html,*/*;q=0.1", "", "application/json"),
        ("text/csv", "", "text/csv"),
        (MEDIA["xlsx"], "", MEDIA["xlsx"]),
        (f"{MEDIA['xlsx']};q=0.5, text/csv", "", "text/csv"),
        (MEDIA["xlsx"], "?format=json", "application/json"),
    ],
)
def test_the_form_is_what_is_accepted_unless_it_is_named(app: Flask, accept: str, query: str, media: str) -> None:
    person = Person(app, admin=True)
    for path in ("/usage", "/api/usage"):
        answer = person.call("GET", path + query, headers={"Accept": accept})
        assert (answer.mimetype, "Accept" in answer.headers["Vary"]) == (media, True)


def test_columns_that_came_later_stand_after_those_there_were(app: Flask) -> None:
    root = Person(app, "root", admin=True)
    head = root.call("GET", "/usage?format=csv").get_data(as_text=True).splitlines()[0]
    assert json.loads(f"[{head}]")[:11] == [
        "day", "requests", "errors", "prompt_tokens", "completion_tokens", "total_tokens", "cost", "unpriced_requests",
        "estimated_requests", "interrupted_requests", "images",
    ]  # fmt: skip
