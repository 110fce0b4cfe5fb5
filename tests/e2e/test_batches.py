"""Batches through real workers: several on one job, killed with all they hold, with a Redis that forgets."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import batch as benchmark
from flaskllm.jobs.queue import QUEUE, RUN
from tests.conftest import provider_environment
from tests.databases import MISSING, database_of_its_own
from tests.e2e import openai_files
from tests.e2e.servers import Gateway, gunicorn, lacking, redis_server
from tests.e2e.workers import Worker, results, rows, submit, wait_for_end, workers
from tests.receivers import SECRET, Receiver, receiving
from tests.upstream import RemoteUpstream, faults

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
ITEMS = int(os.environ.get("BATCH_ITEMS", "60"))
QUICK = {
    "BATCH_LEASE": "2", "LEASE_GRACE": "1", "BATCH_ITEM_TIMEOUT": "6", "GRACEFUL_TIMEOUT": "8",
    "WEBHOOK_SECRET": SECRET,
}  # fmt: skip
ENDS_IN_S = 120
"""A job here takes seconds; a machine on which much else runs has time for it too."""


@contextlib.contextmanager
def served(folder: Path, upstream: RemoteUpstream, **more: str) -> Iterator[Gateway]:
    """A gateway with one web process. When all is over, nothing is left reserved, by whoever died meanwhile."""
    environment = {**provider_environment(upstream, "openai"), **QUICK, **more}  # type: ignore[arg-type]
    with gunicorn(folder, WEB_CONCURRENCY="1", **environment) as gateway:
        yield gateway
        until = time.monotonic() + 40
        while rows(gateway, RESERVED) and time.monotonic() < until:
            gateway.get("/health/live")
            time.sleep(0.3)
        assert rows(gateway, RESERVED) == []
        assert all(reserved == 0 for (reserved,) in rows(gateway, "SELECT reserved FROM budgets"))


RESERVED = "SELECT id FROM attempts WHERE state = 'reserved' LIMIT 1"


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory, remote_simulator: RemoteUpstream) -> Iterator[Gateway]:
    """*sql* mode."""
    with served(tmp_path_factory.mktemp("sql"), remote_simulator) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def in_full(tmp_path_factory: pytest.TempPathFactory, remote_simulator: RemoteUpstream) -> Iterator[Gateway]:
    """*full* mode: PostgreSQL and Redis."""
    folder = tmp_path_factory.mktemp("full")
    database = database_of_its_own() or lacking(MISSING)
    with (
        redis_server(folder) as redis,
        served(folder, remote_simulator, DATABASE_URL=database, REDIS_URL=redis) as gateway,
    ):
        yield gateway


@pytest.fixture(params=["on_sqlite", "in_full"])
def gateway(request: Any) -> Gateway:
    found: Gateway = request.getfixturevalue(request.param)
    return found


def check_books(gateway: Gateway, upstream: RemoteUpstream, token: str, job_id: str, count: int) -> None:
    """Exactly one result each, in order, settled with its call; no call without a row."""
    found = results(gateway, token, job_id)
    assert [one["index"] for one in found] == list(range(count))
    assert {one["status"] for one in found} == {"completed"}, [one for one in found if one["error"]][:3]
    assert upstream.wait_idle(10)
    (attempts,) = rows(gateway, f"SELECT count(*) FROM attempts WHERE request_id LIKE '{job_id}-%'")[0]
    assert attempts >= len(upstream.requests) >= count
    (done,) = rows(gateway, f"SELECT count(*) FROM calls WHERE status = 200 AND request_id LIKE '{job_id}-%'")[0]
    assert done == count, "each result was settled with its call, and no other was"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def test_dead_workers_lose_no_item_and_answer_none_twice(
    gateway: Gateway, upstream: RemoteUpstream, receiver: Receiver
) -> None:
    upstream.script(faults.delay(0.15), vendor="openai")
    token = gateway.token("--budget", "100")
    with workers(gateway, 2) as hands:
        prompts = [f"number {n}" for n in range(ITEMS)]
        job_id = submit(gateway, token, prompts, max_concurrency=6, callback_url=receiver.url)
        wait_for_some(gateway, token, job_id, ITEMS // 6)
        hands[0].kill()
        wait_for_some(gateway, token, job_id, ITEMS // 3)
        for pid in gateway.children():
            os.kill(pid, signal.SIGKILL)
        hands.append(Worker(gateway, 3))
        job = wait_for_end(gateway, token, job_id, ENDS_IN_S)
        assert (job["status"], job["progress"]) == (
            "completed", {"total": ITEMS, "completed": ITEMS, "failed": 0}
        )  # fmt: skip
        check_books(gateway, upstream, token, job_id, ITEMS)
        assert gateway.get("/health/ready")[1]["checks"]["worker"] == "ok"
        assert receiver.wait_for(1, ENDS_IN_S)[0].event["data"] == job
        assert [one.stop() for one in hands[1:]] == [0, 0]
    assert len({one.id for one in receiver.got}) == 1


def wait_for_some(gateway: Gateway, token: str, job_id: str, count: int, seconds: float = ENDS_IN_S) -> None:
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
    upstream.script(faults.delay(0.4), vendor="openai", model="gpt-4o")
    upstream.script(faults.hang(), vendor="openai", model="gpt-4o-mini")
    token, over, deaths = gateway.token(), threading.Event(), []
    with workers(gateway, 1) as hands:
        items = [{"prompt": f"number {n}", "model": "gpt-4o"} for n in range(20)]
        items[7] = {"prompt": "this is the poison", "model": "gpt-4o-mini"}
        job_id = submit(gateway, token, requests=items)

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
            job = wait_for_end(gateway, token, job_id, ENDS_IN_S)
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
    """It holds no lock meanwhile: a process that is stopped inside a transaction keeps SQLite's from everybody."""
    upstream.script(faults.delay(1.5), vendor="openai")
    token = on_sqlite.token()
    with workers(on_sqlite, 1) as hands:
        job_id = submit(on_sqlite, token, [f"number {n}" for n in range(8)], max_concurrency=8)
        wait_for_requests(upstream, 8)
        with nobody_writing(on_sqlite):
            hands[0].stand_still()
        hands.append(Worker(on_sqlite, 1))
        job = wait_for_end(on_sqlite, token, job_id, ENDS_IN_S)
        before = results(on_sqlite, token, job_id)
        assert len(upstream.requests) > 8, "the other worker asked again"
        hands[0].process.send_signal(signal.SIGCONT)
        assert hands[0].stop() == 0
        assert results(on_sqlite, token, job_id) == before
        assert job["progress"] == {"total": 8, "completed": 8, "failed": 0}
        (done,) = rows(on_sqlite, f"SELECT completed FROM batch_jobs WHERE id = '{job_id}'")[0]
        assert done == 8, "what came late is counted by nobody"


