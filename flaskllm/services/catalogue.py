"""The catalogue as it stands: rows, keys, environment and prices as one immutable picture, a second old at the most.

Keys and addresses from the environment are laid over the rows here, at each load, and nowhere written down. An
administrator's own key goes before the environment's; an address that an administrator changed is never sent the
environment's key (``docs/adr/0006-outgoing-calls.md``: a key is attached by host).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy.orm import Session

from flaskllm.domain.catalogue import (
    TIMEOUTS,
    Catalogue,
    Circuit,
    Endpoint,
    Key,
    KeyRest,
    Model,
    Provider,
    Timeouts,
    origin_of,
)
from flaskllm.domain.pricing import Price
from flaskllm.domain.route import route_of
from flaskllm.errors import DomainError, Unavailable
from flaskllm.models.types import now
from flaskllm.repositories.database import Database
from flaskllm.repositories.prices import next_change
from flaskllm.repositories.providers import (
    CircuitRow,
    KeyRestRow,
    ModelRow,
    ProviderKeyRow,
    ProviderRow,
    key_context,
    load_circuits,
    load_providers,
    load_rests,
    read_version,
)
from flaskllm.repositories.routes import load_routes
from flaskllm.services.catalogue_file import Variable, filled, missing, stable_id
from flaskllm.services.price_book import price_of
from flaskllm.services.seeding import Seeder, seed

if TYPE_CHECKING:
    from flaskllm.config import ProviderEnv

log = logging.getLogger(__name__)

MAX_AGE = 1.0
"""Seconds between two looks at the version: a change is seen by every process within that (``docs/promises.md``)."""
KIND_OF_WIRE = {"openai": "openai_compatible"}
"""The environment's name of a wire that is not the provider's own (``GEMINI_API_URL``) to the kind that speaks it."""

__all__ = ["CatalogueCache", "Seeder", "seed"]


class Opener(Protocol):
    """What decrypts a provider's key (`security.Vault`)."""

    def decrypt(self, ciphertext: str, *, context: str) -> str: ...


class CatalogueCache:
    """How old the picture may be.

    ``key_required`` says whether a kind of provider can do nothing without a key (`ProviderFactory.key_required`),
    ``default_base`` where its vendor's own service is.
    """

    def __init__(
        self,
        database: Database,
        vault: Opener,
        provider_env: Mapping[str, ProviderEnv],
        *,
        variable: Variable,
        key_required: Callable[[str], bool],
        default_base: Callable[[str], str] = lambda _: "",
        max_age: float = MAX_AGE,
    ) -> None:
        self._database = database
        self._vault = vault
        self._env = provider_env
        self._variable = variable
        self._key_required = key_required
        self._default_base = default_base
        self._opened: dict[tuple[str, str], str] = {}
        self._max_age = max_age
        self._lock = threading.Lock()
        self._held: Catalogue | None = None
        self._looked = 0.0
        self._prices_until = 0.0

    def current(self) -> Catalogue:
        """The picture. Past half its age one thread looks whether it is still true and the others take the one there
        is; past its age they wait for that look, so that after a silence nobody is given what an hour ago was true.

        Raises `Unavailable` only where there has never been one.
        """
        held, age = self._held, time.monotonic() - self._looked
        if held is not None and age < self._max_age / 2:
            return held
        if not self._lock.acquire(blocking=held is None or age >= self._max_age) and held is not None:
            return held
        try:
            return self._looked_at(self._held, at_most=self._max_age / 2)
        finally:
            self._lock.release()

    def refresh(self) -> Catalogue:
        """Look now; after one's own change."""
        with self._lock:
            return self._looked_at(self._held, at_most=0.0)

    def _looked_at(self, held: Catalogue | None, *, at_most: float) -> Catalogue:
        if held is not None and time.monotonic() - self._looked < at_most:
            return held
        began = time.monotonic()
        try:
            self._held = fresh = self._load(held)
        except Unavailable:
            if held is None:
                raise
            log.warning("The catalogue could not be read; the picture of version %s goes on serving.", held.version)
            self._looked = time.monotonic()  # those who wait do not each try again
            return held
        self._looked = began  # what was changed while it was read may be missing
        return fresh

    def _load(self, held: Catalogue | None) -> Catalogue:
        with self._database.reading() as session:
            version = read_version(session)
            if held is not None and held.version == version and time.time() < self._prices_until:
                return held
            self._prices_until = _prices_until(session)
            rows = load_providers(session)
            rests = load_rests(session)
            circuits = load_circuits(session)
            routes = load_routes(session)
        providers = tuple(self.assembled(row) for row in rows)
        known = {(row.id, key.id) for row in rows for key in row.keys}
        self._opened = {at: value for at, value in list(self._opened.items()) if at in known}
        return Catalogue(
            version,
            providers,
            {row.key_id: _rest(row) for row in rests},
            {row.id: _circuit(row) for row in circuits},
            {row.name: route_of(row.name, row.strategy, row.targets, row.fallbacks) for row in routes},  # type: ignore[arg-type]
        )

    def assembled(self, row: ProviderRow) -> Provider:
        """The provider that a row makes together with the environment; of a row under change, what it will be."""
        return _Assembly(
            row,
            self._env.get(row.id),
            self._own_keys(row),
            self._variable,
            key_required=self._key_required,
            default_base=self._default_base,
        ).provider()

    def _own_keys(self, row: ProviderRow) -> list[tuple[str | None, Key]]:
        """The administrators' keys, each with the endpoint that it is for; one that cannot be opened is left out."""
        keys = []
        for key in row.keys:
            value = self._opened.get((row.id, key.id)) or self._open(row, key)
            if value:
                self._opened[row.id, key.id] = value
                keys.append((key.endpoint, Key(key.id, value)))
        return keys

    def _open(self, row: ProviderRow, key: ProviderKeyRow) -> str | None:
        """A key's value, opened once: what stands under an id never changes, only what it is encrypted with.

        So a process whose list of encryption keys lacks the newest goes on with the keys it knows.
        """
        try:
            return self._vault.decrypt(key.ciphertext, context=key_context(row.id))
        except (DomainError, ValueError) as error:
            log.error("The key %s of provider %s cannot be decrypted: %s", key.id, row.id, error)
            return None


