"""What `services.demo_data` writes past the services: many rows at once, and moments that have gone by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from flaskllm.extensions import Model
from flaskllm.models.account import ApiToken, User
from flaskllm.models.batch import BatchItemRow, BatchJobRow
from flaskllm.models.catalogue import Meta, RouteRow
from flaskllm.models.ledger import AttemptRow, BudgetRow, CallRow
from flaskllm.models.prompt import PromptVersionRow
from flaskllm.models.quota import AlertRow, QuotaRow
from flaskllm.repositories.rollups import has_calls

MARK = "demo_data"


def read_mark(session: Session) -> str | None:
    """What the command wrote when it was here before."""
    return session.scalar(select(Meta.value).where(Meta.name == MARK))


def write_mark(session: Session, value: str) -> None:
    """Raises SQLAlchemy's `IntegrityError` where another run was faster."""
    session.add(Meta(name=MARK, value=value))
    session.flush()


def change_mark(session: Session, value: str) -> None:
    session.execute(update(Meta).where(Meta.name == MARK).values(value=value))


def was_used(session: Session) -> bool:
    """Whether anything was ever asked here, answered or not."""
    return has_calls(session) or session.scalar(select(AttemptRow.id).limit(1)) is not None


def taken(
    session: Session, *, users: Sequence[str], templates: Sequence[str], routes: Sequence[str], quotas: Sequence[str]
) -> list[str]:
    """Which of these names are there already, each with what it is. ``users``: names as they are compared."""
    found = [
        f"the account {name}" for name in session.scalars(select(User.username).where(User.username_key.in_(users)))
    ]
    own = select(PromptVersionRow.name).where(PromptVersionRow.name.in_(templates)).distinct()
    found += [f"the template {name}" for name in session.scalars(own)]
    found += [f"the route {name}" for name in session.scalars(select(RouteRow.name).where(RouteRow.name.in_(routes)))]
    bound = select(QuotaRow.subject).where(QuotaRow.subject.in_(quotas))
    return found + [f"the quota of {name}" for name in session.scalars(bound)]


def add_attempts(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    _add(session, AttemptRow, rows)


def add_calls(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    _add(session, CallRow, rows)


def add_job(session: Session, job: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
    _add(session, BatchJobRow, [job])
    _add(session, BatchItemRow, items)


def _add(session: Session, table: type[Model], rows: Sequence[Mapping[str, Any]]) -> None:
    """All of them in one statement, whichever of their columns hold nothing."""
    session.execute(insert(table).execution_options(render_nulls=True), rows)


def add_spent(session: Session, budgets: Sequence[Mapping[str, Any]], alerts: Sequence[Mapping[str, Any]]) -> None:
    """What budgets have spent, as columns of `BudgetRow`, and the alerts of it. Of a budget that others spend from
    too, what is there is added to."""
    for budget in budgets:
        here = (BudgetRow.id == budget["id"]) & (BudgetRow.period == budget["period"])
        more = update(BudgetRow).where(here).values(spent=BudgetRow.spent + budget["spent"])
        if not session.execute(more).rowcount:  # type: ignore[attr-defined]
            session.execute(insert(BudgetRow), [budget])
    if alerts:
        session.execute(insert(AlertRow), alerts)


def backdate_user(session: Session, user_id: str, at: datetime) -> None:
    session.execute(update(User).where(User.id == user_id).values(created_at=at))


def backdate_token(
    session: Session, token_id: str, at: datetime, *, used_at: datetime | None, revoked_at: datetime | None
) -> None:
    moments = {"created_at": at, "last_used_at": used_at, "revoked_at": revoked_at}
    session.execute(update(ApiToken).where(ApiToken.id == token_id).values(**moments))


def backdate_template(session: Session, name: str, version: int, at: datetime) -> None:
    here = (PromptVersionRow.name == name) & (PromptVersionRow.version == version)
    session.execute(update(PromptVersionRow).where(here).values(created_at=at))


def backdate_route(session: Session, name: str, at: datetime, *, changed_at: datetime) -> None:
    session.execute(update(RouteRow).where(RouteRow.name == name).values(created_at=at, updated_at=changed_at))


def backdate_quota(session: Session, subject: str, at: datetime) -> None:
    session.execute(update(QuotaRow).where(QuotaRow.subject == subject).values(created_at=at, updated_at=at))
