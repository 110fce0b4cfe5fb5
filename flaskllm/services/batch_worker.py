"""Who answers the items of batches: claims them under a lease, asks as many at once as it may, stores each result once.

The same code runs in every mode: in ``flask worker``, in RQ's work-horse, and in a request that cannot wait for either.
Several processes on several machines join one job; what a dead one held is free again when its lease ends
(`BatchService.reap`), and what it writes afterwards carries an old fencing number and is refused.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import orjson

from flaskllm.domain.answer import Answer, Told
from flaskllm.domain.batch import (
    COMPLETED,
    FAILED,
    MOST_TRIES,
    Claimed,
    Ended,
    Keep,
    most_together,
    question_of,
)
from flaskllm.domain.call import CallContext
from flaskllm.domain.principal import Principal
from flaskllm.domain.text import holdable
from flaskllm.errors import DomainError, Forbidden, InternalError, RateLimited, Unavailable
from flaskllm.repositories.batches import GiveBack, Renew, Store, Suspects, Take
from flaskllm.services import crash
from flaskllm.services.chat_orchestrator import ChatOrchestrator
from flaskllm.services.shutdown import Shutdown

log = logging.getLogger(__name__)

SUSPECTS_EVERY_S = 2.0
IDLE_S = 1.0
"""Between two looks where nothing is to be done."""
FULL_S = 0.25
"""The same where all is in hand somewhere, and room may come any moment."""
MAKES_ROOM_EACH = 4
"""So often a place that becomes free is left to whoever comes first, so that another worker may join the job."""
LONGEST_PAUSE_S = 60.0
MOST_ERROR = 2000
"""Characters of an error's message that are kept."""

Following = Callable[[], Take | None]
"""What is to be taken when an item ends, in the transaction of its result; None: nothing."""
Runner = Callable[[Mapping[str, Any], CallContext, Keep], Ended]
"""Answers one question of its kind. `Keep` is called at most once, for an answer that is settled while it is kept."""


class ChatRunner:
    """Items that are chats: kept by `domain.batch.question_to_json`."""

    def __init__(self, chat: ChatOrchestrator) -> None:
        self._chat = chat

    def __call__(self, question: Mapping[str, Any], call: CallContext, keep: Keep) -> Ended:
        request = question_of(question)
        whole = bool(question.get("whole"))
        call = replace(call, keep=lambda told: keep(ended_of(told, whole=whole)))
        return ended_of(self._chat.complete(request, call), whole=whole)


