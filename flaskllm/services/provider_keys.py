"""A provider's keys: stored encrypted, shown as masks, several in turn; and encrypted anew under a new key of ours."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from flaskllm.domain.audit import Actor
from flaskllm.domain.catalogue import Key, KeyRest, Provider
from flaskllm.domain.provider import MOST_KEYS, KeyFields
from flaskllm.errors import Conflict, NotFound, invalid
from flaskllm.repositories.providers import (
    ProviderKeyRow,
    ProviderRow,
    all_keys,
    drop_rest,
    drop_rests_of,
    get_key,
    key_context,
    swap_ciphertext,
)
from flaskllm.security import MASK, SHORTEST_SHOWN, Undecryptable, Vault
from flaskllm.services.catalogue_change import CatalogueDesk
from flaskllm.services.provider_models import provider_of

AT_ONCE = 50
"""Keys that are encrypted anew in one transaction."""
ACTIVE, ASIDE = "active", "aside"
STORED, ENVIRONMENT = "stored", "environment"


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as administrators see it. ``created_at`` is None for one from the environment."""

    id: str
    mask: str
    endpoint: str | None
    source: str
    created_at: datetime | None
    rest: KeyRest | None = None

    @property
    def status(self) -> str:
        return ASIDE if self.rest is not None and time.time() < self.rest.until else ACTIVE

    @property
    def aside_until(self) -> datetime | None:
        return datetime.fromtimestamp(self.rest.until, UTC) if self.rest and self.status == ASIDE else None

    @property
    def last_error(self) -> str | None:
        """The provider's words since which it has not answered with this key."""
        return self.rest.error if self.rest else None


@dataclass(slots=True)
class Rotation:
    """What encrypting anew came to: keys written, keys that were so already, ids of those that nobody can open."""

    renewed: int = 0
    current: int = 0
    lost: list[str] = field(default_factory=list)


