"""Prompt templates: the file that is shipped, and what administrators wrote over it. Nothing commits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from flaskllm.domain.prompt import PromptKind, PromptTemplate, PromptVersion, read_template
from flaskllm.models.prompt import PromptVersionRow

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "prompts.yaml"


@cache
def shipped() -> Mapping[str, PromptTemplate]:
    """The templates of ``data/prompts.yaml`` by name, read once."""
    documents = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    return {name: read_template(name, document) for name, document in documents.items()}


def newest(session: Session) -> dict[str, PromptTemplate]:
    """Administrators' templates by name, each in its newest version; removed ones are left out."""
    last = select(PromptVersionRow.name, func.max(PromptVersionRow.version).label("version"))
    last_of_each = last.group_by(PromptVersionRow.name).subquery()
    query = select(PromptVersionRow).join(
        last_of_each,
        (PromptVersionRow.name == last_of_each.c.name) & (PromptVersionRow.version == last_of_each.c.version),
    )
    rows = session.scalars(query.order_by(PromptVersionRow.name))
    return {row.name: _template(row) for row in rows if not row.removed}


def versions(session: Session, name: str) -> list[PromptTemplate]:
    """Every version that an administrator wrote of a template, newest first."""
    query = select(PromptVersionRow).where(PromptVersionRow.name == name, PromptVersionRow.removed.is_(False))
    return [_template(row) for row in session.scalars(query.order_by(PromptVersionRow.version.desc()))]


def history(session: Session, name: str, *, limit: int, before: int | None = None) -> list[PromptVersion]:
    """What administrators did to a template, newest first, removals too; ``before``: only older versions."""
    query = select(PromptVersionRow).where(PromptVersionRow.name == name)
    if before is not None:
        query = query.where(PromptVersionRow.version < before)
    rows = session.scalars(query.order_by(PromptVersionRow.version.desc()).limit(limit))
    return [PromptVersion(_template(row), row.created_at, row.removed) for row in rows]


def find_version(session: Session, name: str, version: int) -> PromptTemplate | None:
    """One version that an administrator wrote; a removal is none."""
    query = select(PromptVersionRow).where(
        PromptVersionRow.name == name, PromptVersionRow.version == version, PromptVersionRow.removed.is_(False)
    )
    row = session.scalars(query).one_or_none()
    return None if row is None else _template(row)


def last_version(session: Session, name: str) -> int:
    """The number of the last version, removed ones too; 0 where there never was one."""
    query = select(func.max(PromptVersionRow.version)).where(PromptVersionRow.name == name)
    return session.scalar(query) or 0


def add_version(session: Session, template: PromptTemplate, *, removed: bool = False) -> None:
    """Raises SQLAlchemy's ``IntegrityError`` where that version has been written meanwhile."""
    row = PromptVersionRow(
        name=template.name,
        version=template.version,
        kind=template.kind.value,
        description=template.description,
        system_text=template.system_text,
        user_text=template.user_text,
        variables=dict(template.variables),
        model=template.model,
        parameters=dict(template.parameters),
        cache=template.cache,
        removed=removed,
    )
    session.add(row)
    session.flush()


def _template(row: PromptVersionRow) -> PromptTemplate:
    return PromptTemplate(
        name=row.name,
        kind=PromptKind(row.kind),
        description=row.description,
        system_text=row.system_text,
        user_text=row.user_text,
        variables=row.variables,
        model=row.model,
        parameters=row.parameters,
        cache=row.cache,
        version=row.version,
        shipped=False,
    )
