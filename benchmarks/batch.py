"""A batch through two workers, with a provider that answers in 0.2 s: how long, at what cost in CPU, in what memory.

    python benchmarks/batch.py [--items 10000] [--concurrency 40] [--workers 2] [--mode sqlite|postgresql|full]


The least that it can take is ``items × 0.2 / concurrency`` seconds. Beside the time of the job stand its CPU time an
item, of the workers and of the web process, which other work on the machine changes least; the memory of the workers
as the job goes on; and how long the job's status, asked twice a second meanwhile, took to come.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.databases import database_of_its_own  # noqa: E402
from tests.e2e.servers import Gateway, free_port, gunicorn, redis_server, wait_for_port  # noqa: E402
from tests.e2e.workers import Worker, submit, wait_for_end, workers  # noqa: E402

MOCK = ROOT / "benchmarks" / "kit" / "mock_upstream.py"
ANSWERS_IN_S = 0.2
LOOKED_AT_EVERY_S = 0.5
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Figures:
    """Seconds of the submission, of the job and of each look at its status; CPU seconds of workers and web process;
    megabytes of each worker at each look, with how many items were done then."""

    items: int
    submit_s: float = 0.0
    job_s: float = 0.0
    looks_s: list[float] = field(default_factory=list)
    workers_cpu_s: float = 0.0
    web_cpu_s: float = 0.0
    memory: list[tuple[int, list[int]]] = field(default_factory=list)
    job: dict[str, Any] = field(default_factory=dict)

    def look_ms(self, share: float) -> int:
        """Of the looks, the duration that this share did not pass."""
        return round(1000 * sorted(self.looks_s)[min(len(self.looks_s) - 1, int(len(self.looks_s) * share))])

    def memory_after(self, share: float) -> list[int]:
        """Of each worker, at the first look when this share of the items was done."""
        return next((found for done, found in self.memory if done >= share * self.items), self.memory[-1][1])


@contextlib.contextmanager
def provider() -> Iterator[dict[str, str]]:
    """The kit's mock, answering in 0.2 s, and the settings that make it OpenAI."""
    port = free_port()
    process = subprocess.Popen([sys.executable, str(MOCK), "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        base = f"http://127.0.0.1:{port}/d{int(ANSWERS_IN_S * 1000)}/v1"
        yield {"OPENAI_API_KEY": "sk-of-a-benchmark-and-of-nobody", "OPENAI_BASE_URL": base}
    finally:
        process.kill()
        process.wait(5)


@contextlib.contextmanager
def gateway(folder: Path, mode: str) -> Iterator[Gateway]:
    """One web process, on SQLite, on PostgreSQL, or on PostgreSQL with Redis (``full``)."""
    with contextlib.ExitStack() as stack:
        environment = stack.enter_context(provider())
        if mode != "sqlite":
            address = database_of_its_own()
            if address is None:
                raise SystemExit("There is no PostgreSQL here.")
            environment["DATABASE_URL"] = address
        if mode == "full":
            environment["REDIS_URL"] = stack.enter_context(redis_server(folder))
        yield stack.enter_context(gunicorn(folder, WEB_CONCURRENCY="1", **environment))


def measure(gateway: Gateway, hands: list[Worker], token: str, items: int, concurrency: int) -> Figures:
    """One job from its submission to its end; the workers are warm."""
    warm = submit(gateway, token, ["a prompt"] * concurrency, max_concurrency=concurrency)
    wait_for_end(gateway, token, warm, 60)
    figures = Figures(items)
    before = cpu_s(_all_of(hands)), cpu_s(gateway.children())
    began = time.monotonic()
    job_id = submit(gateway, token, [f"prompt {n}" for n in range(items)], max_concurrency=concurrency)
    figures.submit_s = time.monotonic() - began
    while not figures.job.get("finished_at"):
        asked = time.monotonic()
        figures.job = gateway.get(f"/v1/batch/{job_id}", token)[1]
        figures.looks_s.append(time.monotonic() - asked)
        held = [sum(map(memory_mb, [one.process.pid, *one.horses()])) for one in hands]
        figures.memory.append((figures.job["progress"]["completed"], held))
        time.sleep(LOOKED_AT_EVERY_S)
    figures.job_s = (_moment(figures.job["finished_at"]) - _moment(figures.job["started_at"])).total_seconds()
    figures.workers_cpu_s = cpu_s(_all_of(hands)) - before[0]
    figures.web_cpu_s = cpu_s(gateway.children()) - before[1]
    return figures


def _all_of(hands: list[Worker]) -> list[int]:
    return [pid for one in hands for pid in (one.process.pid, *one.horses())]


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def cpu_s(pids: list[int]) -> float:
    """Seconds of these processes and of their children that have ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / TICKS


def memory_mb(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) // 1024
    return 0


def told(figures: Figures, concurrency: int) -> str:
    least = figures.items * ANSWERS_IN_S / concurrency
    per_item = 1000 / figures.items
    memory = ", ".join(map(str, (figures.memory_after(0.1), figures.memory_after(0.5), figures.memory[-1][1])))
    return "\n".join([
        f"items {figures.items}, {json.dumps(figures.job['progress'])}",
        f"submitted in {figures.submit_s:.2f} s",
        f"done in {figures.job_s:.1f} s, of which {least:.1f} s are the provider's",
        f"CPU an item: workers {figures.workers_cpu_s * per_item:.2f} ms, web {figures.web_cpu_s * per_item:.2f} ms",
        f"status: median {figures.look_ms(0.5)} ms, 95 % {figures.look_ms(0.95)} ms, longest {figures.look_ms(1)} ms",
        f"memory of each worker (MB) at 10 %, 50 %, the end: {memory}",
        f"load average {os.getloadavg()[0]:.1f}",
    ])  # fmt: skip


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="A batch through several workers.")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--mode", choices=["sqlite", "postgresql", "full"], default="sqlite")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, gateway(Path(name), chosen.mode) as running:
        token = running.token()
        with workers(running, chosen.workers) as hands:
            figures = measure(running, hands, token, chosen.items, chosen.concurrency)
    print(told(figures, chosen.concurrency))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
