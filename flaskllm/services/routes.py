"""Routes as administrators make and change them: ``/routes``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from flaskllm.domain.audit import Actor
from flaskllm.domain.catalogue import Catalogue
from flaskllm.domain.provider import CHOICES
from flaskllm.domain.route import RouteFields
from flaskllm.errors import Conflict, Detail, NotFound, invalid, refuse
from flaskllm.models.types import now
from flaskllm.repositories.routes import RouteRow, add_route, count_routes, get_route, load_routes, names_a_model
from flaskllm.services.catalogue_change import CatalogueDesk

MOST_ROUTES = 500
TOUCHED, OWN = "touched", "own"


@dataclass(frozen=True, slots=True)
class RouteView:
    """A route's row, and those of its targets that nobody who is on has."""

    row: RouteRow
    unavailable: tuple[str, ...]


class RouteService:
    """``/routes``."""

    def __init__(self, desk: CatalogueDesk) -> None:
        self._desk = desk

    # -- reading ------------------------------------------------------------------------------------------------------

    def page(self, *, limit: int, after: str | None = None) -> tuple[list[RouteView], str | None]:
        """So many routes by name, and the name after which the next page begins."""
        with self._desk.database.reading() as session:
            rows = load_routes(session, after=after, limit=limit + 1)
        found = [self._view(row) for row in rows[:limit]]
        return found, rows[limit - 1].name if len(rows) > limit else None

    def get(self, name: str) -> RouteView:
        """Raises `NotFound`."""
        with self._desk.database.reading() as session:
            return self._view(_route(session, name))

    def _view(self, row: RouteRow) -> RouteView:
        catalogue = self._desk.catalogue.current()
        targets = [target["model"] for target in row.targets]
        return RouteView(row, tuple(model for model in targets if not _is_on(catalogue, model)))

    # -- writing ------------------------------------------------------------------------------------------------------

    def create(self, fields: RouteFields, actor: Actor) -> RouteView:
        """A new route. Raises `Conflict` where the name is taken, `InvalidRequest` naming the field at fault."""
        name = fields["name"]
        catalogue = self._desk.catalogue.refresh()
        with self._desk.change(actor, "route.create", f"route:{name}") as change:
            row = self._fresh(change.session, name)
            row.strategy, row.fallbacks, row.targets = "priority", {}, []
            _apply(row, fields, catalogue)
            change.after = _facts(row)
        return self._view(row)

    def _fresh(self, session: Session, name: str) -> RouteRow:
        """A row to be filled: a new one, or that of a shipped route that was deleted."""
        if name in CHOICES:
            raise invalid("name", f"must be none of {', '.join(sorted(CHOICES))}, which choose a model")
        row = get_route(session, name, deleted=True)
        if row is not None and row.deleted_at is None:
            raise _taken(f"there is a route {name} already; PUT changes it")
        if owner := names_a_model(session, name):
            raise _taken(f"is the name of the model {owner}")
        if count_routes(session) >= MOST_ROUTES:
            raise Conflict(f"There are {MOST_ROUTES} routes already; delete one first.")
        if row is None:
            return add_route(session, RouteRow(name=name, strategy="priority", targets=[], fallbacks={}, origin=OWN))
        row.deleted_at, row.origin, row.created_at = None, TOUCHED, now()
        return row

    def change(self, name: str, fields: RouteFields, actor: Actor) -> RouteView:
        """What is sent changes, the rest stays; ``targets`` and ``fallbacks`` take the place of all there were.

        Raises `NotFound`, and `InvalidRequest` naming the field at fault.
        """
        catalogue = self._desk.catalogue.refresh()
        with self._desk.change(actor, "route.update", f"route:{name}") as change:
            row = _route(change.session, name)
            change.before = _facts(row)
            if fields.get("name", name) != name:
                raise invalid("name", "cannot be changed; make another route and delete this one")
            _apply(row, fields, catalogue)
            if row.origin != OWN:
                row.origin = TOUCHED
            change.after = _facts(row)
        return self._view(row)

    def remove(self, name: str, actor: Actor) -> None:
        """One of the operator's file does not come back with the next seeding. Raises `NotFound`."""
        with self._desk.change(actor, "route.delete", f"route:{name}") as change:
            row = _route(change.session, name)
            change.before = _facts(row)
            if row.origin == OWN:
                change.session.delete(row)
            else:
                row.deleted_at = now()


def _apply(row: RouteRow, fields: RouteFields, catalogue: Catalogue) -> None:
    if "strategy" in fields:
        row.strategy = fields["strategy"]
    if "targets" in fields:
        row.targets = [{"model": one["model"], "weight": one.get("weight", 1)} for one in fields["targets"]]
    if "fallbacks" in fields:
        row.fallbacks = {kind: list(names) for kind, names in fields["fallbacks"].items() if names}
    refuse([*_faults_of_targets(row, fields, catalogue), *_faults_of_fallbacks(fields, catalogue)])
    row.updated_at = now()


def _faults_of_targets(row: RouteRow, fields: RouteFields, catalogue: Catalogue) -> Iterator[Detail]:
    """What cannot work, whoever is on: models that there are not, one twice, weights that leave nobody.

    Models that were sent before may be gone since, and are not asked after.
    """
    known, seen = _names(catalogue), set[str]()
    for place, target in enumerate(fields.get("targets", ())):
        where = f"targets[{place}].model"
        if target["model"] not in known:
            yield {"field": where, "message": "is no model that there is; it must be provider/model"}
        if target["model"] in seen:
            yield {"field": where, "message": "is a target already"}
        seen.add(target["model"])
    if row.strategy == "weighted" and not any(target["weight"] for target in row.targets):
        yield {"field": "targets", "message": "must have one of a weight above 0"}


def _faults_of_fallbacks(fields: RouteFields, catalogue: Catalogue) -> Iterator[Detail]:
    known = _names(catalogue)
    known |= {name.partition("/")[2] for name in known}
    for kind, names in fields.get("fallbacks", {}).items():
        for place, name in enumerate(names):
            if name not in known:
                message = "is no model that there is: it must be provider/model, a model's name or an alias"
                yield {"field": f"fallbacks.{kind}[{place}]", "message": message}


def _names(catalogue: Catalogue) -> set[str]:
    """Every ``provider/model`` and ``provider/alias`` there is, on or off."""
    return {
        f"{provider.id}/{name}"
        for provider in catalogue.providers
        for model in provider.models
        for name in (model.name, *model.aliases)
    }


def _is_on(catalogue: Catalogue, target: str) -> bool:
    prefix, _, name = target.partition("/")
    provider = catalogue.by_id.get(prefix)
    return provider is not None and provider.on and provider.model(name) is not None


def _route(session: Session, name: str) -> RouteRow:
    row = get_route(session, name)
    if row is None:
        raise NotFound(f"There is no route {name[:80]!r}.")
    return row


def _facts(row: RouteRow) -> Mapping[str, Any]:
    """What the audit trail keeps of a route."""
    targets: Sequence[Mapping[str, Any]] = [dict(target) for target in row.targets]
    return {
        "name": row.name,
        "strategy": row.strategy,
        "targets": targets,
        "fallbacks": dict(row.fallbacks),
        "origin": row.origin,
    }


def _taken(message: str) -> Conflict:
    return Conflict(f"name: {message}", details=[{"field": "name", "message": message}])
