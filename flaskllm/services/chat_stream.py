"""One streamed answer: who is asked, when it is over, and that it is settled once.

It polls before it reads (``docs/adr/0004-poll-before-read.md``): silence, a vanished caller and a shutdown wake it
alike, it needs no thread of its own, and after a hang-up it is drained to the usage frame. It touches no request and
no session.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from flaskllm.adapters.base import ChunkSource
from flaskllm.domain.answer import RateStatus, Tried
from flaskllm.domain.body import Transcript
from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest, Chunk, chunk_chars
from flaskllm.domain.estimate import answer_tokens
from flaskllm.domain.usage import Usage
from flaskllm.errors import (
    DomainError,
    InternalError,
    ModelFull,
    ProviderError,
    ProviderFailure,
    ProviderTimeout,
    Unavailable,
)
from flaskllm.services import crash
from flaskllm.services.attempts import Attempts
from flaskllm.services.books import CallBooks
from flaskllm.services.ledger import Attempt
from flaskllm.services.response_cache import Recording, ReplayedStream
from flaskllm.services.shutdown import Shutdown

log = logging.getLogger(__name__)

SECOND_PING_S = 0.2
"""After the caller's end of file: a second write fails if it is really gone; a half-close lets both through."""
CLIENT_CLOSED = 499
NONSENSE = (AttributeError, KeyError, IndexError, TypeError, ValueError)
"""What a frame of another shape than its wire's comes to when it is read."""
MOST_JOINED, FRAME_BYTES = 16_384, 256
"""Bytes of frames joined into one write; a frame that has no bytes of its own yet counts as so many."""
DRAINS = 64
"""Abandoned streams read to their end at once in one process; beyond it upstream is cut and the rest estimated."""
INLINE_DRAIN_S = 3.0


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """Seconds: until headers must go out, between pings, between frames, and in all after the first frame."""

    ping_after: float = 10.0
    ping_every: float = 5.0
    idle: float = 60.0
    most: float = 300.0


