"""Usage in a real browser: chosen, grouped, gone through and taken away as files."""

from __future__ import annotations

import csv
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

PAGES = ("usage", "usage?by=day&then=model&order=cost", "usage?by=user&then=token&last=tag", "usage?user=nobody")
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
        columns = ", ".join(rows[0])
        database.executemany(
            f"INSERT INTO calls ({columns}) VALUES ({', '.join(f':{name}' for name in rows[0])})", rows
        )
        database.commit()


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
        "status": 502 if failed else 200, "error_code": "provider_error" if failed else None,
    }  # fmt: skip


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Gateway]:
    with gateway_with_administrators(tmp_path_factory.mktemp("requests"), "root", "ann") as running:
        running.flask("tokens", "create", "month-end report", "--user", "ann")
        running.flask("tokens", "create", PAYLOAD[:100], "--user", "root")
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
        administrator.finds_all_sound(PAGES[:-1])
        administrator.goes(PAGES[-1])
        assert "no such user" in seen.page.locator("#e-user").inner_text()
        assert [one for one in seen.complaints if "status of 400" not in one] == []


def test_usage_is_grouped_gone_through_and_taken_away(root: Administrator, tmp_path: Path) -> None:
    page = root.page
    root.goes("usage")
    page.select_option("#f-by", "day")
    page.select_option("#f-then", "model")
    page.fill("#f-user", "ann")
    page.click("text=Show")
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
