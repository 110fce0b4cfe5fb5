"""kill -9 of web workers under load: no attempt stays open, nothing stays reserved, no call went out without a row.

``KILLS=20`` makes it longer; the short form is for CI.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import provider_environment
from tests.e2e.servers import Gateway, gunicorn
from tests.upstream import RemoteUpstream, faults

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.alone]
KILLS = int(os.environ.get("KILLS", "6"))
CALLERS = 12
REAPED_EVERY_S, LEASE_S = 10, 1 + 2 + 3
"""`wiring`'s chore; grace, time of a call and of a stream as they are set below."""


def keep_calling(gateway: Gateway, token: str, *, stream: bool, until: threading.Event, found: list[int]) -> None:
    body = json.dumps({"model": "gpt-4o", "stream": stream, "messages": [{"role": "user", "content": "hello"}]})
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    while not until.is_set():
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=15)
        try:
            connection.request("POST", "/v1/chat/completions", body, headers)
            answer = connection.getresponse()
            answer.read()
            found.append(answer.status)
        except (OSError, http.client.HTTPException):
            found.append(0)
            time.sleep(0.05)
        finally:
            connection.close()


def rows(folder: Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(folder / "instance" / "app.db", timeout=10)) as connection:
        return connection.execute(query).fetchall()


def kill_one(gateway: Gateway) -> None:
    workers = gateway.children()
    if workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(random.choice(workers), signal.SIGKILL)


def test_killed_workers_leave_no_open_attempt_and_no_call_without_a_row(
    remote_simulator: RemoteUpstream, upstream: RemoteUpstream, tmp_path: Path
) -> None:
    environment = provider_environment(remote_simulator, "openai")  # type: ignore[arg-type]
    times = {"LEASE_GRACE": "1", "REQUEST_TIMEOUT": "2", "STREAM_MAX_SECONDS": "3", "GRACEFUL_TIMEOUT": "6"}
    with gunicorn(tmp_path, WEB_CONCURRENCY="2", **times, **environment) as gateway:
        upstream.script(faults.pace(60) + faults.delay(0.1), vendor="openai")
        token, over, found = gateway.token("--budget", "100"), threading.Event(), []
        threads = [
            threading.Thread(
                target=keep_calling, args=(gateway, token), kwargs={"stream": n % 2 == 0, "until": over, "found": found}
            )
            for n in range(CALLERS)
        ]
        for thread in threads:
            thread.start()
        for _ in range(KILLS):
            time.sleep(random.uniform(0.8, 1.6))
            kill_one(gateway)
        time.sleep(1)
        over.set()
        for thread in threads:
            thread.join()
        gateway.wait_until_alive()
        wait_for_rest(gateway)
    assert upstream.wait_idle(5)
    states = dict(rows(tmp_path, "SELECT state, count(*) FROM attempts GROUP BY state"))
    print(f"{KILLS} kills, {len(found)} calls, {found.count(200)} answered, {states}")
    assert found.count(200) > 20
    assert set(states) <= {"settled", "released", "interrupted"}
    assert rows(tmp_path, "SELECT DISTINCT reserved FROM budgets") == [(0,)]
    assert sum(states.values()) >= len(upstream.requests)
    assert rows(tmp_path, "SELECT count(*) FROM calls WHERE error_code = 'interrupted'") == [
        (states.get("interrupted", 0),)
    ]
    (spent,), (cost,) = rows(tmp_path, "SELECT max(spent) FROM budgets") + rows(
        tmp_path, "SELECT sum(cost) FROM attempts"
    )
    assert spent == cost


def wait_for_rest(gateway: Gateway) -> None:
    """Asking keeps the housekeepers awake: each worker's begins with its first request."""
    until = time.monotonic() + LEASE_S + 2 * REAPED_EVERY_S
    while time.monotonic() < until:
        gateway.get("/health/live")
        if not rows(gateway.folder, "SELECT 1 FROM attempts WHERE state = 'reserved' LIMIT 1"):
            return
        time.sleep(0.3)
    raise AssertionError(rows(gateway.folder, "SELECT * FROM attempts WHERE state = 'reserved'"))