class ChatStream:
    """Iterate for `Chunk`, None (silence: write a comment), and at most one `DomainError`, the last item.

    After the end: ``usage``, ``cost`` (10⁻⁹ dollar), ``finish_reason``. ``close`` may be called at any time, twice too.
    """

    def __init__(
        self,
        request: ChatRequest,
        call: CallContext,
        *,
        attempts: Attempts,
        books: CallBooks,
        ask: Callable[[Candidate, float], ChunkSource],
        times: StreamTimes,
        shutdown: Shutdown,
        drains: Drains,
        on_over: Callable[[], None],
        recording: Recording | None = None,
    ) -> None:
        self.request, self.call, self._recording = request, call, recording
        self.cache = "none" if recording is None else "miss"
        self.usage: Usage | None = None
        self.cost: int | None = None
        self.finish_reason: str | None = None
        self.error: DomainError | None = None
        self.head: dict[str, Any] = {}
        self._first_token_ms: int | None = None
        self._attempts, self._books, self._ask, self._times = attempts, books, ask, times
        self._shutdown, self._drains, self._on_over = shutdown, drains, on_over
        self._source: ChunkSource | None = None
        self._attempt: Attempt | None = None
        self._ready: deque[Chunk] = deque()
        self._held: list[Chunk] = []
        self._chars = 0.0
        self._ended_choices: set[Any] = set()
        self._sent = self._has_content = self._over = self._told = self._abandoned = self._at_end = False
        self._transcript = Transcript() if books.keeps_bodies else None
        self._joined = 0
        self._client_fd = call.client_fd if call.client_fd is not None and call.client_fd >= 0 else None
        self._next_ping = 0.0
        self._idle = times.idle
        self._frame_by = 0.0
        self._ends_by = 0.0
        self._lock = threading.Lock()

    # -- what a door sees ------------------------------------------------------------------------------------------

    @property
    def candidate(self) -> Candidate | None:
        return self._attempts.candidate

    @property
    def rates(self) -> tuple[tuple[str, RateStatus], ...]:
        return self._books.rates

    @property
    def attempts(self) -> int:
        return self._attempts.number

    @property
    def story(self) -> tuple[Tried, ...]:
        return self._attempts.story

    @property
    def dropped(self) -> tuple[str, ...]:
        return tuple(self._source.dropped) if self._source else ()

    def start(self) -> None:
        """Wait for the first frame, or until headers must go out, whichever is first.

        Until then every failure keeps its status: raises what the call came to.
        """
        until = self.call.started + self._times.ping_after
        try:
            while not self._ready and not self._over and (wait := until - time.monotonic()) > 0:
                self._step(wait, watch_client=False)
        except BaseException as error:
            self._finish(_told(error))
            raise
        if self.error is not None and not self._ready:
            self._told = True
            raise self.error

    def __iter__(self) -> Iterator[Chunk | DomainError | None]:
        return self

    def __next__(self) -> Chunk | DomainError | None:
        """Silence is counted from what was last handed on: frames without content are none to the caller."""
        until, self._joined = time.monotonic() + self._wait(), 0
        while not self._ready:
            if self._over:
                return self._last_word()
            left = until - time.monotonic()
            try:
                if left <= 0 or not self._step(left, watch_client=True):
                    return None
            except Exception as error:  # noqa: BLE001  (raised here it would cut the caller off without a word)
                self._finish(_told(error))
        return self._hand_on()

    def at_hand(self) -> Chunk | None:
        """A further frame that can be had without waiting, so that a burst is one write.

        None where there is none, where it is the end (settling would wait for the database), or where enough is
        joined.
        """
        try:
            while self._joined < MOST_JOINED and not self._ready and self._has_more():
                self._read()
        except Exception as error:  # noqa: BLE001  (as above)
            self._finish(_told(error))
        return self._hand_on() if self._ready and self._joined < MOST_JOINED else None

    def _has_more(self) -> bool:
        return not (self._over or self._at_end) and self._source is not None and self._source.ready()

    def _hand_on(self) -> Chunk:
        self._sent = True
        chunk = self._ready.popleft()
        if chunk.has_content and self._first_token_ms is None:
            self._first_token_ms = int((time.monotonic() - self.call.started) * 1000)
        self._joined += len(chunk.raw or b"") or FRAME_BYTES
        return chunk

    def _last_word(self) -> DomainError:
        if self.error is None or self._told:
            raise StopIteration
        self._told = True
        return self.error

    def _wait(self) -> float:
        if self._next_ping:
            self._next_ping = 0.0
            return SECOND_PING_S
        return self._times.ping_every

    # -- one step forward ------------------------------------------------------------------------------------------

    def _step(self, wait: float, *, watch_client: bool) -> bool:
        """Open, read what is there, or wait for it at most ``wait`` seconds. Gives False where nothing came.

        After waiting it is asked again whether there is something to read: over TLS a readable socket may hold a
        session ticket, or half a record.
        """
        if self._shutdown.cut:
            raise Unavailable("The gateway is restarting.", retry_after=1)
        if self._at_end:
            self._finish(None)
        elif self._source is None:
            self._open()
        elif self._source.ready():
            self._read()
        else:
            return self._poll(wait, watch_client=watch_client)
        return True

    def _open(self) -> None:
        candidate = self._attempts.next()
        if candidate is None:
            self._finish(self._attempts.verdict())
            return
        times = candidate.provider.timeouts
        self._frame_by = self._attempts.first_frame_by(candidate)
        self._ends_by = time.monotonic() + times.total_s if times.total_s else self._frame_by + self._times.most
        self._idle = times.idle_s or self._times.idle
        try:
            self._attempt = self._books.reserve(candidate, self._attempts.number)
        except ModelFull as full:
            self._attempts.take_back(full)
            return
        crash.point(crash.BEFORE_UPSTREAM)
        try:
            self._source = self._ask(candidate, self._frame_by)
        except ProviderFailure as failure:
            self._failed(failure)

    def _poll(self, wait: float, *, watch_client: bool) -> bool:
        """Wait for the provider; True where it can be read, or where something else is to be done about it."""
        left = min(self._frame_by, self._ends_by) - time.monotonic()
        if left <= 0:
            self._failed(ProviderTimeout("The provider stopped answering."))
            return True
        upstream = self._source.fileno() if self._source else None
        poll = select.poll()
        if upstream is not None:
            poll.register(upstream, select.POLLIN)
        poll.register(self._shutdown.fd, select.POLLIN)
        if watch_client and self._client_fd is not None:
            poll.register(self._client_fd, select.POLLRDHUP)
        woken = {fd for fd, _ in poll.poll(min(wait, left) * 1000)}
        if upstream in woken or self._shutdown.cut:
            return True
        if woken:
            self._client_fd = None
            self._next_ping = SECOND_PING_S
        return False if woken else self._out_of_time()

    def _out_of_time(self) -> bool:
        if min(self._frame_by, self._ends_by) <= time.monotonic():
            self._failed(ProviderTimeout("The provider stopped answering."))
            return True
        return False

    def _read(self) -> None:
        if self._source is None:
            return
        try:
            chunks = self._source.read(min(self._frame_by, self._ends_by))
            for chunk in chunks or ():
                self._take(chunk)
        except ProviderFailure as failure:
            self._failed(failure)
            return
        except NONSENSE as error:
            log.info("a provider sent a frame that is none: %s", type(error).__name__)
            self._failed(ProviderError("The provider sent a frame that is none.", may_be_billed=True))
            return
        if chunks is None:
            crash.point(crash.AFTER_UPSTREAM)
            self._at_end = True
        elif chunks:
            crash.point(crash.AFTER_FIRST_BYTE)
            self._frame_by = time.monotonic() + self._idle

    def _take(self, chunk: Chunk) -> None:
        """Note what a frame says; frames before the first content wait while somebody else could still be asked."""
        body = chunk.body
        if chunk.usage is not None and self._attempt is not None:
            self.usage = self._attempt.believed(chunk.usage, pieces=self.request.choices)
        self._note_head(body)
        if body.get("usage") is not None:
            if not body.get("choices"):
                return
            chunk = replace(chunk, body={**body, "usage": None}, raw=None)
        self._chars += chunk_chars(body)
        self._held.append(chunk)
        if self._transcript is not None:
            self._transcript.note(body)
        if self._recording is not None:
            self._recording.note(chunk)
        if chunk.has_content and not self._has_content:
            self._has_content = True
            self._attempts.began_to_answer(streamed=True)
        if self._has_content or not self._attempts.may_go_on:
            self._ready.extend(self._held)
            self._held.clear()

    def _note_head(self, body: dict[str, Any]) -> None:
        if not self.head and body.get("id"):
            self.head = {name: body.get(name) for name in ("id", "created", "model")}
        for choice in body.get("choices") or ():
            if reason := choice.get("finish_reason"):
                self.finish_reason = reason
                self._ended_choices.add(choice.get("index"))

    # -- endings ---------------------------------------------------------------------------------------------------

    def _failed(self, failure: ProviderFailure) -> None:
        """One attempt has ended badly: ask somebody else if nothing was promised yet, else end the stream."""
        if self._source is not None:
            self._source.close()
        self._attempts.failed(failure, by_provider=not self._abandoned)
        if self._has_content or self._sent or self._ready or self._attempts.is_over or self._abandoned:
            self._finish(failure if self._has_content or self._sent else self._attempts.verdict(), failure)
            return
        if self._attempt is not None:
            self._books.pass_on(self._attempt, failure, self._seen())
        self._source, self._attempt = None, None
        if self._recording is not None:
            self._recording.again()
        if self._transcript is not None:
            self._transcript = Transcript()
        self._held.clear()
        self._chars, self.usage, self.head = 0.0, None, {}
        self._ended_choices.clear()

    def _seen(self) -> Usage | None:
        """The provider's last word, or an estimate of what has come so far; None before the first frame.

        What is told while choices are still open is a running total: the text may be ahead of it.
        """
        told, words = self.usage, answer_tokens(self._chars)
        if told is not None and (self._at_end or len(self._ended_choices) >= self.request.choices):
            return told
        if told is not None:
            return replace(told, output=told.output + max(0, words - told.completion_tokens), estimated=True)
        if not self._chars or self._attempt is None:
            return None
        return Usage(input=self._attempt.prompt_tokens, output=words, estimated=True)

    def _finish(self, error: DomainError | None, failure: ProviderFailure | None = None) -> None:
        """Settle and write the call's row, once. ``failure``: how the last attempt ended, where it is not ``error``."""
        with self._lock:
            if self._over:
                return
            self._over = True
        if self._source is not None:
            self._source.close()
        self.error = error if error is None else self._attempts.tell(error)
        self.usage = self._usage_at_end(error)
        try:
            self.cost = self._books.close(
                self._attempt,
                self._attempts,
                usage=self.usage,
                error=failure or error,
                sent=self._source is not None,
                status=CLIENT_CLOSED if self._abandoned else error.status if error else 200,
                first_token_ms=self._first_token_ms,
                answer=self._transcript,
            )
        finally:
            self._on_over()
            self._stop_recording()

    def _stop_recording(self) -> None:
        """What came to its own end is an answer, also where nobody was left to hear it."""
        if self._recording is None:
            return
        if self._at_end and self.error is None and self.candidate is not None:
            self._recording.ended(self.usage, self.dropped, self.cost, self.candidate)
        else:
            self._recording.broke_off()

    def _usage_at_end(self, error: DomainError | None) -> Usage | None:
        """The provider's word, or an estimate of what was delivered; None leaves it to the books."""
        if (seen := self._seen()) is not None or error is not None or self._attempt is None:
            return seen
        return Usage(input=self._attempt.prompt_tokens, output=answer_tokens(self._chars), estimated=True)

    def close(self) -> None:
        """The door is done with it. Where the caller left early, the provider's bill is still waited for."""
        with self._lock:
            if self._over or self._abandoned:
                return
            self._abandoned = True
        self._client_fd = None
        if self._source is None or self._attempt is None or not self._drains.run(self._drain):
            self._finish(None)

    def _drain(self, seconds: float) -> None:
        """Read on to the usage frame, for the bill alone."""
        self._ends_by = min(self._ends_by, time.monotonic() + seconds)
        try:
            while not self._over:
                self._ready.clear()
                self._step(seconds, watch_client=False)
        except Exception as error:  # noqa: BLE001  (nobody is left to be told)
            log.info("a drain was cut short: %s", type(error).__name__)
        finally:
            self._finish(None)


