"""Is there room: requests and tokens a minute, exact over all processes.

One window a limit, beginning with its first hit, counted where every process sees it: in SQL through the ledger's
grouped commits, or in Redis where there is one. With Redis away it is counted in SQL until it is back
(``docs/promises.md``), never not at all.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from flaskllm.domain.answer import RateStatus
from flaskllm.domain.call import CallContext
from flaskllm.domain.principal import Principal, RateLimits
from flaskllm.errors import ModelFull, RateLimited, Unavailable
from flaskllm.repositories.ledger import Count, GiveBack

log = logging.getLogger(__name__)

MINUTE = 60
MOST_CORRECTED = 10**12
"""Tokens of one call, of which a limit takes note: an absurd usage must not overflow the window's count."""
Rates = tuple[tuple[str, RateStatus], ...]


class Window(NamedTuple):
    """A counter as it stands: its value, seconds until its window ends, that window's id, whether the last one fit."""

    value: int
    left_s: float
    id: str
    fits: bool = True


class Counters(Protocol):
    """Where windows are counted."""

    def add(self, name: str, amount: int, window_s: int, *, most: int | None = None) -> Window:
        """Add to a window that begins with its first hit; with ``most`` only what fits, else nothing."""

    def give_back(self, name: str, amount: int, window_id: str) -> Window | None:
        """Take off again what was added to that very window; None where it is over."""


class SqlCounters:
    """Counters as rows, written together with the ledger's."""

    def __init__(self, run: Callable[[Any], Any]) -> None:
        self._run = run

    def add(self, name: str, amount: int, window_s: int, *, most: int | None = None) -> Window:
        value, ends_at, fits = self._run(Count(name[:200], amount, window_s * 1000, most))
        return Window(value, _seconds_to(ends_at), f"{IN_SQL}{ends_at}", fits)

    def give_back(self, name: str, amount: int, window_id: str) -> Window | None:
        ends_at = int(window_id.removeprefix(IN_SQL))
        value = self._run(GiveBack(name[:200], amount, ends_at))
        return None if value is None else Window(value, _seconds_to(ends_at), window_id)


IN_SQL = "sql:"
"""How the id of a window begins that is counted there."""


def _seconds_to(ends_at: int) -> float:
    return max(0.0, ends_at / 1000 - time.time())


class RedisCounters:
    """Counters in Redis; where it is away, ``fallback`` counts, and one call after ``rest_s`` asks Redis again."""

    ADD = """
    local value = tonumber(redis.call('HGET', KEYS[1], 'value') or '0')
    local fits = ARGV[3] == '' or value + tonumber(ARGV[1]) <= tonumber(ARGV[3])
    if not fits and value == 0 then return {0, ARGV[2], '', 0} end
    if fits then value = redis.call('HINCRBY', KEYS[1], 'value', ARGV[1]) end
    local left = redis.call('PTTL', KEYS[1])
    if left < 0 then
        redis.call('PEXPIRE', KEYS[1], ARGV[2])
        redis.call('HSET', KEYS[1], 'id', ARGV[4])
        left = ARGV[2]
    end
    return {value, left, redis.call('HGET', KEYS[1], 'id'), fits and 1 or 0}
    """
    GIVE_BACK = """
    if redis.call('HGET', KEYS[1], 'id') ~= ARGV[2] then return {} end
    local value = redis.call('HINCRBY', KEYS[1], 'value', -tonumber(ARGV[1]))
    if value < 0 then redis.call('HSET', KEYS[1], 'value', 0); value = 0 end
    return {value, redis.call('PTTL', KEYS[1])}
    """

    def __init__(self, redis: Any, fallback: Counters, *, rest_s: float = 1.0) -> None:
        self._add = redis.register_script(self.ADD)
        self._give_back = redis.register_script(self.GIVE_BACK)
        self._fallback = fallback
        self._rest_s = rest_s
        self._rests_until = 0.0

    def add(self, name: str, amount: int, window_s: int, *, most: int | None = None) -> Window:
        values = [amount, window_s * 1000, "" if most is None else most, secrets.token_hex(8)]
        found = self._ask(self._add, name, values)
        if found is None:
            return self._fallback.add(name, amount, window_s, most=most)
        value, left, window_id, fits = found
        return Window(int(value), int(left) / 1000, str(window_id), bool(int(fits)))

    def give_back(self, name: str, amount: int, window_id: str) -> Window | None:
        if window_id.startswith(IN_SQL):
            return self._fallback.give_back(name, amount, window_id)
        found = self._ask(self._give_back, name, [amount, window_id])
        return Window(int(found[0]), int(found[1]) / 1000, window_id) if found else None

    def _ask(self, script: Any, name: str, values: list[Any]) -> Any:
        """The script's answer; None while Redis rests, or where it does not answer and rests from now on."""
        if not self._may_ask():
            return None
        try:
            found = script(keys=[f"flaskllm:window:{name}"], args=values)
        except Exception as error:  # noqa: BLE001  (redis-py's tree and the socket's own)
            self._rests_until = time.monotonic() + self._rest_s
            log.warning("Redis is away, limits are counted in SQL: %s", type(error).__name__)
            return None
        self._rests_until = 0.0
        return found

    def _may_ask(self) -> bool:
        """While Redis rests, whoever finds its rest over begins the next one, so that nobody else pays for it too."""
        if self._rests_until and time.monotonic() < self._rests_until:
            return False
        if self._rests_until:
            self._rests_until = time.monotonic() + self._rest_s
        return True


