"""Quotas: what administrators bind for a user, a model, a tag or everybody (``/quotas``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session

from flaskllm.domain.audit import Actor, difference
from flaskllm.domain.catalogue import Candidate, Catalogue
from flaskllm.domain.period import period_key
from flaskllm.domain.pricing import from_dollars, to_dollars
from flaskllm.domain.principal import Principal, RateLimits
from flaskllm.domain.quota import (
    BUDGET_PREFIX,
    FIELDS_OF,
    INSTALLATION,
    LIMITS,
    Quota,
    QuotaBudget,
    QuotaBudgetFields,
    QuotaFields,
    Quotas,
)
from flaskllm.errors import Conflict, NotFound, invalid
from flaskllm.models.types import now
from flaskllm.repositories import quotas as repository
from flaskllm.repositories.budgets import Filled
from flaskllm.repositories.database import Database
from flaskllm.repositories.quotas import QuotaRow
from flaskllm.repositories.users import get_user
from flaskllm.services.audit import AuditTrail
from flaskllm.services.recent import Recent

MOST_QUOTAS = 5_000
LONGEST_TAG = 64
ALERTS_KEPT_MS = 400 * 86_400_000


@dataclass(frozen=True, slots=True)
class BudgetView:
    """One budget as it stands in its period: sums in 10⁻⁹ dollar."""

    budget: QuotaBudget
    period_key: str
    spent: int
    reserved: int
    alerted_at: datetime | None


@dataclass(frozen=True, slots=True)
class QuotaView:
    """A quota's row, and its budgets as they stand. ``name``: whose it is, users by their user names."""

    row: QuotaRow
    budgets: tuple[BudgetView, ...]
    name: str


class QuotaService:
    """``zone``: that of the budgets' periods."""

    def __init__(
        self, database: Database, audit: AuditTrail, *, catalogue: Callable[[], Catalogue], zone: ZoneInfo
    ) -> None:
        self._db, self._audit, self._catalogue, self._zone = database, audit, catalogue, zone
        self._recent: Recent[Quotas] = Recent()

    # -- what a call is held to ----------------------------------------------------------------------------------------

    def applied(self, principal: Principal) -> Principal:
        """The principal with the budgets and limits that its user, its tags and everybody are held to.

        As they were less than a second ago. Raises `Unavailable`.
        """
        return self._current().applied(principal)

    def of_model(self, candidate: Candidate) -> RateLimits | None:
        """The limits of the candidate's model, which hold for everybody."""
        return self._current().of_model(candidate.provider.id, candidate.model.name)

    def _current(self) -> Quotas:
        return self._recent.get("all", self._load)

    def _load(self) -> Quotas:
        with self._db.reading() as session:
            return Quotas(_quota(row) for row in repository.load_quotas(session))

    def sweep(self) -> None:
        """Forget alerts of more than a year ago."""
        with self._db.transaction() as session:
            repository.sweep_alerts(session, before=int(now().timestamp() * 1000) - ALERTS_KEPT_MS)

    # -- reading -------------------------------------------------------------------------------------------------------

    def page(self, *, limit: int, after: str | None = None) -> tuple[list[QuotaView], str | None]:
        """So many quotas by subject, and the one after which the next page begins."""
        with self._db.reading() as session:
            rows = repository.load_quotas(session, after=after, limit=limit + 1)
            views = [self._view(session, row) for row in rows[:limit]]
        return views, rows[limit - 1].subject if len(rows) > limit else None

    def nearly_spent(self, share: float) -> list[Filled]:
        """The budgets of which this share and more is spent in their period of now."""
        at = datetime.now(self._zone)
        with self._db.reading() as session:
            held = [
                (row.subject, budget, (BUDGET_PREFIX + row.subject, period_key(budget.period, at)))
                for row in repository.load_quotas(session)
                for budget in _quota(row).budgets
            ]
            sums = repository.spent_of(session, [key for _, _, key in held])
            return [
                Filled("quota", subject, _name_of(session, subject), budget.amount, budget.period, sums[key][0])
                for subject, budget, key in held
                if sums.get(key, (0, 0))[0] >= max(1, share * budget.amount)
            ]

    def get(self, subject: str) -> QuotaView:
        """Raises `NotFound`."""
        with self._db.reading() as session:
            return self._view(session, _found(session, subject))

    def _view(self, session: Session, row: QuotaRow) -> QuotaView:
        at, name = datetime.now(self._zone), BUDGET_PREFIX + row.subject
        budgets = _quota(row).budgets
        keys = [(name, period_key(budget.period, at)) for budget in budgets]
        sums, alerts = repository.spent_of(session, keys), repository.alerts_of(session, keys)
        views = []
        for budget, key in zip(budgets, keys, strict=True):
            spent, reserved = sums.get(key, (0, 0))
            raised = alerts.get(key)
            alerted = None if raised is None else datetime.fromtimestamp(raised / 1000, UTC)
            views.append(BudgetView(budget, key[1], spent, reserved, alerted))
        return QuotaView(row, tuple(views), _name_of(session, row.subject))

    # -- writing -------------------------------------------------------------------------------------------------------

    def put(self, subject: str, fields: QuotaFields, actor: Actor) -> tuple[QuotaView, bool]:
        """The quota of a subject, in place of the one there was; and whether there was none.

        What is spent stays. Raises `InvalidRequest` naming the field at fault, `NotFound` for a user that there is not.
        """
        kind = _kind_of(subject)
        for name in fields:
            if name not in FIELDS_OF[kind]:
                raise invalid(name, f"is nothing that a quota of a {kind} can have")
        budgets = _budgets(fields.get("budgets", ()))
        with self._db.transaction() as session:
            self._check_subject(session, kind, subject)
            row = repository.get_quota(session, subject)
            before = None if row is None else _facts(row)
            if row is None:
                if repository.count_quotas(session) >= MOST_QUOTAS:
                    raise Conflict(f"There are {MOST_QUOTAS} quotas already; delete one first.")
                row = repository.add_quota(session, QuotaRow(subject=subject, budgets=[]))
            for name in LIMITS:
                setattr(row, name, fields.get(name))
            row.budgets, row.updated_at = budgets, now()
            session.flush()
            after = _facts(row)
            if before != after:
                action = "quota.update" if before else "quota.create"
                told = difference(before, after) if before else (None, after)
                self._audit.record(session, actor, action, f"quota:{subject}", *told)
            view = self._view(session, row)
        self._recent.forget()
        return view, before is None

    def remove(self, subject: str, actor: Actor) -> None:
        """Raises `NotFound`."""
        with self._db.transaction() as session:
            row = _found(session, subject)
            self._audit.record(session, actor, "quota.delete", f"quota:{subject}", _facts(row), None)
            session.delete(row)
        self._recent.forget()

    def _check_subject(self, session: Session, kind: str, subject: str) -> None:
        name = subject.partition(":")[2]
        if kind == "user" and get_user(session, name) is None:
            raise NotFound("There is no such user.")
        if kind == "model" and not _has_model(self._catalogue(), name):
            raise invalid("subject", "must name a model that there is: its provider, a slash, its name")


