"""A gateway on a small disk of the test's own, in a namespace of its own, which can be filled and emptied."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.servers import BIN, ROOT, Gateway, environment_for, free_port, lacking

ON_A_SMALL_DISK = """
set -e
cp -a {instance} {instance}.before
mount -t tmpfs -o size={megabytes}m tmpfs {instance}
cp -a {instance}.before/. {instance}
{workers}
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


@contextlib.contextmanager
def on_a_small_disk(folder: Path, megabytes: int, *, workers: int = 0, **environment: str) -> Iterator[Gateway]:
    """Its database and its logs are there; so are they for that many ``flask worker`` beside it.

    A token of its is in the file ``token``: no command of the outside sees the database.
    """
    port, instance = free_port(), folder / "instance"
    environment |= {"LOG_DIR": str(instance / "logs")}
    made = Gateway(port, environment_for(folder, port, **environment), folder)
    made.prepare()
    (folder / "token").write_text(made.token())
    script = ON_A_SMALL_DISK.format(
        instance=shlex.quote(str(instance)),
        megabytes=megabytes,
        workers="\n".join([f"{BIN / 'flask'} --app wsgi worker &"] * workers),
        gunicorn=BIN / "gunicorn",
        configuration=ROOT / "gunicorn.conf.py",
    )
    made.start([*namespace(), "sh", "-c", script])
    assert made.process is not None
    group = made.process.pid
    try:
        yield made
    finally:
        made.stop()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)  # the workers, which are nobody's children now


def disk(gateway: Gateway) -> Path:
    """The instance folder as the gateway sees it."""
    assert gateway.process is not None
    return Path(f"/proc/{gateway.process.pid}/root{gateway.folder / 'instance'}")


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """No byte more fits on the disk of this folder."""
    filler = os.open(folder / "filler", os.O_CREAT | os.O_WRONLY)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            _fill(filler)
        yield
    finally:
        os.close(filler)
        (folder / "filler").unlink()


def _fill(file: int) -> None:
    while True:
        os.write(file, b"x" * 4096)


def rows_on(gateway: Gateway, query: str) -> list[Any]:
    """Of a copy: SQLite follows links, and by its true name the file is another one outside of the namespace."""
    seen = gateway.folder / "seen"
    seen.mkdir(exist_ok=True)
    for name in ("app.db", "app.db-wal"):
        (seen / name).write_bytes((disk(gateway) / name).read_bytes())
    with contextlib.closing(sqlite3.connect(seen / "app.db")) as connection:
        return connection.execute(query).fetchall()