class KeyService:
    """``/providers/{id}/keys`` and the providers' part of ``flask keys rotate``."""

    def __init__(self, desk: CatalogueDesk, vault: Vault) -> None:
        self._desk = desk
        self._vault = vault

    def of(self, provider_id: str) -> list[KeyView]:
        """Raises `NotFound` for an unknown provider."""
        with self._desk.database.reading() as session:
            row = provider_of(session, provider_id)
            return self.views(row, self._desk.catalogue.assembled(row))

    def views(self, row: ProviderRow, provider: Provider) -> list[KeyView]:
        """The stored keys, and those from the environment that are in use."""
        rests = self._desk.catalogue.refresh().rests
        return [*(_stored(key, rests.get(key.id)) for key in row.keys), *_from_environment(provider, rests)]

    def add(self, provider_id: str, fields: KeyFields, actor: Actor) -> KeyView:
        """Raises `NotFound`, `Conflict` for a key that is there already, `InvalidRequest` for an unknown endpoint."""
        with self._desk.change(actor, "key.create", f"provider:{provider_id}") as change:
            provider = provider_of(change.session, provider_id)
            row = self.put(change.session, provider, fields)
            change.after = key_facts(row)
        return _stored(row, None)

    def put(self, session: Session, provider: ProviderRow, fields: KeyFields, where: str = "") -> ProviderKeyRow:
        """Encrypt a key and hang it on its provider. ``where`` begins the names of fields at fault."""
        value, endpoint = fields["key_value"], fields.get("endpoint")
        known = [at.id for at in self._desk.catalogue.assembled(provider).endpoints]
        if endpoint is not None and endpoint not in known:
            raise invalid(f"{where}endpoint", f"is none of {', '.join(known)}; leave it out for all of them")
        if len(provider.keys) >= MOST_KEYS:
            raise Conflict(f"A provider has at most {MOST_KEYS} keys.")
        if any(self._is(provider, key, value) and key.endpoint == endpoint for key in provider.keys):
            message = "is one of the provider's keys already"
            name = f"{where}key_value"
            raise Conflict(f"{name}: {message}", details=[{"field": name, "message": message}])
        row = ProviderKeyRow(
            provider_id=provider.id,
            ciphertext=self._vault.encrypt(value, context=key_context(provider.id)),
            last4=value[-4:] if len(value) >= SHORTEST_SHOWN else "",
            endpoint=endpoint,
        )
        provider.keys.append(row)
        session.flush()
        return row

    def _is(self, provider: ProviderRow, key: ProviderKeyRow, value: str) -> bool:
        try:
            return self._vault.decrypt(key.ciphertext, context=key_context(provider.id)) == value
        except Undecryptable:
            return False

    def replace(self, session: Session, provider: ProviderRow, fields: KeyFields | None) -> None:
        """This one in the place of all that are stored, or none."""
        provider.keys.clear()
        drop_rests_of(session, provider.id)
        session.flush()
        if fields is not None:
            self.put(session, provider, fields, "api_key.")

    def remove(self, provider_id: str, key_id: str, actor: Actor) -> None:
        """Raises `NotFound`, `Conflict` for a key from the environment."""
        with self._desk.change(actor, "key.delete", f"provider:{provider_id}") as change:
            provider = provider_of(change.session, provider_id)
            change.before = self._take_out(change.session, provider, key_id)

    def swap(self, provider_id: str, key_id: str, fields: KeyFields, actor: Actor) -> KeyView:
        """Another key in the place of this one, in one step. Raises what `add` and `remove` raise."""
        with self._desk.change(actor, "key.replace", f"provider:{provider_id}") as change:
            provider = provider_of(change.session, provider_id)
            change.before = self._take_out(change.session, provider, key_id)
            row = self.put(change.session, provider, fields)
            change.after = key_facts(row)
        return _stored(row, None)

    def _take_out(self, session: Session, provider: ProviderRow, key_id: str) -> dict[str, Any]:
        row = get_key(session, provider.id, key_id)
        if row is None:
            raise self._not_stored(provider, key_id)
        facts = key_facts(row)
        provider.keys.remove(row)
        drop_rest(session, key_id)
        session.flush()
        return facts

    def put_back(self, provider_id: str, key_id: str, actor: Actor) -> None:
        """Use a key again that was put aside, one from the environment too, without waiting for its pause to end.

        Raises `NotFound`; for one that is not aside nothing happens.
        """
        key = next((key for key in self.of(provider_id) if key.id == key_id), None)
        if key is None:
            raise NotFound(f"{provider_id} has no key {key_id[:80]!r}.")
        with self._desk.change(actor, "key.put_back", f"provider:{provider_id}") as change:
            if drop_rest(change.session, key_id):
                change.before = {"key_id": key.id, "key_value": key.mask, "status": ASIDE}
                change.after = {"key_id": key.id, "key_value": key.mask, "status": ACTIVE}

    def _not_stored(self, provider: ProviderRow, key_id: str) -> NotFound | Conflict:
        found = self._desk.catalogue.assembled(provider)
        if any(key.id == key_id for at in found.endpoints for key in at.keys):
            return Conflict("This key comes from the environment: take it out there. A stored one goes before it.")
        return NotFound(f"{provider.id} has no key {key_id[:80]!r}.")

    # -- our own key changes ------------------------------------------------------------------------------------------

    def rotate(self, actor: Actor) -> Rotation:
        """Encrypt every key anew under the first of our encryption keys, a few at a time; safe to repeat.

        Calls go on meanwhile: the keys stay what they are, and processes keep those they have opened.
        """
        done = Rotation()
        with self._desk.database.reading() as session:
            rows = [(key.id, key.provider_id, key.ciphertext) for key in all_keys(session)]
        stale = [row for row in rows if not self._vault.is_current(row[2])]
        done.current = len(rows) - len(stale)
        for start in range(0, len(stale), AT_ONCE):
            with self._desk.change(actor, "keys.rotate", "provider_keys") as change:
                written = self._renew(change.session, stale[start : start + AT_ONCE], done)
                change.after = {"renewed": written} if written else None
            done.renewed += written
        return done

    def _renew(self, session: Session, rows: list[tuple[str, str, str]], done: Rotation) -> int:
        written = 0
        for key_id, provider_id, ciphertext in rows:
            try:
                renewed = self._vault.renew(ciphertext, context=key_context(provider_id))
            except Undecryptable:
                done.lost.append(key_id)
                continue
            written += swap_ciphertext(session, key_id, ciphertext, renewed)
        return written


def _stored(row: ProviderKeyRow, rest: KeyRest | None) -> KeyView:
    return KeyView(row.id, MASK + row.last4, row.endpoint, STORED, row.created_at, rest)


def _from_environment(provider: Provider, rests: Mapping[str, KeyRest]) -> Iterator[KeyView]:
    for endpoint in provider.endpoints:
        for key in endpoint.keys:
            if key.id.startswith("env:"):
                yield KeyView(key.id, Vault.mask(key.value), endpoint.id, ENVIRONMENT, None, _own_rest(key, rests))


def _own_rest(key: Key, rests: Mapping[str, KeyRest]) -> KeyRest | None:
    rest = rests.get(key.id)
    return rest if rest is not None and rest.hint == key.hint else None


def key_facts(row: ProviderKeyRow) -> dict[str, Any]:
    """What the audit trail keeps of a key."""
    return {"key_id": row.id, "key_value": MASK + row.last4, "endpoint": row.endpoint}
