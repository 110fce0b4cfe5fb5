"""Seeding: the catalogue's files into the database, as often as one likes.

What an administrator changed (``origin`` touched or own) is never overwritten, and what one deleted does not come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from flaskllm.repositories.database import Database
from flaskllm.repositories.providers import (
    ModelRow,
    ProviderRow,
    bump_version,
    load_providers,
    lock_catalogue,
    read_version,
)
from flaskllm.repositories.routes import RouteRow, load_routes
from flaskllm.services.catalogue_file import CatalogueFile, ModelEntry, ProviderEntry, Variable, read_catalogue
from flaskllm.services.price_history import PriceDesk

SHIPPED_ORIGIN = "shipped"


@dataclass(slots=True)
class Seeded:
    """What one seeding did."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    version: int = 0

    @property
    def anything(self) -> bool:
        return bool(self.added or self.changed or self.removed)


class Seeder:
    """Reads the catalogue's files and seeds them. ``overlay``: ``LLM_GATEWAY_CONFIG_PATH``."""

    def __init__(self, database: Database, *, variable: Variable, overlay: Path | None = None) -> None:
        self._database = database
        self._variable = variable
        self._overlay = overlay

    def run(self) -> Seeded:
        """Seed. Raises `CatalogueFileError`, which names file and entry, before anything is written."""
        return seed(self._database, read_catalogue(self._overlay, variable=self._variable))


def seed(database: Database, file: CatalogueFile) -> Seeded:
    """Bring the shipped rows to what the file says, in one transaction.

    Two processes that start at once do this one after the other, and the second finds nothing left to do.
    """
    with database.transaction() as session:
        lock_catalogue(session)
        done = _Seeding(session, file).run()
        if done.anything:
            bump_version(session)
        session.flush()
        done.version = read_version(session)
    return done


class _Seeding:
    def __init__(self, session: Session, file: CatalogueFile) -> None:
        self._session = session
        self._file = file
        self._done = Seeded()
        self._rows = {row.id: row for row in load_providers(session, deleted=True)}

    def run(self) -> Seeded:
        for provider in self._file.providers.values():
            self._seed_provider(provider)
        self._session.flush()
        for provider_id in self._file.providers:
            self._seed_models(self._rows[provider_id])
        self._remove_what_is_gone()
        self._seed_routes()
        self._session.flush()
        for row in self._rows.values():
            prices = PriceDesk(self._session, row.id, row.kind)
            for model in row.models:
                prices.keep(model)
        return self._done

    def _seed_provider(self, entry: ProviderEntry) -> None:
        row = self._rows.get(entry.id)
        if row is None:
            row = self._rows[entry.id] = ProviderRow(id=entry.id, origin=SHIPPED_ORIGIN, **entry.row)
            self._session.add(row)
            self._done.added += 1
        elif row.deleted_at is None and row.origin == SHIPPED_ORIGIN:
            self._done.changed += _bring_to(row, entry.row)
        elif row.deleted_at is None and row.origin != "own":
            self._done.changed += _bring_to(row, {"shipped": entry.row["shipped"]})  # the operator's, not a door's

    def _seed_models(self, provider: ProviderRow) -> None:
        if provider.deleted_at is not None or provider.origin == "own":
            return
        there = {model.name: model for model in provider.models}
        entries = [entry for (owner, _), entry in self._file.models.items() if owner == provider.id]
        for entry in entries:
            self._seed_model(provider, there.get(entry.name), entry)
        gone = set(there) - {entry.name for entry in entries}
        for model in [there[name] for name in gone if there[name].origin == SHIPPED_ORIGIN]:
            if model.deleted_at is None:
                provider.models.remove(model)
                self._done.removed += 1

    def _seed_model(self, provider: ProviderRow, row: ModelRow | None, entry: ModelEntry) -> None:
        if row is None:
            provider.models.append(ModelRow(name=entry.name, origin=SHIPPED_ORIGIN, **entry.row))
            self._done.added += 1
        elif row.deleted_at is None and row.origin == SHIPPED_ORIGIN:
            self._done.changed += _bring_to(row, {name: value for name, value in entry.row.items() if name != "id"})

    def _remove_what_is_gone(self) -> None:
        """A provider that the files no longer name, as far as nobody changed it or gave it a key."""
        for row in list(self._rows.values()):
            if row.id in self._file.providers or row.origin != SHIPPED_ORIGIN or row.deleted_at or row.keys:
                continue
            if all(model.origin == SHIPPED_ORIGIN for model in row.models):
                self._session.delete(row)
                del self._rows[row.id]
                self._done.removed += 1

    def _seed_routes(self) -> None:
        there = {row.name: row for row in load_routes(self._session, deleted=True)}
        for name, fields in self._file.routes.items():
            row = there.get(name)
            if row is None:
                self._session.add(RouteRow(name=name, origin=SHIPPED_ORIGIN, **fields))
                self._done.added += 1
            elif row.deleted_at is None and row.origin == SHIPPED_ORIGIN:
                self._done.changed += _bring_to(row, fields)
        for row in there.values():
            if row.name not in self._file.routes and row.origin == SHIPPED_ORIGIN and row.deleted_at is None:
                self._session.delete(row)
                self._done.removed += 1


def _bring_to(row: ProviderRow | ModelRow | RouteRow, fields: Mapping[str, Any]) -> int:
    """Write what differs; 1 where something did."""
    differing = {name: value for name, value in fields.items() if getattr(row, name) != value}
    for name, value in differing.items():
        setattr(row, name, value)
    return 1 if differing else 0
