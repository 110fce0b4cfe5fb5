"""A column of cells through real servers: without a worker, beside one, under uWSGI without threads, killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import provider_environment
from tests.databases import MISSING, database_of_its_own
from tests.e2e.servers import Gateway, gunicorn, lacking, redis_server, uwsgi
from tests.e2e.workers import rows, workers
from tests.upstream import RemoteUpstream, faults

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
PATH = "/api/v1/range"
QUICK = {"BATCH_LEASE": "2", "LEASE_GRACE": "1", "REQUEST_TIMEOUT": "5", "GRACEFUL_TIMEOUT": "8"}
CELLS, UNIQUE = 200, 120
ENDS_IN_S = 90
"""A column here takes seconds; a machine on which much else runs has time for it too."""


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory, remote_simulator: RemoteUpstream) -> Iterator[Gateway]:
    environment = {**provider_environment(remote_simulator, "openai"), **QUICK}  # type: ignore[arg-type]
    with gunicorn(tmp_path_factory.mktemp("sql"), WEB_CONCURRENCY="1", **environment) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def in_full(tmp_path_factory: pytest.TempPathFactory, remote_simulator: RemoteUpstream) -> Iterator[Gateway]:
    """PostgreSQL, Redis, two web processes and a worker."""
    folder = tmp_path_factory.mktemp("full")
    environment = {**provider_environment(remote_simulator, "openai"), **QUICK}  # type: ignore[arg-type]
    environment["DATABASE_URL"] = database_of_its_own() or lacking(MISSING)
    with (
        redis_server(folder) as redis,
        gunicorn(folder, WEB_CONCURRENCY="2", REDIS_URL=redis, **environment) as gateway,
        workers(gateway, 1) as hands,
    ):
        yield gateway
        assert [one.stop() for one in hands] == [0]


def asked(upstream: RemoteUpstream) -> Counter[str]:
    return Counter(one.body["messages"][-1]["content"] for one in upstream.requests)


def whole(gateway: Gateway, token: str, answer: Any) -> Any:
    """The range once all of it is there; a gateway that is just being restarted is asked again."""
    continuation, until = answer["continuation"], time.monotonic() + ENDS_IN_S
    while not answer["done"] and time.monotonic() < until:
        try:
            status, found, _ = gateway.get(f"{PATH}/{continuation}", token)
        except OSError:
            time.sleep(0.2)
            continue
        assert status == 200, found
        answer = found
    assert answer["done"], Counter(row["status"] for row in answer["rows"])
    return answer


@pytest.mark.alone
@pytest.mark.parametrize("mode", ["on_sqlite", "in_full"])
def test_two_hundred_cells_with_duplicates_and_a_poisoned_one(
    mode: str, request: pytest.FixtureRequest, upstream: RemoteUpstream
) -> None:
    gateway: Gateway = request.getfixturevalue(mode)
    token = gateway.token("--scope", "webhook")
    upstream.script(faults.delay(0.25), vendor="openai")
    upstream.plan({"mark-poison": [faults.hang()] * 9})
    texts = [f"cell {n % UNIQUE}" for n in range(CELLS)]
    texts[50] = "cell 50 mark-poison"
    body = {"rows": [{"id": f"A{n}", "prompt": text} for n, text in enumerate(texts)], "deadline_s": 2}
    began = time.monotonic()
    status, first, _ = gateway.post(PATH, body, token)
    took = time.monotonic() - began
    assert status == 200, first
    assert took < 4
    assert not first["done"]
    assert [row["id"] for row in first["rows"]] == [f"A{n}" for n in range(CELLS)]
    assert first["rows"][50]["status"] == "pending"
    done = whole(gateway, token, first)
    ready = [place for place, row in enumerate(first["rows"]) if row["status"] == "ok"]
    assert [done["rows"][place]["text"] for place in ready] == [first["rows"][place]["text"] for place in ready]
    for place, (row, words) in enumerate(zip(done["rows"], texts, strict=True)):
        if place == 50:
            assert (row["status"], row["error_code"]) == ("error", "provider_timeout")
        else:
            assert (row["id"], row["status"], row["text"]) == (f"A{place}", "ok", f"echo: {words}")
    seen = asked(upstream)
    poisoned = seen.pop("cell 50 mark-poison")
    assert poisoned <= 2, "asked once, and at most once more within its time"
    assert seen == Counter({f"cell {n}": 1 for n in range(UNIQUE)}), "cell 50 stands at 170 too"
    assert done["cost"] > 0
    body["rows"].pop(50)
    before = len(upstream.requests)
    status, second, headers = gateway.post(PATH, body, token)
    assert (status, second["done"], second["cost"], headers["x-flaskllm-cost"]) == (200, True, 0, "0")
    assert all(row["cached"] or row["cost"] == 0 for row in second["rows"])
    assert [row["text"] for row in second["rows"]] == [row["text"] for row in done["rows"] if row["status"] == "ok"]
    assert len(upstream.requests) == before


def test_a_web_process_that_is_killed_loses_no_row(on_sqlite: Gateway, upstream: RemoteUpstream) -> None:
    gateway, token = on_sqlite, on_sqlite.token("--scope", "webhook")
    upstream.script(faults.delay(0.6), vendor="openai")
    texts = [f"row {n}" for n in range(30)]
    _, first, _ = gateway.post(PATH, {"rows": [{"prompt": text} for text in texts], "deadline_s": 1}, token)
    states = Counter(row["status"] for row in first["rows"])
    assert states["pending"] > 8, states
    for pid in gateway.children():
        os.kill(pid, signal.SIGKILL)
    done = whole(gateway, token, first)
    assert [row["text"] for row in done["rows"]] == [f"echo: {text}" for text in texts]
    assert upstream.wait_idle(10)
    seen = Counter({text: count for text, count in asked(upstream).items() if text in texts})
    assert set(seen) == set(texts)
    assert sum(seen.values()) - len(texts) <= 8, "only what was in hand is asked again"
    (attempts,) = rows(gateway, f"SELECT count(*) FROM attempts WHERE request_id LIKE '{first['continuation']}-%'")[0]
    assert attempts >= sum(seen.values())
    status, second, _ = gateway.post(PATH, {"rows": [{"prompt": text} for text in texts]}, token)
    assert (status, second["done"], second["cost"]) == (200, True, 0)


def test_a_server_without_threads_answers_one_row_after_the_other(tmp_path: Path, upstream: RemoteUpstream) -> None:
    upstream.script(faults.delay(0.3), vendor="openai")
    environment = {**provider_environment(upstream, "openai"), **QUICK}  # type: ignore[arg-type]
    with uwsgi(tmp_path, **environment) as gateway:
        token = gateway.token("--scope", "webhook")
        body = {"rows": [{"prompt": f"row {n % 6}"} for n in range(12)], "deadline_s": 1}
        began = time.monotonic()
        status, first, _ = gateway.post(PATH, body, token)
        assert status == 200, first
        assert time.monotonic() - began < 5
        assert not first["done"], "six rows of 0.3 s each take longer than a second"
        done = whole(gateway, token, first)
        assert [row["text"] for row in done["rows"]] == [f"echo: row {n % 6}" for n in range(12)]
    assert asked(upstream) == Counter({f"row {n}": 1 for n in range(6)})
    assert "row 3" not in json.dumps([path.read_text() for path in (tmp_path / "logs").iterdir()])
