"""How an administrator changes the catalogue: the change, its row of the audit trail and the version together."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from flaskllm.domain.audit import Actor, difference
from flaskllm.errors import DomainError, Unavailable
from flaskllm.repositories.database import Database
from flaskllm.repositories.providers import bump_version, lock_catalogue
from flaskllm.services.audit import AuditTrail
from flaskllm.services.catalogue import CatalogueCache

log = logging.getLogger(__name__)

Facts = Mapping[str, Any]


@dataclass(slots=True)
class Change:
    """A change under way: its session, and what it changes from and to, as documents show it."""

    session: Session
    before: Facts | None = None
    after: Facts | None = None


class CatalogueDesk:
    """Changes come one after the other, are seen by this process at once and by the others within a second."""

    def __init__(self, database: Database, catalogue: CatalogueCache, audit: AuditTrail) -> None:
        self.database = database
        self.catalogue = catalogue
        self._audit = audit

    @contextmanager
    def change(self, actor: Actor, action: str, target: str) -> Iterator[Change]:
        """One transaction. What raises inside leaves nothing behind; what changes nothing leaves no trace."""
        with self.database.transaction() as session:
            lock_catalogue(session)
            change = Change(session)
            yield change
            session.flush()
            before, after = change.before, change.after
            if before is not None and after is not None:
                before, after = difference(before, after)
            if before or after:
                bump_version(session)
                self._audit.record(session, actor, action, target, before, after)
        self.catalogue.refresh()

    def note_refusal(self, actor: Actor, action: str, target: str, error: DomainError) -> None:
        """Who tried what in vain: the names of the fields at fault, never their values."""
        told = {"code": error.code, "fields": [detail["field"] for detail in error.details]}
        try:
            with self.database.transaction() as session:
                self._audit.record(session, actor, f"{action}.refused", target, None, told)
        except Unavailable:
            log.warning("A refused %s could not be noted: the database is away.", action)