def _kind_of(subject: str) -> str:
    kind, _, name = subject.partition(":")
    if subject == INSTALLATION:
        return INSTALLATION
    if kind == "tag" and len(name) > LONGEST_TAG:
        raise invalid("subject", f"must name a tag of at most {LONGEST_TAG} characters")
    if kind in FIELDS_OF and kind != INSTALLATION and name:
        return kind
    raise invalid("subject", "must be installation, user:{id}, tag:{tag} or model:{provider}/{name}")


def _name_of(session: Session, subject: str) -> str:
    kind, _, name = subject.partition(":")
    user = get_user(session, name) if kind == "user" else None
    return user.username if user else name


def _has_model(catalogue: Catalogue, name: str) -> bool:
    prefix, _, rest = name.partition("/")
    provider = catalogue.by_id.get(prefix)
    return provider is not None and any(model.name == rest for model in provider.models)


def _budgets(asked: Sequence[QuotaBudgetFields]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for place, one in enumerate(asked):
        if one["period"] in found:
            raise invalid(f"budgets[{place}].period", "stands there already; one budget a period")
        hard = one.get("kind", "hard") == "hard"
        alert_at = one.get("alert_at", None if hard else 1.0)
        found[one["period"]] = {
            "amount": from_dollars(one["amount"]), "period": one["period"], "hard": hard, "alert_at": alert_at,
        }  # fmt: skip
    return list(found.values())


def _quota(row: QuotaRow) -> Quota:
    limits = RateLimits(row.requests_per_minute, row.tokens_per_minute, row.concurrency)
    return Quota(row.subject, limits, tuple(QuotaBudget(**budget) for budget in row.budgets))


def _found(session: Session, subject: str) -> QuotaRow:
    row = repository.get_quota(session, subject)
    if row is None:
        raise NotFound("There is no such quota.")
    return row


def _facts(row: QuotaRow) -> Mapping[str, Any]:
    """What the audit trail keeps of a quota."""
    budgets = [{**budget, "amount": to_dollars(budget["amount"])} for budget in row.budgets]
    return {**{name: getattr(row, name) for name in LIMITS}, "budgets": budgets}
