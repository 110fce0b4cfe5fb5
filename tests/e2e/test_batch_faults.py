"""Batches while what they stand on fails: the database halted, the disk full. Kills are in ``test_batch_kills.py``.

``BATCH_FAULT_SECONDS=60`` makes each outage as long as the corpus has it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import provider_environment
from tests.e2e.disks import disk, full, on_a_small_disk, rows_on
from tests.e2e.outages import OwnPostgres, eventually, go_on
from tests.e2e.servers import Gateway, gunicorn
from tests.e2e.workers import results, submit, wait_for_end, workers
from tests.upstream import RemoteUpstream, faults

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.alone]
SECONDS = float(os.environ.get("BATCH_FAULT_SECONDS", "5"))
ITEMS, HANDS = 300, 3
QUICK = {"WEB_CONCURRENCY": "1", "BATCH_LEASE": "3", "LEASE_GRACE": "1", "BATCH_ITEM_TIMEOUT": "6"}
BACK_WITHIN_S = 60
"""After the service is back; what is open then takes a few seconds more."""


@pytest.fixture
def slow(upstream: RemoteUpstream) -> RemoteUpstream:
    """A provider that takes long enough for a fault to come amid its answers."""
    upstream.script(faults.delay(0.3), vendor="openai")
    return upstream


@pytest.fixture
def postgres() -> Iterator[OwnPostgres]:
    made = OwnPostgres()
    yield made
    made.remove()


def some_are_done(gateway: Gateway, token: str, job_id: str) -> bool:
    return gateway.get(f"/v1/batch/{job_id}", token)[1]["progress"]["completed"] >= ITEMS // 10


def check_results(gateway: Gateway, token: str, job_id: str) -> None:
    """None lost, one result each, in their order, as the job counts them."""
    job = wait_for_end(gateway, token, job_id, BACK_WITHIN_S + ITEMS / 10)
    found = results(gateway, token, job_id)
    assert [one["index"] for one in found] == list(range(ITEMS))
    assert {one["status"] for one in found} == {"completed"}, [one for one in found if one["error"]][:3]
    assert job["progress"] == {"total": ITEMS, "completed": ITEMS, "failed": 0}


def check_ledger(attempts: list[tuple[Any, ...]], upstream: RemoteUpstream) -> None:
    """A row for each call that went out, however often its result could not be written."""
    assert upstream.wait_idle(10)
    went_out = sum(count for state, count in attempts if state != "released")
    assert went_out == len(upstream.requests)
    assert "reserved" not in dict(attempts)


STATES = "SELECT state, count(*) FROM attempts GROUP BY state"
OPEN = "SELECT 1 FROM attempts WHERE state = 'reserved'"


@pytest.mark.parametrize("case", ["BATCH-FAULT-014"])
def test_a_database_that_stands_still_loses_no_item(
    case: str, postgres: OwnPostgres, slow: RemoteUpstream, remote_simulator: RemoteUpstream, tmp_path: Path
) -> None:
    environment = provider_environment(remote_simulator, "openai")  # type: ignore[arg-type]
    with (
        gunicorn(tmp_path, DATABASE_URL=postgres.address(), **environment, **QUICK) as gateway,
        workers(gateway, HANDS) as hands,
    ):
        token = gateway.token()
        job_id = submit(gateway, token, [f"number {n}" for n in range(ITEMS)], max_concurrency=40)
        eventually(lambda: some_are_done(gateway, token, job_id), BACK_WITHIN_S)
        halted = postgres.halt()
        try:
            time.sleep(SECONDS)
        finally:
            go_on(*halted)
        check_results(gateway, token, job_id)
        eventually(lambda: not postgres.rows(OPEN), BACK_WITHIN_S)
        check_ledger(postgres.rows(STATES), slow)
        assert [one.process.poll() for one in hands] == [None] * HANDS


@pytest.mark.parametrize("case", ["BATCH-FAULT-015"])
def test_a_disk_that_is_full_while_results_come_loses_no_item(
    case: str, slow: RemoteUpstream, remote_simulator: RemoteUpstream, tmp_path: Path
) -> None:
    environment = provider_environment(remote_simulator, "openai")  # type: ignore[arg-type]
    with on_a_small_disk(tmp_path, 24, workers=HANDS, **environment, **QUICK) as gateway:
        token, processes = (tmp_path / "token").read_text(), gateway.children()
        job_id = submit(gateway, token, [f"number {n} {'x' * 2000}" for n in range(ITEMS)], max_concurrency=40)
        eventually(lambda: some_are_done(gateway, token, job_id), BACK_WITHIN_S)
        with full(disk(gateway)):
            time.sleep(SECONDS)
        check_results(gateway, token, job_id)
        eventually(lambda: not rows_on(gateway, OPEN), BACK_WITHIN_S)
        check_ledger(rows_on(gateway, STATES), slow)
        assert gateway.children() == processes, "nobody died of it"
        assert rows_on(gateway, "PRAGMA integrity_check") == [("ok",)]
