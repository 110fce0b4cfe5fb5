"""What administrators bind beside accounts and tokens themselves: a user's and a model's limits; the budgets of a user,
of a tag and of the whole installation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict
from uuid import NAMESPACE_OID, uuid5

from flaskllm.domain.event import Event
from flaskllm.domain.pricing import to_dollars
from flaskllm.domain.principal import Budget, Principal, RateLimits

INSTALLATION = "installation"
LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrency")
FIELDS_OF = {
    "user": (*LIMITS, "budgets"),
    "model": LIMITS,
    "tag": ("budgets",),
    INSTALLATION: ("budgets",),
}
"""What each kind of subject may have."""
BUDGET_PREFIX = "quota:"
"""How the ids of these budgets begin, beside ``token:`` and ``user:``."""
RANGE_PREFIX = "range:"
"""The same for the cap that a caller sets on one range."""


UNLIMITED = RateLimits()


class QuotaBudgetFields(TypedDict, total=False):
    """A budget as it is sent: ``amount`` in US dollars."""

    amount: Any
    period: str
    kind: str
    alert_at: float | None


class QuotaFields(TypedDict, total=False):
    """A quota as it is sent."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrency: int | None
    budgets: Sequence[QuotaBudgetFields]


@dataclass(frozen=True, slots=True)
class QuotaBudget:
    """``amount`` in 10⁻⁹ dollar each ``period``; a ``hard`` one refuses. An alert is sent once ``alert_at`` of it (a
    fraction) is spent; None: never."""

    amount: int
    period: str
    hard: bool = True
    alert_at: float | None = None

    @property
    def alert(self) -> int | None:
        """Spent from here on, it is time for the alert."""
        return None if self.alert_at is None else int(self.amount * self.alert_at)


def budget_event(event: str, budget_id: str, period: str, *, sums: Mapping[str, int], at: int) -> Event:
    """What became of a budget, for the operator. ``sums``: ``amount``, ``alert``, ``spent`` in 10⁻⁹ dollar.

    Its id hangs on event, budget and period alone; the standard wants one without full stops, and a header ASCII.
    """
    data = {
        "event": event,
        "subject": budget_id.removeprefix(BUDGET_PREFIX),
        "period": period,
        **{name: to_dollars(value) for name, value in sums.items()},
    }
    return Event(str(uuid5(NAMESPACE_OID, f"{event}:{budget_id}:{period}")), event, at, data)


@dataclass(frozen=True, slots=True)
class Quota:
    """One subject's: ``user:{id}``, ``model:{provider}/{name}``, ``tag:{tag}`` or ``installation``."""

    subject: str
    limits: RateLimits = UNLIMITED
    budgets: tuple[QuotaBudget, ...] = ()

    def held(self) -> Iterator[Budget]:
        """Its budgets as a call is held to them."""
        for one in self.budgets:
            yield Budget(BUDGET_PREFIX + self.subject, one.amount, one.period, one.hard, one.alert)


class Quotas:
    """All of them at one moment."""

    def __init__(self, quotas: Iterable[Quota] = ()) -> None:
        self._by_subject: Mapping[str, Quota] = {one.subject: one for one in quotas}

    def applied(self, principal: Principal) -> Principal:
        """The principal held to what binds its user, its tags and everybody."""
        if not self._by_subject:
            return principal
        own = self._by_subject.get(f"user:{principal.user_id}")
        names = (*(f"tag:{tag}" for tag in principal.tags), INSTALLATION)
        found = [own, *(self._by_subject.get(name) for name in names)]
        budgets = tuple(budget for quota in found if quota for budget in quota.held())
        if not budgets and own is None:
            return principal
        return replace(principal, budgets=principal.budgets + budgets, of_user=own.limits if own else None)

    def of_model(self, provider_id: str, name: str) -> RateLimits | None:
        """The limits of a model, whoever asks it."""
        found = self._by_subject.get(f"model:{provider_id}/{name}")
        return found.limits if found else None
