"""Who is asked next, and until when: the order of attempts for one call."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar
from urllib.parse import quote

from flaskllm.domain.answer import NOT_SENT, OK, OPEN, RESTING, TOO_LONG, Tried
from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import LONGEST_S, Candidate
from flaskllm.domain.route import CONTENT_FILTER, CONTEXT_WINDOW
from flaskllm.errors import (
    DomainError,
    ModelFull,
    PromptFiltered,
    PromptTooLong,
    ProviderError,
    ProviderFailure,
    ProviderRateLimited,
    ProvidersBusy,
    ProviderTimeout,
    RateLimited,
)
from flaskllm.services.pace import Pace

MOST_PER_PROVIDER = 2
MOST_IN_ALL = 4
"""Upstream calls for one call of ours (``docs/promises.md``)."""
SHARE = 2 / 3
"""Of the time left, for an attempt that has others after it: a provider that hangs must leave room for them."""


LONGEST_WAIT_S = 3.0
"""A provider that asks for more time than this is not waited for: its wait is passed on."""
QUOTA_WAIT_S = 60.0
"""A spent quota tells no wait; so long its key is put aside at the least."""
NO_INVITATION = {"x-should-retry": "false"}
"""Clients obey it, and do not storm."""
ATTEMPTS = "X-FlaskLLM-Attempts"
INSTEAD: Mapping[type[ProviderFailure], str] = {PromptTooLong: CONTEXT_WINDOW, PromptFiltered: CONTENT_FILTER}
"""Refusals of the request itself after which a route may have others asked."""
Fault = TypeVar("Fault", bound=DomainError)


class Watch(Protocol):
    """Who is told how each attempt fares, and says who may be asked (`CircuitBoard`)."""

    def is_shut(self, candidate: Candidate) -> bool: ...

    def admits(self, candidate: Candidate) -> bool: ...

    def admits_retry(self) -> bool: ...

    def refusal(self, candidates: Sequence[Candidate]) -> DomainError: ...

    def begun(self, candidate: Candidate) -> None: ...

    def failed(self, candidate: Candidate, failure: ProviderFailure) -> None: ...

    def worked(self, candidate: Candidate) -> None: ...


class Attempts:
    """The candidates of one call in order; a second try of the last one only where it may help and cannot be billed.

    ``asks_anyway``: an open breaker turns nobody away, as where an administrator wants to know. ``instead``: who is
    asked where the request is refused, by why (`route.FALLBACKS`), once each. ``passed_over``: who was not even put
    among the candidates since the prompt is too long for them. ``pace``: who is told how fast each answer began.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        call: CallContext,
        watch: Watch | None = None,
        *,
        asks_anyway: bool = False,
        instead: Mapping[str, Sequence[Candidate]] | None = None,
        passed_over: Sequence[Candidate] = (),
        pace: Pace | None = None,
    ) -> None:
        self._instead = {kind: chain for kind, chain in (instead or {}).items() if chain}
        self._pace = pace
        self._asked: set[str] = set()
        self._began = 0.0
        self._watch = watch
        self._asks_anyway = asks_anyway or watch is None
        self._candidates = candidates
        self._waiting = deque(candidates)
        self._call = call
        self._by_provider: Counter[str] = Counter()
        self._retry: Candidate | None = None
        self._wait_s = 0.0
        self._over = False
        self._tried = [_tried(one, TOO_LONG, asked=False) for one in passed_over]
        self._in_flight: Candidate | None = None
        self.failures: list[ProviderFailure] = []
        self.number = 0
        self.candidate: Candidate | None = None

    @property
    def first(self) -> Candidate:
        """Who is asked first; before anybody was."""
        return self._waiting[0]

    @property
    def others_left(self) -> bool:
        """Whether somebody else could still be asked."""
        return self.number < MOST_IN_ALL and any(self._may_ask(one) for one in self._waiting)

    @property
    def may_go_on(self) -> bool:
        """The same, or a refusal would have others asked: what has come is not yet the caller's."""
        return self.others_left or bool(self._instead)

    @property
    def is_over(self) -> bool:
        """Nobody is left to ask."""
        return self._over or (self._retry is None and not self.others_left)

    def _may_ask(self, candidate: Candidate) -> bool:
        return self._by_provider[candidate.provider.id] < MOST_PER_PROVIDER and not self._is_shut(candidate)

    def _is_shut(self, candidate: Candidate) -> bool:
        return not self._asks_anyway and self._watch is not None and self._watch.is_shut(candidate)

    def next(self) -> Candidate | None:
        """The next candidate to ask, or None."""
        if self.is_over or (self.number and self._call.remaining() <= 0):
            return None
        candidate = self._next_waiting() if self._retry is None else self._again(self._retry)
        if candidate is None:
            return None
        self._by_provider[candidate.provider.id] += 1
        self.number += 1
        self.candidate = self._in_flight = candidate
        self._asked.add(candidate.name)
        self._began = time.monotonic()
        if self._watch is not None:
            self._watch.begun(candidate)
        return candidate

    def _again(self, candidate: Candidate) -> Candidate:
        self._retry = None
        pause = self._wait_s + random.uniform(0.0, 0.25)  # noqa: S311  (jitter, no secret)
        time.sleep(max(0.0, min(pause, self._call.remaining())))
        return candidate

    def _next_waiting(self) -> Candidate | None:
        """The next that may be asked; None where a breaker was faster than we."""
        while self._waiting:
            candidate = self._waiting.popleft()
            if self._by_provider[candidate.provider.id] < MOST_PER_PROVIDER and self._is_admitted(candidate):
                return candidate
        return None

    def _is_admitted(self, candidate: Candidate) -> bool:
        return self._asks_anyway or self._watch is None or self._watch.admits(candidate)

    def failed(self, failure: ProviderFailure, *, by_provider: bool = True) -> None:
        """Take note; decides whether there is a next one. ``by_provider``: nobody of ours cut it short."""
        self.failures.append(failure)
        self._note(failure.outcome)
        candidate = self.candidate
        if self._watch is not None and candidate is not None and by_provider:
            self._watch.failed(candidate, failure)
        if not failure.try_elsewhere:
            self._waiting = deque(self._others_for(failure))
            self._over = not self.others_left
        elif not self.others_left and candidate is not None and self._helps_again(failure, candidate):
            self._retry = candidate

    def take_back(self, full: ModelFull) -> None:
        """The last one was not asked after all: its model has as much to do as it may."""
        self.failures.append(full)
        self._note(full.outcome, asked=False)
        self.number -= 1
        if self.candidate is not None:
            self._by_provider[self.candidate.provider.id] -= 1

    def _others_for(self, failure: ProviderFailure) -> list[Candidate]:
        """Whom a route names for this refusal, less those that have been asked already."""
        chain = self._instead.pop(INSTEAD.get(type(failure), ""), ())
        return [one for one in chain if one.name not in self._asked]

    def began_to_answer(self, *, streamed: bool) -> None:
        """The whole answer has come, or of a stream its first token."""
        if self._pace is not None and self.candidate is not None:
            self._pace.note(self.candidate, time.monotonic() - self._began, streamed=streamed)

    def worked(self) -> None:
        """The last one answered."""
        self._note(OK)
        if self._watch is not None and self.candidate is not None:
            self._watch.worked(self.candidate)

    # -- the story -----------------------------------------------------------------------------------------------------

    @property
    def story(self) -> tuple[Tried, ...]:
        """How each attempt went, in order, and that the last one goes on; or who could not be asked at all."""
        if self._in_flight is not None:
            return (*self._tried, _tried(self._in_flight, OPEN))
        if not self.number and not self._tried:
            return tuple(_tried(one, RESTING, asked=False) for one in self._candidates if self._is_shut(one))
        return tuple(self._tried)

    def _note(self, outcome: str, *, asked: bool = True) -> None:
        if self._in_flight is not None:
            self._tried.append(_tried(self._in_flight, outcome, asked=asked))
            self._in_flight = None

    def tell(self, error: Fault) -> Fault:
        """The same error, with the story among its headers. One that is no provider's came before the call."""
        if not isinstance(error, ProviderFailure):
            self._note(NOT_SENT, asked=False)
        error.headers[ATTEMPTS] = story_header(sum(one.asked for one in self.story), self.story)
        return error

    # -- again, until when, and what to tell ---------------------------------------------------------------------------

    def _helps_again(self, failure: ProviderFailure, candidate: Candidate) -> bool:
        """Once, where it fails in passing or says when it will not, and where there is room for a second try."""
        self._wait_s = failure.retry_after or 0.0
        if self._wait_s > min(LONGEST_WAIT_S, self._call.remaining()):
            return False
        in_passing = failure.try_again or (isinstance(failure, ProviderRateLimited) and self._wait_s > 0)
        once = self._by_provider[candidate.provider.id] < MOST_PER_PROVIDER and self.number < MOST_IN_ALL
        if not in_passing or failure.may_be_billed or not once or self._is_shut(candidate):
            return False
        return self._watch is None or self._watch.admits_retry()

    def deadline(self, candidate: Candidate) -> float:
        """Until when (monotonic seconds) this attempt may take: its own ``timeout_s``, or its share of what is left."""
        return time.monotonic() + self._seconds(candidate)

    def _seconds(self, candidate: Candidate) -> float:
        own = candidate.model.timeout_s or candidate.provider.timeout_s
        left = self._call.remaining()
        usual = min(own, LONGEST_S) if own else left * SHARE if self.others_left else left
        return min(usual, candidate.provider.timeouts.total_s or usual)

    def first_frame_by(self, candidate: Candidate) -> float:
        """The same for a stream's first frame: its provider may have a time of its own for that."""
        times, usual = candidate.provider.timeouts, self._seconds(candidate)
        seconds = times.first_byte_s or usual
        return time.monotonic() + min(seconds, times.total_s or seconds)

    def verdict(self) -> DomainError:
        """What to tell the caller when every attempt failed."""
        failures = self.failures
        if not failures and self._watch is not None and not self.number and self._candidates:
            return self._watch.refusal(self._candidates)
        if not failures:
            return ProviderTimeout("There was no time left to ask a provider.", may_be_billed=False)
        last = failures[-1]
        if not last.try_elsewhere:
            return last
        if all(isinstance(one, ProviderTimeout) for one in failures):
            return last
        if all(isinstance(one, ProviderRateLimited) for one in failures):
            return _limited(failures)
        worst = next((one for one in reversed(failures) if one.code == ProviderError.code), last)
        return worst if worst.code == ProviderError.code else ProviderError(worst.message)


