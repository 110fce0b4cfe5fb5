"""Providers as administrators make and change them (S5)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy.orm import Session

from flaskllm.domain.audit import Actor
from flaskllm.domain.catalogue import Provider, origin_of
from flaskllm.domain.provider import CHOICES, PROVIDER_ID, ProviderFields
from flaskllm.errors import Conflict, DomainError, InvalidRequest, invalid
from flaskllm.models.types import now
from flaskllm.repositories.providers import (
    ModelRow,
    ProviderRow,
    drop_rests_of,
    get_provider,
    load_providers,
    prefixes,
)
from flaskllm.services.catalogue_change import CatalogueDesk
from flaskllm.services.provider_connection import AddressRule, ConnectionRule, shown
from flaskllm.services.provider_factory import KindDescription, ProviderFactory
from flaskllm.services.provider_keys import ASIDE, KeyService, KeyView, key_facts
from flaskllm.services.provider_models import Shelf, live_models, model_facts, provider_of

SHIPPED, TOUCHED, OWN = "shipped", "touched", "own"
ASKS_FOR_KEY = (
    "is needed: the address's scheme, host or port changes, and a stored key never follows to another; "
    "send the key for the new address, or null to go without"
)


HERE, ENVIRONMENT, VENDOR, NOWHERE = "here", "environment", "vendor", "nowhere"
"""Where an address comes from: an administrator, the environment or the operator's file, the vendor's own, nobody."""
SWITCH, KIND, ADDRESS, A_KEY = "switch", "kind", "address", "key"
"""What a provider lacks that is off: somebody's switch, a kind that can be loaded, an address, a key."""


@dataclass(frozen=True, slots=True)
class ProviderView:
    """A provider as administrators see it: its row, and what the gateway makes of it.

    ``reason``: why it is off, and ``lacks`` the same in a word; None where it is on. ``addresses``: each endpoint's id
    and address, without credentials, and ``addressed_by`` who says so. ``breakers``: how many are open.
    """

    row: ProviderRow
    state: Provider
    models: list[ModelRow]
    keys: list[KeyView]
    connection: Mapping[str, Any]
    reason: str | None = field(default=None)
    lacks: str | None = None
    addresses: tuple[tuple[str, str], ...] = ()
    addressed_by: str = NOWHERE
    breakers: int = 0

    @property
    def keys_aside(self) -> int:
        """How many of its keys are put aside just now."""
        return sum(key.status == ASIDE for key in self.keys)


