"""A month of plausible traffic, drawn and written down as the ledger's rows would be: pure, and the same for a seed.

People and programs come from ``data/demo_month.yaml``; what a call costs comes from the price of its model, as a real
call's does. Rows name people and programs by their names until `services.demo_data` has made them and knows their ids.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from flaskllm.domain.pricing import Price, bound_of, breakdown_of, cost_of
from flaskllm.domain.usage import PARTS, Usage
from flaskllm.repositories.ledger import ID_SHIFT
from flaskllm.services.ledger import RELEASED, SETTLED, tags_text

Row = dict[str, Any]

HOUR_MS = 3_600_000
DAY, WORK_BEGINS, WORK = timedelta(days=1), timedelta(hours=8, minutes=20), timedelta(hours=9)
LEASE_MS = 120_000
WEEKEND = {"office": 0.05, "always": 0.55, "night": 1.0}
"""How much of a working day's calls a Saturday or Sunday has, by the program's hours."""
GROWTH = 0.7
"""How much more is asked at the end of the span than at its beginning."""
OFFICE = (
    0.01,
    0,
    0,
    0,
    0,
    0.02,
    0.1,
    0.5,
    1.4,
    2.2,
    2.5,
    2.2,
    1.3,
    1.7,
    2.3,
    2.2,
    1.8,
    1.0,
    0.4,
    0.2,
    0.15,
    0.1,
    0.05,
    0.02,
)
ALWAYS = (
    0.3,
    0.2,
    0.15,
    0.15,
    0.2,
    0.3,
    0.5,
    0.8,
    1.2,
    1.5,
    1.6,
    1.5,
    1.4,
    1.5,
    1.6,
    1.5,
    1.4,
    1.3,
    1.2,
    1.3,
    1.2,
    1.0,
    0.7,
    0.5,
)
NIGHT = (0.5, 2.5, 3, 2.5, 0.5, *[0.0] * 19)
HOURS: Mapping[str, Sequence[float]] = {"office": OFFICE, "always": ALWAYS, "night": NIGHT}
"""How much is asked in each hour of a day."""


@dataclass(frozen=True, slots=True)
class Target:
    """A model of the catalogue, and what it costs; ``name`` is ``provider/model``."""

    name: str
    provider: str
    endpoint: str
    backend_model: str
    type: str
    price: Price | None


@dataclass(frozen=True, slots=True)
class Span:
    """The time that is filled: so many ``days`` before ``until``, which knows the zone of working hours and budgets."""

    until: datetime
    days: int

    @property
    def since(self) -> datetime:
        return self.until - timedelta(days=self.days)

    def at(self, part: float) -> datetime:
        """The moment at this part of the span, from 0 to 1."""
        return self.since + part * timedelta(days=self.days)

    def at_work(self, part: float) -> datetime:
        """The same, moved into the working hours of its day; what comes later stays later."""
        at = self.at(part)
        midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
        return min(midnight + WORK_BEGINS + (at - midnight) / DAY * WORK, self.until)


@dataclass(frozen=True, slots=True)
class Planned:
    """One call: its row and those of its attempts."""

    program: str
    call: Row
    attempts: tuple[Row, ...]


class Traffic:
    """Draws calls. ``targets``: the models that there are, by ``provider/model``."""

    def __init__(self, facts: Mapping[str, Any], targets: Mapping[str, Target], span: Span, *, seed: int) -> None:
        self._facts, self._targets, self._span = facts, targets, span
        self._random = random.Random(seed)  # noqa: S311  (plausible, not secret)
        self._numbers = itertools.count()

    def calls(self, count: int) -> list[Planned]:
        """So many calls, in the order of their time."""
        programs = [one for one in self._facts["programs"] if self._models_of(one)]
        shares = [one["share"] for one in programs]
        drawn = self._random.choices(range(len(programs)), shares, k=count)
        planned = []
        for place, program in enumerate(programs):
            times = self._times(program, drawn.count(place))
            planned += [self._call(program, at) for at in times]
        return sorted(planned, key=lambda one: (one.call["started_at"], one.call["request_id"]))

    # -- when ---------------------------------------------------------------------------------------------------------

    def _times(self, program: Mapping[str, Any], count: int) -> list[int]:
        """Milliseconds since 1970, more of them in working hours, on working days, and towards the end."""
        if not count:
            return []
        slots = list(self._slots(program))
        weights = list(itertools.accumulate(weight for _, _, weight in slots))
        found = []
        for _ in range(count):
            begins, ends, _ = slots[bisect.bisect(weights, self._random.random() * weights[-1], hi=len(slots) - 1)]
            found.append(self._random.randrange(begins, ends))
        return found

    def _slots(self, program: Mapping[str, Any]) -> Iterator[tuple[int, int, float]]:
        """The hours of the span in which a program asks anything, and how much."""
        span, hours = self._span, HOURS[program["hours"]]
        first, last = _ms(begin_of(self._facts, span, program)), _ms(end_of(span, program))
        for begins in range(first, last, HOUR_MS):
            ends = min(begins + HOUR_MS, last)
            local = datetime.fromtimestamp(begins / 1000, span.until.tzinfo)
            day = WEEKEND[program["hours"]] if local.weekday() >= 5 else 1.0
            grown = 1 + GROWTH * (begins - _ms(span.since)) / (span.days * 24 * HOUR_MS)
            yield begins, ends, max(1e-6, hours[local.hour] * day * grown * (ends - begins) / HOUR_MS)

    @cached_property
    def _outage(self) -> tuple[int, int]:
        """When the provider of the outage failed: on a working day, some days ago."""
        facts = self._facts["outage"]
        day = self._span.until - timedelta(days=min(facts["days_ago"], self._span.days / 2))
        day -= timedelta(days=max(0, day.weekday() - 4))
        midnight = day.replace(hour=0, minute=0, second=0, microsecond=0)
        return tuple(_ms(midnight + timedelta(hours=hour)) for hour in facts["hours"])  # type: ignore[return-value]

    def _is_out(self, target: Target, at: int) -> bool:
        begins, ends = self._outage
        return target.provider == self._facts["outage"]["provider"] and begins <= at < ends

    # -- what ---------------------------------------------------------------------------------------------------------

    def _models_of(self, program: Mapping[str, Any]) -> dict[str, float]:
        return {name: weight for name, weight in program["models"].items() if name in self._targets}

    def _call(self, program: Mapping[str, Any], at: int) -> Planned:
        models = self._models_of(program)
        target = self._targets[self._random.choices(list(models), list(models.values()))[0]]
        call = _Call(self, program, target, at)
        if self._random.random() < program.get("hits", 0):
            call.answer_from_cache()
        elif self._is_out(target, at) and self._random.random() < self._facts["outage"]["failing"]:
            self._fall_back(call, target)
        else:
            self._usual(call, target)
        return call.planned()

    def _usual(self, call: _Call, target: Target) -> None:
        faults, drawn = self._facts["faults"], self._random.random()
        for name in ("failed", "elsewhere", "refused", "timed_out"):
            if drawn < faults[name]:
                break
            drawn -= faults[name]
        else:
            name = "hung_up" if call.streamed and drawn < faults["hung_up"] else ""
        if name == "elsewhere":
            self._fall_back(call, target)
        elif name:
            getattr(call, name)(target)
        else:
            call.answer(target)

    def _fall_back(self, call: _Call, target: Target) -> None:
        """A route has another model to ask; who named the model itself has the same one asked again."""
        instead = target if call.names_its_model else self._targets.get(self._facts["models"][target.name]["instead"])
        if instead is None or self._is_out(instead, call.began):
            call.failed(target)
        else:
            call.release(target)
            call.answer(instead)

    # -- drawn --------------------------------------------------------------------------------------------------------

    def row_id(self, at: int) -> int:
        """As `repositories.ledger.new_row_id` makes them, for another time; no two are alike."""
        return (at << ID_SHIFT) | (next(self._numbers) & 0x3FFFFF)

    def request_id(self) -> str:
        return str(UUID(int=self._random.getrandbits(128), version=4))

    def around(self, median: float, sigma: float) -> float:
        """Log-normal: most are near the median, and some far above it."""
        return median * math.exp(self._random.gauss(0, sigma))

    def there_by(self, at: int, names: Sequence[str]) -> list[str]:
        """Those of these people who have an account by then; whoever comes first of them, if nobody has."""
        people = {one["name"]: _ms(self._span.at_work(one["begins"])) for one in self._facts["people"]}
        return [name for name in names if people[name] < at] or [min(names, key=people.__getitem__)]

    def chance(self, share: float) -> bool:
        return self._random.random() < share

    def one_of(self, many: Sequence[Any]) -> Any:
        return self._random.choice(many)

    def speed(self, target: Target, at: int) -> tuple[float, float]:
        """Seconds to the first token, and tokens a second after it; slow while its provider is unwell."""
        facts, ill = self._facts["models"][target.name], 3 if self._is_out(target, at) else 1
        return self.around(facts["first_s"] * ill, 0.32), self.around(facts["per_s"] / ill, 0.18)


class _Call:
    """One call on its way: what happens to it is told in order, then it is `planned`."""

    def __init__(self, traffic: Traffic, program: Mapping[str, Any], target: Target, at: int) -> None:
        self._traffic, self._program, self._target = traffic, program, target
        self._attempts: list[Row] = []
        self._row: Row = {}
        self._first_token_ms: int | None = None
        self._owner = program.get("owner") or traffic.one_of(traffic.there_by(at, program["owners"]))
        self._asked = program.get("asked") or target.name.partition("/")[2]
        self._request_id = traffic.request_id()
        self.began = self._now = at
        self.names_its_model = "asked" not in program
        self.streamed = traffic.chance(program.get("streamed", 0))

    # -- what happens -------------------------------------------------------------------------------------------------

    def answer(self, target: Target) -> None:
        usage = self._usage(target)
        self._attempt(target, SETTLED, usage, self._seconds(target, usage))
        self._end(target, usage, status=200)

    def answer_from_cache(self) -> None:
        saved = cost_of(self._usage(self._target), self._target.price)
        self._now += round(self._traffic.around(6, 0.5))
        self._end(self._target, Usage(), status=200, saved=saved)

    def release(self, target: Target) -> None:
        """An attempt that fails before anything was generated."""
        self._attempt(target, RELEASED, Usage(), self._traffic.around(2.4, 0.7), error_code="provider_error")

    def failed(self, target: Target) -> None:
        self.release(target)
        self.release(target)
        self._end(target, Usage(), status=502, error_code="provider_error")

    def refused(self, target: Target) -> None:
        codes = ("context_length_exceeded", "content_filtered") if target.type == "chat" else ("invalid_request",)
        code = self._traffic.one_of(codes)
        self._attempt(target, RELEASED, Usage(), self._traffic.around(0.3, 0.4), error_code=code)
        self._end(target, Usage(), status=400, error_code=code)

    def timed_out(self, target: Target) -> None:
        """It may have been billed, so it is taken at what it could have come to."""
        usage = self._usage(target)
        usage = Usage(input=usage.prompt_tokens, output=self._program.get("most", 0), estimated=True)
        self._attempt(target, SETTLED, usage, 60.0, error_code="provider_timeout")
        self._end(target, usage, status=504, error_code="provider_timeout")

    def hung_up(self, target: Target) -> None:
        """Its caller leaves in the middle of a stream."""
        whole = self._usage(target)
        usage = Usage(input=whole.prompt_tokens, output=1 + whole.completion_tokens // 3, estimated=True)
        self._attempt(target, SETTLED, usage, self._seconds(target, usage), error_code="client_closed")
        self._end(target, usage, status=499, error_code="client_closed")

    def planned(self) -> Planned:
        return Planned(self._program["name"], self._row, tuple(self._attempts))

    # -- its parts ----------------------------------------------------------------------------------------------------

    def _usage(self, target: Target) -> Usage:
        program, traffic = self._program, self._traffic
        prompt = max(3, round(traffic.around(program["prompt"], 0.55)))
        if target.type == "embedding":
            return Usage(input=prompt)
        if target.type == "image":
            return Usage(input=prompt, image_output=program["picture"])
        cached = prompt * 4 // 5 // 128 * 128 if traffic.chance(program.get("prefix", 0)) and prompt >= 1024 else 0
        words = min(program["most"], max(2, round(traffic.around(program["answer"], 0.6))))
        thought = round(words * traffic.around(program["reasoning"], 0.3)) if "reasoning" in program else 0
        return Usage(input=prompt - cached, cache_read=cached, output=words, reasoning=thought)

    def _seconds(self, target: Target, usage: Usage) -> float:
        """Until the last token; of a stream the first one is noted."""
        first, rate = self._traffic.speed(target, self.began)
        first += usage.prompt_tokens / 90_000
        if self.streamed:
            self._first_token_ms = self._now - self.began + round(first * 1000)
        return first + usage.completion_tokens / rate

    def _attempt(
        self, target: Target, state: str, usage: Usage, seconds: float, *, error_code: str | None = None
    ) -> None:
        began, price = self._now, target.price
        self._now += max(1, round(seconds * 1000))
        most = bound_of(usage.prompt_tokens, self._program.get("most", 0), price)
        cost = 0 if state == RELEASED else cost_of(usage, price)
        self._attempts.append({
            "id": self._traffic.row_id(began),
            "request_id": self._request_id,
            "number": len(self._attempts) + 1,
            "state": state,
            **self._told_twice(),
            "backend_model": target.backend_model,
            "provider": target.provider,
            "endpoint": target.endpoint,
            "price_version": price.version if price else "",
            "reserved": max(most, cost or 0),
            "cost": cost,
            "priced": price is not None,
            "holds": "[]",
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "usage": json.dumps(breakdown_of(usage, price)),
            "estimated": usage.estimated,
            "error_code": error_code,
            "started_at": began,
            "settled_at": self._now,
            "lease_until": self._now + LEASE_MS,
        })  # fmt: skip

    def _end(
        self,
        target: Target,
        usage: Usage,
        *,
        status: int,
        error_code: str | None = None,
        saved: int | None = None,
    ) -> None:
        costs = [attempt["cost"] for attempt in self._attempts]
        self._row = {
            "id": self._traffic.row_id(self._now),
            "request_id": self._request_id,
            **self._told_twice(),
            **self._claims(),
            "backend_model": target.backend_model,
            "provider": target.provider,
            "started_at": self.began,
            "finished_at": self._now,
            "latency_ms": self._now - self.began,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cost": None if None in costs else sum(costs),
            "saved": saved,
            "status": status,
            "error_code": error_code,
            "attempts": len(self._attempts),
            "streamed": self.streamed,
            "estimated": usage.estimated,
            "first_token_ms": self._first_token_ms,
            "call_metadata": self._metadata(),
            **{name: getattr(usage, name) or None for name in PARTS},
        }

    def _told_twice(self) -> Row:
        """What stands in the row of a call and in those of its attempts."""
        program = self._program
        return {
            "user_id": self._owner,
            "token_id": program["name"] if "token" in program else None,
            "door": program["door"],
            "model": self._asked,
            "tags": tags_text(program.get("tags", ())),
        }

    def _claims(self) -> Row:
        claims = self._program.get("claims")
        if claims is None:
            return {"correlation_id": None, "claimed_user": None, "client_id": None}
        return {
            "correlation_id": self._traffic.request_id(),
            "claimed_user": self._traffic.one_of(claims["users"]),
            "client_id": claims["client"],
        }

    def _metadata(self) -> str | None:
        templates = self._program.get("templates")
        return json.dumps({"template": self._traffic.one_of(templates), "source": "other"}) if templates else None


def begin_of(facts: Mapping[str, Any], span: Span, program: Mapping[str, Any]) -> datetime:
    """When a program's token is made: after its owner's account, and before it asks anything."""
    owners = [program["owner"]] if "owner" in program else program["owners"]
    joined = min(one["begins"] for one in facts["people"] if one["name"] in owners)
    return span.at_work(max(joined + 0.001, program.get("begins", 0.0)))


def end_of(span: Span, program: Mapping[str, Any]) -> datetime:
    """When a program asks for the last time."""
    ends = span.at(program.get("ends", 1.0))
    return min(ends, span.at_work(program["revoked_at"])) if "revoked_at" in program else ends


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
