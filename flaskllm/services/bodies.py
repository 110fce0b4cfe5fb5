"""What was said in calls, where the operator has switched that on: encrypted, kept a while, looked at on the record.

Without ``STORE_PROMPTS`` nothing of it is gathered, let alone written; what was stored before is still swept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flaskllm.domain.audit import Actor
from flaskllm.domain.body import Body, Transcript, body_of
from flaskllm.errors import NotFound
from flaskllm.repositories import bodies as repository
from flaskllm.repositories.database import Database
from flaskllm.repositories.requests import get_call
from flaskllm.security import Undecryptable, Vault
from flaskllm.services.audit import AuditTrail

log = logging.getLogger(__name__)

DAY_MS = 86_400_000
LOOKED_AT, RENEWED = 500, 16
"""Rows of which one query asks who sealed them, and those that are sealed anew in one transaction: they may have a
megabyte each."""


@dataclass(slots=True)
class Resealing:
    """What sealing anew came to: bodies written, bodies that were so already, and those that nobody can open."""

    renewed: int = 0
    current: int = 0
    lost: int = 0


class Sealer:
    """Turns what was said in a call into what is stored of it."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def seal(self, request: Any, answer: Transcript | None, *, user_id: str, request_id: str) -> str:
        return self._vault.encrypt(body_of(request, answer).to_json(), context=_context(user_id, request_id))

    def open(self, sealed: str, *, user_id: str, request_id: str) -> Body:
        """Raises `Undecryptable`."""
        return Body.from_json(self._vault.decrypt(sealed, context=_context(user_id, request_id)))

    def is_current(self, sealed: str) -> bool:
        """Whether the first key sealed it; its beginning is enough to tell."""
        return self._vault.is_current(sealed)

    def renew(self, sealed: str, *, user_id: str, request_id: str) -> str:
        """The same under the first key. Raises `Undecryptable`."""
        return self._vault.renew(sealed, context=_context(user_id, request_id))


def _context(user_id: str, request_id: str) -> str:
    """Whose call it is: moved to another's row it does not open."""
    return f"bodies:{user_id}:{request_id}"


class BodyService:
    """``is_on``: whether what is said now is stored. ``days``: how long that is kept."""

    def __init__(self, database: Database, sealer: Sealer, audit: AuditTrail, *, is_on: bool, days: int) -> None:
        self._database = database
        self._sealer = sealer
        self._audit = audit
        self.is_on = is_on
        self.days = days

    def has(self, call_id: int) -> bool:
        with self._database.reading() as session:
            return repository.has_body(session, call_id)

    def look(self, call_id: int, actor: Actor) -> Body:
        """What was said in a call; that somebody has looked is told in the audit trail, or it is not shown.

        Raises `NotFound` where nothing is stored, or nobody can open it any more.
        """
        with self._database.reading() as session:
            call, sealed = get_call(session, call_id), repository.get_sealed(session, call_id)
        if call is None or sealed is None:
            raise NotFound("Nothing is stored of what was said in this call.")
        named = {"user_id": call.user_id, "request_id": call.request_id}
        try:
            found = self._sealer.open(sealed, **named)
        except (Undecryptable, ValueError, KeyError, TypeError):
            log.warning("what was said in a call cannot be opened", extra={"fields": {"request_id": call.request_id}})
            raise NotFound(
                "What is stored cannot be opened: it was changed, or its key is not in LLM_GATEWAY_ENCRYPTION_KEY."
            ) from None
        with self._database.transaction() as session:
            self._audit.record(session, actor, "request.read_body", f"call:{call_id}", None, named)
        return found

    def sweep(self) -> None:
        """Forget what was kept for long enough, a few rows in each transaction."""
        before = int(time.time() * 1000) - self.days * DAY_MS
        while True:
            with self._database.transaction() as session:
                if repository.forget_before(session, before) < repository.AT_ONCE:
                    return

    # -- our own key changes ------------------------------------------------------------------------------------------

    def rotate(self, actor: Actor) -> Resealing:
        """Seal all that is stored anew under the first of our encryption keys, a few rows in each transaction.

        Whoever breaks it off begins again where it ended: what was sealed anew stays so, and is passed over. Ids grow
        with time, so that what is written meanwhile under an older key is come to as well.
        """
        done = Resealing()
        try:
            for stale in self._stale(done):
                self._renew(stale, done)
        finally:
            if done.renewed:
                with self._database.transaction() as session:
                    self._audit.record(session, actor, "bodies.rotate", "bodies", None, {"renewed": done.renewed})
        return done

    def _stale(self, done: Resealing) -> Iterator[Sequence[int]]:
        """The calls whose bodies another key has sealed, some at a time; the others are counted."""
        last = 0
        while True:
            with self._database.reading() as session:
                found = repository.beginnings(session, last, LOOKED_AT)
            if not found:
                return
            last = found[-1][0]
            stale = [call_id for call_id, begins in found if not self._sealer.is_current(begins)]
            done.current += len(found) - len(stale)
            for start in range(0, len(stale), RENEWED):
                yield stale[start : start + RENEWED]

    def _renew(self, call_ids: Sequence[int], done: Resealing) -> None:
        """No transaction is open while they are opened and sealed: nobody waits for that."""
        with self._database.reading() as session:
            rows = repository.sealed_of(session, call_ids)
        stale = [row for row in rows if not self._sealer.is_current(row.sealed)]  # another may be at it as well
        fresh = [(row, sealed) for row in stale if (sealed := self._renewed(row)) is not None]
        done.current += len(rows) - len(stale)
        done.lost += len(stale) - len(fresh)
        with self._database.transaction() as session:
            written = sum(repository.swap_sealed(session, row.call_id, row.sealed, sealed) for row, sealed in fresh)
        done.renewed += written

    def _renewed(self, row: repository.Sealed) -> str | None:
        """None where nobody can open it."""
        if row.user_id is None or row.request_id is None:
            return None
        try:
            return self._sealer.renew(row.sealed, user_id=row.user_id, request_id=row.request_id)
        except Undecryptable:
            return None
