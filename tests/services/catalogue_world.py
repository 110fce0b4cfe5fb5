"""A catalogue on a real database, without the rest of the gateway."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import NullPool, create_engine
from sqlalchemy.orm import Session

import flaskllm.models  # noqa: F401  (registers the tables)
from flaskllm.config import Settings
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.principal import Principal
from flaskllm.extensions import db
from flaskllm.models.catalogue import ModelRow, ProviderKeyRow, ProviderRow
from flaskllm.repositories.database import Database, set_sqlite_pragmas
from flaskllm.repositories.providers import bump_version, key_context
from flaskllm.security import Vault
from flaskllm.services.catalogue import CatalogueCache, Seeder
from flaskllm.services.model_router import ModelRouter
from flaskllm.services.provider_factory import ProviderFactory

ANYBODY = Principal(user_id="u1", username="anybody")
ENCRYPTION_KEY = "k3Yr9vQ2mZ7pX4tB8nL1wS6dF0hJ5cGa"


@dataclass
class Clock:
    """A clock that a test moves; ``moment`` in seconds."""

    moment: float

    def __call__(self) -> float:
        return self.moment


def database_at(path: Path) -> Database:
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    set_sqlite_pragmas(engine, journal_mode="WAL", synchronous="NORMAL")
    db.metadata.create_all(engine)
    return Database(engine)


def settings_in(folder: Path, **environment: str) -> Settings:
    return Settings.load({"ENVIRONMENT": "testing", "LOG_DIR": "", **environment}, root=folder)


@dataclass
class World:
    """What an application has of the catalogue, with these variables set."""

    settings: Settings
    database: Database
    vault: Vault
    factory: ProviderFactory
    cache: CatalogueCache
    router: ModelRouter

    def change(self, *rows: object, delete: tuple[object, ...] = ()) -> None:
        """What an administrator's change does: rows and version in one transaction."""
        with self.database.transaction() as session:
            for row in rows:
                session.merge(row)
            for row in delete:
                session.delete(session.merge(row))
            bump_version(session)
        self.cache.refresh()

    def own_provider(self, provider_id: str, *names: str, **more: object) -> None:
        """A provider that an administrator made, with models of these names."""
        models = [ModelRow(name=name, backend_model=name, position=number) for number, name in enumerate(names)]
        connection = {"api_base": "http://127.0.0.1:9/v1"}
        fields = {"kind": "openai_compatible", "connection": connection, "models": models, **more}
        self.change(ProviderRow(id=provider_id, **fields))

    def own_key(self, provider_id: str, value: str, endpoint: str | None = None) -> None:
        sealed = self.vault.encrypt(value, context=key_context(provider_id))
        self.change(ProviderKeyRow(provider_id=provider_id, ciphertext=sealed, last4=value[-4:], endpoint=endpoint))

    def touch(self, provider_id: str, **fields: object) -> None:
        with self.database.transaction() as session:
            row = session.get_one(ProviderRow, provider_id)
            _set(session, row, origin="touched", **fields)
        self.cache.refresh()

    def touch_model(self, provider_id: str, name: str, **fields: object) -> None:
        with self.database.transaction() as session:
            row = session.query(ModelRow).filter_by(provider_id=provider_id, name=name).one()
            _set(session, row, origin="touched", **fields)
        self.cache.refresh()

    def ask(self, model: str | None, *, who: Principal = ANYBODY, **more: Any) -> list[Candidate]:
        request = ChatRequest(**{"model": model, "messages": [{"role": "user", "content": "hi"}], **more})
        return self.router.candidates(request, who)

    def names(self, model: str | None, **more: Any) -> list[str]:
        return [candidate.name for candidate in self.ask(model, **more)]


def _set(session: Session, row: object, **fields: object) -> None:
    for name, value in fields.items():
        setattr(row, name, value)
    bump_version(session)


def world(folder: Path, *, overlay: Path | None = None, max_age: float = 0.0, **environment: str) -> World:
    """A seeded catalogue; the same folder again is the next start of the same installation."""
    settings = settings_in(folder, **environment)
    database, vault, factory = database_at(folder / "app.db"), Vault([ENCRYPTION_KEY]), ProviderFactory()
    Seeder(database, variable=settings.variable, overlay=overlay).run()
    cache = CatalogueCache(
        database,
        vault,
        settings.provider_env,
        variable=settings.variable,
        key_required=factory.key_required,
        max_age=max_age,
    )
    router = ModelRouter(cache.current, default_provider=settings.llm_provider)
    return World(settings, database, vault, factory, cache, router)
