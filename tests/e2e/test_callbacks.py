"""Callbacks over real processes: killed between the end of a job and its word, they are told all the same."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from flaskllm.services import crash
from tests.e2e.servers import Gateway, gunicorn
from tests.e2e.workers import rows, submit, workers
from tests.receivers import SECRET, Receiver, receiving

pytestmark = pytest.mark.e2e
WAIT_S = 40.0


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    (tmp_path / "crash").mkdir()
    environment = {"WEBHOOK_SECRET": SECRET, "CRASH_POINTS": str(tmp_path / "crash"), "WEB_CONCURRENCY": "1"}
    with gunicorn(tmp_path, **environment) as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def let_leases_end(gateway: Gateway) -> None:
    """As if a minute had passed since its sender died."""
    engine = create_engine(f"sqlite:///{gateway.folder / 'instance' / 'app.db'}", connect_args={"timeout": 10})
    with engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET next_at = 1 WHERE next_at IS NOT NULL"))
    engine.dispose()


def wait_for_death_at(gateway: Gateway, point: str) -> None:
    """Until some process has died there; requests keep the web process's chores going."""
    ends = time.monotonic() + WAIT_S
    while (gateway.folder / "crash" / point).exists():
        assert time.monotonic() < ends, f"nobody came to {point}"
        with contextlib.suppress(OSError, http.client.HTTPException):
            gateway.get("/health/live")
        time.sleep(0.05)


def test_a_death_before_or_after_the_word_costs_a_repetition_at_most(gateway: Gateway, receiver: Receiver) -> None:
    for point in crash.OF_CALLBACKS:
        (gateway.folder / "crash" / point).touch()
    token = gateway.token()
    with workers(gateway, 1):
        job_id = submit(gateway, token, ["one", "two"], model="demo", callback_url=receiver.url)
        wait_for_death_at(gateway, crash.BEFORE_CALLBACK_SEND)
        assert receiver.got == []
        assert rows(gateway, "SELECT tries, sent_at FROM outbox") == [(1, None)]
        let_leases_end(gateway)
        wait_for_death_at(gateway, crash.AFTER_CALLBACK_SEND)
        receiver.wait_for(1)
        gateway.wait_until_alive()
        let_leases_end(gateway)
        receiver.wait_for(2)
        ends = time.monotonic() + WAIT_S
        while rows(gateway, "SELECT 1 FROM outbox WHERE sent_at IS NULL") and time.monotonic() < ends:
            time.sleep(0.05)
    assert rows(gateway, "SELECT tries FROM outbox WHERE sent_at IS NOT NULL") == [(3,)]
    first, second = receiver.got
    assert (first.id, first.body) == (second.id, second.body)
    assert first.event == second.event
    assert first.event["data"] == gateway.get(f"/v1/batch/{job_id}", token)[1]
    assert "of-the-receiver" not in gateway.output.read_text()