def ended_of(told: Told[Any], *, whole: bool) -> Ended:
    """A chat's answer as the result of an item; ``whole``: with OpenAI's own document of it."""
    answer = Answer(**vars(told))
    body = answer.result.raw or orjson.dumps(answer.result.body)
    return Ended(
        COMPLETED,
        text=holdable(answer.text),
        finish_reason=answer.result.finish_reason,
        model=answer.model[:256],
        prompt_tokens=answer.usage.prompt_tokens,
        completion_tokens=answer.usage.completion_tokens,
        cost=answer.cost,
        response=body.decode() if whole else None,
    )


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long and how much one turn of work may be. None: without end.

    ``places``: items at once, where that is fewer than the worker's own. ``lingers``: it waits for more where nothing
    is to be done, until it is stopped.
    """

    seconds: float | None = None
    items: int | None = None
    places: int | None = None
    job_id: str | None = None
    lingers: bool = False


class BatchWorker:
    """One process's hands. ``places``: items at once; ``principal_of``: who a job speaks for, as of now; ``grace_s``:
    how long items in flight may take once it is stopped; ``lease_s``: how long they stay its own when it says nothing.
    """

    def __init__(
        self,
        run: Callable[[Any], Any],
        runners: Mapping[str, Runner],
        *,
        principal_of: Callable[[str, str | None], Principal],
        shutdown: Shutdown,
        places: int,
        item_seconds: float,
        grace_s: float,
        lease_s: float,
    ) -> None:
        self._run = run
        self._runners = runners
        self._principal_of = principal_of
        self._shutdown = shutdown
        self.places = places
        self.grace_s = grace_s
        self.renewed_every_s = lease_s / 5
        self._lease_ms = int(lease_s * 1000)
        self._item_seconds = item_seconds
        self._asking_who = threading.Lock()

    def work(self, bounds: Bounds, stopped: threading.Event | None = None) -> int:
        """Answer items until there are none, a bound is reached or it is stopped. Gives how many were answered."""
        turn = _Turn(self, bounds, stopped or threading.Event())
        return turn.run()

    def work_alone(self, job_id: str, *, seconds: float, lease_s: float) -> int:
        """The same for one job, one item after the other in this thread: for where no other thread runs.

        ``seconds``: none is begun later. ``lease_s``: longer than an item may take, since nobody renews it.
        """
        ends, owner, taken = time.monotonic() + seconds, _owner(), 0
        while time.monotonic() < ends and not self.draining:
            item = self._next_of(job_id, owner, int(lease_s * 1000))
            if item is None:
                break
            self.answer(item)
            taken += 1
        return taken

    def _next_of(self, job_id: str, owner: str, lease_ms: int) -> Claimed | None:
        for tries in range(MOST_TRIES):
            if found := self.take(owner, 1, tries=tries, job_id=job_id, lease_ms=lease_ms):
                return found[0]
        return None

    # -- what a turn needs -------------------------------------------------------------------------------------------

    def take(
        self, owner: str, most: int, *, tries: int, job_id: str | None, lease_ms: int | None = None
    ) -> list[Claimed]:
        """Raises `Unavailable`."""
        found: list[Claimed] = self._run(Take(owner, most, lease_ms or self._lease_ms, tries, job_id))
        return found

    def one_more(self, owner: str, job_id: str | None) -> Take:
        """What takes another item with the result of one."""
        return Take(owner, 1, self._lease_ms, 0, job_id)

    def has_suspects(self, job_id: str | None) -> bool:
        """Raises `Unavailable`."""
        return bool(self._run(Suspects(job_id)))

    @property
    def draining(self) -> bool:
        return self._shutdown.draining

    def renew(self, items: Sequence[Claimed]) -> None:
        """They are still worked on."""
        if items:
            self._quietly(Renew(items, self._lease_ms))

    def give_back(self, items: Sequence[Claimed], *, wait_s: float = 0.0, pause: bool = False) -> None:
        """They were not asked; nobody's try is counted."""
        if items:
            crash.point(crash.BEFORE_GIVE_BACK)
            self._quietly(GiveBack(items, int(wait_s * 1000), pause))
            crash.point(crash.AFTER_GIVE_BACK)

    def _quietly(self, operation: Any) -> None:
        """A database that is away: the lease ends, and the item is asked again."""
        try:
            self._run(operation)
        except Unavailable:
            log.warning("a batch's %s could not be written", type(operation).__name__)

    def answer(self, item: Claimed, following: Following = lambda: None) -> list[Claimed]:
        """Ask one item and store what came of it. Gives what was taken in its place. Never raises."""
        kept: list[Store] = []

        def keep(ended: Ended) -> Store:
            kept.append(Store(item.job.id, item.index, item.fence, ended, None if kept else following()))
            return kept[-1]

        try:
            ended = self._ask(item, keep)
        except (RateLimited, Unavailable) as error:
            wait_s = min(max(error.retry_after or 1.0, 0.5), LONGEST_PAUSE_S)
            self.give_back([item], wait_s=wait_s, pause=True)
        except DomainError as error:
            self._store(keep(failed(error)))
        except Exception as error:  # one item's fault must not end the others
            log.exception("a batch item failed: %s", type(error).__name__)
            self._store(keep(failed(InternalError("The gateway failed on this item."))))
        else:
            if not kept:
                self._store(keep(ended))
            elif kept[0].result is False:
                log.warning("a result came after its lease was over and is refused")
        return _taken_after(kept)

    def _store(self, store: Store) -> None:
        """The result of an item that has no settlement to go with."""
        crash.point(crash.BEFORE_STORE)
        self._quietly(store)
        crash.point(crash.AFTER_STORE)

    def _ask(self, item: Claimed, keep: Keep) -> Ended:
        job = item.job
        with self._asking_who:  # many threads ask the same: one asks the database for all
            principal = self._principal_of(job.user_id, job.token_id)
        if job.scope not in principal.scopes:
            raise Forbidden(f"The scope {job.scope!r} is needed, and was taken away.")
        runner = self._runners.get(job.kind)
        if runner is None:
            raise InternalError(f"Nobody here can answer items of the kind {job.kind!r}.")
        started = time.monotonic()
        call = CallContext(
            principal=principal,
            request_id=f"{job.id}-{item.index}",
            door=job.door,
            deadline=started + self._item_seconds,
            started=started,
            metadata=item.question.get("metadata") or job.metadata,
            uses_cache=principal.cache,
        )
        return runner(item.question, call, keep)


def _taken_after(stores: Sequence[Store]) -> list[Claimed]:
    """What was taken with these. One that may still be written, later, takes nothing then: nobody would ask it."""
    taken: list[Claimed] = []
    for one in stores:
        if one.result is None:
            one.then = None
        elif one.then is not None:
            taken += one.then.result
    return taken


def failed(error: DomainError) -> Ended:
    """The result of an item that cannot be answered."""
    return Ended(FAILED, error_code=error.code, error_message=holdable(error.message)[:MOST_ERROR])


def _owner() -> str:
    return f"{socket.gethostname()[:20]}:{os.getpid()}:{uuid4().hex[:16]}"


