"""The usage explorer: the reports of `GET /usage`, chosen and grouped by people, and kept as files."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from flaskllm.wire.usage import MEDIA
from tests.doors.test_admin_people import PAYLOADS
from tests.doors.test_usage import HOUR, ms, write_calls
from tests.doors.visitor import Visitor, words
from tests.wire.test_xlsx import cells

DAY = 24 * HOUR
TODAY = ms(datetime.now(UTC))


@pytest.fixture
def root(app: Flask) -> Visitor:
    return Visitor.admin(app)


@pytest.fixture
def used(root: Visitor) -> Visitor:
    """Somebody called two models, with a token and without, today and a year ago."""
    owner = root.services.accounts.find_user("root")
    token, _ = root.services.tokens.issue_for_user("root", {"name": "sheet"})
    mine = {"user_id": owner.id, "token_id": token.id, "tags": '["emea","sales"]'}
    write_calls(
        root.app,
        {**mine, "started_at": TODAY, "cost": 2_000_000_000},
        {**mine, "started_at": TODAY, "backend_model": "gpt-4o-mini", "cost": 5_000_000, "status": 502},
        {"started_at": TODAY, "backend_model": "claude", "provider": "anthropic", "cost": None},
        {**mine, "started_at": TODAY - 365 * DAY},
    )
    return root


def rows(answer: TestResponse) -> list[str]:
    """Each row of the table, as it is read."""
    body = answer.text.partition('<tbody id="rows">')[2].partition("</tbody>")[0]
    return [" ".join(re.sub(r"<[^>]*>", " ", row).split()) for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)]


def told_at(answer: TestResponse, field: str) -> bool:
    return re.search(rf'id="f-{field}"[^>]*aria-invalid="true"', answer.text) is not None


# -- what is shown ----------------------------------------------------------------------------------------------------


def test_the_last_month_by_day_is_shown_where_nothing_is_asked(used: Visitor) -> None:
    shown = used.get("/admin/usage")
    day = datetime.fromtimestamp(TODAY / 1000, UTC).date()
    assert rows(shown) == [f"{day} 3 $2.00 1 30 15 $0"]
    assert "1 without a known price" in words(shown)
    assert len(rows(used.get("/admin/usage?from="))) == 2  # everything there is


@pytest.mark.parametrize(
    "query, found",
    [
        ("by=model", ["claude 1 $0 0", "gpt-4o 1 $2.00 0", "gpt-4o-mini 1 $0.0050 1"]),
        ("by=model&order=cost", ["gpt-4o 1", "gpt-4o-mini 1", "claude 1"]),
        ("by=model&order=errors", ["gpt-4o-mini 1", "claude 1", "gpt-4o 1"]),
        ("by=provider&then=model&user=ROOT", ["openai gpt-4o 1", "openai gpt-4o-mini 1"]),
        ("by=user&then=token&last=tag", ["root sheet emea 2", "root sheet sales 2", "u – – 1"]),
        ("by=token&token=sheet", ["sheet 2 $2.00 1"]),
        ("by=tag&tag=sales", ["emea 2", "sales 2"]),
        ("by=provider&provider=anthropic", ["anthropic 1"]),
        ("by=model&model=gpt-4o-mini", ["gpt-4o-mini 1"]),
        ("by=model&model=none", ["No calls in this span."]),
    ],
)
def test_calls_are_chosen_grouped_and_put_in_order(used: Visitor, query: str, found: list[str]) -> None:
    shown = rows(used.get(f"/admin/usage?{query}"))
    assert [row[: len(begin)] for row, begin in zip(shown, found, strict=True)] == found


def test_a_token_is_found_by_its_id_and_one_name_of_several_is_not_guessed(used: Visitor) -> None:
    second, _ = used.services.tokens.issue_for_user("root", {"name": "sheet"})
    assert rows(used.get(f"/admin/usage?by=token&token={second.id}")) == ["No calls in this span."]
    refused = used.get("/admin/usage?token=sheet", status=400)
    assert (told_at(refused, "token"), "give the id" in words(refused)) == (True, True)


def test_usage_of_a_closed_account_is_still_found_by_its_name(used: Visitor) -> None:
    alice = used.services.accounts.create_user("alice", "alice@example.com", "Secret123456")
    write_calls_of(used, alice.id)
    used.services.accounts.close_user(alice.id)
    assert rows(used.get("/admin/usage?by=user&user=alice"))[0].startswith("alice 1 $")


def write_calls_of(visitor: Visitor, user_id: str) -> None:
    write_calls(visitor.app, {"id": 99, "user_id": user_id, "started_at": TODAY})


def test_a_row_leads_to_its_calls(used: Visitor) -> None:
    """A day of the report's time zone, whatever zone the list's own times are in."""
    shown = used.get("/admin/usage?by=day&then=model&last=user&tag=sales")
    links = [link.replace("&amp;", "&") for link in re.findall(r'href="(/admin/requests\?[^"]*)"', shown.text)]
    listed = [used.get(link) for link in links]
    assert [len(rows(answer)) for answer in listed] == [1, 1]
    assert ["gpt-4o-mini" in words(answer) for answer in listed] == [False, True]


def test_the_table_is_paged(root: Visitor) -> None:
    write_calls(root.app, *({"started_at": TODAY, "backend_model": f"m{number}"} for number in range(5)))
    first = root.get("/admin/usage?by=model&limit=2")
    following = re.search(r'href="(/admin/usage\?[^"]*after=2[^"]*)"', first.text)
    assert following is not None
    second = root.get(following[1].replace("&amp;", "&") + "&limit=2")
    assert [row.split()[0] for row in rows(first) + rows(second)] == ["m0", "m1", "m2", "m3"]


# -- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query, field",
    [
        ("from=soon", "from"), ("from=2026-11-21&to=2026-11-20", "to"), ("user=nobody", "user"),
        ("token=none", "token"), ("by=hour", "by"), ("by=day&then=day", "then"), ("by=day&last=day", "last"),
        ("order=wild", "order"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_at_its_field_with_the_rest_kept(used: Visitor, query: str, field: str) -> None:
    refused = used.get(f"/admin/usage?{query}&model=kept", status=400)
    assert told_at(refused, field), words(refused)
    assert 'value="kept"' in refused.text
    assert rows(refused) == []


@pytest.mark.parametrize("query", ["colour=red", "after=x", "after=0", "limit=1000", "from=1&from=2"])
def test_what_no_form_of_ours_sends_is_refused(root: Visitor, query: str) -> None:
    assert root.get(f"/admin/usage?{query}", status=400).mimetype == "text/html"


# -- files ------------------------------------------------------------------------------------------------------------


def export(visitor: Visitor, form: str, query: str) -> TestResponse:
    """By the page's own link."""
    shown = visitor.get(f"/admin/usage?{query}")
    link = re.search(rf'href="(/admin/usage/export\?[^"]*format={form}[^"]*)"', shown.text)
    assert link is not None
    return visitor.get(link[1].replace("&amp;", "&"))


