"""The database refused, hung, full of connections: 503 soon, no call goes out, streams end, nothing spent is lost.

Real PostgreSQL, real gunicorn with two processes. ``OUTAGE_SECONDS=30`` makes each outage longer.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest

from flaskllm.repositories.postgresql import REST_S
from tests.conftest import provider_environment
from tests.e2e.outages import BLACK_HOLE, Line, Load, OwnPostgres, eventually, go_on, p99, state_of, threads_of
from tests.e2e.servers import Gateway, gunicorn
from tests.upstream import RemoteUpstream, faults

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.alone]
SECONDS = float(os.environ.get("OUTAGE_SECONDS", "3"))
TOLD_S = 2.5
"""Within 2 s, and what a busy machine adds."""
BACK_S = 5
POOLS = 20
"""Connections that two processes keep at rest, ten each; how many of them are open hangs on the load before."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[OwnPostgres]:
    made = OwnPostgres()
    yield made
    made.remove()


@pytest.fixture(scope="module")
def line(postgres: OwnPostgres) -> Iterator[Line]:
    made = Line(postgres.socket)
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(
    postgres: OwnPostgres, line: Line, remote_simulator: RemoteUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    environment = provider_environment(remote_simulator, "openai")  # type: ignore[arg-type]
    environment["DATABASE_URL"] = postgres.address(port=line.port)
    with gunicorn(tmp_path_factory.mktemp("out"), WEB_CONCURRENCY="2", **environment) as running:
        yield running


@pytest.fixture(scope="module")
def token(gateway: Gateway) -> str:
    return gateway.token("--budget", "100")


@pytest.fixture
def well(gateway: Gateway, token: str, upstream: RemoteUpstream) -> Load:
    """A load, after everybody has answered well."""
    eventually(lambda: gateway.get("/health/ready")[1]["status"] == "ok", BACK_S)
    return Load(gateway, token)


def check_outage(load: Load, upstream: RemoteUpstream, began: float, *, seconds: float = SECONDS) -> None:
    """While the database is away: who asks is told soon and asked nobody."""
    time.sleep(seconds)
    quiet = len(upstream.requests)
    away = load.since(began + TOLD_S)
    assert len(away) > 5
    assert {status for status, _, _ in away} == {503}
    assert all(1 <= int(headers["retry-after"]) <= 10 for _, _, headers in away)
    assert load.gateway.get("/health/live")[0] == 200
    assert load.gateway.get("/health/ready")[0] == 503
    told = load.since(began - 1)  # who was under way when it happened too
    print(f"{len(told)} calls while away, p99 {p99(told):.3f} s, slowest {max(took for _, took, _ in told):.3f} s")
    assert max(took for _, took, _ in told) < TOLD_S
    assert {status for status, _, _ in told} <= {200, 503}
    assert len(upstream.requests) == quiet


def check_recovery(load: Load, postgres: OwnPostgres, upstream: RemoteUpstream) -> None:
    back = time.monotonic()
    eventually(lambda: any(status == 200 for status, _, _ in load.since(back)), BACK_S)
    print(f"back after {time.monotonic() - back:.2f} s")
    eventually(lambda: load.gateway.get("/health/ready")[0] == 200, BACK_S)


def check_money(postgres: OwnPostgres, upstream: RemoteUpstream, since: int) -> None:
    """At rest: nothing is held, and each call that went out is one settled row."""
    eventually(lambda: postgres.rows("SELECT 1 FROM attempts WHERE state = 'reserved' LIMIT 1") == [], 15)
    assert postgres.rows("SELECT coalesce(sum(reserved), 0) FROM budgets") == [(0,)]
    states: dict[str, int] = dict(postgres.rows("SELECT state, count(*) FROM attempts GROUP BY state"))
    print(states, "upstream:", len(upstream.requests))
    assert "interrupted" not in states
    assert states["settled"] - since == len(upstream.requests)
    assert postgres.rows("SELECT sum(spent) FROM budgets") == postgres.rows("SELECT sum(cost) FROM attempts")


def settled(postgres: OwnPostgres) -> int:
    return int(postgres.rows("SELECT count(*) FROM attempts WHERE state = 'settled'")[0][0])


def test_a_killed_database_is_told_soon_and_its_return_noticed(
    well: Load, postgres: OwnPostgres, upstream: RemoteUpstream
) -> None:
    before = settled(postgres)
    with well.running():
        eventually(lambda: len(well.found) > 20, 10)
        with Stream(well, upstream) as stream:
            began = time.monotonic()
            postgres.kill()
            check_outage(well, upstream, began)
            stream.go_on()
            assert stream.whole()
        postgres.start()
        check_recovery(well, postgres, upstream)
    check_money(postgres, upstream, before)


@pytest.mark.parametrize("how", ["halted", BLACK_HOLE])
def test_a_database_that_hangs_is_given_up_in_time_and_leaks_nothing(
    well: Load, postgres: OwnPostgres, line: Line, upstream: RemoteUpstream, how: str
) -> None:
    before = settled(postgres)
    with well.running():
        eventually(lambda: len(well.found) > 20, 10)
        connections, threads = postgres.backends(), threads_of(well.gateway)
        began, pids = time.monotonic(), []
        if how == BLACK_HOLE:
            line.break_(BLACK_HOLE)
        else:
            pids = postgres.halt()
        try:
            check_outage(well, upstream, began, seconds=max(SECONDS, TOLD_S + 2))
            if how == BLACK_HOLE:
                assert line.done[BLACK_HOLE] > 2
            else:
                assert state_of(pids[0]) == "T"
        finally:
            go_on(*pids)
            line.mend()
        check_recovery(well, postgres, upstream)
        most = max(connections, POOLS) + 2
        seen = eventually(lambda: postgres.backends() <= most, 10)
        print(f"connections {connections} before, {postgres.backends()} after {seen:.1f} s;", end=" ")
        print(f"threads {threads} before, {threads_of(well.gateway)} after")
        assert threads_of(well.gateway) <= threads + 4
    check_money(postgres, upstream, before)


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
def test_statements_that_are_cancelled_and_connections_that_are_ended_cost_nobody_money(
    well: Load, postgres: OwnPostgres, upstream: RemoteUpstream, how: str
) -> None:
    before, ended = settled(postgres), 0
    query = f"SELECT {how}(pid) FROM pg_stat_activity WHERE datname = 'gateway' AND state <> 'idle'"
    if how == "pg_terminate_backend":
        query = query.replace("state <> 'idle'", "random() < 0.2")
    with well.running(), postgres.connect() as connection:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until or not ended:
            ended += len(connection.execute(query).fetchall())
            time.sleep(0.002)
    statuses = [status for status, _, _ in well.since(0)]
    print(f"{how}: {ended} times, {len(statuses)} calls, {statuses.count(503)} refused")
    assert set(statuses) <= {200, 503}
    assert 200 in statuses
    check_money(postgres, upstream, before)


def test_a_database_that_is_full_of_connections_is_not_stormed(
    well: Load, postgres: OwnPostgres, upstream: RemoteUpstream
) -> None:
    # the last of this file: the server keeps its few connections
    postgres.execute("ALTER SYSTEM SET max_connections = 10")
    postgres.kill()
    postgres.start()
    before, refused = settled(postgres), postgres.log().count("too many clients")
    with contextlib.ExitStack() as stack:
        postgres.fill(stack, 9)
        with well.running(8):
            began = time.monotonic()
            time.sleep(SECONDS)
            seconds = time.monotonic() - began
            told = well.since(began)
        refused = postgres.log().count("too many clients") - refused
    print(f"{len(told)} calls, {refused} connections refused in {seconds:.1f} s, p99 {p99(told):.3f} s")
    assert {status for status, _, _ in told} <= {200, 503}
    assert 503 in {status for status, _, _ in told}
    assert max(took for _, took, _ in told) < TOLD_S
    assert 0 < refused <= 2 * (8 + 2 + seconds / REST_S)  # all callers of both processes at first, then one at a time
    with well.running():
        check_recovery(well, postgres, upstream)
    check_money(postgres, upstream, before)


class Stream:
    """A slow stream that runs while something happens."""

    def __init__(self, load: Load, upstream: RemoteUpstream) -> None:
        self._load, self._upstream = load, upstream
        self._seen = b""

    def __enter__(self) -> Self:
        words = " ".join(f"word{n}" for n in range(int((SECONDS + 3) / 0.2)))
        self._upstream.script(faults.text(words) + faults.pace(200), vendor="openai", model="gpt-4o-mini", times=1)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        eventually(lambda: b'"content"' in self._seen, 10)
        return self

    def _read(self) -> None:
        body = json.dumps({
            "model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "slowly"}]
        }).encode()  # fmt: skip
        with socket.create_connection(("127.0.0.1", self._load.gateway.port), timeout=60) as sock:
            sock.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                b"Content-Type: application/json\r\nAuthorization: Bearer "
                + self._load.token.encode()
                + f"\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            while piece := sock.recv(65536):
                self._seen += piece

    def go_on(self) -> None:
        """It is still open: nothing that happened has ended it."""
        assert self._thread.is_alive() or self.whole()

    def whole(self) -> bool:
        self._thread.join(30)
        return b"data: [DONE]" in self._seen and b'"error"' not in self._seen

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)
