"""Usage and single requests in a real browser: chosen, gone through, looked at, and taken away as files."""

from __future__ import annotations

import csv
import json
import random
import sqlite3
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.doors.test_usage import CALL
from tests.e2e import servers
from tests.e2e.administrators import LOOKS, PAYLOAD, Administrator, gateway_with_administrators
from tests.e2e.browsers import looked_at

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAGES = ("usage?by=day&then=model&order=cost", "usage?by=user&then=token&last=tag", "requests?status=failed&user=ann")
MODELS = (
    ("gpt-4o-mini", "openai", 900), ("claude-sonnet-4-5", "anthropic", 9_000), ("gemini-2.5-flash", "gemini", 1_500),
    (PAYLOAD, "evil", 1),
)  # fmt: skip
"""Model, provider, 10⁻⁹ dollar a token."""
DAYS = 30


def month_of_calls(gateway: servers.Gateway, count: int = 1500) -> None:
    """Calls of two people and their tokens, as the ledger writes them, the last of them now."""
    chance = random.Random(6)
    now = int(time.time() * 1000)
    with closing(sqlite3.connect(gateway.folder / "instance" / "app.db")) as database:
        users = [row[0] for row in database.execute("SELECT id FROM users ORDER BY username")]
        tokens = [row[0] for row in database.execute("SELECT id FROM api_tokens")]
        rows = [_call(chance, number, now, users, tokens) for number in range(count)]
        _insert(database, "calls", rows)
        _insert(database, "attempts", [attempt for row in rows[:100] for attempt in _attempts(row)])
        database.commit()


def _insert(database: sqlite3.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    names = ", ".join(rows[0])
    values = ", ".join(f":{name}" for name in rows[0])
    database.executemany(f"INSERT INTO {table} ({names}) VALUES ({values})", rows)


def _attempts(call: dict[str, Any]) -> list[dict[str, Any]]:
    """A first one that failed, and the one that answered, or failed too."""
    common = {name: call[name] for name in ("request_id", "user_id", "token_id", "door", "model", "tags")}
    half = call["latency_ms"] // 2
    usage = {"input": {"tokens": call["prompt_tokens"], "rate": 150_000_000}}
    first = {
        "id": call["id"] - 2, "number": 1, "state": "released", "error_code": "provider_timeout", "cost": 0,
        "provider": "azure_openai", "endpoint": "west_us", "backend_model": "gpt-4o", "usage": None,
        "started_at": call["started_at"] + 3, "settled_at": call["started_at"] + half,
    }  # fmt: skip
    last = {
        "id": call["id"] - 1, "number": 2, "state": "settled", "error_code": call["error_code"], "cost": call["cost"],
        "provider": call["provider"], "endpoint": "main", "backend_model": call["backend_model"],
        "usage": json.dumps(usage), "started_at": call["started_at"] + half, "settled_at": call["finished_at"],
    }  # fmt: skip
    more = {
        "price_version": "openai/gpt-4o@2026-08-01", "reserved": 40_000_000, "priced": True, "holds": "[]",
        "prompt_tokens": 0, "completion_tokens": 0, "estimated": False, "lease_until": 0,
    }  # fmt: skip
    return [{**common, **more, **one} for one in (first, last)]


def _call(chance: random.Random, number: int, now: int, users: list[str], tokens: list[str]) -> dict[str, Any]:
    model, provider, price = chance.choices(MODELS, weights=(60, 25, 14, 1))[0]
    started = now - 1000 - number * DAYS * 86_400_000 // 1500
    latency = int(chance.lognormvariate(7, 0.8))
    prompt, answer = chance.randrange(50, 4000), chance.randrange(5, 900)
    failed = chance.random() < 0.04
    return {
        **CALL, "id": ((started + latency) << 22) + number, "request_id": f"req-{number:05}", "model": model,
        "backend_model": model, "provider": provider, "user_id": chance.choice(users),
        "token_id": chance.choice([*tokens, None]), "tags": chance.choice([None, '["sales"]', '["emea","sales"]']),
        "started_at": started, "finished_at": started + latency, "latency_ms": latency, "prompt_tokens": prompt,
        "completion_tokens": 0 if failed else answer, "cost": 0 if failed else (prompt + 4 * answer) * price,
        "status": 502 if failed else 200, "error_code": "provider_error" if failed else None, "attempts": 2,
        "correlation_id": f"corr-{number}", "claimed_user": PAYLOAD, "client_id": "excel",
        "metadata": json.dumps({"cell": "B7", "sheet": "October"}),
    }  # fmt: skip


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Gateway]:
    folder = tmp_path_factory.mktemp("requests")
    with gateway_with_administrators(folder, "root", "ann", STORE_PROMPTS="true") as running:
        running.command("tokens", "create", "month-end report", "--user", "ann")
        running.command("tokens", "create", PAYLOAD[:100], "--user", "root")
        month_of_calls(running)
        yield running


