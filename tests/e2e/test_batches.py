"""Batches through real workers: several on one job, killed with all they hold, with a Redis that forgets."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flaskllm.jobs.queue import QUEUE, RUN
from tests.conftest import provider_environment
from tests.databases import MISSING, database_of_its_own
from tests.e2e.servers import Gateway, gunicorn, lacking, redis_server
from tests.e2e.workers import Worker, results, rows, submit, wait_for_end, workers
from tests.upstream import RemoteUpstream, faults

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
ITEMS = int(os.environ.get("BATCH_ITEMS", "120"))
QUICK = {"BATCH_LEASE": "2", "LEASE_GRACE": "1", "BATCH_ITEM_TIMEOUT": "4", "GRACEFUL_TIMEOUT": "8"}


@contextlib.contextmanager
def served(folder: Path, upstream: RemoteUpstream, mode: str) -> Iterator[Gateway]:
    """A gateway with one web process, in *sql* mode on SQLite, or in *full* mode on PostgreSQL and Redis."""
    environment = {**provider_environment(upstream, "openai"), **QUICK}  # type: ignore[arg-type]
    with contextlib.ExitStack() as stack:
        if mode == "full":
            environment["DATABASE_URL"] = database_of_its_own() or lacking(MISSING)
            environment["REDIS_URL"] = stack.enter_context(redis_server(folder))
        yield stack.enter_context(gunicorn(folder, WEB_CONCURRENCY="1", **environment))


@pytest.fixture(params=["sql", "full"])
def gateway(request: Any, tmp_path: Path, remote_simulator: RemoteUpstream) -> Iterator[Gateway]:
    with served(tmp_path, remote_simulator, request.param) as found:
        yield found


@pytest.fixture
def on_sqlite(tmp_path: Path, remote_simulator: RemoteUpstream) -> Iterator[Gateway]:
    with served(tmp_path, remote_simulator, "sql") as found:
        yield found


def check_books(gateway: Gateway, upstream: RemoteUpstream, token: str, job_id: str, count: int) -> None:
    """Exactly one result each, in order; no call without a row; nothing left reserved."""
    found = results(gateway, token, job_id)
    assert [one["index"] for one in found] == list(range(count))
    assert {one["status"] for one in found} == {"completed"}, [one for one in found if one["error"]][:3]
    assert upstream.wait_idle(10)
    (attempts,) = rows(gateway, "SELECT count(*) FROM attempts")[0]
    assert attempts >= len(upstream.requests) >= count
    until = time.monotonic() + 25
    while rows(gateway, "SELECT 1 FROM attempts WHERE state = 'reserved' LIMIT 1") and time.monotonic() < until:
        gateway.get("/health/live")
        time.sleep(0.3)
    assert rows(gateway, "SELECT count(*) FROM attempts WHERE state = 'reserved'") == [(0,)]
    (done,) = rows(gateway, "SELECT count(*) FROM calls WHERE status = 200")[0]
    assert done == count, "each result was settled with its call, and no other was"
    assert all(reserved == 0 for (reserved,) in rows(gateway, "SELECT reserved FROM budgets"))


def test_dead_workers_lose_no_item_and_answer_none_twice(gateway: Gateway, upstream: RemoteUpstream) -> None:
    upstream.script(faults.delay(0.15), vendor="openai")
    token = gateway.token("--budget", "100")
    with workers(gateway, 2) as hands:
        job_id = submit(gateway, token, [f"number {n}" for n in range(ITEMS)], max_concurrency=10)
        wait_for_some(gateway, token, job_id, ITEMS // 6)
        hands[0].kill()
        wait_for_some(gateway, token, job_id, ITEMS // 3)
        for pid in gateway.children():
            os.kill(pid, signal.SIGKILL)
        hands.append(Worker(gateway, 3))
        job = wait_for_end(gateway, token, job_id, 60)
        assert (job["status"], job["progress"]) == (
            "completed", {"total": ITEMS, "completed": ITEMS, "failed": 0}
        )  # fmt: skip
        check_books(gateway, upstream, token, job_id, ITEMS)
        assert [one.stop() for one in hands[1:]] == [0, 0]


def wait_for_some(gateway: Gateway, token: str, job_id: str, count: int, seconds: float = 40) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if gateway.get(f"/v1/batch/{job_id}", token)[1]["progress"]["completed"] >= count:
            return
        time.sleep(0.05)
    raise AssertionError("nothing goes on")


@pytest.mark.parametrize("case", ["BATCH-FAULT-017"])
def test_an_item_that_kills_its_worker_ends_after_three_and_the_others_are_answered(
    case: str, on_sqlite: Gateway, upstream: RemoteUpstream
) -> None:
    gateway = on_sqlite
    upstream.script(faults.delay(0.4), vendor="openai")
    token, over, deaths = gateway.token(), threading.Event(), []
    with workers(gateway, 1) as hands:
        prompts = [f"number {n}" for n in range(20)]
        prompts[7] = "this is the poison"
        job_id = submit(gateway, token, prompts)

        def kill_whoever_asks_it() -> None:
            while not over.is_set():
                asked = sum("poison" in str(one.body) for one in upstream.requests)
                if asked > len(deaths):
                    deaths.append(asked)
                    hands[-1].kill()
                    hands.append(Worker(gateway, len(hands)))
                time.sleep(0.02)

        killer = threading.Thread(target=kill_whoever_asks_it)
        killer.start()
        try:
            job = wait_for_end(gateway, token, job_id, 90)
        finally:
            over.set()
            killer.join()
        found = results(gateway, token, job_id)
    assert len(deaths) == 3
    assert job["progress"] == {"total": 20, "completed": 19, "failed": 1}
    assert found[7]["error"]["code"] == "poisoned"
    assert {one["status"] for one in found[:7] + found[8:]} == {"completed"}


@pytest.mark.parametrize("case", ["BATCH-FAULT-004"])
def test_a_worker_that_stood_still_finds_its_results_refused(
    case: str, on_sqlite: Gateway, upstream: RemoteUpstream
) -> None:
    upstream.script(faults.delay(0.5), vendor="openai")
    token = on_sqlite.token()
    with workers(on_sqlite, 1) as hands:
        job_id = submit(on_sqlite, token, [f"number {n}" for n in range(8)], max_concurrency=8)
        wait_for_requests(upstream, 8)
        hands[0].process.send_signal(signal.SIGSTOP)
        hands.append(Worker(on_sqlite, 1))
        job = wait_for_end(on_sqlite, token, job_id, 60)
        before = results(on_sqlite, token, job_id)
        hands[0].process.send_signal(signal.SIGCONT)
        assert hands[0].stop() == 0
        assert results(on_sqlite, token, job_id) == before
        assert job["progress"] == {"total": 8, "completed": 8, "failed": 0}
        (done,) = rows(on_sqlite, f"SELECT completed FROM batch_jobs WHERE id = '{job_id}'")[0]
        assert done == 8, "what came late is counted by nobody"


def wait_for_requests(upstream: RemoteUpstream, count: int, seconds: float = 40) -> None:
    until = time.monotonic() + seconds
    while len(upstream.requests) < count and time.monotonic() < until:
        time.sleep(0.02)
    assert len(upstream.requests) >= count


@pytest.mark.parametrize("case", ["BATCH-FAULT-008", "BATCH-FAULT-012", "BATCH-FAULT-030"])
def test_redis_forgets_refuses_and_lies_and_the_batch_finishes(
    case: str, tmp_path: Path, upstream: RemoteUpstream
) -> None:
    upstream.script(faults.delay(0.1), vendor="openai")
    with served(tmp_path, upstream, "full") as gateway, workers(gateway, 1) as hands:
        redis = redis_client(gateway)
        FAULTS[case](redis)
        token = gateway.token()
        job_id = submit(gateway, token, [f"number {n}" for n in range(30)], max_concurrency=10)
        if case != "BATCH-FAULT-030":
            redis.flushall() if case == "BATCH-FAULT-008" else redis.execute_command("REPLICAOF", "NO", "ONE")
        assert wait_for_end(gateway, token, job_id, 60)["progress"]["completed"] == 30
        check_books(gateway, upstream, token, job_id, 30)
        assert hands[0].stop() == 0
        assert not (tmp_path / "code-was-run").exists()


def redis_client(gateway: Gateway) -> Any:
    import redis

    return redis.Redis.from_url(gateway.environment["REDIS_URL"], socket_timeout=5)


def _lies(redis: Any) -> None:
    """Jobs that nobody submitted: of an id that is not there, of a function that is not ours, and of no sense."""
    from rq import Queue
    from rq.serializers import JSONSerializer

    queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
    queue.enqueue(RUN, "a job that is not in SQL")
    queue.enqueue("os.system", "touch code-was-run")
    redis.rpush(f"rq:queue:{QUEUE}", "no such job")


FAULTS = {
    "BATCH-FAULT-008": lambda redis: redis.flushall(),
    "BATCH-FAULT-012": lambda redis: redis.execute_command("REPLICAOF", "127.0.0.1", "1"),
    "BATCH-FAULT-030": _lies,
}
