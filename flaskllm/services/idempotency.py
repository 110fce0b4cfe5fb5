"""The same key, the same answer: a request that is sent again is not paid again (``Idempotency-Key``)."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Mapping
from typing import Any

from flaskllm.domain.answer import KeptAnswer
from flaskllm.domain.principal import Principal
from flaskllm.errors import Conflict, IdempotencyConflict, StillRunning, Unavailable
from flaskllm.repositories.answers import AnswerStore, Claim, Found

log = logging.getLogger(__name__)

KEPT_S = 86_400
"""How long an answer may be asked for again."""
LEASE_S = 60.0
"""How long the key of a process that died stays taken; renewed while the process lives."""
LEASE_UNRENEWED_S = 660.0
"""The same where no thread renews it: longer than a call may take."""
ASK_AGAIN_S = 2.0
LARGEST = 64 * 1024 * 1024
"""Bytes of an answer; a larger one is given once and then only told of."""


class Idempotency:
    """Keys of callers and what was answered under each. A key belongs to the token, or to the user of a JWT."""

    def __init__(self, store: AnswerStore, *, threads: bool, largest: int = LARGEST) -> None:
        self._store = store
        self._largest = largest
        self._lease_s = LEASE_S if threads else LEASE_UNRENEWED_S
        self._running: set[Claim] = set()
        self._lock = threading.Lock()

    def begin(self, principal: Principal, key: str, *, place: str, body: Mapping[str, Any]) -> Claim | KeptAnswer:
        """The right to answer, which has to be given back by `keep` or `give_up`; or the answer that there is.

        Raises `IdempotencyConflict` where the key stands for another body or place, `StillRunning` where the first
        request has not been answered yet, `Conflict` where its answer was too large to be kept. ``place``: where the
        body was sent to, and what else makes it another request.
        """
        question = _hash(place, json.dumps(body, sort_keys=True, separators=(",", ":")))
        name = _hash("idempotency", principal.subject, key)
        got = self._store.claim(name, question, lease_s=self._lease_s, kept_s=KEPT_S)
        if isinstance(got, Found):
            return _answer_of(got, question)
        with self._lock:
            self._running.add(got)
        return got

    def keep(self, claim: Claim, answer: KeptAnswer) -> None:
        """Give the right back with the answer. A database that is away costs the caller nothing of it."""
        self._forget(claim)
        if answer.body is not None and len(answer.body) > self._largest:
            answer = KeptAnswer(answer.status, answer.headers, None)
        try:
            if not self._store.keep(claim, answer):
                log.warning("an idempotent answer came after its lease was over")
        except Unavailable:
            log.warning("an idempotent answer could not be kept; its key stays taken until its lease ends")

    def give_up(self, claim: Claim) -> None:
        """Give the right back without an answer: whoever comes with the key next is the first."""
        self._forget(claim)
        try:
            self._store.give_up(claim)
        except Unavailable:
            log.warning("an idempotency key could not be freed; it stays taken until its lease ends")

    def _forget(self, claim: Claim) -> None:
        with self._lock:
            self._running.discard(claim)

    def renew(self) -> None:
        """What this process works on stays its own: done now and then, well within the lease."""
        with self._lock:
            running = set(self._running)
        if running:
            self._store.renew(running, lease_s=self._lease_s)

    def sweep(self) -> int:
        """Delete what is older than a day. Gives how many."""
        return self._store.sweep()


def _answer_of(found: Found, question: str) -> KeptAnswer:
    if found.question != question:
        raise IdempotencyConflict("This Idempotency-Key was used for another request.")
    if found.answer is None:
        raise StillRunning("The request with this Idempotency-Key is still running.", retry_after=ASK_AGAIN_S)
    if found.answer.body is None:
        raise Conflict("The request with this Idempotency-Key was answered; the answer was too large to be kept.")
    return found.answer


def _hash(*parts: str) -> str:
    """Of the parts and where each ends."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
