"""SQLite whose write lock somebody else holds: 503 after the busy time-out, never a 500, and exact afterwards.

``LOCKED_SECONDS=10`` makes it longer.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import provider_environment
from tests.e2e.outages import Load, eventually
from tests.e2e.servers import gunicorn
from tests.upstream import RemoteUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.alone]
SECONDS = float(os.environ.get("LOCKED_SECONDS", "4"))


def rows(folder: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(folder / "instance" / "app.db", timeout=10)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_a_lock_held_by_another_process_is_a_503_and_the_books_are_exact_after_it(
    remote_simulator: RemoteUpstream, upstream: RemoteUpstream, tmp_path: Path
) -> None:
    environment = provider_environment(remote_simulator, "openai")  # type: ignore[arg-type]
    with gunicorn(tmp_path, WEB_CONCURRENCY="2", **environment) as gateway:
        load = Load(gateway, gateway.token("--budget", "100"))
        with load.running():
            eventually(lambda: len(load.found) > 20, 10)
            holder = sqlite3.connect(tmp_path / "instance" / "app.db", isolation_level=None, timeout=10)
            holder.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            time.sleep(0.5)
            quiet = len(upstream.requests)
            time.sleep(SECONDS - 0.5)
            assert len(upstream.requests) == quiet
            assert gateway.get("/v1/models", load.token)[0] == 200
            eventually(lambda: len(load.since(began)) >= 6, 30)
            told = load.since(began)
            holder.execute("ROLLBACK")
            holder.close()
            back = time.monotonic()
            eventually(lambda: any(status == 200 for status, _, _ in load.since(back)), 5)
        print(f"{len(told)} calls, slowest {max(took for _, took, _ in told):.2f} s")
        assert {status for status, _, _ in told} == {503}
        assert max(took for _, took, _ in told) < 3
        assert {status for status, _, _ in load.since(0)} == {200, 503}
        eventually(lambda: not rows(tmp_path, "SELECT 1 FROM attempts WHERE state = 'reserved'"), 15)
        assert rows(tmp_path, "SELECT DISTINCT reserved FROM budgets") == [(0,)]
        assert rows(tmp_path, "SELECT count(*) FROM attempts WHERE state = 'settled'") == [(len(upstream.requests),)]
        assert rows(tmp_path, "SELECT sum(spent) FROM budgets") == rows(tmp_path, "SELECT sum(cost) FROM attempts")
    assert rows(tmp_path, "PRAGMA integrity_check") == [("ok",)]
