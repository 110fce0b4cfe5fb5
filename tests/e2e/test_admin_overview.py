"""The first page in a real browser: sound in each look, drawn, chosen, and renewed by itself without a word lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine

from tests.e2e import servers
from tests.e2e.administrators import LOOKS, Administrator, gateway_with_administrators
from tests.e2e.browsers import looked_at
from tests.ledgers import calls_until, write_ledger

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[servers.Gateway]:
    """A new one, which is looked at first, with calls of forty days afterwards."""
    folder = tmp_path_factory.mktemp("overview")
    with gateway_with_administrators(folder, "root", "ann") as running:
        with looked_at(browser) as seen:
            administrator = Administrator(running, seen)
            administrator.signs_in("ann")
            assert seen.page.locator("text=Nothing was called yet").count() == 1
            administrator.finds_it_sound("overview-new")
        engine = create_engine(f"sqlite:///{running.folder / 'instance' / 'app.db'}")
        write_ledger(engine, calls_until(datetime.now(UTC), 2000, within=timedelta(days=40)))
        engine.dispose()
        yield running


@pytest.mark.parametrize("look", LOOKS)
def test_the_overview_is_sound(gateway: servers.Gateway, browser: Any, look: dict[str, Any]) -> None:
    with looked_at(browser, **look) as seen:
        administrator = Administrator(gateway, seen)
        administrator.signs_in("ann")
        administrator.goes("overview?span=month")
        seen.eventually("document.querySelector('#chart-requests').height > 150")
        administrator.finds_all_sound(["overview?span=month"])


def test_a_span_is_chosen_and_its_figures_are_a_table_too(gateway: servers.Gateway, browser: Any) -> None:
    with looked_at(browser) as seen:
        administrator = Administrator(gateway, seen)
        administrator.signs_in()
        seen.page.click("text=7 days")
        seen.page.wait_for_url("**/admin/overview?span=week")
        assert seen.page.locator(".spans [aria-current]").inner_text() == "7 days"
        seen.page.click("summary")
        assert seen.page.locator("#timeline tr").count() == 28
        administrator.finds_it_sound("overview-table")
        seen.page.click("#all-model")
        seen.page.wait_for_url("**/admin/usage?**")
        assert seen.complaints == []


def test_it_renews_itself_and_the_keyboard_stays_where_it_is(gateway: servers.Gateway, browser: Any) -> None:
    with looked_at(browser) as seen:
        administrator = Administrator(gateway, seen)
        administrator.signs_in()
        administrator.goes("overview?span=month")
        seen.page.focus("#all-model")
        requests, asked = seen.page.locator(".tiles dd").first, []
        seen.page.on("request", lambda request: asked.append(request.headers))
        before = int(requests.inner_text().replace(",", ""))
        with sqlite3.connect(gateway.folder / "instance" / "app.db") as database:
            columns = [row[1] for row in database.execute("PRAGMA table_info(calls)") if row[1] not in ("id", "rolled")]
            names = ", ".join(columns)
            database.execute(f"INSERT INTO calls (id, {names}) SELECT max(id) + 1, {names} FROM calls")
        seen.eventually(
            "wanted => document.querySelector('.tiles dd').textContent.replace(',', '') === wanted", str(before + 1)
        )
        assert seen.page.evaluate("document.activeElement.id") == "all-model"
        assert {"x-unattended": "1"}.items() <= asked[-1].items()  # nobody's sign-in is lengthened
        assert seen.complaints == []