def _told(error: BaseException) -> DomainError:
    """What the caller is told of it; our own faults stand in the log."""
    if isinstance(error, DomainError):
        return error
    log.error("a stream broke off by a fault of our own", exc_info=error)
    return InternalError("The stream broke off.")


class Drains:
    """Where abandoned streams are read to their end: short-lived threads, or inline where there are none."""

    def __init__(self, *, threads: bool, seconds: float, most: int = DRAINS) -> None:
        self._threads = threads
        self._seconds = seconds
        self._most = most
        self._slots = threading.BoundedSemaphore(most)

    def run(self, drain: Callable[[float], None]) -> bool:
        """False where there is no slot."""
        if not self._threads:
            drain(min(self._seconds, INLINE_DRAIN_S))
            return True
        if not self._slots.acquire(blocking=False):
            return False
        try:
            threading.Thread(target=self._run, args=(drain,), name="drain", daemon=True).start()
        except RuntimeError:  # the system gives no more threads
            self._slots.release()
            return False
        return True

    def wait(self, seconds: float) -> None:
        """Until none is under way: a process that ends takes its threads with it, and their settlements."""
        until = time.monotonic() + seconds
        taken = 0
        while taken < self._most and self._slots.acquire(timeout=max(0.0, until - time.monotonic())):
            taken += 1
        for _ in range(taken):
            self._slots.release()

    def _run(self, drain: Callable[[float], None]) -> None:
        try:
            drain(self._seconds)
        finally:
            self._slots.release()


class StreamHeaders:
    """A `ChatStream` that is told in other words (a conversation's, a response's): what the headers tell stays."""

    def __init__(self, stream: ChatStream | ReplayedStream) -> None:
        self._stream = stream

    @property
    def candidate(self) -> Candidate | None:
        return self._stream.candidate

    @property
    def attempts(self) -> int:
        return self._stream.attempts

    @property
    def story(self) -> tuple[Tried, ...]:
        return self._stream.story

    @property
    def dropped(self) -> tuple[str, ...]:
        return self._stream.dropped

    @property
    def cost(self) -> int | None:
        return self._stream.cost

    @property
    def cache(self) -> str:
        return self._stream.cache

    @property
    def rates(self) -> tuple[tuple[str, RateStatus], ...]:
        return self._stream.rates