class ProviderService:
    """``/providers``. ``breakers``: how many are open, by provider and endpoint (`CircuitBoard.state`)."""

    def __init__(
        self,
        desk: CatalogueDesk,
        factory: ProviderFactory,
        keys: KeyService,
        addresses: AddressRule,
        *,
        breakers: Callable[[], Mapping[tuple[str, str], int]] = dict,
    ) -> None:
        self._desk = desk
        self._factory = factory
        self._keys = keys
        self._addresses = addresses
        self._breakers = breakers

    # -- reading ------------------------------------------------------------------------------------------------------

    def all(self) -> list[ProviderView]:
        """All of them, in the order in which they are shown everywhere."""
        with self._desk.database.reading() as session:
            rows = load_providers(session)
        return [self._view(row) for row in rows]

    def page(self, *, limit: int, after: str | None = None) -> tuple[list[ProviderView], str | None]:
        """So many of them in that order, and the id after which the next page begins."""
        with self._desk.database.reading() as session:
            rows = load_providers(session, after=after, limit=limit + 1)
        return [self._view(row) for row in rows[:limit]], rows[limit - 1].id if len(rows) > limit else None

    def get(self, provider_id: str) -> ProviderView:
        """Raises `NotFound`."""
        with self._desk.database.reading() as session:
            row = provider_of(session, provider_id)
            return self._view(row)

    def _view(self, row: ProviderRow) -> ProviderView:
        state = self._desk.catalogue.assembled(row)
        lacks = None if state.on else self._lacks(row, state)
        usual = self._usual_address(state.kind)
        return ProviderView(
            row=row,
            state=state,
            models=live_models(row),
            keys=self._keys.views(row, state),
            connection=self._shown(row),
            reason=None if lacks is None else _why_off(lacks, row, state),
            lacks=lacks,
            addresses=tuple((at.id, without_credentials(at.base_url or usual)) for at in state.endpoints),
            addressed_by=_addressed_by(state, usual),
            breakers=sum(count for (provider_id, _), count in self._breakers().items() if provider_id == row.id),
        )

    def _shown(self, row: ProviderRow) -> dict[str, Any]:
        try:
            return shown(row.connection, self._describe(row.kind).connection)
        except InvalidRequest:
            return dict.fromkeys(row.connection, "••••")  # its package is gone, so nobody knows what is secret

    def _lacks(self, row: ProviderRow, state: Provider) -> str:
        if row.enabled is False:
            return SWITCH
        try:
            has_key = any(at.keys for at in state.endpoints)
            return A_KEY if self._factory.key_required(state.kind) and not has_key else ADDRESS
        except (DomainError, ImportError, AttributeError):
            return KIND

    def _usual_address(self, kind: str) -> str:
        """The vendor's own; empty where there is none, or nobody knows."""
        try:
            return self._factory.default_base(kind)
        except (DomainError, ImportError, AttributeError):
            return ""

    # -- writing ------------------------------------------------------------------------------------------------------

    def create(self, fields: ProviderFields, actor: Actor) -> ProviderView:
        """A new provider, or a shipped one that nobody has touched, taken over.

        Raises `Conflict` where the id is an administrator's already, `InvalidRequest` naming the field at fault.
        """
        provider_id = fields["provider_id"]
        kind = self._describe(fields["provider_type"])
        with self._desk.change(actor, "provider.create", f"provider:{provider_id}") as change:
            row = get_provider(change.session, provider_id, deleted=True)
            if row is None:
                _check_id(change.session, provider_id)
                row = ProviderRow(id=provider_id, kind=kind.kind, display_name=provider_id, origin=OWN)
                row.description, row.connection, row.shipped, row.models, row.keys = "", {}, {}, [], []
                change.session.add(row)
            else:
                _take_over(row, kind.kind)
            complete: ProviderFields = {**fields, "connection_params": fields.get("connection_params", {})}
            scheduled = self._apply(change.session, row, kind, complete)
            change.after = {**self._facts(row), **scheduled}
        return self.get(provider_id)

    def change(self, provider_id: str, fields: ProviderFields, actor: Actor) -> ProviderView:
        """What is sent changes, the rest stays; ``connection_params`` one by one, null takes one out.

        Raises `NotFound`, `Conflict`, and `InvalidRequest` naming the field; ``api_key`` is one where the address goes
        to another scheme, host or port and there is a key that must not follow.
        """
        with self._desk.change(actor, "provider.update", f"provider:{provider_id}") as change:
            row = provider_of(change.session, provider_id)
            change.before = self._facts(row)
            if fields.get("provider_id", row.id) != row.id:
                raise invalid("provider_id", "cannot be changed; make another provider and delete this one")
            kind = self._describe(fields.get("provider_type", row.kind))
            if kind.kind != row.kind and row.origin != OWN:
                raise _shipped_kind(row)
            was = self._desk.catalogue.assembled(row)
            has_keys = bool(row.keys) or any(at.keys for at in was.endpoints)  # one that cannot be opened now is one
            before = self._places(was, row.kind)
            scheduled = self._apply(change.session, row, kind, fields)
            if row.origin == SHIPPED:
                row.origin = TOUCHED
            moved = self._places(self._desk.catalogue.assembled(row), row.kind) - before
            if moved and "api_key" not in fields and has_keys:
                raise invalid("api_key", ASKS_FOR_KEY)
            change.after = {**self._facts(row), **scheduled}
        return self.get(provider_id)

    def remove(self, provider_id: str, actor: Actor) -> None:
        """With its models and keys; a shipped one does not come back with the next seeding. Raises `NotFound`."""
        with self._desk.change(actor, "provider.delete", f"provider:{provider_id}") as change:
            row = provider_of(change.session, provider_id)
            change.before = self._facts(row)
            drop_rests_of(change.session, row.id)
            if row.origin == OWN:
                change.session.delete(row)
                return
            row.keys.clear()
            for model in [model for model in row.models if model.origin == OWN]:
                row.models.remove(model)
            row.deleted_at, row.default_model, row.connection = now(), None, {}

    def note_refusal(self, actor: Actor, action: str, target: str, error: DomainError) -> None:
        """An attempt that was refused is worth a row of the trail too: it may have been at another's address."""
        self._desk.note_refusal(actor, action, target, error)

    # -- one row ------------------------------------------------------------------------------------------------------

    def _apply(
        self, session: Session, row: ProviderRow, kind: KindDescription, fields: ProviderFields
    ) -> dict[str, Any]:
        """Write what was sent. Gives the prices that come in force later, for the audit trail."""
        row.kind = kind.kind
        for name in ("display_name", "description", "enabled"):
            if name in fields:
                setattr(row, name, fields[name])
        if "connection_params" in fields or "provider_type" in fields:
            rule = ConnectionRule(kind.kind, kind.connection, self._addresses)
            sent = fields.get("connection_params", {})
            row.connection = rule.merged(row.connection, sent, complete=row.origin == OWN)
        row.updated_at = now()
        session.flush()
        if "api_key" in fields:
            self._keys.replace(session, row, fields["api_key"])
        shelf = Shelf(session, row)
        if "models" in fields:
            shelf.replace(fields["models"])
            self._keep_to_its_models(row)
        if "default_model" in fields:
            self._set_default(row, fields["default_model"])
        return shelf.scheduled

    def _keep_to_its_models(self, row: ProviderRow) -> None:
        """A default from the environment that is not among the models would be one more of them."""
        models = live_models(row)
        default = self._desk.catalogue.assembled(row).default_model
        if default is not None and not any(default in (model.name, *model.aliases) for model in models):
            chats = [model.name for model in models if model.enabled and model.type == "chat"]
            row.default_model = next(iter(chats), None)

    def _set_default(self, row: ProviderRow, name: str | None) -> None:
        usable = [model.name for model in live_models(row) if model.enabled]
        if name is not None and name not in usable:
            raise invalid("default_model", "is no model of this provider that is enabled")
        row.default_model = name

    def _places(self, provider: Provider, kind: str) -> set[tuple[str, str, int | None]]:
        """Where its keys are sent."""
        return {origin_of(at.base_url or self._factory.default_base(kind)) for at in provider.endpoints}

    def _describe(self, kind: str) -> KindDescription:
        try:
            return self._factory.describe(kind)
        except (ImportError, AttributeError):
            raise invalid("provider_type", f"{kind[:64]} cannot be loaded: its package is gone or broken") from None

    def _facts(self, row: ProviderRow) -> dict[str, Any]:
        """What the audit trail keeps of a provider, and what tells whether it was changed at all.

        Keys by their ids too: two keys may end in the same four characters.
        """
        return {
            "provider_id": row.id,
            "display_name": row.display_name,
            "provider_type": row.kind,
            "description": row.description,
            "enabled": row.enabled,
            "connection_params": self._shown(row),
            "default_model": row.default_model,
            "models": [model_facts(model) for model in live_models(row)],
            "keys": [key_facts(key) for key in row.keys],
            "origin": row.origin,
        }


