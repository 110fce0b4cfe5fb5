"""What the simulator remembers: requests seen, what each call cost, how many connections are open."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from .core import Frame
from .faults import Behaviour, Call
from .transport import Delivery, Reply, Request

PAYING = ("chat", "embeddings", "images")
"""Routes that cost money: these have bill rows, and scripts without a route are for them."""
MARK = re.compile(rb"mark-[0-9a-z-]*[0-9a-z]")
"""A word of the prompt by which a test knows its call again; the last one counts, for a history holds older ones."""


@dataclass
class Seen:
    """One request as it arrived, and the status it was answered with (0 while none was sent)."""

    vendor: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    raw_headers: list[list[str]]
    body: Any
    key: str | None
    time: float
    model: str = ""
    route: str = ""
    status: int = 0
    error: str = ""
    """Why it was refused, in the vendor's words."""


@dataclass
class BillRow:
    """One call to a paying route, entered as its last byte leaves, or when it broke (after `wait_idle`, surely).

    The buckets are what the vendor charges; `reported` is the usage object it sent.
    """

    vendor: str
    model: str
    route: str
    key: str | None
    stream: bool
    status: int
    input: int = 0
    cached: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    generated: int = 0
    """Output tokens that left before the end, the break or the hang-up."""
    mark: str = ""
    began: float = 0.0
    reported: dict[str, Any] | None = None
    complete: bool = False
    peer_gone: bool = False
    time: float = field(default_factory=time.time)


@dataclass
class Script:
    """A behaviour and for whom it is meant; `left` None: until `reset`."""

    behaviour: Behaviour
    vendor: str | None = None
    model: str | None = None
    route: str | None = None
    key: str | None = None
    left: int | None = None

    def fits(self, call: Call) -> bool:
        route_fits = call.ask.route == self.route if self.route else call.ask.route in PAYING
        return (
            route_fits
            and self.vendor in (None, call.wire.vendor)
            and self.model in (None, call.ask.model)
            and self.key in (None, call.key)
            and self.left != 0
        )


class Ledger:
    """All counters behind one lock; `keep` bounds the remembered requests, never the bill."""

    def __init__(self, keep: int) -> None:
        self.changed = threading.Condition()
        self.seen: deque[Seen] = deque(maxlen=keep)
        self.bill: list[BillRow] = []
        self.scripts: list[Script] = []
        self.plans: dict[str, deque[Behaviour]] = {}
        self.requests: Counter[str] = Counter()
        self.counters = Counter({"open": 0, "peak_open": 0, "in_flight": 0, "peak_in_flight": 0, "connections": 0})
        self._number = 0

    def next_number(self) -> int:
        with self.changed:
            self._number += 1
            return self._number

    @contextmanager
    def counted(self, what: str) -> Iterator[None]:
        """`open` or `in_flight`, up and down again, with its peak."""
        with self.changed:
            self.counters[what] += 1
            self.counters[f"peak_{what}"] = max(self.counters[f"peak_{what}"], self.counters[what])
        try:
            yield
        finally:
            with self.changed:
                self.counters[what] -= 1
                self.changed.notify_all()

    def note(self, vendor: str, request: Request, key: str | None) -> Seen:
        seen = Seen(
            vendor,
            request.method,
            request.path,
            request.query,
            request.headers,
            [list(pair) for pair in request.raw_headers],
            request.json(),
            key,
            request.received,
        )
        with self.changed:
            self.seen.append(seen)
            self.requests[vendor] += 1
            self.changed.notify_all()
        return seen

    def add_script(self, script: Script) -> None:
        """Counted scripts go in order; a lasting one is used when no counted one fits, the latest first."""
        with self.changed:
            lasting = [index for index, one in enumerate(self.scripts) if one.left is None]
            self.scripts.insert(lasting[0] if lasting else len(self.scripts), script)

    def take_script(self, call: Call) -> Behaviour:
        with self.changed:
            if planned := self.plans.get(mark_of(call.request)):
                return planned.popleft()
            script = next((one for one in self.scripts if one.fits(call)), None)
            if script is None:
                return Behaviour()
            if script.left is not None:
                script.left -= 1
            return script.behaviour

    def charge(self, call: Call, reply: Reply, done: Delivery) -> None:
        """Enter what was delivered; an error, or an answer of which nothing left, costs nothing."""
        row = BillRow(
            call.wire.vendor,
            call.ask.model,
            call.ask.route,
            call.key,
            call.ask.stream,
            reply.status,
            complete=done.complete,
            peer_gone=done.peer_gone,
            mark=mark_of(call.request),
            began=call.request.received,
        )
        if reply.status == 200 and (done.frames or done.body_bytes):
            generated, reported = delivered_tokens(call, reply, done), reported_usage(reply, done)
            if generated or reported or not reply.failed:
                row.__dict__.update(asdict(call.answer.usage), generated=generated, reported=reported)
        with self.changed:
            self.bill.append(row)
            self.changed.notify_all()

    def stats(self) -> dict[str, Any]:
        with self.changed:
            return {**self.counters, "requests": dict(self.requests)}

    def wait_idle(self, timeout: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.counters["in_flight"] == 0, timeout)

    def reset(self) -> None:
        with self.changed:
            for book in (self.seen, self.bill, self.scripts, self.plans, self.requests):
                book.clear()
            self.counters.update(
                peak_open=self.counters["open"] - self.counters["peak_open"],
                peak_in_flight=self.counters["in_flight"] - self.counters["peak_in_flight"],
                connections=-self.counters["connections"],
            )


def mark_of(request: Request) -> str:
    found = MARK.findall(request.raw)
    return found[-1].decode() if found else ""


def delivered_tokens(call: Call, reply: Reply, done: Delivery) -> int:
    if reply.frames is None:
        return 0 if reply.failed else call.answer.usage.output
    return sum(frame.tokens for frame in reply.frames[: done.frames])


def reported_usage(reply: Reply, done: Delivery) -> dict[str, Any] | None:
    """The last usage object that really left, None when there was none."""
    if reply.frames is None:
        return _usage_in(_parsed(reply.body)) if done.complete else None
    found = [_usage_in(frame.data) for frame in reply.frames[: done.frames] if isinstance(frame, Frame)]
    return next((usage for usage in reversed(found) if usage is not None), None)


def _usage_in(data: Any) -> dict[str, Any] | None:
    if isinstance(data, list):
        return _usage_in(data[-1]) if data else None
    if not isinstance(data, dict):
        return None
    found = (
        data.get("usage") or data.get("usageMetadata") or (data.get("message") or {}).get("usage")
        if isinstance(data.get("message", {}), dict)
        else None
    )
    return found if isinstance(found, dict) else None


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
