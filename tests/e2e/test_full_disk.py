"""A disk that is full while the gateway runs: writes are refused clearly, reads go on, nothing is half written, nobody
dies, and everything works again by itself. The disk is a small one of the test's own, in a namespace of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import provider_environment
from tests.e2e.outages import eventually
from tests.e2e.servers import BIN, ROOT, Gateway, environment_for, free_port, lacking
from tests.upstream import RemoteUpstream

pytestmark = pytest.mark.e2e
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello " * 500}]}
ROUNDS = int(os.environ.get("FULL_DISKS", "3"))
ACCOUNT = {"username": "bob", "email": "bob@example.com", "password": "Password123"}
SMALL_DISK = """
set -e
cp -a {instance} {instance}.before
mount -t tmpfs -o size=6m tmpfs {instance}
cp -a {instance}.before/. {instance}
exec {gunicorn} -c {configuration} wsgi:app
"""


def namespace() -> list[str]:
    """How a command gets mounts of its own."""
    if sys.platform == "linux" and shutil.which("unshare"):
        for command in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
            tried = [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
            if subprocess.run(tried, capture_output=True, check=False).returncode == 0:
                return command
    return lacking("no mount namespace can be made here (unshare --mount): a full disk is not tried")


@pytest.fixture
def gateway(remote_simulator: RemoteUpstream, upstream: RemoteUpstream, tmp_path: Path) -> Iterator[Gateway]:
    """Two processes, their database and their logs on a disk of six megabytes."""
    port, instance = free_port(), tmp_path / "instance"
    environment = provider_environment(remote_simulator, "openai")  # type: ignore[arg-type]
    environment |= {"WEB_CONCURRENCY": "2", "LOG_DIR": str(instance / "logs")}
    made = Gateway(port, environment_for(tmp_path, port, **environment), tmp_path)
    made.prepare()
    (tmp_path / "token").write_text(made.token())
    script = SMALL_DISK.format(
        instance=shlex.quote(str(instance)), gunicorn=BIN / "gunicorn", configuration=ROOT / "gunicorn.conf.py"
    )
    made.start([*namespace(), "sh", "-c", script])
    try:
        yield made
    finally:
        made.stop()


def disk(gateway: Gateway) -> Path:
    """The instance folder as the gateway sees it."""
    assert gateway.process is not None
    return Path(f"/proc/{gateway.process.pid}/root{gateway.folder / 'instance'}")


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    filler = os.open(folder / "filler", os.O_CREAT | os.O_WRONLY)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            fill(filler)
        yield
    finally:
        os.close(filler)
        (folder / "filler").unlink()


def fill(file: int) -> None:
    while True:
        os.write(file, b"x" * 4096)


def rows(gateway: Gateway, query: str) -> list[Any]:
    """Of a copy: SQLite follows links, and by its true name the file is another one outside of the namespace."""
    seen = gateway.folder / "seen"
    seen.mkdir(exist_ok=True)
    for name in ("app.db", "app.db-wal"):
        (seen / name).write_bytes((disk(gateway) / name).read_bytes())
    with contextlib.closing(sqlite3.connect(seen / "app.db")) as connection:
        return connection.execute(query).fetchall()


def refuses_writes(gateway: Gateway, token: str) -> bool:
    """What room the database had within its files may take a few rows yet; nothing else is answered, ever."""
    status, body, headers = gateway.post("/v1/chat/completions", ASK, token)
    assert status in (200, 503), body
    if status == 503:
        assert body["error"]["code"] == headers["x-flaskllm-error"] == "unavailable"
        assert int(headers["retry-after"]) >= 1
    return status == 503


def test_writes_are_refused_reads_go_on_and_all_is_well_when_there_is_room_again(
    gateway: Gateway, upstream: RemoteUpstream
) -> None:
    token, processes = (gateway.folder / "token").read_text(), gateway.children()
    registered: list[int] = []
    for _ in range(ROUNDS):
        eventually(lambda: not refuses_writes(gateway, token), 10)
        with full(disk(gateway)):
            eventually(lambda: refuses_writes(gateway, token), 20)
            for _ in range(4):  # both processes
                refuses_writes(gateway, token)
                registered.append(gateway.post("/api/auth/register", ACCOUNT)[0])
                for path in ("/v1/models", "/api/usage", "/llm/conversations", "/api/v1/templates", "/health/live"):
                    assert gateway.get(path, token)[0] == 200, path
    eventually(lambda: not refuses_writes(gateway, token), 10)
    assert gateway.children() == processes
    assert rows(gateway, "PRAGMA integrity_check") == [("ok",)]
    eventually(lambda: not rows(gateway, "SELECT 1 FROM attempts WHERE state = 'reserved'"), 30)
    assert rows(gateway, "SELECT count(*) FROM attempts WHERE state = 'settled'") == [(len(upstream.requests),)]
    assert rows(gateway, "SELECT count(*) FROM calls WHERE status = 200") == [(len(upstream.requests),)]
    assert set(registered) <= {201, 409, 503}
    assert rows(gateway, "SELECT count(*) FROM users WHERE username = 'bob'") == [(registered.count(201),)]
