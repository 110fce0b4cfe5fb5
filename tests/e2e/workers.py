"""Batch workers as processes of their own, beside a gateway, and what they did."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from sqlalchemy import create_engine, text

from tests.e2e.servers import BIN, ROOT, Gateway


class Worker:
    """One ``flask worker``: the process and, in *full* mode, its work-horses."""

    def __init__(self, gateway: Gateway, number: int) -> None:
        self.output = gateway.folder / f"worker{number}.out"
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [str(BIN / "flask"), "--app", "wsgi", "worker"],
                cwd=ROOT, env=gateway.environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def horses(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with contextlib.suppress(OSError):
            return [int(pid) for pid in children.read_text().split()]
        return []

    def kill(self) -> None:
        """``kill -9`` of all of it: the work-horse too, which is in a group of its own."""
        for pid in (*self.horses(), self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def stand_still(self) -> None:
        """``SIGSTOP``; it does when this returns."""
        self.process.send_signal(signal.SIGSTOP)
        _, _, said = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")
        while said.split()[0] != "T":
            time.sleep(0.01)
            _, _, said = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the worker did not stop:\n{self.output.read_text()[-3000:]}") from None


@contextlib.contextmanager
def workers(gateway: Gateway, count: int) -> Iterator[list[Worker]]:
    found = [Worker(gateway, number) for number in range(count)]
    try:
        yield found
    finally:
        for one in found:
            if one.process.poll() is None:
                one.kill()


class Crew:
    """So many workers, as a supervisor keeps them: who dies is started again."""

    def __init__(self, gateway: Gateway, count: int) -> None:
        self._gateway, self._over, self._started = gateway, threading.Event(), count
        self.hands = [Worker(gateway, number) for number in range(count)]
        self._keeper = threading.Thread(target=self._keep)

    def __enter__(self) -> Self:
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._dismiss_keeper()
        for one in self.hands:
            if one.process.poll() is None:
                one.kill()

    def _keep(self) -> None:
        while not self._over.wait(0.05):
            for place, one in enumerate(self.hands):
                if one.process.poll() is not None:
                    self.hands[place] = Worker(self._gateway, self._started)
                    self._started += 1

    def _dismiss_keeper(self) -> None:
        self._over.set()
        self._keeper.join()

    def stop(self) -> list[int]:
        """SIGTERM to all, and what they end with."""
        self._dismiss_keeper()
        return [one.stop() for one in self.hands]


def submit(gateway: Gateway, token: str, prompts: list[str] | None = None, **more: Any) -> str:
    """``more``: other fields of the body, ``requests`` among them."""
    body = more if prompts is None else {"prompts": prompts, **more}
    status, body, _ = gateway.post("/v1/batch/generate", body, token)
    assert status == 202, body
    return str(body["job_id"])


def wait_for_end(gateway: Gateway, token: str, job_id: str, seconds: float) -> dict[str, Any]:
    """The job once it is over; a gateway that is just being restarted is asked again."""
    until, job = time.monotonic() + seconds, {}
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            status, job, _ = gateway.get(f"/v1/batch/{job_id}", token)
            if status == 200 and job["finished_at"]:
                return dict(job)
        time.sleep(0.2)
    raise AssertionError(f"the job did not end in {seconds} s: {job}")


def results(gateway: Gateway, token: str, job_id: str) -> list[dict[str, Any]]:
    """All of them, page by page."""
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        _, page, _ = gateway.get(f"/v1/batch/{job_id}/results?limit=200{after}", token)
        found += page["data"]
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"


def rows(gateway: Gateway, query: str) -> list[tuple[Any, ...]]:
    """Of the gateway's database, whichever it is."""
    address = gateway.environment.get("DATABASE_URL") or f"sqlite:///{gateway.folder / 'instance' / 'app.db'}"
    engine = create_engine(address)
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]
    finally:
        engine.dispose()
