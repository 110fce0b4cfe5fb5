"""Keys that are put aside while their provider refuses them, in every process alike.

A key's 401, 402, 403 or spent quota is the key's fault and not the provider's: the others of its keys go on, and this
one stands behind them for a while that grows with each refusal in a row. A pause is a row that every process sees with
the catalogue's next picture. When it has passed, one call every few seconds tries the key: an answer brings it back.
It is an order, never a lock: where nothing else is left, a key that is aside is tried, so that its true error is told.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy.orm import Session

from flaskllm.domain.catalogue import Candidate, Catalogue, Key, KeyRest, Provider
from flaskllm.errors import ProviderFailure, Unavailable
from flaskllm.repositories.database import Database
from flaskllm.repositories.providers import (
    KeyRestRow,
    bump_version,
    drop_rest,
    lock_catalogue,
    put_aside,
)

log = logging.getLogger(__name__)

PAUSE_S, LONGEST_S = 60.0, 3600.0
"""The first pause; each further one is twice as long."""
PROBE_EVERY_S = 10.0
"""In one process, between two tries of a key whose pause has passed."""
LONGEST_ERROR = 300


class Pictures(Protocol):
    """Where the rests are read (`CatalogueCache`)."""

    def current(self) -> Catalogue: ...

    def refresh(self) -> Catalogue: ...


class KeyRing:
    """Who is told how each key fares, and says which had better not be used now. ``clock``: seconds since 1970."""

    def __init__(
        self,
        database: Database,
        catalogue: Pictures,
        *,
        pause_s: float = PAUSE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = database
        self._catalogue = catalogue
        self._pause_s = pause_s
        self._clock = clock
        self._probed: dict[str, float] = {}

    def rests(self, candidate: Candidate) -> bool:
        """Whether the candidate's key is aside, or is being tried by somebody else just now."""
        rest = self.rest_of(candidate.key)
        if rest is None:
            return False
        moment = self._clock()
        return moment < rest.until or moment < self._probed.get(rest.key_id, 0.0)

    def rest_of(self, key: Key | None) -> KeyRest | None:
        """Since when, until when and why a key is aside; it stays so until it has answered again."""
        rest = self._catalogue.current().rests.get(key.id) if key else None
        return rest if rest is not None and key is not None and rest.hint == key.hint else None

    def aside(self) -> list[tuple[Provider, KeyRest]]:
        """The keys in use that are put aside now."""
        catalogue, moment = self._catalogue.current(), self._clock()
        keys = {key.id: (provider, key) for provider in catalogue.on for end in provider.endpoints for key in end.keys}
        return [
            (provider, rest)
            for provider, key in keys.values()
            if (rest := self.rest_of(key)) is not None and moment < rest.until
        ]

    # -- what the attempts tell ---------------------------------------------------------------------------------------

    def begun(self, candidate: Candidate) -> None:
        """A call goes out with this key; of one that was aside it is the try."""
        if rest := self.rest_of(candidate.key):
            self._probed[rest.key_id] = self._clock() + PROBE_EVERY_S

    def failed(self, candidate: Candidate, failure: ProviderFailure) -> None:
        """Put the key aside where it is at fault and not yet aside. Never raises: the call has its own error."""
        key = candidate.key
        if key is None or not failure.key_at_fault:
            return
        rest = self.rest_of(key)
        if rest is not None and self._clock() < rest.until:
            return
        self._change(lambda session: self._put_aside(session, candidate.provider.id, key, failure))

    def worked(self, candidate: Candidate) -> None:
        """The key is taken again; costs a look at the picture for all those that never failed."""
        rest = self.rest_of(candidate.key)
        if rest is None:
            return
        self._probed.pop(rest.key_id, None)
        if self._change(lambda session: drop_rest(session, rest.key_id)):
            log.warning("The key %s of %s is in use again.", rest.hint, candidate.provider.id)

    def _put_aside(self, session: Session, provider_id: str, key: Key, failure: ProviderFailure) -> bool:
        """Once for each pause, however many calls and processes fail at once."""
        moment = self._clock()
        row = session.get(KeyRestRow, key.id)
        strikes = row.strikes if row is not None and row.hint == key.hint else 0
        if row is not None and strikes and moment < row.until.timestamp():
            return False
        pause = min(self._pause_s * 2**strikes, LONGEST_S)
        rest = KeyRestRow(
            key_id=key.id,
            provider_id=provider_id,
            hint=key.hint,
            strikes=min(strikes + 1, 30),
            until=datetime.fromtimestamp(moment + pause, UTC),
            failed_at=datetime.fromtimestamp(moment, UTC),
            error=failure.message[:LONGEST_ERROR],
        )
        put_aside(session, rest)
        log.error("The key %s of %s is put aside for %d s: %s", key.hint, provider_id, pause, rest.error)
        return True

    def _change(self, write: Callable[[Session], bool]) -> bool:
        return tell_everybody(self._db, self._catalogue, write)


def tell_everybody(database: Database, pictures: Pictures, write: Callable[[Session], bool]) -> bool:
    """One small transaction, seen by the other processes with their next look. False where nothing was changed.

    ``write`` gives whether it changed anything. Never raises for a database that is away.
    """
    try:
        with database.transaction() as session:
            lock_catalogue(session)
            changed = write(session)
            if changed:
                bump_version(session)
        pictures.refresh()
    except Unavailable:
        log.warning("How a provider fares could not be written: the database is away.")
        return False
    return changed
