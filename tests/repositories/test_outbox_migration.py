"""The migration that made the outbox: what alerts were still to be sent are sent under the id that they had."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from flask import Flask
from flask_migrate import downgrade, upgrade
from sqlalchemy import text

from flaskllm.domain.quota import budget_event
from flaskllm.extensions import db
from flaskllm.repositories.ledger import now_ms
from tests.conftest import MakeApp
from tests.databases import MISSING, database_of_its_own
from tests.e2e.servers import lacking

ALERT = """
INSERT INTO alerts (budget_id, period, event, amount, alert, spent, raised_at, tries, next_at, sent_at)
VALUES ('quota:tag:sales', :period, 'budget.reached', 2000000000, 1000000000, 1500000000, 1700000000000, 3, :next,
    :sent)
"""


def on_sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'migrated.db'}"


def on_postgresql(_folder: Path) -> str:
    return database_of_its_own() or lacking(MISSING)


@pytest.fixture(params=[on_sqlite, on_postgresql])
def migrated(request: Any, make_app: MakeApp, tmp_path: Path) -> Iterator[tuple[Flask, str]]:
    """An application at the newest migration, and the revision before the outbox."""
    address: Callable[[Path], str] = request.param
    app = make_app(DATABASE_URL=address(tmp_path))
    with app.app_context():
        upgrade()
        script = ScriptDirectory.from_config(app.extensions["migrate"].migrate.get_config())
        yield app, str(script.get_revision("0019").down_revision)
        db.session.remove()


def run(statement: str, **values: Any) -> list[Any]:
    with db.engine.begin() as connection:
        found = connection.execute(text(statement), values)
        return list(found.mappings()) if found.returns_rows else []


def test_alerts_on_their_way_move_and_come_back(migrated: tuple[Flask, str]) -> None:
    before = migrated[1]
    downgrade(revision=before)
    run(ALERT, period="2026-11", next=1_800_000_000_000, sent=None)
    run(ALERT, period="2026-10", next=None, sent=1_700_000_000_500)
    upgrade()
    (row,) = run("SELECT * FROM outbox")
    assert (row["id"], row["lane"]) == ("budget.reached:quota:tag:sales:2026-11", "operator")
    assert (row["tries"], row["next_at"], row["sent_at"], row["url"]) == (3, 1_800_000_000_000, None, None)
    assert json.loads(row["body"]) == {
        "type": "budget.reached",
        "timestamp": "2023-11-14T22:13:20Z",
        "data": {
            "event": "budget.reached", "subject": "tag:sales", "period": "2026-11", "amount": 2.0, "alert": 1.0,
            "spent": 1.5,
        },
    }  # fmt: skip
    assert [found["period"] for found in run("SELECT period FROM alerts ORDER BY period")] == ["2026-10", "2026-11"]
    downgrade(revision=before)
    (back,) = run("SELECT * FROM alerts WHERE period = '2026-11'")
    assert (back["tries"], back["next_at"], back["sent_at"]) == (3, 1_800_000_000_000, None)
    upgrade()
    assert len(run("SELECT id FROM outbox")) == 1


def test_an_alert_of_today_goes_back_too(migrated: tuple[Flask, str]) -> None:
    event = budget_event("budget.reached", "quota:tag:bücher", "2026-11", sums={"spent": 1}, at=now_ms())
    assert event.id.isascii()
    assert "." not in event.id
    run("INSERT INTO alerts VALUES ('quota:tag:bücher', '2026-11', 'budget.reached', 2, 1, 1, 5)")
    add = (
        "INSERT INTO outbox (id, lane, type, body, made_at, tries, next_at) VALUES (:id, 'operator', 'x', '', 5, 4, 9)"
    )
    run(add, id=event.id)
    downgrade(revision=migrated[1])
    (back,) = run("SELECT * FROM alerts")
    assert (back["tries"], back["next_at"], back["sent_at"]) == (4, 9, None)
