"""Breakers: a way to a provider that fails is left alone, in every process alike, until one call finds it mended.

A way is a provider, its address and a key. Each process counts how its own calls fare; what it concludes, open or
closed, is a row that every process sees with the catalogue's next picture. While a breaker is open each process lets
one call through every so many seconds: its answer closes the breaker, its failure says nothing new. Nobody's clock is
trusted for that but the process's own, and the last error is told to whoever is turned away.

Only what is the provider's fault counts: no connection, time-outs, 5xx and nonsense. A refusal of the request, of the
key (`KeyRing`) or for haste is an answer. Where haste was told with a time, the way stands behind the others for it.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flaskllm.domain.catalogue import Candidate, Catalogue, Circuit, Endpoint, Key, Provider
from flaskllm.errors import (
    NobodyWell,
    ProviderError,
    ProviderFailure,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnreachable,
)
from flaskllm.repositories.database import Database
from flaskllm.repositories.providers import CircuitRow, close_circuit, open_circuit
from flaskllm.services.key_ring import LONGEST_ERROR, KeyRing, Pictures, tell_everybody
from flaskllm.services.retry_budget import RetryBudget

log = logging.getLogger(__name__)

COUNTED = (ProviderError, ProviderUnreachable, ProviderTimeout)
IN_A_ROW = 5
"""Failures without an answer between them that open a breaker."""
SAMPLE, SHARE = 20, 0.5
"""Calls in a window from which on this share of failures opens it, answers between them or not."""
WINDOW_S = 30.0
PROBE_EVERY_S = 10.0
LONGEST_REST_S = 60.0
"""For a way that asked for time; it is an order, never a lock."""
FORGOTTEN_AFTER = timedelta(days=1)
MOST_WAYS = 4096

Way = tuple[str, str, str, str, str]
BREAKER, ASIDE, SLOW = "breaker", "aside", "slow"


@dataclass(frozen=True, slots=True)
class Condition:
    """What keeps a way from being asked in its turn: an open breaker, a key put aside, or its word that it needs time.

    ``seconds`` until it is asked again as others are, or tried; ``error``: the provider's words since which it is so.
    """

    kind: str
    seconds: float
    error: str = ""


@dataclass(slots=True)
class _Tally:
    """How one way fared in this process. Times are the board's clock's; ``opened_at`` is the row's that was seen."""

    id: str
    since: float
    answered: int = 0
    failed: int = 0
    in_a_row: int = 0
    slow_until: float = 0.0
    opened_at: float | None = None
    probe_at: float = 0.0
    error: str = ""

    def restart(self, moment: float) -> None:
        self.since, self.answered, self.failed, self.in_a_row = moment, 0, 0, 0


@dataclass(frozen=True, slots=True)
class OpenWay:
    """A breaker that is open: since when (seconds since 1970), and the provider's first words."""

    provider: Provider
    endpoint: str
    opened_at: float
    error: str


