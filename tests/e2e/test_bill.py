"""The ledger against the bill: faults, hang-ups at every frame, killed processes and repeats, over four processes.

The simulator keeps its own bill, and `tests.e2e.bill` reckons it. ``BILL_CALLS=10000 BILL_KILLS=200`` is the long form.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from flaskllm.services.crash import POINTS
from tests.conftest import provider_environment
from tests.databases import MISSING, database_of_its_own
from tests.e2e.bill import Entry, Planned, Planner, Reckoning, overlay
from tests.e2e.servers import Gateway, gunicorn, lacking
from tests.upstream import RemoteUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
CALLS = int(os.environ.get("BILL_CALLS", "300"))
KILLS = int(os.environ.get("BILL_KILLS", "6"))
SEED = int(os.environ.get("BILL_SEED", "4"))
CALLERS, PROCESSES = 24, 4
REST_S = 60
"""A minute after rest nothing is reserved any more."""
TIMES = {
    "REQUEST_TIMEOUT": "4", "STREAM_MAX_SECONDS": "6", "STREAM_IDLE_TIMEOUT": "3", "DRAIN_SECONDS": "5",
    "LEASE_GRACE": "1", "GRACEFUL_TIMEOUT": "6",
}  # fmt: skip


@pytest.fixture(params=["sqlite", "postgresql"])
def gateway(request: pytest.FixtureRequest, remote_simulator: RemoteUpstream, tmp_path: Path) -> Iterator[Gateway]:
    (tmp_path / "models.yaml").write_text(overlay())
    (tmp_path / "crash").mkdir()
    address = f"sqlite:///{tmp_path / 'bill.db'}"
    if request.param == "postgresql":
        address = database_of_its_own() or lacking(MISSING)
    environment = {
        **provider_environment(remote_simulator),  # type: ignore[arg-type]
        **TIMES,
        "DATABASE_URL": address,
        "LLM_GATEWAY_CONFIG_PATH": str(tmp_path / "models.yaml"),
        "CRASH_POINTS": str(tmp_path / "crash"),
        "BREAKER_FAILURES": "0",
        "WEB_CONCURRENCY": str(PROCESSES),
    }
    with gunicorn(tmp_path, **environment) as running:
        yield running


class Callers:
    """Threads that make the planned calls, each over a connection of its own; one that breaks is made once more."""

    def __init__(self, gateway: Gateway, token: str, calls: list[Planned]) -> None:
        self._gateway, self._token = gateway, token
        self._calls = iter(calls)
        self._lock = threading.Lock()
        self.made = 0
        self.seen: Counter[str] = Counter()

    def work(self) -> None:
        while (call := self._next()) is not None:
            told = self._make(call.request(self._token), call)
            if told in ("broken", "502", "503", "504"):
                told = self._make(call.again().request(self._token), call)
            with self._lock:
                self.seen[told] += 1

    def _next(self) -> Planned | None:
        with self._lock:
            self.made += 1
            return next(self._calls, None)

    def _make(self, request: bytes, call: Planned) -> str:
        """The status, or how it ended without one."""
        seen = b""
        try:
            with socket.create_connection(("127.0.0.1", self._gateway.port), timeout=30) as sock:
                sock.sendall(request)
                if call.leave_after is not None:
                    return self._leave(sock, call)
                while piece := sock.recv(65536):
                    seen += piece
        except OSError:
            return "broken"
        return seen[9:12].decode() or "broken"

    def _leave(self, sock: socket.socket, call: Planned) -> str:
        """Read on to so many frames, or to the first byte of what is no stream, or not at all; then hang up."""
        seen = b""
        while call.leave_after and seen.count(b"\ndata:") < call.leave_after and (call.stream or not seen):
            piece = sock.recv(65536)
            if not piece:
                return "left late"
            seen += piece
        if call.abruptly:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return "left"


def test_the_ledger_is_the_bill(gateway: Gateway, upstream: RemoteUpstream, tmp_path: Path) -> None:
    began = time.monotonic()
    calls = Planner(SEED).calls(CALLS)
    for start in range(0, CALLS, 500):
        upstream.plan({call.mark: list(call.steps) for call in calls[start : start + 500] if call.steps})
    callers = Callers(gateway, gateway.token("--budget", "100000"), calls)
    threads = [threading.Thread(target=callers.work) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    kill_now_and_then(gateway, callers, tmp_path / "crash")
    for thread in threads:
        thread.join()
    made = time.monotonic() - began
    rest = wait_for_rest(gateway)
    assert upstream.wait_idle(30)
    assert list((tmp_path / "crash").iterdir()) == []
    reckoning = Reckoning({call.mark: call.steps for call in calls})
    reckoning.compare(upstream.bill, entries(gateway))
    print(f"{CALLS} calls, {KILLS} kills and {len(POINTS)} crash points in {made:.0f} s, at rest after {rest:.0f} s")
    print(dict(callers.seen), dict(reckoning.counts), f"difference {reckoning.difference}")
    assert not reckoning.faults, "\n".join(reckoning.faults)
    assert reckoning.difference == 0
    assert reckoning.counts["reported, equal"] > CALLS // 4
    check_sums(gateway)


def kill_now_and_then(gateway: Gateway, callers: Callers, armed: Path) -> None:
    """Random kills and one at each labelled point, in even steps through the calls."""
    dice = random.Random(SEED)
    deaths: list[str | None] = [*POINTS, *[None] * KILLS]
    dice.shuffle(deaths)
    for place, point in enumerate(deaths):
        while callers.made < CALLS * 0.9 * (place + 1) / (len(deaths) + 1):
            time.sleep(0.02)
        if point is not None:
            (armed / point).touch()
        elif workers := gateway.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(workers), signal.SIGKILL)


def wait_for_rest(gateway: Gateway) -> float:
    """Until no attempt is open; asking keeps the housekeepers awake, which begin with each process's first request."""
    began = time.monotonic()
    while time.monotonic() - began < REST_S:
        for _ in range(PROCESSES):
            gateway.get("/health/live")
        if not books(gateway, "SELECT 1 FROM attempts WHERE state = 'reserved' LIMIT 1"):
            return time.monotonic() - began
        time.sleep(0.3)
    raise AssertionError(books(gateway, "SELECT * FROM attempts WHERE state = 'reserved'"))


def books(gateway: Gateway, query: str) -> list[Any]:
    engine = create_engine(gateway.environment["DATABASE_URL"])
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(query))]
    engine.dispose()
    return found


def entries(gateway: Gateway) -> list[Entry]:
    columns = "request_id, provider, state, cost, estimated, completion_tokens, error_code"
    return [Entry(*row) for row in books(gateway, f"SELECT {columns} FROM attempts ORDER BY id")]


def check_sums(gateway: Gateway) -> None:
    """The sums that are kept are the sums of what they are sums of."""
    ((cost,),) = books(gateway, "SELECT sum(cost) FROM attempts")
    budgets = books(gateway, "SELECT spent, reserved FROM budgets")
    assert budgets
    assert set(budgets) == {(cost, 0)}
    by_call = "SELECT request_id, sum(cost) FROM {} GROUP BY request_id HAVING sum(cost) > 0"
    reported, paid = (dict(books(gateway, by_call.format(table))) for table in ("calls", "attempts"))
    forgotten = paid.keys() - reported.keys()
    print(
        f"{len(forgotten)} paid calls without a row: refused while the database was busy, in a process that was killed"
    )
    assert len(forgotten) <= KILLS + len(POINTS)
    assert reported == {name: cost for name, cost in paid.items() if name not in forgotten}