class _Turn:
    """One run of `BatchWorker.work`: its owner's name, its threads, what is in hand."""

    def __init__(self, worker: BatchWorker, bounds: Bounds, stopped: threading.Event) -> None:
        self._worker, self._bounds, self._stopped = worker, bounds, stopped
        self._owner = _owner()
        self._places = min(worker.places, bounds.places or worker.places)
        self._ends = None if bounds.seconds is None else time.monotonic() + bounds.seconds
        self._changed = threading.Condition()
        self._in_hand: dict[tuple[str, int], Claimed] = {}
        self._taken = self._ended = 0
        self._suspects_next = 0.0
        self._makes_room = False

    def run(self) -> int:
        over = threading.Event()
        threading.Thread(target=self._keep_renewing, args=(over,), name="batch leases", daemon=True).start()
        try:
            while not self._is_over() and self._look():
                pass
            self._finish()
        finally:
            over.set()
        return self._taken

    def _is_over(self) -> bool:
        out_of_time = self._ends is not None and time.monotonic() >= self._ends
        full = self._bounds.items is not None and self._taken >= self._bounds.items
        return self._is_stopped() or out_of_time or full

    def _is_stopped(self) -> bool:
        return self._stopped.is_set() or self._worker.draining

    def _keep_renewing(self, over: threading.Event) -> None:
        while not over.wait(self._worker.renewed_every_s):
            self._worker.renew(self._held())

    def _look(self) -> bool:
        """One look at what there is to do. False where there is nothing and nobody lingers."""
        try:
            self._clear_suspects()
            held = len(self._in_hand)  # what ends while we look may make room for more
            room = self._room()
            items = self._take(room) if room > 0 else []
        except Unavailable:
            self._stopped.wait(IDLE_S)
            return True
        for item in items:
            self._hand_out(item)
        if not items and self._in_hand:
            self._wait_for_room(held, FULL_S if room > 0 else IDLE_S)
        elif not items and self._bounds.lingers:
            self._stopped.wait(IDLE_S)
        return bool(items or held) or self._bounds.lingers

    def _room(self) -> int:
        room = self._places - len(self._in_hand)
        return room if self._bounds.items is None else min(room, self._bounds.items - self._taken)

    def _clear_suspects(self) -> None:
        """Items whose worker died are asked in small company, and then alone, with nothing else in hand: of what this
        process dies, the others are innocent."""
        if time.monotonic() < self._suspects_next:
            return
        self._suspects_next = time.monotonic() + SUSPECTS_EVERY_S
        if not self._worker.has_suspects(self._bounds.job_id):
            return
        self._makes_room = True
        try:
            self._wait_until_empty()
            for tries in range(1, MOST_TRIES):
                while not self._is_over() and (items := self._take(most_together(tries) or 1, tries)):
                    for item in items:
                        self._hand_out(item)
                    self._wait_until_empty()
        finally:
            self._makes_room = False

    def _take(self, most: int, tries: int = 0) -> list[Claimed]:
        items = self._worker.take(self._owner, most, tries=tries, job_id=self._bounds.job_id)
        if items:
            crash.point(crash.AFTER_CLAIM)
        with self._changed:
            self._taken += len(items)
        return items

    def _one_more(self) -> Take | None:
        """An item ends: what is taken in its place; nothing where it makes room."""
        with self._changed:
            self._ended += 1
            if self._makes_room or self._is_over() or self._ended % MAKES_ROOM_EACH == 0:
                return None
            self._taken += 1
        return self._worker.one_more(self._owner, self._bounds.job_id)

    def _hand_out(self, item: Claimed) -> None:
        with self._changed:
            self._in_hand[item.job.id, item.index] = item
        threading.Thread(target=self._answer, args=(item,), name="batch item", daemon=True).start()

    def _answer(self, item: Claimed) -> None:
        """This one, and what takes its place."""
        next_item: Claimed | None = item
        while next_item is not None:
            next_item = self._answer_one(next_item)

    def _answer_one(self, item: Claimed) -> Claimed | None:
        wanted: list[Take] = []
        taken: list[Claimed] = []

        def following() -> Take | None:
            wanted.extend(filter(None, [self._one_more()]))
            return wanted[0] if wanted else None

        try:
            taken = self._worker.answer(item, following)
            if taken:
                crash.point(crash.AFTER_CLAIM)
        finally:
            with self._changed:
                self._taken -= len(wanted) - len(taken)
                del self._in_hand[item.job.id, item.index]
                self._in_hand.update({(one.job.id, one.index): one for one in taken})
                self._changed.notify_all()
        return taken[0] if taken else None

    def _wait_for_room(self, held: int, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._in_hand) < held, seconds)

    def _wait_until_empty(self, seconds: float = float("inf")) -> None:
        ends = time.monotonic() + seconds
        with self._changed:
            while self._in_hand and time.monotonic() < ends:
                self._changed.wait(min(FULL_S, max(0.0, ends - time.monotonic())))
                if self._is_stopped():
                    ends = min(ends, time.monotonic() + self._worker.grace_s)

    def _finish(self) -> None:
        """What is in hand ends; where we are stopped, within the grace period, and the rest is somebody else's."""
        self._wait_until_empty()
        self._worker.give_back(self._held())

    def _held(self) -> list[Claimed]:
        with self._changed:
            return list(self._in_hand.values())