@contextlib.contextmanager
def nobody_writing(gateway: Gateway) -> Iterator[None]:
    """Whoever would write to the SQLite file waits until the block is over."""
    file = gateway.folder / "instance" / "app.db"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def wait_for_requests(upstream: RemoteUpstream, count: int, seconds: float = 40) -> None:
    until = time.monotonic() + seconds
    while len(upstream.requests) < count and time.monotonic() < until:
        time.sleep(0.02)
    assert len(upstream.requests) >= count


@pytest.fixture(scope="module")
def woken(in_full: Gateway) -> Iterator[Worker]:
    """One worker for all that Redis may do to it."""
    with workers(in_full, 1) as hands:
        yield hands[0]
        assert hands[0].stop() == 0


@pytest.mark.parametrize("case", ["BATCH-FAULT-008", "BATCH-FAULT-012", "BATCH-FAULT-030"])
def test_redis_forgets_refuses_and_lies_and_the_batch_finishes(
    case: str, in_full: Gateway, woken: Worker, upstream: RemoteUpstream
) -> None:
    upstream.script(faults.delay(0.1), vendor="openai")
    redis = redis_client(in_full)
    token = in_full.token()
    FAULTS[case](redis)
    job_id = submit(in_full, token, [f"number {n}" for n in range(30)], max_concurrency=10)
    if case != "BATCH-FAULT-030":
        redis.flushall() if case == "BATCH-FAULT-008" else redis.execute_command("REPLICAOF", "NO", "ONE")
    assert wait_for_end(in_full, token, job_id, ENDS_IN_S)["progress"]["completed"] == 30
    check_books(in_full, upstream, token, job_id, 30)
    assert woken.process.poll() is None
    assert not (in_full.root / "code-was-run").exists()


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


@pytest.mark.alone
def test_a_batch_takes_little_longer_than_its_provider(tmp_path: Path) -> None:
    """The benchmark's short form, within bounds that a slow machine keeps: its provider needs 1.5 s of the time."""
    with benchmark.gateway(tmp_path, "sqlite") as gateway, workers(gateway, 2) as hands:
        figures = benchmark.measure(gateway, hands, gateway.token(), 300, 40)
    assert figures.job["progress"] == {"total": 300, "completed": 300, "failed": 0}
    assert 1.5 <= figures.job_s < 15
    assert figures.workers_cpu_s < 300 * 0.02
    assert figures.look_ms(0.5) < 1000
    assert all(end - begin < 40 for begin, end in zip(figures.memory[0][1], figures.memory[-1][1], strict=True))


def test_batches_as_files_are_delivered_at_once(in_full: Gateway, woken: Worker, upstream: RemoteUpstream) -> None:
    """Whichever process writes the files, and whichever ends meanwhile: nobody waits for the lease of the dead."""
    long = "x" * 700_000
    with openai_files.sdk(in_full, in_full.token()) as client:
        asked = [openai_files.line(f"say-{n}", "openai/gpt-4o", f"number {n} {long}") for n in range(4)]
        file = openai_files.upload(client, asked)
        assert file.bytes > 2_800_000, "several pieces"
        for _ in range(3):
            done = openai_files.wait(client, openai_files.create(client, file), seconds=60)
            assert (done.status, openai_files.counts_of(done)) == ("completed", (4, 4, 0))
            answered = openai_files.lines_of(client, done.output_file_id)
            assert [one["custom_id"] for one in answered] == [f"say-{n}" for n in range(4)]
        assert client.files.content(file.id).read().count(b'"custom_id"') == 4