@dataclass(frozen=True, slots=True)
class Taken:
    """What one limit counted for a call before it went out: ``amount`` of requests or tokens, as ``what`` says."""

    what: str
    name: str
    limit: int
    amount: int
    window_id: str


@dataclass(frozen=True, slots=True)
class Admission:
    """A call that was let in: how its caller's limits stand, and what they counted for it, tokens by estimate."""

    rates: Rates = ()
    taken: tuple[Taken, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit a minute of ``what`` (requests, tokens), counted under ``name``."""

    what: str
    name: str
    limit: int


class Limits:
    """``per_minute``: requests for a token, or a user with a JWT, that has no limit of its own; None: no limit."""

    def __init__(self, counters: Counters, *, per_minute: int | None) -> None:
        self._counters = counters
        self._per_minute = per_minute

    def admit(self, call: CallContext, *, tokens: int = 0, requests: int = 1) -> Admission:
        """Count this call, its prompt with ``tokens`` until `correct`. Raises `RateLimited` with ``retry_after``."""
        return self._take(list(self._rules(call.principal)), requests=requests, tokens=tokens)

    def admit_request(self, principal: Principal, *, requests: int = 1) -> Rates:
        """Count a request that asks no model, by the same limits. Raises `RateLimited`."""
        rules = [rule for rule in self._rules(principal) if rule.what == "requests"]
        return self._take(rules, requests=requests, tokens=0).rates

    def admit_model(self, name: str, limits: RateLimits | None, *, tokens: int) -> Admission:
        """Count a call against the limits of the model of that name, which hold for everybody. Raises `ModelFull`."""
        if limits is None:
            return Admission()
        try:
            return self._take(list(_rules_of(f"model:{name}", limits)), requests=1, tokens=tokens)
        except RateLimited as error:
            raise ModelFull(f"The model {name}: {error.message}", retry_after=error.retry_after) from None

    def _rules(self, principal: Principal) -> Iterator[Rule]:
        """The caller's own limits, and those of all that its user's tokens and sessions do together."""
        of_user, subject = principal.of_user, principal.subject
        requests = principal.requests_per_minute
        if requests is None and (principal.token_id or of_user is None or of_user.requests_per_minute is None):
            requests = self._per_minute
        own = RateLimits(requests, principal.tokens_per_minute)
        yield from _rules_of(subject, own)
        if of_user is not None:
            yield from _rules_of(f"all:{principal.user_id}", of_user)

    def _take(self, rules: Sequence[Rule], *, requests: int, tokens: int) -> Admission:
        """Count by every rule, or by none: what one of them refuses is given back to those before it.

        Of several limits of one kind the tightest is told.
        """
        amounts = {"requests": requests, "tokens": tokens}
        stand: list[tuple[str, RateStatus]] = []
        taken: list[Taken] = []
        for rule in sorted(rules, key=lambda one: one.what):
            window = self._counters.add(rule.name, amounts[rule.what], MINUTE, most=self._most(rule, rules))
            stand.append((rule.what, _status(rule.limit, window)))
            if not window.fits or window.value > rule.limit:
                self._give_back(taken)
                raise _refusal(rule.limit, rule.what, window, _tightest(stand))
            taken.append(Taken(rule.what, rule.name, rule.limit, amounts[rule.what], window.id))
        return Admission(_tightest(stand), tuple(taken))

    def take_back(self, admission: Admission) -> Admission:
        """The call did not go out, refused by what looks after these limits: none of them has counted it.

        Gives how they stand now. Never fails the call, which has its own error.
        """
        try:
            return Admission(_tightest(self._give_back(admission.taken)) or admission.rates)
        except Unavailable:
            log.warning("what limits counted for a refused call was not given back: the database is away")
            return Admission(admission.rates)

    def _give_back(self, taken: Iterable[Taken]) -> list[tuple[str, RateStatus]]:
        """How those limits stand whose window is not over."""
        windows = [(one, self._counters.give_back(one.name, one.amount, one.window_id)) for one in taken]
        return [(one.what, _status(one.limit, window)) for one, window in windows if window is not None]

    @staticmethod
    def _most(rule: Rule, rules: Sequence[Rule]) -> int | None:
        """A lone limit of requests is counted in one statement, refused ones too: they lock nobody else out."""
        return None if rule.what == "requests" and len(rules) == 1 else rule.limit

    def correct(self, admission: Admission, *, tokens: int) -> Admission:
        """After the call: ``tokens`` is what it really took. Gives how its caller's limits stand now.

        What it took beyond the estimate counts in the window of its end, what it left is given back to the window
        that it was counted in: a window that is over has nothing to give. Never fails the call.
        """
        of_tokens = [one for one in admission.taken if one.what == "tokens"]
        if not of_tokens:
            return admission
        others = [one for one in admission.rates if one[0] != "tokens"]
        stand: list[tuple[str, RateStatus]] = []
        try:
            for taken in of_tokens:
                window = self._settle(taken, min(tokens, MOST_CORRECTED) - taken.amount)
                stand.append(("tokens", _status(taken.limit, window)))
        except Unavailable:
            log.warning("the tokens of a call were not counted: the database is away")
            return admission
        return Admission((*others, *_tightest(stand)))

    def _settle(self, taken: Taken, more: int) -> Window:
        given_back = self._counters.give_back(taken.name, -more, taken.window_id) if more < 0 else None
        return given_back or self._counters.add(taken.name, max(0, more), MINUTE)

    def hit(self, name: str, limit: int, seconds: int) -> float:
        """For doors without a principal: 0.0 if there is room for one more, else the seconds to wait."""
        window = self._counters.add(f"guard:{name}", 1, seconds)
        return 0.0 if window.value <= limit else max(1.0, window.left_s)


def _rules_of(subject: str, limits: RateLimits) -> Iterator[Rule]:
    if limits.requests_per_minute is not None:
        yield Rule("requests", f"rpm:{subject}", limits.requests_per_minute)
    if limits.tokens_per_minute is not None:
        yield Rule("tokens", f"tpm:{subject}", limits.tokens_per_minute)


def _tightest(stand: Iterable[tuple[str, RateStatus]]) -> Rates:
    """Of each kind the one with the least left, the one that lasts longest where several have as little."""
    found: dict[str, RateStatus] = {}
    for what, status in stand:
        known = found.get(what)
        if known is None or (status.remaining, -status.reset_s) < (known.remaining, -known.reset_s):
            found[what] = status
    return tuple(found.items())


def _status(limit: int, window: Window) -> RateStatus:
    return RateStatus(limit, max(0, limit - window.value), window.left_s)


def _refusal(limit: int, what: str, window: Window, rates: Rates) -> RateLimited:
    message = f"More than {limit} {what} a minute."
    return RateLimited(message, retry_after=max(1.0, window.left_s), headers=rate_headers(rates))


def rate_headers(rates: Rates) -> dict[str, str]:
    """``x-ratelimit-*`` as OpenAI's clients read them; resets in seconds."""
    found = {}
    for what, status in rates:
        found[f"x-ratelimit-limit-{what}"] = str(status.limit)
        found[f"x-ratelimit-remaining-{what}"] = str(status.remaining)
        found[f"x-ratelimit-reset-{what}"] = f"{status.reset_s:.3f}s"
    return found