@pytest.fixture
def root(gateway: servers.Gateway, browser: Any) -> Iterator[Administrator]:
    with looked_at(browser, accept_downloads=True) as seen:
        administrator = Administrator(gateway, seen)
        administrator.signs_in()
        yield administrator


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_is_sound(gateway: servers.Gateway, browser: Any, look: dict[str, Any]) -> None:
    with looked_at(browser, **look) as seen:
        administrator = Administrator(gateway, seen)
        administrator.signs_in("ann")
        administrator.finds_all_sound(PAGES)
        seen.page.click("#rows a")
        seen.page.wait_for_selector(".attempts li")
        administrator.finds_it_sound("request")


def test_usage_is_grouped_gone_through_and_taken_away(root: Administrator, tmp_path: Path) -> None:
    page = root.page
    root.goes("usage")
    page.select_option("#f-by", "day")
    page.select_option("#f-then", "model")
    page.fill("#f-user", "ann")
    page.click(".filters button")
    page.wait_for_selector("th:has-text('Model')")
    shown = page.locator("#rows tr").count()
    assert shown == 50
    page.click("#more a")
    page.wait_for_selector("#rows tr:nth-child(51)")
    files = {}
    for form in ("CSV", "XLSX"):
        with page.expect_download() as download:
            page.click(f"text=Download as {form}")
        files[form] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[form])
    with files["CSV"].open(encoding="utf-8", newline="") as lines:
        held = list(csv.DictReader(lines))
    assert {row["model"] for row in held} >= {"gpt-4o-mini", "claude-sonnet-4-5"}
    first = page.locator("#rows tr").first.locator("td").all_inner_texts()
    assert (held[0]["day"], held[0]["model"], held[0]["requests"]) == (first[0], first[1], first[2])
    assert "xl/workbook.xml" in zipfile.ZipFile(files["XLSX"]).namelist()
    assert root.seen.complaints == []


def test_what_is_wrong_in_a_filter_is_told_at_its_field_and_mended_there(root: Administrator) -> None:
    page = root.page
    root.goes("requests")
    page.fill("#f-user", "nobody")
    page.fill("#f-model", "gpt-4o-mini")
    page.click(".filters button")
    page.wait_for_selector("#e-user:has-text('no such user')")
    assert [one for one in root.seen.complaints if "status of 400" not in one] == []
    assert page.input_value("#f-model") == "gpt-4o-mini"
    page.fill("#f-user", "ann")
    page.keyboard.press("Enter")
    page.wait_for_selector("#rows tr:nth-child(50)")
    assert {words.split()[0] for words in page.locator("#rows td:nth-child(3)").all_inner_texts()} == {"ann"}


def test_a_failed_request_is_found_gone_through_and_looked_at(root: Administrator) -> None:
    page = root.page
    root.goes("requests")
    page.click("#more a")
    page.wait_for_selector("#rows tr:nth-child(51)")
    page.select_option("#f-status", "failed")
    page.click(".filters button")
    page.wait_for_url("**status=failed**")
    page.wait_for_selector("#rows .state.bad")
    assert page.locator("#rows .state.good").count() == 0
    page.click("#rows a >> nth=0")
    page.wait_for_selector(".attempts li")
    assert page.locator(".attempts svg").count() == 2
    assert "provider_timeout" in page.locator(".attempts li").first.inner_text()
    assert "sheet: October" in page.locator(".facts").inner_text()
    page.click("text=The user")
    page.wait_for_selector("h2:has-text('Close the account')")
    assert root.seen.complaints == []


def test_what_was_said_is_shown_to_who_asks_for_it_and_the_trail_tells(root: Administrator) -> None:
    page = root.page
    asked = {"model": "demo", "messages": [{"role": "user", "content": PAYLOAD}]}
    token = root.gateway.token("--user", "ann")
    assert root.gateway.post("/v1/chat/completions", asked, token, **{"X-Request-Id": "said-in-e2e"})[0] == 200
    root.goes("requests?request=said-in-e2e")
    page.click("#rows a")
    page.wait_for_selector("text=Show them")
    assert page.locator(".said").count() == 0
    page.click("text=Show them")
    page.wait_for_selector(".said")
    assert page.locator(".said").all_inner_texts() == [PAYLOAD, f"[demo] {PAYLOAD}"]
    root.finds_it_sound("request-said")
    page.click("text=Who has looked at this")
    page.wait_for_selector("#rows code:has-text('request.read_body')")
    assert root.seen.dialogs == []
