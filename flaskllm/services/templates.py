"""Prompt templates: those that are shipped and, before them, those that administrators wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from flaskllm.domain.audit import Actor
from flaskllm.domain.prompt import PromptTemplate, PromptVersion, declared
from flaskllm.errors import Conflict, NotFound
from flaskllm.repositories import prompts as repository
from flaskllm.repositories.database import Database
from flaskllm.services.audit import AuditTrail
from flaskllm.services.recent import Recent

MOST_TEMPLATES = 1000
UNKNOWN = "There is no such template; GET /api/v1/templates lists those that you may use."


class TemplateService:
    """Templates by name. A change is a new version, seen by every process within a second."""

    def __init__(self, database: Database, audit: AuditTrail) -> None:
        self._db, self._audit = database, audit
        self._known: Recent[Mapping[str, PromptTemplate]] = Recent()

    def all(self) -> list[PromptTemplate]:
        """Every template that may be asked for, the shipped ones first."""
        return list(self._by_name().values())

    def get(self, name: str) -> PromptTemplate:
        """Raises `NotFound`."""
        found = self._by_name().get(name)
        if found is None:
            raise NotFound(UNKNOWN)
        return found

    def page(
        self, *, limit: int, after: str | None = None, search: str | None = None
    ) -> tuple[list[PromptTemplate], str | None]:
        """Templates by name, of which ``search`` is a part, and where the next page begins."""
        sought = (search or "").lower()
        found = [
            one for name, one in sorted(self._by_name().items()) if sought in name.lower() and name > (after or "")
        ]
        return found[:limit], found[limit - 1].name if len(found) > limit else None

    def is_shipped(self, name: str) -> bool:
        """Whether there is a shipped one of that name, also where an administrator's stands before it."""
        return name in repository.shipped()

    def history(self, name: str, *, limit: int, after: int | None = None) -> tuple[list[PromptVersion], int | None]:
        """What became of a template, newest first, the shipped one last; and where the next page begins.

        Raises `NotFound` for a name that there never was.
        """
        with self._db.reading() as session:
            found = repository.history(session, name, limit=limit + 1, before=after)
        shipped = repository.shipped().get(name)
        if shipped is not None and (after is None or after > shipped.version):
            found.append(PromptVersion(shipped))
        if not found and after is None:
            raise NotFound(UNKNOWN)
        return found[:limit], found[limit - 1].template.version if len(found) > limit else None

    def version(self, name: str, number: int) -> PromptTemplate:
        """One version. Raises `NotFound`."""
        shipped = repository.shipped().get(name)
        if shipped is not None and shipped.version == number:
            return shipped
        with self._db.reading() as session:
            found = repository.find_version(session, name, number)
        if found is None:
            raise NotFound("There is no such version of the template.")
        return found

    def versions(self, name: str) -> list[PromptTemplate]:
        """Every version of a template, newest first; the shipped one is the last. Raises `NotFound`."""
        with self._db.reading() as session:
            own = repository.versions(session, name)
        found = [*own, *filter(None, [repository.shipped().get(name)])]
        if not found:
            raise NotFound(UNKNOWN)
        return found

    def create(self, template: PromptTemplate, actor: Actor) -> PromptTemplate:
        """Write the first version. Raises `Conflict` where there is one of that name, `InvalidRequest`."""
        now = self._fresh()
        if template.name in now:
            raise Conflict(f"There is a template {template.name} already; PUT changes it.")
        _check_room(now)
        return self._write(template, None, actor)

    def change(self, name: str, changes: Mapping[str, Any], actor: Actor, *, seen: int | None = None) -> PromptTemplate:
        """Write a version in which these fields differ: of a shipped template too, which then stands behind it.

        ``seen``: the version that whoever changes it has before them. Raises `NotFound`, `InvalidRequest`, and
        `Conflict` where somebody else was faster.
        """
        before = self._fresh().get(name)
        if before is None:
            raise NotFound(UNKNOWN)
        if seen is not None and before.version != seen:
            raise _overtaken(name)
        return self._write(replace(before, **changes, shipped=False), before, actor)

    def restore(self, name: str, number: int, actor: Actor) -> PromptTemplate:
        """Write an old version anew, as the newest; of a template that was deleted too.

        Raises `NotFound`, and `Conflict` where somebody else was faster or there are too many.
        """
        old, now = self.version(name, number), self._fresh()
        if name not in now:
            _check_room(now)
        return self._write(replace(old, shipped=False), now.get(name), actor)

    def remove(self, name: str, actor: Actor) -> None:
        """Take an administrator's template away; a shipped one of that name serves again.

        Raises `NotFound`, and `Conflict` for a shipped one that nobody changed.
        """
        before = self._fresh().get(name)
        if before is None:
            raise NotFound(UNKNOWN)
        if before.shipped:
            raise Conflict(f"The template {name} is shipped and cannot be deleted; PUT changes it.")
        self._write(before, before, actor, removed=True)

    def _write(
        self, template: PromptTemplate, before: PromptTemplate | None, actor: Actor, *, removed: bool = False
    ) -> PromptTemplate:
        template = declared(template)
        name = template.name
        action = "template.delete" if removed else "template.update" if before else "template.create"
        try:
            with self._db.transaction() as session:
                behind = 1 if name in repository.shipped() else 0
                last = max(repository.last_version(session, name), behind)
                if _all(session).get(name) != before:  # after the number: who comes between takes the same one
                    raise _overtaken(name)
                template = replace(template, version=last + 1)
                repository.add_version(session, template, removed=removed)
                self._audit.record(
                    session,
                    actor,
                    action,
                    f"template:{name}",
                    _facts(before) if before else None,
                    None if removed else _facts(template),
                )
        except IntegrityError:
            raise _overtaken(name) from None
        self._known.forget()
        return template

    def _by_name(self) -> Mapping[str, PromptTemplate]:
        return self._known.get("all", self._fresh)

    def _fresh(self) -> Mapping[str, PromptTemplate]:
        with self._db.reading() as session:
            return _all(session)


def _all(session: Session) -> dict[str, PromptTemplate]:
    return {**repository.shipped(), **repository.newest(session)}


def _check_room(now: Mapping[str, PromptTemplate]) -> None:
    if len(now) >= MOST_TEMPLATES:
        raise Conflict(f"There are {MOST_TEMPLATES} templates already; delete one first.")


def _overtaken(name: str) -> Conflict:
    return Conflict(f"The template {name} has just been changed by somebody else; look at it and try again.")


def _facts(template: PromptTemplate) -> dict[str, Any]:
    """What the audit trail keeps of a template."""
    return {
        "version": template.version,
        "type": template.kind.value,
        "description": template.description,
        "system_text": template.system_text,
        "user_text": template.user_text,
        "variables": dict(template.variables),
        "model": template.model,
        "parameters": dict(template.parameters),
        "cache": template.cache,
    }