def _limited(failures: Sequence[ProviderFailure]) -> RateLimited:
    """What to tell of rate limits alone: the shortest wait of those that pass, and no invitation where none does."""
    passing = [one for one in failures if one.retryable]
    if not passing:
        return ProvidersBusy(failures[-1].message, retry_after=QUOTA_WAIT_S, headers=NO_INVITATION)
    waits = [one.retry_after for one in passing if one.retry_after]
    kind = RateLimited if all(isinstance(one, ModelFull) for one in failures) else ProvidersBusy
    return kind(passing[-1].message, retry_after=min(waits) if waits else 1.0)


def _tried(candidate: Candidate, outcome: str, *, asked: bool = True) -> Tried:
    return Tried(candidate.name, candidate.endpoint.id, outcome, asked=asked)


def story_header(attempts: int, story: Sequence[Tried]) -> str:
    """How many calls went out, and how each went: a structured field (RFC 9651), a list that begins with a number.

    >>> story_header(1, [Tried("openai/gpt-4o", "main", "ok"), Tried("a/b", "west", "resting", asked=False)])
    '1, "openai/gpt-4o";at="main";is=ok, "a/b";at="west";is=resting;unsent'
    """
    told = (f"{_quoted(one.name)};at={_quoted(one.endpoint)};is={one.outcome}" for one in story)
    marks = ("" if one.asked else ";unsent" for one in story)
    return ", ".join([str(attempts), *(what + mark for what, mark in zip(told, marks, strict=True))])


def _quoted(text: str) -> str:
    """As a string of a structured field, which knows ASCII alone."""
    plain = "".join(sign if " " <= sign <= "~" else quote(sign) for sign in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