def _prices_until(session: Session) -> float:
    """Seconds since 1970 at which prices may be others without a change: one is scheduled, or the price book, which
    knows days, comes to its next."""
    at = now()
    tomorrow = at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return min(tomorrow, next_change(session, at) or tomorrow).timestamp()


def _rest(row: KeyRestRow) -> KeyRest:
    return KeyRest(row.key_id, row.hint, row.until.timestamp(), row.strikes, row.error)


def _circuit(row: CircuitRow) -> Circuit:
    return Circuit(row.id, row.opened_at.timestamp(), row.error)


def _timeouts(given: Mapping[str, float] | None) -> Timeouts:
    return Timeouts(**{name: seconds for name, seconds in (given or {}).items() if name in TIMEOUTS})


class _Assembly:
    """One provider out of its row, the environment and the operator's words."""

    def __init__(
        self,
        row: ProviderRow,
        env: ProviderEnv | None,
        own_keys: list[tuple[str | None, Key]],
        variable: Variable,
        *,
        key_required: Callable[[str], bool],
        default_base: Callable[[str], str],
    ) -> None:
        self._row = row
        self._env = env if row.origin != "own" else None
        self._own_keys = own_keys
        self._variable = variable
        self._key_required = key_required
        self._default_base = default_base
        self._own_address = str(row.connection.get("api_base") or "")
        words = row.shipped or {}
        self._words = {name: str(words.get(name) or "") for name in ("base_url", "api_key")}
        self._last_resort = bool(words.get("last_resort"))

    def provider(self) -> Provider:
        row, kind = self._row, self._kind()
        endpoints = self._endpoints()
        on = self._is_on(kind, endpoints)
        return Provider(
            id=row.id,
            kind=kind,
            uid=row.uid,
            rank=row.position,
            last_resort=self._last_resort,
            display_name=row.display_name,
            description=row.description,
            on=on,
            endpoints=endpoints,
            connection=self._connection(),
            models=self._models(on=on),
            default_model=self._default_model(),
            timeout_s=row.connection.get("timeout_s"),
            timeouts=_timeouts(row.connection.get("timeouts")),
            switch="" if row.enabled is False else self._switch(),
            own_address=bool(self._own_address),
        )

    def _kind(self) -> str:
        wire = self._env.wire if self._env and not self._own_address else None
        return KIND_OF_WIRE.get(wire or "", self._row.kind)

    def _connection(self) -> dict[str, Any]:
        version = self._env.api_version if self._env else None
        env = {} if version is None else {"api_version": version}
        return {**env, **self._row.connection}

    def _default_model(self) -> str | None:
        """The administrator's choice, else the environment's, unless an administrator deleted that one."""
        named = self._env.model if self._env else None
        deleted = any(row.name == named for row in self._row.models if row.deleted_at is not None)
        return self._row.default_model or (None if deleted else named)

    # -- addresses and keys -------------------------------------------------------------------------------------------

    def _endpoints(self) -> tuple[Endpoint, ...]:
        """An administrator's address first, then the environment's, then the operator's file, else the vendor's own."""
        if self._own_address:
            return (self._endpoint("main", self._own_address, self._key_for_own_address()),)
        if self._env and self._env.regions:
            return tuple(self._endpoint(at.name, at.endpoint, at.key.reveal()) for at in self._env.regions)
        return (self._endpoint("main", self._given_address(), self._given_key()),)

    def _given_address(self) -> str:
        return (self._env.base_url if self._env else None) or filled(self._words["base_url"], self._variable) or ""

    def _key_for_own_address(self) -> str | None:
        """The environment's key goes to the host that the environment, or its vendor, names, and to no other."""
        if self._env and self._env.regions:
            return None
        usual = self._given_address() or self._usual_address()
        return self._given_key() if usual and origin_of(usual) == origin_of(self._own_address) else None

    def _usual_address(self) -> str:
        try:
            return self._default_base(self._row.kind)
        except (DomainError, ImportError, AttributeError):
            return ""  # a package that is gone or broken: `_needs_key` tells of it

    def _given_key(self) -> str | None:
        """The key from the environment: the provider's own variable, or the one that the operator's file names."""
        if self._env and self._env.key:
            return self._env.key.reveal()
        return filled(self._words["api_key"], self._variable) or None

    def _endpoint(self, name: str, address: str, given: str | None) -> Endpoint:
        own = tuple(key for endpoint, key in self._own_keys if endpoint in (None, name))
        return Endpoint(name, address, own or ((Key(f"env:{self._row.id}:{name}", given),) if given else ()))

    # -- on or off ----------------------------------------------------------------------------------------------------

    def _is_on(self, kind: str, endpoints: tuple[Endpoint, ...]) -> bool:
        if self._row.enabled is False:
            return False
        if self._last_resort:
            return True
        if any(at.keys and (at.base_url or self._usual_address()) for at in endpoints):
            return True
        if self._env and self._env.on and not self._own_address:
            return True
        return self._has_address() and not self._needs_key(kind)

    def _has_address(self) -> bool:
        """Whether somebody gave an address; the vendor's own does not count, nor does the environment's default."""
        return bool(self._own_address or filled(self._words["base_url"], self._variable))

    def _needs_key(self, kind: str) -> bool:
        try:
            return self._key_required(kind)
        except (DomainError, ImportError, AttributeError) as error:
            log.error("Provider %s is off, its kind %s cannot be loaded: %s", self._row.id, kind, error)
            return True  # a package is gone or broken; the others go on

    def _switch(self) -> str:
        """What to set where it is off."""
        if self._env:
            return self._env.needs
        unset = missing(self._words["base_url"] + self._words["api_key"], self._variable)
        return unset[0] if unset else ""

    # -- models -------------------------------------------------------------------------------------------------------

    def _models(self, *, on: bool) -> tuple[Model, ...]:
        """The rows, and the default model where the catalogue lacks it (``<PROVIDER>_MODEL`` may name any)."""
        models = [self._model(row, on=on) for row in self._row.models if row.deleted_at is None]
        default = self._default_model()
        if default and not any(model.answers_to(default) for model in models):
            price = price_of(self._row.kind, default) if on else None
            row_id = stable_id(self._row.id, default)
            models.append(Model(row_id, self._row.id, default, default, default, price=price))
        return tuple(models)

    def _model(self, row: ModelRow, *, on: bool) -> Model:
        return Model(
            id=row.id,
            provider_id=row.provider_id,
            name=row.name,
            backend_model=row.backend_model,
            display_name=row.display_name,
            description=row.description,
            type=row.type,
            tier=row.tier,
            tier_head=row.tier_head,
            aliases=tuple(row.aliases),
            context_window=row.context_window,
            max_tokens=row.max_tokens,
            abilities=frozenset(row.abilities),
            price=self._price(row) if on else None,
            prices=tuple(row.prices or ()),
            timeout_s=row.timeout_s,
            params=dict(row.params),
            training_data=row.training_data,
            enabled=row.enabled,
        )

    def _price(self, row: ModelRow) -> Price | None:
        """Only for providers that are on, so that nobody opens the price book for nothing."""
        try:
            return price_of(self._row.kind, row.backend_model, row.type, row.prices)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            log.error("The prices of %s/%s make no sense: %s", row.provider_id, row.name, error)
            return None