def test_a_table_of_exactly_what_is_shown(used: Visitor) -> None:
    query = "by=provider&then=model&order=cost&user=root"
    table = export(used, "csv", query)
    assert (table.mimetype, table.headers["Content-Disposition"]) == ("text/csv", 'attachment; filename="usage.csv"')
    head, *held = csv.reader(io.StringIO(table.text))
    assert head[:4] == ["provider", "model", "requests", "errors"]
    assert [" ".join(row[:4]) for row in held] == ["openai gpt-4o 1 0", "openai gpt-4o-mini 1 1"]
    assert [row[: len("openai gpt")] for row in rows(used.get(f"/admin/usage?{query}"))] == ["openai gpt"] * 2


def test_a_workbook_of_exactly_what_is_shown(used: Visitor) -> None:
    book = export(used, "xlsx", "by=model&model=claude")
    assert book.mimetype == MEDIA["xlsx"]
    _, only = cells(book.data)
    assert only[:2] == [("text", "claude"), ("number", "1")]


def test_a_file_has_all_rows_not_only_those_of_a_page(root: Visitor) -> None:
    write_calls(root.app, *({"started_at": TODAY, "backend_model": f"m{number}"} for number in range(60)))
    assert len(list(csv.reader(io.StringIO(export(root, "csv", "by=model&limit=2").text)))) == 61


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "＝1"])
def test_no_cell_is_a_formula(root: Visitor, cell: str) -> None:
    write_calls(root.app, {"started_at": TODAY, "backend_model": cell})
    _, row = csv.reader(io.StringIO(export(root, "csv", "by=model").text))
    assert row[0] == ("'\t'=1" if cell == "\t=1" else f"'{cell}")
    assert cells(export(root, "xlsx", "by=model").data)[1][0][0] == "text"


@pytest.mark.parametrize("query", ["format=json", "format=html", "", "format=csv&user=nobody", "format=csv&after=1"])
def test_a_file_that_cannot_be_made_is_told_on_a_page(root: Visitor, query: str) -> None:
    assert root.get(f"/admin/usage/export?{query}", status=400).mimetype == "text/html"


# -- what was stored --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_was_stored_is_shown_as_it_is_and_never_as_markup(root: Visitor, payload: str) -> None:
    token, _ = root.services.tokens.issue_for_user("root", {"name": payload})
    call: dict[str, Any] = {"token_id": token.id, "backend_model": payload, "provider": payload, "started_at": TODAY}
    write_calls(root.app, call)
    shown = root.get("/admin/usage", query_string={"by": "token", "then": "model", "last": "provider"})
    again = root.get("/admin/usage", query_string={"model": payload, "tag": payload, "user": payload}, status=400)
    for page in (shown, again):
        assert not re.search(r"<script>|<img|onerror=alert\(1\)>|<svg onload", page.text)
        assert "49${alert(1)}" not in page.text
    assert words(shown).count(" ".join(payload.split())) == 3