class CircuitBoard:
    """Who is told how each attempt ends, and says who may be asked. ``clock``: monotonic seconds.

    ``in_a_row``: failures that open a breaker; 0: none is ever opened. ``probe_every_s``: between two calls that try an
    open one. When all is well an attempt costs it
    a few look-ups.
    """

    def __init__(
        self,
        database: Database,
        catalogue: Pictures,
        keys: KeyRing,
        *,
        retries: RetryBudget | None = None,
        in_a_row: int = IN_A_ROW,
        probe_every_s: float = PROBE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db, self._catalogue, self._keys = database, catalogue, keys
        self._retries = retries or RetryBudget(clock=clock)
        self._in_a_row = in_a_row
        self._probe_every_s = probe_every_s
        self._clock = clock
        self._tallies: dict[Way, _Tally] = {}
        self._lock = threading.Lock()

    # -- who may be asked ---------------------------------------------------------------------------------------------

    def rests(self, candidate: Candidate) -> bool:
        """Whether others had better be asked first."""
        return (
            self._keys.rests(candidate) or self.is_shut(candidate) or self._clock() < self._tally(candidate).slow_until
        )

    def condition(self, candidate: Candidate) -> Condition | None:
        """What is wrong with a way just now; None for one that is well. Takes nobody's turn."""
        tally, circuit = self._look(candidate)
        if circuit is not None:
            wait = self._probe_at(tally, circuit) - self._clock()
            return Condition(BREAKER, max(wait, 0.0), tally.error or circuit.error)
        if (rest := self._keys.rest_of(candidate.key)) is not None:
            return Condition(ASIDE, max(rest.until - time.time(), 0.0), rest.error)
        wait = tally.slow_until - self._clock()
        return Condition(SLOW, wait) if wait > 0 else None

    def is_shut(self, candidate: Candidate) -> bool:
        """Whether its breaker is open, and nobody may try it just now."""
        tally, circuit = self._look(candidate)
        return circuit is not None and self._clock() < self._probe_at(tally, circuit)

    def admits(self, candidate: Candidate) -> bool:
        """Whether a call may go out this way now; where the breaker is open, that call is the one that tries it."""
        tally, circuit = self._look(candidate)
        if circuit is None:
            return True
        with self._lock:
            moment = self._clock()
            if moment < self._probe_at(tally, circuit):
                return False
            tally.probe_at = moment + self._probe_every_s
        return True

    def admits_retry(self) -> bool:
        """Whether there is room for one more second try; takes it."""
        return self._retries.take()

    def refusal(self, candidates: Sequence[Candidate]) -> NobodyWell:
        """What a caller is told where none of these may be asked: when to come again, and what went wrong last."""
        waits, error = [], ""
        for candidate in candidates:
            tally, circuit = self._look(candidate)
            if circuit is not None:
                waits.append(self._probe_at(tally, circuit) - self._clock())
                error = error or tally.error or circuit.error
        wait = max(1.0, min(waits, default=1.0)) + random.uniform(0.0, 1.0)  # noqa: S311  (jitter, no secret)
        return NobodyWell(f"Nobody who could answer is well. {error}".rstrip(), retry_after=wait)

    def _look(self, candidate: Candidate) -> tuple[_Tally, Circuit | None]:
        tally = self._tally(candidate)
        circuits = self._catalogue.current().circuits
        return tally, circuits.get(tally.id) if circuits else None

    def _tally(self, candidate: Candidate) -> _Tally:
        way = _way(candidate.provider, candidate.endpoint, candidate.key)
        return self._tallies.get(way) or self._new_tally(way)

    def _new_tally(self, way: Way) -> _Tally:
        if len(self._tallies) >= MOST_WAYS:  # keys and addresses that were changed that often: begin again
            self._tallies = {}
        return self._tallies.setdefault(way, _Tally(_circuit_id(way), self._clock()))

    def _probe_at(self, tally: _Tally, circuit: Circuit) -> float:
        """When this process may try next. The row's age only shortens the first wait: clocks differ, and step."""
        if tally.opened_at != circuit.opened_at:
            wait = circuit.opened_at + self._probe_every_s - time.time()
            tally.probe_at = self._clock() + min(max(wait, 0.0), self._probe_every_s)
            tally.opened_at, tally.error = circuit.opened_at, ""
        return tally.probe_at

    # -- what the attempts tell ---------------------------------------------------------------------------------------

    def begun(self, candidate: Candidate) -> None:
        """A call goes out this way."""
        self._keys.begun(candidate)
        self._retries.count()

    def worked(self, candidate: Candidate) -> None:
        """It was answered."""
        self._keys.worked(candidate)
        tally, circuit = self._look(candidate)
        tally.answered += 1
        tally.in_a_row = 0
        if circuit is not None:
            self._close(candidate, tally)

    def failed(self, candidate: Candidate, failure: ProviderFailure) -> None:
        """It failed; opens the breaker where it does so too often. Never raises: the call has its own error."""
        self._keys.failed(candidate, failure)
        tally, circuit = self._look(candidate)
        if not isinstance(failure, COUNTED):
            if isinstance(failure, ProviderRateLimited) and failure.retry_after:
                tally.slow_until = self._clock() + min(failure.retry_after, LONGEST_REST_S)
            if circuit is not None:
                self._close(candidate, tally)
            return
        if self._counts_to_open(tally, circuit, failure):
            self._open(candidate, tally, failure)

    def _counts_to_open(self, tally: _Tally, circuit: Circuit | None, failure: ProviderFailure) -> bool:
        """Count it; True for one of those that see that it is time, so that one of them writes."""
        with self._lock:
            moment = self._clock()
            tally.error = failure.message[:LONGEST_ERROR]
            if circuit is not None:
                tally.probe_at = max(tally.probe_at, self._probe_at(tally, circuit))
                return False
            if tally.opened_at is not None or moment - tally.since > WINDOW_S:
                tally.opened_at = None
                tally.restart(moment)
            tally.failed += 1
            tally.in_a_row += 1
            if not self._is_bad(tally):
                return False
            tally.restart(moment)
            return True

    def _is_bad(self, tally: _Tally) -> bool:
        if not self._in_a_row:
            return False
        calls = tally.answered + tally.failed
        return tally.in_a_row >= self._in_a_row or (calls >= SAMPLE and tally.failed >= SHARE * calls)

    def _open(self, candidate: Candidate, tally: _Tally, failure: ProviderFailure) -> None:
        moment = datetime.now(UTC)
        row = CircuitRow(
            id=tally.id,
            provider_id=candidate.provider.id,
            opened_at=moment,
            error=failure.message[:LONGEST_ERROR],
        )
        if self._tell(lambda session: open_circuit(session, row, stale=moment - FORGOTTEN_AFTER)):
            log.error("%s is left alone until it is mended: %s", _told(candidate), failure.message[:LONGEST_ERROR])
        self.is_shut(candidate)  # the wait for the next try begins now, not with the next call

    def _close(self, candidate: Candidate, tally: _Tally) -> None:
        tally.restart(self._clock())
        if self._tell(lambda session: close_circuit(session, tally.id)):
            log.warning("%s is in use again.", _told(candidate))

    def _tell(self, write: Callable[..., bool]) -> bool:
        return tell_everybody(self._db, self._catalogue, write)

    # -- what others want to know -------------------------------------------------------------------------------------

    def open_ways(self) -> list[OpenWay]:
        """The breakers that are open, of addresses and keys in use, the oldest first."""
        catalogue: Catalogue = self._catalogue.current()
        found = [
            OpenWay(provider, endpoint.id, circuit.opened_at, circuit.error)
            for provider, endpoint, key in _ways(catalogue)
            if (circuit := catalogue.circuits.get(_circuit_id(_way(provider, endpoint, key)))) is not None
        ]
        return sorted(found, key=lambda way: way.opened_at)

    def state(self) -> dict[tuple[str, str], int]:
        """How many breakers are open of each address in use, by provider and endpoint."""
        catalogue: Catalogue = self._catalogue.current()
        found: dict[tuple[str, str], int] = {}
        for provider, endpoint, key in _ways(catalogue):
            at = (provider.id, endpoint.id)
            found[at] = found.get(at, 0) + (_circuit_id(_way(provider, endpoint, key)) in catalogue.circuits)
        return found


def _ways(catalogue: Catalogue) -> Iterator[tuple[Provider, Endpoint, Key | None]]:
    for provider in catalogue.on:
        for endpoint in provider.endpoints:
            for key in endpoint.keys or (None,):
                yield provider, endpoint, key


def _way(provider: Provider, endpoint: Endpoint, key: Key | None) -> Way:
    return (provider.id, endpoint.id, endpoint.base_url, key.id if key else "", key.hint if key else "")


def _circuit_id(way: Way) -> str:
    return hashlib.sha256("\n".join(way).encode()).hexdigest()


def _told(candidate: Candidate) -> str:
    key = f" with the key {candidate.key.hint}" if candidate.key else ""
    return f"{candidate.provider.id} at {candidate.endpoint.id}{key}"
