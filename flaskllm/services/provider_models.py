"""A provider's models as administrators change them: what is taken over, which names are free, what a price may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from flaskllm.domain.audit import Actor
from flaskllm.domain.pricing import INPUTS, MOST_RATE, OUTPUTS
from flaskllm.domain.provider import CHOICES, MOST_MODELS, ModelFields
from flaskllm.errors import Conflict, NotFound, invalid
from flaskllm.models.types import now
from flaskllm.repositories.prices import PriceRow, in_force, price_page
from flaskllm.repositories.providers import ModelRow, ProviderRow, get_model, get_provider, names_elsewhere
from flaskllm.services.catalogue_change import CatalogueDesk
from flaskllm.services.price_book import BOOK, book_version, price_of, stated_price
from flaskllm.services.price_history import PriceDesk, PricePeriod, begins_ahead

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

    def page(self, provider_id: str, *, limit: int, after: str | None = None) -> tuple[list[ModelRow], str | None]:
        """So many of them in that order, and the name after which the next page begins; none after an unknown one."""
        rows = self.of(provider_id)
        if after is not None:
            names = [row.name for row in rows]
            rows = rows[names.index(after) + 1 :] if after in names else []
        return rows[:limit], rows[limit - 1].name if len(rows) > limit else None

    def aliases(self, *, limit: int, after: str | None = None) -> tuple[list[tuple[str, list[str]]], str | None]:
        """So many aliases by name, each with the models that bear it (``provider/model``), those that are off too; and
        the alias after which the next page begins."""
        found: dict[str, list[str]] = {}
        for provider in self._desk.catalogue.current().ordered:
            for model in provider.models:
                for alias in model.aliases:
                    found.setdefault(alias, []).append(f"{provider.id}/{model.name}")
        names = sorted(name for name in found if after is None or name > after)
        return [(name, found[name]) for name in names[:limit]], names[limit - 1] if len(names) > limit else None

    def get(self, provider_id: str, name: str) -> ModelRow:
        with self._desk.database.reading() as session:
            return _model_of(session, provider_id, name)

    def add(self, provider_id: str, fields: ModelFields, actor: Actor) -> ModelRow:
        """Raises `NotFound`, `Conflict` for one that is there or a name that is taken, `InvalidRequest`."""
        target = f"model:{provider_id}/{fields['model_id']}"
        with self._desk.change(actor, "model.create", target) as change:
            shelf = Shelf(change.session, provider_of(change.session, provider_id))
            row = shelf.add(fields)
            change.after = {**model_facts(row), **shelf.scheduled}
        return row

    def change(self, provider_id: str, name: str, fields: ModelFields, actor: Actor) -> ModelRow:
        """What is sent changes, the rest stays. Raises as `add` does."""
        with self._desk.change(actor, "model.update", f"model:{provider_id}/{name}") as change:
            row = _model_of(change.session, provider_id, name)
            change.before = model_facts(row)
            if fields.get("model_id", name) != name:
                raise invalid("model_id", "cannot be changed; add another model and delete this one")
            shelf = Shelf(change.session, row.provider)
            shelf.change(row, fields)
            change.after = {**model_facts(row), **shelf.scheduled}
        return row

    def prices(
        self, provider_id: str, name: str, *, limit: int, after: str | None = None
    ) -> tuple[list[PricePeriod], str | None]:
        """What a model cost, costs and will cost, the newest first, and where to go on. Raises `NotFound`."""
        with self._desk.database.reading() as session:
            model = _model_of(session, provider_id, name)
            kind = model.provider.kind
            current = in_force(session, now(), provider_id).get((provider_id, name))
            rows, more = price_page(session, (provider_id, name), limit=limit, after=after)
        found = [_period(row, until, model, kind, current) for row, until in rows]
        return found, found[-1].row.id if more else None

    def remove(self, provider_id: str, name: str, actor: Actor) -> None:
        """A shipped one does not come back with the next seeding. Raises `NotFound`."""
        with self._desk.change(actor, "model.delete", f"model:{provider_id}/{name}") as change:
            row = _model_of(change.session, provider_id, name)
            change.before = model_facts(row)
            Shelf(change.session, row.provider).remove(row)


def _period(row: PriceRow, until: datetime | None, model: ModelRow, kind: str, current: PriceRow | None) -> PricePeriod:
    state = "in_force" if current is not None and row.id == current.id else "past"
    if current is None or row.valid_from > current.valid_from:
        state = "scheduled"
    known = row.version != "" and (row.version == book_version() or not row.version.startswith(BOOK))
    return PricePeriod(
        row, until, state, price_of(kind, model.backend_model, model.type, row.prices) if known else None
    )


@dataclass(slots=True)
class Shelf:
    """One provider's models inside a transaction. ``where`` begins the names of fields at fault (``models[0].``).

    ``scheduled``: the prices that are to come in force later, for the audit trail.
    """

    session: Session
    provider: ProviderRow
    where: str = ""
    scheduled: dict[str, Any] = field(default_factory=dict)
    history: PriceDesk = field(init=False)

    def __post_init__(self) -> None:
        self.history = PriceDesk(self.session, self.provider.id, self.provider.kind)

    def add(self, fields: ModelFields) -> ModelRow:
        """A new row, a shipped one that nobody has touched, or one that was deleted."""
        name = fields["model_id"]
        row, is_new = self._row(name), False
        if row is not None and row.deleted_at is None and row.origin != "shipped":
            raise self._conflict("model_id", f"{self.provider.id} has a model {name!r} already; PUT changes it")
        if row is None:
            if len(live_models(self.provider)) >= MOST_MODELS:
                raise Conflict(f"A provider has at most {MOST_MODELS} models.")
            row = ModelRow(name=name, backend_model=name, display_name=name, origin="own")
            row.description, row.aliases, row.abilities, row.params = "", [], [], {}
            row.type, row.tier_head, row.enabled = "chat", False, True
            row.prices = None
            row.position = max((each.position for each in self.provider.models), default=0) + 1
            self.provider.models.append(row)
            is_new = True
        row.deleted_at = None
        self.change(row, fields, is_new=is_new)
        return row

    def change(self, row: ModelRow, fields: ModelFields, *, is_new: bool = False) -> None:
        if fields.get("provider_id", self.provider.id) != self.provider.id:
            raise invalid(f"{self.where}provider_id", f"must be {self.provider.id}, whose model it is")
        self._check_names(row, fields)
        check_price(fields.get("prices"), f"{self.where}prices")
        for name, column in COLUMNS.items():
            if name in fields and name != "prices":
                setattr(row, column, fields[name])  # type: ignore[literal-required]
        self._set_prices(row, fields, is_new=is_new)
        if row.origin == "shipped":
            row.origin = "touched"
        if not row.enabled and self.provider.default_model == row.name:
            raise self._conflict("enabled", f"{row.name} is the default model; name another one first")
        self.provider.updated_at = now()

    def _set_prices(self, row: ModelRow, fields: ModelFields, *, is_new: bool) -> None:
        """At once, or from ``valid_from`` on. What held until then stays in the history."""
        if "valid_from" in fields and "prices" not in fields:
            raise invalid(f"{self.where}valid_from", "says from when prices hold; send prices with it")
        prices = fields.get("prices", row.prices)
        if "valid_from" in fields and begins_ahead(fields["valid_from"], self.where):
            self.history.schedule(row, prices, fields["valid_from"])
            self.scheduled[f"prices_of_{row.name}"] = {"valid_from": fields["valid_from"], "prices": prices}
        elif is_new or prices != row.prices:
            self.history.open(row, prices, was=row.prices, is_new=is_new)
            row.prices = None if prices is None else [dict(entry) for entry in prices]

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
