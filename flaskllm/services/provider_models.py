"""A provider's models as administrators change them: what is taken over, which names are free, what a price may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from flaskllm.domain.audit import Actor
from flaskllm.domain.pricing import INPUTS, MOST_RATE, OUTPUTS
from flaskllm.domain.provider import CHOICES, MOST_MODELS, ModelFields
from flaskllm.errors import Conflict, NotFound, invalid
from flaskllm.models.types import now
from flaskllm.repositories.providers import ModelRow, ProviderRow, get_model, get_provider, names_elsewhere
from flaskllm.services.catalogue_change import CatalogueDesk
from flaskllm.services.price_book import stated_price

COLUMNS: Mapping[str, str] = {
    "display_name": "display_name",
    "description": "description",
    "model_type": "type",
    "context_window": "context_window",
    "max_tokens": "max_tokens",
    "enabled": "enabled",
    "backend_model": "backend_model",
    "tier": "tier",
    "tier_head": "tier_head",
    "aliases": "aliases",
    "capabilities": "abilities",
    "prices": "prices",
    "timeout_s": "timeout_s",
    "params": "params",
    "training_data": "training_data",
}
"""A document's field to the row's column."""


class ModelService:
    """``/providers/{id}/models``."""

    def __init__(self, desk: CatalogueDesk) -> None:
        self._desk = desk

    def of(self, provider_id: str) -> list[ModelRow]:
        """Raises `NotFound` for an unknown provider."""
        with self._desk.database.reading() as session:
            return live_models(provider_of(session, provider_id))

    def get(self, provider_id: str, name: str) -> ModelRow:
        with self._desk.database.reading() as session:
            return _model_of(session, provider_id, name)

    def add(self, provider_id: str, fields: ModelFields, actor: Actor) -> ModelRow:
        """Raises `NotFound`, `Conflict` for one that is there or a name that is taken, `InvalidRequest`."""
        target = f"model:{provider_id}/{fields['model_id']}"
        with self._desk.change(actor, "model.create", target) as change:
            shelf = Shelf(change.session, provider_of(change.session, provider_id))
            row = shelf.add(fields)
            change.after = model_facts(row)
        return row

    def change(self, provider_id: str, name: str, fields: ModelFields, actor: Actor) -> ModelRow:
        """What is sent changes, the rest stays. Raises as `add` does."""
        with self._desk.change(actor, "model.update", f"model:{provider_id}/{name}") as change:
            row = _model_of(change.session, provider_id, name)
            change.before = model_facts(row)
            if fields.get("model_id", name) != name:
                raise invalid("model_id", "cannot be changed; add another model and delete this one")
            Shelf(change.session, row.provider).change(row, fields)
            change.after = model_facts(row)
        return row

    def remove(self, provider_id: str, name: str, actor: Actor) -> None:
        """A shipped one does not come back with the next seeding. Raises `NotFound`."""
        with self._desk.change(actor, "model.delete", f"model:{provider_id}/{name}") as change:
            row = _model_of(change.session, provider_id, name)
            change.before = model_facts(row)
            Shelf(change.session, row.provider).remove(row)


@dataclass(slots=True)
class Shelf:
    """One provider's models inside a transaction. ``where`` begins the names of fields at fault (``models[0].``)."""

    session: Session
    provider: ProviderRow
    where: str = ""

    def add(self, fields: ModelFields) -> ModelRow:
        """A new row, a shipped one that nobody has touched, or one that was deleted."""
        name = fields["model_id"]
        row = self._row(name)
        if row is not None and row.deleted_at is None and row.origin != "shipped":
            raise self._conflict("model_id", f"{self.provider.id} has a model {name!r} already; PUT changes it")
        if row is None:
            if len(live_models(self.provider)) >= MOST_MODELS:
                raise Conflict(f"A provider has at most {MOST_MODELS} models.")
            row = ModelRow(name=name, backend_model=name, display_name=name, origin="own")
            row.description, row.aliases, row.abilities, row.params = "", [], [], {}
            row.type, row.tier_head, row.enabled = "chat", False, True
            row.position = max((each.position for each in self.provider.models), default=0) + 1
            self.provider.models.append(row)
        row.deleted_at = None
        self.change(row, fields)
        return row

    def change(self, row: ModelRow, fields: ModelFields) -> None:
        if fields.get("provider_id", self.provider.id) != self.provider.id:
            raise invalid(f"{self.where}provider_id", f"must be {self.provider.id}, whose model it is")
        self._check_names(row, fields)
        for name, column in COLUMNS.items():
            if name in fields:
                setattr(row, column, fields[name])  # type: ignore[literal-required]
        if row.origin == "shipped":
            row.origin = "touched"
        check_price(row.prices, f"{self.where}prices")
        if not row.enabled and self.provider.default_model == row.name:
            raise self._conflict("enabled", f"{row.name} is the default model; name another one first")
        self.provider.updated_at = now()

    def remove(self, row: ModelRow) -> None:
        if self.provider.default_model == row.name:
            self.provider.default_model = None
        if row.origin == "own":
            self.provider.models.remove(row)
        else:
            row.deleted_at = now()
        self.provider.updated_at = now()

    def replace(self, models: Sequence[ModelFields]) -> None:
        """Exactly these, in this order; what is there under the same name keeps what is not said."""
        wanted: dict[str, ModelFields] = {}
        for place, fields in enumerate(models):
            if wanted.setdefault(fields["model_id"], fields) is not fields:
                raise invalid(f"models[{place}].model_id", "stands more than once")
        for row in live_models(self.provider):
            if row.name not in wanted:
                self.remove(row)
        self.session.flush()
        with self.session.no_autoflush:  # else each of hundreds is written alone while everybody's writes wait
            for place, fields in enumerate(models):
                self.where = f"models[{place}]."
                there = self._row(fields["model_id"])
                if there is None or there.deleted_at is not None:
                    there = self.add(fields)
                else:
                    self.change(there, fields)
                there.position = place

    def _row(self, name: str) -> ModelRow | None:
        """The model of this name, a deleted one too."""
        return next((row for row in self.provider.models if row.name == name), None)

    # -- names --------------------------------------------------------------------------------------------------------

    def _check_names(self, row: ModelRow, fields: ModelFields) -> None:
        """A name means one thing: no word that chooses, and no alias that is a model's name. An alias that several
        providers share is a way to fall back, and is free."""
        aliases = fields.get("aliases", row.aliases)
        if row.name in CHOICES:
            raise invalid(f"{self.where}model_id", f"{row.name!r} chooses among models and cannot be the name of one")
        taken = self._taken({row.name, *aliases}, row)
        if row.name in taken:
            raise self._conflict("model_id", f"{row.name!r} is an alias of {taken[row.name]}")
        if not fields.get("aliases"):
            return
        elsewhere = names_elsewhere(self.session, self.provider.id, aliases)
        for place, alias in enumerate(aliases):
            where = f"aliases[{place}]"
            if alias in CHOICES:
                raise invalid(f"{self.where}{where}", f"{alias!r} chooses among models and cannot be the name of one")
            if alias == row.name:
                raise invalid(f"{self.where}{where}", "is the model's own name")
            if owner := taken.get(alias) or elsewhere.get(alias):
                raise self._conflict(where, f"{alias!r} is taken by {owner}")

    def _taken(self, names: set[str], row: ModelRow) -> dict[str, str]:
        """Which of these another model of this provider bears, each with the one that does (``provider/name``)."""
        found: dict[str, str] = {}
        for model in live_models(self.provider):
            if model is not row and (model.name in names or not names.isdisjoint(model.aliases)):
                found |= dict.fromkeys(names & {model.name, *model.aliases}, f"{self.provider.id}/{model.name}")
        return found

    def _conflict(self, field: str, message: str) -> Conflict:
        where = f"{self.where}{field}"
        return Conflict(f"{where}: {message}", details=[{"field": where, "message": message}])


