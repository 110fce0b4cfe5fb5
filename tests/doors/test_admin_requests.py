"""Single calls at the administrators' pages: found by whatever is known of them, and shown whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from werkzeug.test import TestResponse

import flaskllm
from flaskllm.blueprints.admin.requests import DOORS
from flaskllm.extensions import Base, db
from flaskllm.repositories import requests as repository
from flaskllm.services.requests import CODES
from tests.actors import Caller
from tests.conftest import MakeApp
from tests.doors.test_admin_people import PAYLOADS
from tests.doors.test_admin_usage import rows, told_at
from tests.doors.test_callbacks import submitted
from tests.doors.test_usage import CALL, write_calls
from tests.doors.two_providers import two_providers
from tests.doors.visitor import Visitor, words
from tests.upstream import Upstream, faults

NOON = 1_763_720_000_000
"""2025-11-21 10:13:20 in UTC."""


@pytest.fixture
def root(app: Flask) -> Visitor:
    return Visitor.admin(app)


@pytest.fixture
def called(root: Visitor) -> Visitor:
    """Five calls, of which each differs from the others in something."""
    owner = root.services.accounts.find_user("root")
    token, _ = root.services.tokens.issue_for_user("root", {"name": "sheet"})
    common: dict[str, Any] = {"user_id": owner.id, "request_id": "r-common"}
    write_calls(
        root.app,
        {**common, "started_at": NOON, "backend_model": "one"},
        {**common, "started_at": NOON + 1000, "backend_model": "two", "token_id": token.id},
        {**common, "started_at": NOON + 2000, "backend_model": "three", "provider": "anthropic", "model": "alias"},
        {**common, "started_at": NOON + 3000, "backend_model": "four", "status": 502, "error_code": "provider_error"},
        {
            "started_at": NOON + 4000, "backend_model": "five", "door": "webhook", "status": 499,
            "error_code": "client_closed", "tags": '["sales"]',
        },
    )  # fmt: skip
    return root


def models(answer: TestResponse) -> list[str]:
    """What answered each call that is listed, in that order."""
    names = ("one", "two", "three", "four", "five")
    return [name for row in rows(answer) for name in names if f" {name} " in row]


def write_attempt(app: Flask, **values: Any) -> None:
    row = {
        "id": uuid4().int >> 66, "request_id": "r-common", "number": 1, "state": "settled", "token_id": None,
        "door": "openai", "model": "alias", "backend_model": "three", "provider": "anthropic", "endpoint": "main",
        "price_version": "2026-11", "reserved": 9_000_000, "cost": 1_000_000, "priced": True, "holds": "[]",
        "prompt_tokens": 10, "completion_tokens": 5, "started_at": NOON, "settled_at": NOON, "lease_until": 0,
        "estimated": False, **values,
    }  # fmt: skip
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(Base.metadata.tables["attempts"].insert(), row)


def shown_call(visitor: Visitor, query: str) -> TestResponse:
    """The page of the one call that is found so."""
    (link,) = re.findall(r'href="(/admin/requests/[0-9]+)"', visitor.get(f"/admin/requests?{query}").text)
    return visitor.get(link)


# -- the list ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query, found",
    [
        ("", "five four three two one"), ("user=root", "four three two one"), ("user=ROOT&model=one", "one"),
        ("token=sheet", "two"), ("model=alias", "three"), ("model=small", "five four two one"),
        ("provider=anthropic", "three"), ("status=failed", "five four"), ("status=worked", "three two one"),
        ("status=provider_error", "four"), ("status=client_closed", "five"), ("status=interrupted", ""),
        ("door=webhook", "five"), ("tag=sales", "five"), ("request=r-common&status=failed", "four"),
        ("request=r5", "five"), ("from=2025-11-21T10:13:22", "five four three"), ("to=2025-11-21 10:13:22", "two one"),
        ("from=2025-11-21&to=2025-11-21", "five four three two one"), ("from=2025-11-22", ""),
        ("user=root&status=failed&model=four&door=openai&provider=openai", "four"), ("user=root&tag=sales", ""),
    ],
)  # fmt: skip
def test_calls_are_found_newest_first(called: Visitor, query: str, found: str) -> None:
    assert models(called.get(f"/admin/requests?{query}")) == found.split()


def test_a_row_tells_who_what_and_how_it_ended(called: Visitor) -> None:
    (row,) = rows(called.get("/admin/requests?model=four"))
    assert row.startswith("2025-11-21 10:13:23 502 provider_error root four openai, asked for as small openai 10 5 out")
    (row,) = rows(called.get("/admin/requests?token=sheet"))
    assert row == "2025-11-21 10:13:21 200 root sheet two openai, asked for as small openai 10 5 out $0.0010 1 ms"


def test_the_list_is_paged(called: Visitor) -> None:
    seen, address = [], "/admin/requests?limit=2&user=root"
    while address:
        shown = called.get(address)
        seen += models(shown)
        following = re.search(r'href="(/admin/requests\?[^"]*after=[^"]*)"', shown.text)
        address = following[1].replace("&amp;", "&") + "&limit=2" if following else ""
    assert seen == ["four", "three", "two", "one"]


def test_where_a_page_ends_because_enough_was_looked_through_it_says_so_and_goes_on(root: Visitor) -> None:
    number = repository.MOST_LOOKED + 5
    columns = {"id": 0, "user_id": "u", "finished_at": 0, **CALL}
    calls = [{**columns, "id": n, "request_id": f"r{n}", "started_at": NOON + n} for n in range(1, number)]
    with root.app.app_context(), db.engine.begin() as connection:
        connection.execute(Base.metadata.tables["calls"].insert(), [{**calls[0], "door": "webhook"}, *calls[1:]])
    shown = root.get("/admin/requests?door=webhook")
    assert "Looked through the calls back to 2025-11-21 10:13:20" in words(shown)
    following = re.search(r'href="(/admin/requests\?[^"]*after=[^"]*)"', shown.text)
    assert following is not None
    assert (len(rows(shown)), "No calls" in words(shown)) == (0, False)
    assert len(rows(root.get(following[1].replace("&amp;", "&")))) == 1


@pytest.mark.parametrize(
    "query, field",
    [
        ("user=nobody", "user"), ("token=none", "token"), ("status=odd", "status"), ("door=back", "door"),
        ("from=soon", "from"), ("from=2025-11-22&to=2025-11-21", "to"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_at_its_field_with_the_rest_kept(called: Visitor, query: str, field: str) -> None:
    refused = called.get(f"/admin/requests?{query}&model=kept", status=400)
    assert told_at(refused, field), words(refused)
    assert 'value="kept"' in refused.text


@pytest.mark.parametrize("query", ["colour=red", "after=x", "after=1", "after=1.99999999999999999999", "limit=0"])
def test_what_no_form_of_ours_sends_is_refused(root: Visitor, query: str) -> None:
    assert root.get(f"/admin/requests?{query}", status=400).mimetype == "text/html"


def test_every_door_that_names_itself_to_the_ledger_can_be_chosen() -> None:
    named = {
        door
        for file in (Path(flaskllm.__file__).parent / "blueprints").rglob("*.py")
        for door in re.findall(r'new_call\("(\w+)"', file.read_text(encoding="utf-8"))
    }
    assert len(named) > 8
    assert named <= set(DOORS)


def test_every_error_that_a_call_may_end_with_can_be_chosen() -> None:
    assert {"provider_error", "provider_timeout", "rate_limited", "budget_exceeded", "interrupted"} <= set(CODES)


# -- one call ---------------------------------------------------------------------------------------------------------


def test_a_call_is_shown_with_its_attempts_as_a_line_of_time(called: Visitor) -> None:
    owner = called.services.accounts.find_user("root").id
    call = {
        "id": 77, "request_id": "r-line", "user_id": owner, "started_at": NOON, "finished_at": NOON + 1000,
        "latency_ms": 1000, "attempts": 2, "backend_model": "line", "correlation_id": "corr-1", "claimed_user": "bob",
        "client_id": "excel", "metadata": json.dumps({"cell": "A1"}), "tags": '["emea","sales"]', "cost": 3_000_000,
        "cache_read": 4, "estimated": True,
    }  # fmt: skip
    write_calls(called.app, call)
    first = {"provider": "openai", "state": "released", "error_code": "provider_timeout", "cost": 0}
    write_attempt(called.app, request_id="r-line", user_id=owner, **first, started_at=NOON, settled_at=NOON + 250)
    usage = json.dumps({"input": {"tokens": 6, "rate": 500_000_000_000}})
    write_attempt(
        called.app,
        request_id="r-line",
        user_id=owner,
        number=2,
        started_at=NOON + 250,
        settled_at=NOON + 1000,
        usage=usage,
    )
    shown = shown_call(called, "model=line")
    told = words(shown)
    for fact in (
        "corr-1", "bob", "excel", "cell: A1", "emea, sales", "Cache read tokens 4", "$0.003", "1,000 ms", "estimated",
        "Begins after 0 ms, takes 250 ms.", "Cost nothing; $0.0090 had been reserved.",
        "Begins after 250 ms, takes 750 ms. Cost $0.0010 of $0.0090 reserved. Price 2026-11.", "input 6 ($0.0030)",
    ):  # fmt: skip
        assert fact in told, (fact, told)
    bars = re.findall(r'<rect class="(good|bad)" x="(\d+)" width="(\d+)"', shown.text)
    assert bars == [("bad", "0", "250"), ("good", "250", "750")]
    for link in (f"/admin/people/{owner}", f"/admin/audit?target=user:{owner}"):
        assert link in shown.text


def test_a_real_call_that_fell_over_to_the_next_provider_is_shown_whole(
    make_app: MakeApp, upstream: Upstream, tmp_path: Path
) -> None:
    root = Visitor.admin(two_providers(make_app, upstream, tmp_path, patience=None))
    upstream.script(faults.status(500), vendor="openai")
    Caller.on(root.app).chat(model="both")
    shown = shown_call(root, "model=both")
    assert re.findall(r'<rect class="(good|bad)"', shown.text) == ["bad", "good"]
    assert re.search(r"gpt-4o of openai, \S+ provider_error .* second of llama, \S+ settled", words(shown))


def test_an_answer_from_the_cache_has_no_attempts(root: Visitor) -> None:
    caller = Caller.on(root.app)
    body = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
    for name in ("req-asked", "req-cached"):
        caller.post("/v1/chat/completions", body, headers={"X-Request-Id": name, "X-FlaskLLM-Cache": "use"})
    assert "Nobody was asked: the answer came from the cache" in words(shown_call(root, "request=req-cached"))
    assert "from the cache" not in words(shown_call(root, "request=req-asked"))


def test_a_call_of_a_batch_names_its_job(root: Visitor) -> None:
    job_id = submitted(root.app, Caller.on(root.app))
    assert job_id in words(shown_call(root, f"request={job_id}-0")).partition("Batch job")[2]


@pytest.mark.parametrize("call_id", ["1", "none", "-1", "99999999999999999999", "1e3"])
def test_a_call_that_there_is_not_is_a_page_that_says_so(root: Visitor, call_id: str) -> None:
    assert root.get(f"/admin/requests/{call_id}", status=404).mimetype == "text/html"


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_was_stored_is_shown_as_it_is_and_never_as_markup(root: Visitor, payload: str) -> None:
    call = {
        "model": payload, "backend_model": payload, "provider": payload, "error_code": payload[:48], "status": 500,
        "correlation_id": payload, "claimed_user": payload, "client_id": payload, "tags": json.dumps([payload]),
        "metadata": json.dumps({payload: payload}), "user_id": payload[:36], "door": "openai", "attempts": 1,
    }  # fmt: skip
    write_calls(root.app, call)
    write_attempt(
        root.app, request_id="r1", user_id=payload[:36], backend_model=payload, provider=payload, endpoint=payload,
        started_at=0, price_version=payload, error_code=payload[:48],
    )  # fmt: skip
    listed = root.get("/admin/requests", query_string={"model": payload, "provider": payload, "request": "r1"})
    shown = shown_call(root, "request=r1")
    for page in (listed, shown):
        assert not re.search(r"<script>|<img|onerror=alert\(1\)>|<svg onload", page.text)
        assert "49${alert(1)}" not in page.text
    assert words(shown).count(" ".join(payload.split())) >= 8
