"""kill -9 of everything that works on batches, under load, at random moments and at each labelled point.

In *sql* mode (SQLite, ``flask worker``) web workers, gunicorn whole and batch workers are killed; in *full* mode
(PostgreSQL, Redis) RQ's workers, their work-horses, both at once, and Redis, which comes back with its data or without.
Afterwards the rows are compared with what was sent and with the simulator's own bill.

``KILLS=200`` is the long form, ``KILLS_SEED`` another one, ``BATCH_LEASE=15`` the lease as shipped. With
that, on 2 cores with six times as much else to do, 200 kills and 2 x 19 points: 306 jobs with 4,962 items, 4,736 calls
upstream, none lost, none doubled, the bill met to the unit, and no item waited longer than 36.6 s for its next try
(60.3 s with a lease of 25 s: an item may lose two workers in a row, the second before it asked).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from flaskllm.services import crash
from tests.conftest import provider_environment
from tests.databases import MISSING, database_of_its_own
from tests.e2e.bill import Entry, Reckoning, overlay
from tests.e2e.outages import OwnRedis, eventually
from tests.e2e.servers import Gateway, gunicorn, lacking
from tests.e2e.workers import Crew, results, rows
from tests.upstream import RemoteUpstream, faults

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.alone]
KILLS = int(os.environ.get("KILLS", "20"))
"""In both modes together."""
SEED = int(os.environ.get("KILLS_SEED", "5"))
LEASE_S = os.environ.get("BATCH_LEASE", "2")
TIMES = {
    "BATCH_LEASE": LEASE_S, "BATCH_ITEM_TIMEOUT": "8", "REQUEST_TIMEOUT": "6", "LEASE_GRACE": "1",
    "GRACEFUL_TIMEOUT": "8",
}  # fmt: skip
SENDERS, CREW, WEB = 2, 2, 2
AGAIN_S = 60
"""What a dead process held is asked again by then, and all is over by then once the killing ends."""
POINTS = tuple(point for point in (*crash.POINTS, *crash.OF_BATCHES) if point != crash.AFTER_FIRST_BYTE)
"""All but the one of streams, which batches do not ask for."""
ON_SQLITE = (
    crash.BEFORE_COMMIT, crash.AFTER_CLAIM, crash.AFTER_SETTLE, crash.AFTER_STORE, crash.AFTER_REAP, crash.BEFORE_RING,
    crash.AFTER_CANCEL, crash.AFTER_REOPEN,
)  # fmt: skip
"""In the short form *full* mode reaches all of them, and *sql* mode these, for there each death costs a start."""
MODEL = "bill-openai"
MARK = re.compile(r"mark-[0-9a-z-]*[0-9a-z]")


@dataclass
class House:
    """Everything that may be killed."""

    gateway: Gateway
    crew: Crew
    redis: OwnRedis | None
    token: str

    def kill(self, kind: str, dice: random.Random) -> None:
        KINDS[kind](self, dice)

    def kill_web(self, dice: random.Random) -> None:
        if found := self.gateway.children():
            _kill(dice.choice(found))

    def kill_gunicorn(self, _dice: random.Random) -> None:
        process = self.gateway.process
        assert process is not None
        _kill(process.pid, *self.gateway.children())
        process.wait(10)
        self.gateway.start(list(process.args))  # type: ignore[arg-type]

    def kill_worker(self, dice: random.Random) -> None:
        _kill(dice.choice(self.crew.hands).process.pid)

    def kill_horse(self, dice: random.Random) -> None:
        if horses := [pid for one in self.crew.hands for pid in one.horses()]:
            _kill(dice.choice(horses))

    def kill_a_holder(self) -> None:
        """Of items that are in hand; its name stands with them."""
        if owners := rows(self.gateway, "SELECT owner FROM batch_items WHERE state = 'claimed' LIMIT 1"):
            _kill(int(owners[0][0].split(":")[1]))

    def kill_both(self, dice: random.Random) -> None:
        one = dice.choice(self.crew.hands)
        _kill(*one.horses(), one.process.pid)

    def kill_redis(self, dice: random.Random, *, empty: bool = False) -> None:
        assert self.redis is not None
        self.redis.kill()
        if empty:
            shutil.rmtree(self.gateway.folder / "redis" / "appendonlydir", ignore_errors=True)
        time.sleep(dice.uniform(0, 1))
        self.redis.start("--appendonly", "yes")

    def empty_redis(self, dice: random.Random) -> None:
        self.kill_redis(dice, empty=True)


KINDS: dict[str, Callable[[House, random.Random], None]] = {
    "web": House.kill_web,
    "gunicorn": House.kill_gunicorn,
    "worker": House.kill_worker,
    "horse": House.kill_horse,
    "both": House.kill_both,
    "redis": House.kill_redis,
    "redis, empty": House.empty_redis,
}
OF_MODE = {
    "sql": ("worker", "web", "worker", "web", "worker", "gunicorn"),
    "full": ("horse", "worker", "web", "both", "redis", "redis, empty", "gunicorn", "horse"),
}


def points_of(mode: str) -> tuple[str, ...]:
    return ON_SQLITE if mode == "sql" and KILLS <= 20 else POINTS


def _kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(params=["sql", "full"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def house(mode: str, remote_simulator: RemoteUpstream, tmp_path: Path) -> Iterator[House]:
    for folder in ("crash", "redis"):
        (tmp_path / folder).mkdir()
    (tmp_path / "models.yaml").write_text(overlay())
    environment = {
        **provider_environment(remote_simulator),  # type: ignore[arg-type]
        **TIMES,
        "LLM_GATEWAY_CONFIG_PATH": str(tmp_path / "models.yaml"),
        "CRASH_POINTS": str(tmp_path / "crash"),
        "BREAKER_FAILURES": "0",
        "WEB_CONCURRENCY": str(WEB),
        "DATABASE_URL": f"sqlite:///{tmp_path / 'kills.db'}",
    }
    redis = None
    if mode == "full":
        environment["DATABASE_URL"] = database_of_its_own() or lacking(MISSING)
        redis = OwnRedis(tmp_path / "redis")
        redis.client().config_set("appendonly", "yes")
        environment["REDIS_URL"] = redis.url
    try:
        with gunicorn(tmp_path, **environment) as gateway, Crew(gateway, CREW) as crew:
            yield House(gateway, crew, redis, gateway.token("--budget", "100000"))
    finally:
        if redis is not None:
            redis.kill()


# -- load ------------------------------------------------------------------------------------------------------------


@dataclass
class Sent:
    """One submission: its name, how many items it has, and the job that it was answered with, if it was."""

    name: str
    size: int
    key: str | None
    job_id: str | None = None

    def body(self) -> dict[str, Any]:
        prompts = [f"number {n} mark-{self.name}-{n}" for n in range(self.size)]
        return {"model": MODEL, "prompts": prompts, "max_concurrency": 8, "metadata": {"sent": self.name}}

    def send(self, gateway: Gateway, token: str) -> bool:
        """Whether it was accepted."""
        headers = {} if self.key is None else {"Idempotency-Key": self.key}
        status, body, _ = _ask(gateway, "POST", "/v1/batch/generate", self.body(), token, **headers)
        if status == 202:
            self.job_id = body["job_id"]
        else:
            assert status in (0, 409, 503), (status, body)
        return status == 202


def _ask(
    gateway: Gateway, method: str, path: str, body: Any, token: str, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """The answer; status 0 where there was none."""
    try:
        return gateway.call(method, path, body, token, **headers)
    except (OSError, http.client.HTTPException, json.JSONDecodeError):
        return 0, None, {}


@dataclass
class Load:
    """Callers that send batches of all sizes, with a key or without, cancel some, and chat."""

    house: House
    sent: list[Sent] = field(default_factory=list)
    chats: Counter[int] = field(default_factory=Counter)
    faults: list[BaseException] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        over = threading.Event()
        jobs = [(self._send, number) for number in range(SENDERS)] + [(self._chat, SENDERS)]
        threads = [threading.Thread(target=self._guarded, args=(work, number, over)) for work, number in jobs]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert not self.faults, self.faults

    def _guarded(self, work: Callable[[int, threading.Event], None], number: int, over: threading.Event) -> None:
        try:
            work(number, over)
        except BaseException as error:  # noqa: BLE001  (told by `running`, in the test's own thread)
            self.faults.append(error)

    def _send(self, number: int, over: threading.Event) -> None:
        dice, count = random.Random(f"{SEED} {number}"), 0
        while not over.is_set():
            one = self.new(f"{number}-{count}", dice.choice((1, 3, 8, 20, 40)), keyed=dice.random() < 0.5)
            if one.send(self.house.gateway, self.house.token) and dice.random() < 0.1:
                _ask(self.house.gateway, "POST", f"/v1/batch/{one.job_id}/cancel", None, self.house.token)
            count += 1
            over.wait(dice.uniform(0.3, 1.5))

    def new(self, name: str, size: int, *, keyed: bool) -> Sent:
        self.sent.append(Sent(name, size, f"key-{name}" if keyed else None))
        return self.sent[-1]

    def _chat(self, number: int, over: threading.Event) -> None:
        while not over.is_set():
            mark = f"mark-{number}-{self.chats.total()}"
            body = {"model": MODEL, "messages": [{"role": "user", "content": f"hello {mark}"}]}
            headers = {"X-Request-Id": mark}
            status, *_ = _ask(
                self.house.gateway, "POST", "/v1/chat/completions", body, self.house.token, **headers
            )  # fmt: skip
            self.chats[status] += 1
            over.wait(0.2)


# -- deaths ----------------------------------------------------------------------------------------------------------


class Killer:
    """Deals out deaths, at random moments and at points, and sees that each point was reached."""

    def __init__(self, house: House, load: Load, upstream: RemoteUpstream) -> None:
        self._house, self._load, self._upstream = house, load, upstream
        self._folder = house.gateway.folder / "crash"
        self.dead: Counter[str] = Counter()
        self.reached: list[str] = []

    def kill(self, mode: str, count: int) -> None:
        """So many at random, each kind in turn, mixed with each point but `AFTER_REOPEN`, which comes at the end."""
        dice, kinds = random.Random(SEED), OF_MODE[mode]
        points = [point for point in points_of(mode) if point != crash.AFTER_REOPEN]
        deck = [("", kinds[number % len(kinds)]) for number in range(count)] + [(point, "") for point in points]
        dice.shuffle(deck)
        for point, kind in deck:
            if point:
                self.reach(point)
            else:
                time.sleep(dice.uniform(0.1, 1.2))
                self._house.kill(kind, dice)
                self.dead[kind] += 1

    def reach(self, point: str) -> None:
        """Somebody dies there, within a minute."""
        sign = self._folder / point
        sign.touch()
        until = time.monotonic() + AGAIN_S
        while sign.exists():
            assert time.monotonic() < until, f"nobody came to {point}"
            self._lead_to(point)
            with contextlib.suppress(AssertionError):
                eventually(lambda: not sign.exists(), 3)
        self.reached.append(point)

    def _lead_to(self, point: str) -> None:
        """What the usual load does not come to."""
        house = self._house
        if point in (crash.BEFORE_STORE, crash.AFTER_STORE):
            self._upstream.script(faults.status(400), vendor="openai", times=1)
        elif point in (crash.BEFORE_GIVE_BACK, crash.AFTER_GIVE_BACK):
            self._upstream.script(faults.status(429, retry_after=4), vendor="openai", times=1)
        elif point in (crash.AFTER_CANCEL, crash.AFTER_CLOSE):
            one = self._load.new(f"cancelled-{len(self._load.sent)}", 60, keyed=False)
            if one.send(house.gateway, house.token):
                _ask(house.gateway, "POST", f"/v1/batch/{one.job_id}/cancel", None, house.token)
        elif point == crash.AFTER_REAP:
            house.kill_a_holder()


# -- the test --------------------------------------------------------------------------------------------------------


def test_nothing_is_lost_or_doubled_whoever_dies(mode: str, house: House, upstream: RemoteUpstream) -> None:
    upstream.script(faults.delay(0.15), vendor="openai")
    load = Load(house)
    killer = Killer(house, load, upstream)
    began = time.monotonic()
    with load.running():
        killer.kill(mode, KILLS // 2)
    killed = time.monotonic() - began
    send_again(house, load)
    rest = wait_until_over(house)
    late = longest_wait(house)
    upstream.unscript()
    retry_what_failed(house, killer)
    wait_until_over(house)
    check_submissions(house, load)
    check_items(house)
    check_books(house, upstream)
    jobs, items = rows(house.gateway, "SELECT count(*), sum(total) FROM batch_jobs WHERE status <> 'incoming'")[0]
    print(f"{mode}: {dict(killer.dead)} and {len(killer.reached)} points in {killed:.0f} s; {jobs} jobs, {items} items")
    print(f"over {rest:.1f} s after the last kill, the longest wait of an item {late:.1f} s; chats {dict(load.chats)}")
    assert late < AGAIN_S
    assert sorted(killer.reached) == sorted(points_of(mode))
    assert list((house.gateway.folder / "crash").iterdir()) == []
    assert house.crew.stop() == [0] * CREW


def send_again(house: House, load: Load) -> None:
    """Who had a key and no answer asks again, a minute later: of the first try something has come, or nothing."""
    _write(house.gateway, "UPDATE answers SET lease_ends = '2000-01-01 00:00:00' WHERE status IS NULL")
    for one in load.sent:
        if one.key is not None:
            seen = one.job_id
            assert one.send(house.gateway, house.token), one
            assert seen in (None, one.job_id), "the same key is the same job"


def wait_until_over(house: House) -> float:
    """Until every job has ended and no attempt is open; gives how long that took, in seconds."""
    open_ones = (
        "SELECT id FROM batch_jobs WHERE finished_at IS NULL AND status <> 'incoming'",
        "SELECT request_id FROM attempts WHERE state = 'reserved'",
    )

    def is_over() -> bool:
        house.gateway.get("/health/live")
        return not any(rows(house.gateway, query) for query in open_ones)

    try:
        return eventually(is_over, AGAIN_S)
    except AssertionError:
        raise AssertionError([rows(house.gateway, query)[:10] for query in open_ones]) from None


def longest_wait(house: House) -> float:
    """Of an item whose process died in a call: how long, in seconds, until it was asked again."""
    query = "SELECT request_id, state, started_at FROM attempts WHERE door = 'batch' ORDER BY request_id, started_at"
    found = rows(house.gateway, query)
    waits = [
        later[2] - earlier[2]
        for earlier, later in pairwise(found)
        if earlier[0] == later[0] and earlier[1] == "interrupted"
    ]
    assert waits, "nobody died in a call"
    return max(waits) / 1000


def retry_what_failed(house: House, killer: Killer) -> None:
    """What providers refused, and what stood by at three deaths, is asked again: the first retry dies too."""
    failed = [job_id for (job_id,) in rows(house.gateway, "SELECT id FROM batch_jobs WHERE failed > 0")]
    codes = rows(
        house.gateway, "SELECT error_code, count(*) FROM batch_items WHERE state = 'failed' GROUP BY error_code"
    )
    print(f"failed: {dict(codes)}")
    (house.gateway.folder / "crash" / crash.AFTER_REOPEN).touch()
    for job_id in failed:
        status, body, _ = _ask(house.gateway, "POST", f"/v1/batch/{job_id}/retry", None, house.token)
        assert status in (0, 200, 202), body
        house.gateway.wait_until_alive()
    killer.reached.append(crash.AFTER_REOPEN)


def check_submissions(house: House, load: Load) -> None:
    """What was answered is there; of what was not, all is, or nothing; of one key, one job."""
    found = {job_id: (json.loads(metadata)["sent"], status, total) for job_id, metadata, status, total in rows(
        house.gateway, "SELECT id, metadata, status, total FROM batch_jobs"
    )}  # fmt: skip
    seen = Counter(name for name, status, _ in found.values() if status != "incoming")
    sizes = {one.name: one.size for one in load.sent}
    for job_id, (name, status, total) in found.items():
        is_there = status != "incoming"
        assert _ask(house.gateway, "GET", f"/v1/batch/{job_id}", None, house.token)[0] == (200 if is_there else 404)
        assert not is_there or total == sizes[name]
    for one in load.sent:
        assert one.job_id is None or one.job_id in found, one
        assert seen[one.name] <= 1, one
        assert seen[one.name] == 1 or (one.job_id is None and one.key is None), one
    unanswered = [one for one in load.sent if one.job_id is None]
    print(f"{len(load.sent)} sent, {len(unanswered)} of them never answered")


def check_items(house: House) -> None:
    """One result each, by what is read over HTTP too; and the counters of the jobs are the sums of their items."""
    gateway = house.gateway
    assert rows(gateway, "SELECT 1 FROM batch_items, batch_jobs WHERE job_id = id AND status <> 'incoming' "
                "AND (state IN ('open', 'claimed') OR owner IS NOT NULL)") == []  # fmt: skip
    sums = ", ".join(f"sum(CASE WHEN state = '{state}' THEN 1 ELSE 0 END)" for state in ENDS)
    counted = f"count(*), {sums}, sum(prompt_tokens), sum(completion_tokens), sum(coalesce(cost, 0))"
    found_of = rows(gateway, f"SELECT job_id, {counted} FROM batch_items GROUP BY job_id")
    of_items = {row[0]: tuple(map(int, row[1:])) for row in found_of}
    names = "id, total, completed, failed, cancelled, prompt_tokens, completion_tokens, cost, status"
    for row in rows(gateway, f"SELECT {names} FROM batch_jobs WHERE status <> 'incoming'"):
        assert of_items[row[0]] == row[1:8], row
        assert row[3] == 0, f"failed after the retry: {row}"
        assert row[8] == ("cancelled" if row[4] else "completed"), row
        found = results(gateway, house.token, row[0])
        assert [one["index"] for one in found] == list(range(row[1]))
        assert all(one["status"] in ENDS for one in found)
    twice = "SELECT request_id FROM calls WHERE status = 200 GROUP BY request_id HAVING count(*) > 1"
    assert rows(gateway, twice) == [], "a result was settled twice"


ENDS = ("completed", "failed", "cancelled")


def check_books(house: House, upstream: RemoteUpstream) -> None:
    """Each call upstream has its row, at the bill's price or marked as interrupted; nothing stays reserved."""
    assert upstream.wait_idle(10)
    query = "SELECT job_id, idx, question FROM batch_items"
    marks = {f"{job_id}-{idx}": MARK.findall(question)[-1] for job_id, idx, question in rows(house.gateway, query)}
    columns = "request_id, provider, state, cost, estimated, completion_tokens, error_code"
    entries = [
        Entry(marks.get(row[0], row[0]), *row[1:])
        for row in rows(house.gateway, f"SELECT {columns} FROM attempts ORDER BY id")
    ]
    reckoning = Reckoning({})
    reckoning.compare(upstream.bill, entries)
    print(dict(reckoning.counts), f"difference {reckoning.difference}")
    assert not reckoning.faults, "\n".join(reckoning.faults[:20])
    assert reckoning.difference == 0
    assert reckoning.counts["reported, equal"] > 50
    ((cost,),) = rows(house.gateway, "SELECT sum(cost) FROM attempts")
    assert set(rows(house.gateway, "SELECT spent, reserved FROM budgets")) == {(int(cost), 0)}


def _write(gateway: Gateway, statement: str) -> None:
    engine = create_engine(gateway.environment["DATABASE_URL"])
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def test_every_label_is_in_a_list_that_is_reached() -> None:
    labels = {value for name, value in vars(crash).items() if name.isupper() and isinstance(value, str)}
    assert labels == {*crash.POINTS, *crash.OF_BATCHES, *crash.OF_CALLBACKS}