def check_price(prices: Sequence[Mapping[str, Any]] | None, where: str) -> None:
    """Raises `InvalidRequest` for a price list of which no price can be made."""
    if not prices:
        return
    try:
        price = stated_price(prices)
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise invalid(where, str(error)) from None
    if any(price.of(bucket) > MOST_RATE for bucket in (*INPUTS, *OUTPUTS)):
        raise invalid(where, "must be at most 1000000 dollars for a million tokens")


def provider_of(session: Session, provider_id: str) -> ProviderRow:
    """The provider. Raises `NotFound`."""
    row = get_provider(session, provider_id)
    if row is None:
        raise NotFound(f"There is no provider {provider_id[:80]!r}.")
    return row


def live_models(provider: ProviderRow) -> list[ModelRow]:
    return sorted(
        (row for row in provider.models if row.deleted_at is None), key=lambda row: (row.position or 0, row.name)
    )


def model_facts(row: ModelRow) -> dict[str, Any]:
    """What the audit trail keeps of a model."""
    told = {name: getattr(row, column) for name, column in COLUMNS.items()}
    return {"model_id": row.name, **told, "origin": row.origin}


def _model_of(session: Session, provider_id: str, name: str) -> ModelRow:
    provider = provider_of(session, provider_id)
    row = get_model(session, provider.id, name)
    if row is None:
        raise NotFound(f"{provider.id} has no model {name[:80]!r}.")
    return row