def _why_off(lacks: str, row: ProviderRow, state: Provider) -> str:
    """In words for those who use the paths of the API."""
    if lacks == SWITCH:
        return "It is switched off: enabled is false."
    if lacks == KIND:
        return f"Its type {state.kind} cannot be loaded."
    way = f"POST /providers/{row.id}/keys" if lacks == A_KEY else "PUT connection_params.api_base"
    ways = [way, *([f"set {state.switch}"] if state.switch else [])]
    return f"It lacks {'a key' if lacks == A_KEY else 'an address'}: {' or '.join(ways)}."


def _addressed_by(state: Provider, usual: str) -> str:
    if state.own_address:
        return HERE
    given = [at.base_url for at in state.endpoints if at.base_url]
    if any(origin_of(address) != origin_of(usual) for address in given):
        return ENVIRONMENT
    return VENDOR if usual else NOWHERE


def without_credentials(address: str) -> str:
    """An address as it may be shown: an operator's own may hold a password.

    >>> without_credentials("https://user:password@example.org:8443/v1?key=secret")
    'https://example.org:8443/v1'
    """
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else ""


def _check_id(session: Session, provider_id: str) -> None:
    """A new provider's id: of the right form, and nothing that other names begin with."""
    if not re.fullmatch(PROVIDER_ID, provider_id) or provider_id in CHOICES:
        form = f"must be 1 to 64 of A-Z a-z 0-9 . _ -, begin with a letter or digit, and be none of {sorted(CHOICES)}"
        raise invalid("provider_id", form)
    for row in load_providers(session, deleted=True):
        if row.id.casefold() == provider_id.casefold():
            raise _taken("provider_id", f"differs from the provider {row.id} by capitals alone")
    if provider_id in prefixes(session):
        raise _taken("provider_id", f"models are named {provider_id}/…, which would mean this provider's from then on")


def _take_over(row: ProviderRow, kind: str) -> None:
    """Make a shipped row an administrator's."""
    touched = row.origin != SHIPPED or row.keys or any(model.origin != SHIPPED for model in row.models)
    if touched and row.deleted_at is None:
        raise _taken("provider_id", f"there is a provider {row.id} already; PUT changes it")
    if row.origin == OWN or row.kind != kind:
        raise _shipped_kind(row)
    row.origin, row.deleted_at, row.created_at = TOUCHED, None, now()


def _shipped_kind(row: ProviderRow) -> InvalidRequest:
    return invalid("provider_type", f"must be {row.kind}: {row.id} is a shipped provider; give another one its own id")


def _taken(name: str, message: str) -> Conflict:
    return Conflict(f"{name}: {message}", details=[{"field": name, "message": message}])
