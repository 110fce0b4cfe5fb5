"""Quotas at the administrators' pages: what users, tags, models and the installation are held to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from flaskllm.domain.principal import PERIODS
from tests.actors import Caller
from tests.doors.test_admin_providers import entries, fault
from tests.doors.visitor import Visitor, words
from tests.people import PASSWORD

PAYLOAD = '"><img src=x onerror=alert(1)><script>alert(1)</script>'


@pytest.fixture
def root(gateway: Flask) -> Visitor:
    return Visitor.admin(gateway)


def make(visitor: Visitor, kind: str = "tag", **form: Any) -> TestResponse:
    """As the form comes: with a choice of hard or soft for each period."""
    kinds = {f"kind_{period}": "hard" for period in PERIODS}
    return visitor.post("/admin/quotas/new", {"kind": kind, "name": "team-a", "amount_month": "20", **kinds, **form})


def quota(visitor: Visitor, subject: str) -> TestResponse:
    return visitor.get("/admin/quotas/one", query_string={"subject": subject})


def budgets(visitor: Visitor, subject: str) -> list[dict[str, Any]]:
    return list(visitor.services.quotas.get(subject).row.budgets)


def test_a_quota_is_made_shown_changed_and_deleted(root: Visitor) -> None:
    made = make(root, kind_month="soft", alert_month="80.5", amount_day="0.00001", kind_day="hard")
    assert (made.status_code, made.headers["Location"]) == (303, "/admin/quotas/one?subject=tag:team-a"), words(made)
    day = {"amount": 10_000, "period": "day", "hard": True, "alert_at": None}
    month = {"amount": 20 * 10**9, "period": "month", "hard": False, "alert_at": 0.805}
    assert budgets(root, "tag:team-a") == [day, month]
    assert (entries(root)[0].action, entries(root)[0].target) == ("quota.create", "quota:tag:team-a")
    assert "Tag team-a none $0.00 of $0.00 a day $0.00 of $20.00 a month, soft" in words(root.get("/admin/quotas"))
    shown = quota(root, "tag:team-a")
    same = {"subject": "tag:team-a", "amount_day": "0.00001", "kind_day": "hard", "amount_month": "20"}
    same |= {"kind_month": "soft", "alert_month": "80.5"}
    assert all(f'name="{name}" type="text" value="{same[name]}"' in shown.text for name in same if "kind" not in name
               and name != "subject")  # fmt: skip
    before = entries(root)[0].number
    assert root.post("/admin/quotas/one", same).status_code == 303
    assert entries(root)[0].number == before, "nothing was changed, and nothing is told"
    assert root.post("/admin/quotas/one", {**same, "amount_day": ""}).status_code == 303
    assert budgets(root, "tag:team-a") == [month]
    assert set(json.loads(entries(root)[0].after)) == {"budgets"}
    gone = root.sure("/admin/quotas/one/delete", {"subject": "tag:team-a"})
    assert (gone.status_code, gone.headers["Location"]) == (303, "/admin/quotas")
    root.get("/admin/quotas/one", query_string={"subject": "tag:team-a"}, status=404)
    assert root.post("/admin/quotas/one", same).status_code == 404
    assert root.sure("/admin/quotas/one/delete", same).status_code == 404


def test_somebody_is_named_by_the_name_that_people_know(root: Visitor) -> None:
    user = root.services.accounts.create_user("alice", "alice@example.com", PASSWORD)
    person = root.get(f"/admin/people/{user.id}").text
    assert "/admin/quotas/new?kind=user&amp;name=alice" in person
    assert 'value="alice"' in root.get("/admin/quotas/new?kind=user&name=alice").text
    made = make(root, "user", name="alice", requests_per_minute="7", concurrency="2", amount_month="")
    assert made.headers["Location"] == f"/admin/quotas/one?subject=user:{user.id}", words(made)
    row = root.services.quotas.get(f"user:{user.id}").row
    assert (row.requests_per_minute, row.tokens_per_minute, row.concurrency, row.budgets) == (7, None, 2, [])
    assert "User alice 7 requests a minute, 2 calls at once none" in words(root.get("/admin/quotas"))
    again = root.get("/admin/quotas/new?kind=user&name=alice", status=302)
    assert again.headers["Location"] == f"/admin/quotas/one?subject=user:{user.id}"
    assert "User alice" in words(quota(root, f"user:{user.id}"))


def test_the_kinds_have_what_binds_them(root: Visitor) -> None:
    assert [name for name in ("A user", "A tag", "A model", "The installation") if
            name not in words(root.get("/admin/quotas/new"))] == []  # fmt: skip
    model, whole = (root.get(f"/admin/quotas/new?kind={kind}").text for kind in ("model", "installation"))
    assert ('name="concurrency"' in model, 'name="amount_day"' in model) == (True, False)
    assert ('name="concurrency"' in whole, 'name="amount_day"' in whole, 'name="name"' in whole) == (False, True, False)
    assert make(root, "model", name="openai/gpt-4o", tokens_per_minute="100").status_code == 303
    row = root.services.quotas.get("model:openai/gpt-4o").row
    assert (row.tokens_per_minute, row.budgets) == (100, []), "what a model cannot have is not sent on"
    assert make(root, "installation").status_code == 303
    assert root.get("/admin/quotas/new?kind=installation", status=302).headers["Location"].endswith("=installation")


@pytest.mark.parametrize(
    "kind, form, field",
    [
        ("tag", {"name": ""}, "name"),
        ("tag", {"name": "x" * 65}, "name"),
        ("user", {"name": "nobody"}, "name"),
        ("model", {"name": "openai/none-such", "concurrency": "1"}, "name"),
        ("model", {"name": "openai/gpt-4o", "concurrency": "0"}, "concurrency"),
        ("user", {"name": "root", "tokens_per_minute": "many"}, "tokens_per_minute"),
        ("tag", {"amount_day": "1", "amount_month": "-5"}, "amount_month"),
        ("tag", {"amount_week": "NaN", "amount_month": ""}, "amount_week"),
        ("tag", {"amount_total": "12,50"}, "amount_total"),
        ("tag", {"alert_month": "101"}, "alert_month"),
        ("tag", {"alert_month": "most"}, "alert_month"),
        ("tag", {"kind_month": "firm"}, "kind_month"),
    ],
)
def test_what_cannot_be_is_told_at_its_field_and_what_was_typed_is_kept(
    root: Visitor, kind: str, form: dict[str, str], field: str
) -> None:
    refused = make(root, kind, **form)
    assert refused.status_code == 400
    assert fault(refused, field) != ""
    assert all(f'value="{typed}"' in refused.text for name, typed in form.items() if typed and "kind" not in name)
    assert root.services.quotas.page(limit=10)[0] == []


def test_a_second_quota_of_the_same_is_refused_and_the_first_stays(root: Visitor) -> None:
    assert make(root).status_code == 303
    again = make(root, amount_month="1")
    assert (again.status_code, "There is a quota for it already." in words(again)) == (409, True)
    assert budgets(root, "tag:team-a")[0]["amount"] == 20 * 10**9


def test_a_kind_that_there_is_not_leads_to_those_that_there_are(root: Visitor) -> None:
    assert make(root, "galaxy").status_code == 400
    assert "For whom or what?" in words(root.get("/admin/quotas/new?kind=galaxy"))


def test_hostile_tags_are_shown_as_text(root: Visitor) -> None:
    subject = f"tag:{PAYLOAD}"
    assert make(root, name=PAYLOAD).status_code == 303
    for page in (root.get("/admin/quotas"), quota(root, subject)):
        assert PAYLOAD not in page.text
        assert f"Tag {PAYLOAD}" in words(page)
    assert root.sure("/admin/quotas/one/delete", {"subject": subject}).status_code == 303


def test_what_is_spent_is_told_and_the_overview_leads_there(root: Visitor) -> None:
    assert make(root, "installation", amount_month="", amount_total="0.000001", kind_total="soft").status_code == 303
    Caller.on(root.app).chat(model="gpt-4o-mini")
    shown = words(quota(root, "installation"))
    assert "of $0.00 in all, soft spent" in shown
    assert "; told 20" in shown
    overview = root.get("/admin/overview")
    assert "The installation has spent" in words(overview)
    assert 'href="/admin/quotas/one?subject=installation"' in overview.text


def test_the_list_is_paged(root: Visitor) -> None:
    for number in range(3):
        assert make(root, name=f"t{number}").status_code == 303
    first = root.get("/admin/quotas?limit=2")
    assert [f"Tag t{number}" in words(first) for number in range(3)] == [True, True, False]
    assert "Tag t2" in words(root.get("/admin/quotas?limit=2&after=tag:t1"))
