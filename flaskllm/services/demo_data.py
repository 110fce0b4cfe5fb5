"""A month of plausible traffic, for looking around and for pictures (`flask demo-data`). No provider is asked.

What people make goes through the services, each thing at its moment by a clock of its own, so that the audit trail
tells of it and holds. The ledger's rows are drawn (`services.demo_traffic`) and written in bulk; the sums of budgets
are what their attempts come to.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from sqlalchemy.exc import IntegrityError

from flaskllm.domain.account import DISABLED, UserFields, faults_of, folded
from flaskllm.domain.api_token import TokenFields
from flaskllm.domain.audit import Actor
from flaskllm.domain.batch import CANCELLED, COMPLETED, FAILED, OPEN, RUNNING
from flaskllm.domain.catalogue import Catalogue
from flaskllm.domain.conversation import Turn, new_name, title_of
from flaskllm.domain.period import period_key
from flaskllm.domain.pricing import from_dollars
from flaskllm.domain.prompt import PromptTemplate, read_template
from flaskllm.domain.quota import BUDGET_PREFIX
from flaskllm.errors import Conflict, refuse
from flaskllm.models.types import new_id
from flaskllm.repositories import demo_data as repository
from flaskllm.repositories.conversations import ConversationStore
from flaskllm.repositories.database import Database
from flaskllm.repositories.ledger import REACHED, Hold, holds_to_json
from flaskllm.services.demo_traffic import DAY, Planned, Row, Span, Target, Traffic, begin_of
from flaskllm.services.price_book import price_of

if TYPE_CHECKING:
    from flaskllm.services import Services

FACTS = Path(__file__).resolve().parent.parent / "data" / "demo_month.yaml"
SCOPES = ("chat", "embeddings", "images", "batch", "webhook")
AT_ONCE = 1000
"""Rows of the ledger written in one transaction: other writers wait for less than a second."""
DAY_MS = 86_400_000
SHOWN_DAYS = 28
"""Jobs of batches that ended earlier would soon be swept."""
ADDRESSES = "10.20.4.{}"
UNASKED = 0.6
"""Questions of the newest job that wait, for each that is answered."""


@dataclass(slots=True)
class Clock:
    """The moment at which the trail has a change: that of the month that is made, not now."""

    at: datetime

    def __call__(self) -> float:
        """Seconds since 1970."""
        return self.at.timestamp()


@dataclass(frozen=True, slots=True)
class Made:
    """How much there is now; ``spent`` in 10⁻⁹ dollar."""

    people: int
    tokens: int
    templates: int
    routes: int
    calls: int
    attempts: int
    jobs: int
    conversations: int
    spent: int


@dataclass(frozen=True, slots=True)
class _Bound:
    """A budget that is made: its subject by names (``user:mara``), and how full it is to be at the end."""

    subject: str
    period: str
    full: float
    since_ms: int = 0
    alert_at: float | None = None


@dataclass(slots=True)
class _Ids:
    """What was made, by the names of ``demo_month.yaml``."""

    users: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)

    def subject(self, named: str) -> str:
        """A subject under its id: ``user:…`` and ``token:…``; tags have none."""
        kind, _, name = named.partition(":")
        known = {"user": self.users, "token": self.tokens}.get(kind)
        return f"{kind}:{known[name]}" if known is not None else named

    def budget(self, bound: _Bound) -> str:
        """As the ledger names a budget."""
        named = self.subject(bound.subject)
        return named if bound.subject.startswith(("user:", "token:")) else BUDGET_PREFIX + named


class DemoData:
    """``services`` write their trail by ``clock``; ``zone`` of ``until`` is the budgets'."""

    def __init__(
        self, database: Database, services: Services, conversations: ConversationStore, *, clock: Clock
    ) -> None:
        self._db, self._services, self._conversations, self._clock = database, services, conversations, clock

    def make(
        self,
        *,
        until: datetime,
        days: int,
        calls: int,
        seed: int,
        password: str | None,
        beside_real: bool,
        actor: Actor,
    ) -> Made:
        """Make it all. ``password``: everybody's; None: nobody can log in. ``actor``: who sets the gateway up.

        Raises `Conflict` where it was made before, where there are real calls (unless ``beside_real``), where a name
        is taken, or a model is not there, and `InvalidRequest` for a weak password; nothing is written then.
        """
        refuse(faults_of(password=password))
        span = Span(until, days)
        targets = targets_of(self._services.catalogue.refresh())
        if lacking := sorted(facts()["models"].keys() - targets.keys()):
            raise Conflict(f"The catalogue lacks {', '.join(lacking[:3])}: `flask seed` brings the shipped models.")
        planned = Traffic(facts(), targets, span, seed=seed).calls(calls)
        self._begin(seed, beside_real=beside_real)
        bounds = _bounds(span)
        spent = _Spent(planned, bounds, until)
        ids = _Ids()
        _Story(self._services, self._clock, span, ids, spent, password=password, actor=actor).tell()
        self._backdate(span, ids, planned)
        self._write_ledger(planned, spent, ids)
        for _ in self._services.rollups.finish():
            """Reports read sums: they have every call before the command ends."""
        jobs = self._write_jobs(planned, ids, until)
        self._converse(ids)
        with self._db.transaction() as session:
            repository.change_mark(session, json.dumps({"seed": seed, "days": days, "calls": calls, "whole": True}))
        return Made(
            people=len(ids.users),
            tokens=len(ids.tokens),
            templates=len(facts()["templates"]),
            routes=len(facts()["routes"]),
            calls=len(planned),
            attempts=sum(len(one.attempts) for one in planned),
            jobs=jobs,
            conversations=len(facts()["conversations"]),
            spent=sum(one.call["cost"] or 0 for one in planned),
        )

    def _begin(self, seed: int, *, beside_real: bool) -> None:
        """Whoever comes second, or breaks off, is told by the mark."""
        try:
            with self._db.transaction() as session:
                if (mark := repository.read_mark(session)) is not None:
                    raise Conflict(_made_before(mark))
                if repository.was_used(session) and not beside_real:
                    raise Conflict("There are real calls in this database: demo data would stand among them.")
                if found := repository.taken(session, **_names()):
                    raise Conflict(f"There is {', '.join(found)} already; demo data would make another.")
                repository.write_mark(session, json.dumps({"seed": seed, "whole": False}))
        except IntegrityError:
            raise Conflict(_made_before("")) from None

    # -- what is written in bulk --------------------------------------------------------------------------------------

    def _write_ledger(self, planned: Sequence[Planned], spent: _Spent, ids: _Ids) -> None:
        for first in range(0, len(planned), AT_ONCE):
            some = planned[first : first + AT_ONCE]
            attempts = [
                _known(attempt, ids) | {"holds": holds_to_json(spent.holds(attempt, ids))}
                for one in some
                for attempt in one.attempts
            ]
            with self._db.transaction() as session:
                if attempts:
                    repository.add_attempts(session, attempts)
                repository.add_calls(session, [_known(one.call, ids) for one in some])
        with self._db.transaction() as session:
            repository.add_spent(session, list(spent.rows(ids)), list(spent.alerts(ids)))

    def _write_jobs(self, planned: Sequence[Planned], ids: _Ids, until: datetime) -> int:
        """The calls of each night of a program that asks in batches, as the job that they were."""
        nights = _nights(planned, until)
        for place, night in enumerate(nights):
            open_items = round(UNASKED * len(night)) if place == len(nights) - 1 else 0
            job, items = _job(night, ids, until, unasked=open_items, cancelled=12 if place == len(nights) // 2 else 0)
            with self._db.transaction() as session:
                repository.add_job(session, job, items)
        return len(nights)

    def _converse(self, ids: _Ids) -> None:
        for one in facts()["conversations"]:
            said = [Turn(("user", "assistant")[place % 2], text) for place, text in enumerate(one["turns"])]
            owner, title = ids.users[one["owner"]], title_of(said[0].content)
            self._conversations.append(owner, new_name(), said, title=title, system=None, begin=True)

    def _backdate(self, span: Span, ids: _Ids, planned: Sequence[Planned]) -> None:
        used = {one.call["token_id"]: one.call["finished_at"] for one in planned}
        with self._db.transaction() as session:
            for person in facts()["people"]:
                repository.backdate_user(session, ids.users[person["name"]], span.at_work(person["begins"]))
            for program in _with_tokens():
                last, revoked = used.get(program["name"]), program.get("revoked_at")
                repository.backdate_token(
                    session,
                    ids.tokens[program["name"]],
                    begin_of(facts(), span, program),
                    used_at=datetime.fromtimestamp(last / 1000, UTC) if last else None,
                    revoked_at=span.at_work(revoked) if revoked else None,
                )
            for template in facts()["templates"]:
                moments = [template["at"], *(one["at"] for one in template.get("versions", ()))]
                for version, part in enumerate(moments, 1):
                    repository.backdate_template(session, template["name"], version, span.at_work(part))
            for route in facts()["routes"]:
                at = span.at_work(route["at"])
                changed_at = span.at_work(route["change"]["at"]) if "change" in route else at
                repository.backdate_route(session, route["name"], at, changed_at=changed_at)
            for quota in facts()["quotas"]:
                repository.backdate_quota(session, ids.subject(quota["subject"]), span.at_work(quota["at"]))


@cache
def facts() -> Mapping[str, Any]:
    """``data/demo_month.yaml``, read once."""
    held: Mapping[str, Any] = yaml.safe_load(FACTS.read_text(encoding="utf-8"))
    return held


def targets_of(catalogue: Catalogue) -> dict[str, Target]:
    """The models of the month that the catalogue has, whether their providers are on or not, with their prices."""
    found = {}
    for provider in catalogue.providers:
        for model in provider.models:
            if (name := f"{provider.id}/{model.name}") in facts()["models"]:
                price = model.price or price_of(provider.kind, model.backend_model, model.type, model.prices or None)
                endpoint = provider.endpoints[0].id if provider.endpoints else ""
                found[name] = Target(name, provider.id, endpoint, model.backend_model, model.type, price)
    return found


def _made_before(mark: str) -> str:
    if '"whole": false' in mark:
        return "A run of this command broke off here; begin again with an empty database."
    return "There is demo data here already; for another month begin with an empty database."


def _names() -> dict[str, list[str]]:
    held = facts()
    return {
        "users": [folded(one["name"]) for one in held["people"]],
        "templates": [one["name"] for one in held["templates"]],
        "routes": [one["name"] for one in held["routes"]],
        "quotas": [one["subject"] for one in held["quotas"]],
    }


def _with_tokens() -> list[Mapping[str, Any]]:
    return [one for one in facts()["programs"] if "token" in one]


def _known(row: Row, ids: _Ids) -> Row:
    """A row with the ids of its person and token instead of their names."""
    token = row["token_id"]
    return row | {"user_id": ids.users[row["user_id"]], "token_id": ids.tokens[token] if token else None}


# -- what people make --------------------------------------------------------------------------------------------------


class _Story:
    """Everything that somebody did, in the order of time."""

    def __init__(
        self,
        services: Services,
        clock: Clock,
        span: Span,
        ids: _Ids,
        spent: _Spent,
        *,
        password: str | None,
        actor: Actor,
    ) -> None:
        self._services, self._clock, self._span, self._ids, self._spent = services, clock, span, ids, spent
        self._password, self._founder = password, actor
        self._events: list[tuple[datetime, int, Callable[[], object]]] = []

    def tell(self) -> None:
        for person in facts()["people"]:
            self._plan(person["begins"], partial(self._join, person))
            if "disabled_at" in person:
                self._plan(person["disabled_at"], partial(self._disable, person["name"]))
        for program in _with_tokens():
            self._plan_at(begin_of(facts(), self._span, program), partial(self._issue, program))
            for name, change in (("rotated_at", self._rotate), ("revoked_at", self._revoke)):
                if name in program:
                    self._plan(program[name], partial(change, program["name"]))
        self._plan_templates()
        self._plan_routes()
        for quota in facts()["quotas"]:
            self._plan(quota["at"], partial(self._bind, quota))
        for at, _, do in sorted(self._events, key=lambda event: event[:2]):
            self._clock.at = at
            do()

    def _plan(self, part: float, do: Callable[[], object]) -> None:
        self._plan_at(self._span.at_work(part), do)

    def _plan_at(self, at: datetime, do: Callable[[], object]) -> None:
        self._events.append((at, len(self._events), do))

    def _plan_templates(self) -> None:
        for template in facts()["templates"]:
            whole = replace(read_template(template["name"], template), cache=template.get("cache", False))
            self._plan(template["at"], partial(self._write, whole))
            for version in template.get("versions", ()):
                changes = {name: value for name, value in version.items() if name != "at"}
                self._plan(version["at"], partial(self._rewrite, template["name"], changes))

    def _plan_routes(self) -> None:
        known = set(targets_of(self._services.catalogue.current()))
        for route in facts()["routes"]:
            self._plan(route["at"], partial(self._route, route, known))
            if "change" in route:
                self._plan(route["change"]["at"], partial(self._reroute, route["name"], route["change"], known))

    # -- deeds --------------------------------------------------------------------------------------------------------

    def _somebody(self) -> Actor:
        """One of the administrators that there are by now, at a desk."""
        admins = [one["name"] for one in facts()["people"] if one.get("admin") and one["name"] in self._ids.users]
        if not admins:
            return self._founder
        place = self._clock.at.toordinal() % len(admins)
        return Actor(self._ids.users[admins[place]], admins[place], ADDRESSES.format(20 + place), new_id())

    def _join(self, person: Mapping[str, Any]) -> None:
        name = person["name"]
        bound = self._spent.budget(f"user:{name}", person["budget"]["period"]) if "budget" in person else None
        fields: UserFields = {"status": person.get("status", "active"), "budget": bound}
        if not person.get("admin"):
            fields["scopes"] = SCOPES
        made = self._services.accounts.create_user(
            name, f"{name}@example.com", self._password, admin=bool(person.get("admin")), fields=fields,
            actor=self._somebody(),
        )  # fmt: skip
        self._ids.users[name] = made.id

    def _disable(self, name: str) -> None:
        self._services.accounts.change_user(self._ids.users[name], {"status": DISABLED}, actor=self._somebody())

    def _issue(self, program: Mapping[str, Any]) -> None:
        name, said = program["name"], dict(program["token"])
        if "budget" in said:
            said["budget"] = self._spent.budget(f"token:{name}", said["budget"]["period"])
        if (days := said.pop("expires_in_days", None)) is not None:
            said["expires_at"] = self._span.until + days * DAY
        fields: TokenFields = {"scopes": ["chat"], **said, "name": name, "tags": program.get("tags", [])}
        row, _ = self._services.tokens.issue_for(self._ids.users[program["owner"]], fields, actor=self._owner(program))
        self._ids.tokens[name] = row.id

    def _owner(self, program: Mapping[str, Any]) -> Actor:
        name = program["owner"]
        return Actor(self._ids.users[name], name, ADDRESSES.format(100 + len(self._ids.tokens)), new_id())

    def _rotate(self, name: str) -> None:
        self._services.tokens.rotate_any(self._ids.tokens[name], grace_s=0, actor=self._somebody())

    def _revoke(self, name: str) -> None:
        self._services.tokens.revoke_any(self._ids.tokens[name], actor=self._somebody())

    def _write(self, template: PromptTemplate) -> None:
        self._services.templates.create(template, self._somebody())

    def _rewrite(self, name: str, changes: Mapping[str, Any]) -> None:
        self._services.templates.change(name, changes, self._somebody())

    def _route(self, route: Mapping[str, Any], known: set[str]) -> None:
        fallbacks = {
            kind: [name for name in names if name in known] for kind, names in route.get("fallbacks", {}).items()
        }
        fields = {"name": route["name"], "strategy": route["strategy"], "fallbacks": fallbacks}
        self._services.routes.create({**fields, "targets": _among(route["targets"], known)}, self._somebody())  # type: ignore[typeddict-item]

    def _reroute(self, name: str, change: Mapping[str, Any], known: set[str]) -> None:
        self._services.routes.change(name, {"targets": _among(change["targets"], known)}, self._somebody())  # type: ignore[typeddict-item]

    def _bind(self, quota: Mapping[str, Any]) -> None:
        fields = {name: value for name, value in quota.items() if name not in ("subject", "at", "budgets")}
        budgets = [
            {**self._spent.budget(quota["subject"], one["period"]), "kind": one.get("kind", "hard"),
             "alert_at": one.get("alert_at")}
            for one in quota.get("budgets", ())
        ]  # fmt: skip
        if budgets:
            fields["budgets"] = budgets
        self._services.quotas.put(self._ids.subject(quota["subject"]), fields, self._somebody())  # type: ignore[arg-type]


def _among(targets: Sequence[Mapping[str, Any]], known: set[str]) -> list[Mapping[str, Any]]:
    return [one for one in targets if one["model"] in known]


# -- money -------------------------------------------------------------------------------------------------------------


def _bounds(span: Span) -> list[_Bound]:
    """Every budget of the month."""
    held = facts()
    of_people = [_Bound(f"user:{one['name']}", **one["budget"]) for one in held["people"] if "budget" in one]
    of_tokens = [
        _Bound(f"token:{one['name']}", **one["token"]["budget"]) for one in _with_tokens() if "budget" in one["token"]
    ]
    of_others = [
        _Bound(quota["subject"], one["period"], one["full"], _ms(span.at_work(quota["at"])), one.get("alert_at"))
        for quota in held["quotas"]
        for one in quota.get("budgets", ())
    ]
    return [*of_people, *of_tokens, *of_others]


class _Spent:
    """What each budget has spent in each of its periods, and how much it may: enough for what was spent."""

    def __init__(self, planned: Iterable[Planned], bounds: Sequence[_Bound], until: datetime) -> None:
        self._zone = until.tzinfo
        self._by_subject: dict[str, list[_Bound]] = defaultdict(list)
        for bound in bounds:
            self._by_subject[bound.subject].append(bound)
        self._courses: dict[tuple[_Bound, str], list[tuple[int, int]]] = defaultdict(list)
        """When it was spent (ms since 1970), and what was spent until then."""
        for attempt in sorted((row for one in planned for row in one.attempts), key=lambda row: row["settled_at"]):
            for bound, period in self._held(attempt):
                course = self._courses[bound, period]
                course.append((attempt["settled_at"], (course[-1][1] if course else 0) + (attempt["cost"] or 0)))
        self._amounts = {bound: self._amount(bound, until) for bound in bounds}

    def budget(self, subject: str, period: str) -> Any:
        """As the services take it: in dollars."""
        bound = next(one for one in self._by_subject[subject] if one.period == period)
        return {"amount": self._amounts[bound], "period": period}

    def holds(self, attempt: Row, ids: _Ids) -> tuple[Hold, ...]:
        """What the attempt held money in."""
        return tuple(Hold(ids.budget(bound), period, 0) for bound, period in self._held(attempt))

    def rows(self, ids: _Ids) -> Iterator[Row]:
        """The rows of `budgets`."""
        for (bound, period), course in self._courses.items():
            yield {"id": ids.budget(bound), "period": period, "spent": course[-1][1], "reserved": 0}

    def alerts(self, ids: _Ids) -> Iterator[Row]:
        """The rows of `alerts`: each where a budget came so far."""
        for (bound, period), course in self._courses.items():
            if bound.alert_at is None:
                continue
            amount = from_dollars(self._amounts[bound])
            alert = int(amount * bound.alert_at)
            reached = next(((at, spent) for at, spent in course if spent >= alert), None)
            if reached is not None:
                yield {
                    "budget_id": ids.budget(bound), "period": period, "event": REACHED, "amount": amount,
                    "alert": alert, "spent": reached[1], "raised_at": reached[0],
                }  # fmt: skip

    def _held(self, attempt: Row) -> Iterator[tuple[_Bound, str]]:
        at = datetime.fromtimestamp(attempt["started_at"] / 1000, self._zone)
        tags = [f"tag:{tag}" for tag in json.loads(attempt["tags"] or "[]")]
        subjects = (f"token:{attempt['token_id']}", f"user:{attempt['user_id']}", *tags, "installation")
        for bound in (bound for subject in subjects for bound in self._by_subject.get(subject, ())):
            if attempt["started_at"] >= bound.since_ms:
                yield bound, period_key(bound.period, at)

    def _amount(self, bound: _Bound, until: datetime) -> Decimal:
        """Dollars: as full as it is to be by now, and never overspent before."""
        sums = {period: course[-1][1] for (one, period), course in self._courses.items() if one == bound}
        now = sums.get(period_key(bound.period, until), 0)
        return _round_amount(max(now / bound.full, max(sums.values(), default=0) * 1.02) / 10**9)


def _round_amount(dollars: float) -> Decimal:
    """Up to two digits, as people choose amounts; at least ten cents.

    >>> _round_amount(123.4)
    Decimal('130')
    """
    if dollars <= 0.1:
        return Decimal("0.1")
    step = Decimal(10) ** (math.floor(math.log10(dollars)) - 1)
    return Decimal(math.ceil(Decimal(dollars) / step)) * step


# -- batches -----------------------------------------------------------------------------------------------------------


def _nights(planned: Sequence[Planned], until: datetime) -> list[list[Planned]]:
    """The calls of batches by program and day, as far as their job would still be kept, in the order of time."""
    oldest = _ms(until - SHOWN_DAYS * DAY)
    asked = [one for one in planned if one.call["door"] == "batch" and one.call["started_at"] >= oldest]

    def night(one: Planned) -> tuple[str, str]:
        return datetime.fromtimestamp(one.call["started_at"] / 1000, until.tzinfo).date().isoformat(), one.program

    return [list(ones) for _, ones in groupby(sorted(asked, key=night), key=night)]


def _job(
    night: Sequence[Planned], ids: _Ids, until: datetime, *, unasked: int, cancelled: int
) -> tuple[Row, list[Row]]:
    """A job and its items. One with questions that wait is paused for good: nobody is to ask them."""
    calls = [one.call for one in night]
    failed = sum(call["status"] >= 400 for call in calls)
    begun, ended = calls[0]["started_at"], max(call["finished_at"] for call in calls)
    model = f"{calls[0]['provider']}/{calls[0]['model']}"
    waits_until = _ms(until + SHOWN_DAYS * DAY)
    job = {
        "id": new_id(), "kind": "chat", "door": "batch", "scope": "batch",
        **{name: _known(calls[0], ids)[name] for name in ("user_id", "token_id")},
        "status": RUNNING if unasked else CANCELLED if cancelled else COMPLETED,
        "ending": CANCELLED if cancelled else None,
        "priority": 0, "max_concurrency": 16,
        "total": len(calls) + unasked + cancelled,
        "completed": len(calls) - failed, "failed": failed, "cancelled": cancelled,
        "prompt_tokens": sum(call["prompt_tokens"] for call in calls),
        "completion_tokens": sum(call["completion_tokens"] for call in calls),
        "cost": sum(call["cost"] or 0 for call in calls),
        "unpriced": sum(call["cost"] is None for call in calls),
        "model": model, "job_metadata": json.dumps({"run": "nightly"}), "callback_url": None, "details": "{}",
        "created_at": begun - 4000, "started_at": begun, "finished_at": None if unasked else ended,
        "expires_at": waits_until if unasked else begun + DAY_MS, "resumes_at": waits_until if unasked else 0,
        "claimed_at": begun, "delivered_at": None,
    }  # fmt: skip
    items = [_answered(job["id"], place, call) for place, call in enumerate(calls)]
    rest = [OPEN] * unasked + [CANCELLED] * cancelled
    return job, items + [_unanswered(job["id"], place, state) for place, state in enumerate(rest, len(items))]


def _asked(job_id: Any, place: int) -> Row:
    products = facts()["questions"]
    words = f"Describe this product in two sentences: {products[place % len(products)]}."
    question = {"messages": [{"role": "user", "content": words}], "whole": False}
    return {
        "job_id": job_id, "idx": place, "custom_id": f"item-{place + 1:04d}", "question": json.dumps(question),
        "tries": 0, "ready_at": 0, "owner": None, "lease_until": 0, "response": None,
    }  # fmt: skip


def _answered(job_id: Any, place: int, call: Row) -> Row:
    works, answers = call["status"] < 400, facts()["answers"]
    return _asked(job_id, place) | {
        "state": COMPLETED if works else FAILED, "fence": 1,
        "text": answers[place % len(answers)] if works else None, "finish_reason": "stop" if works else None,
        "model": f"{call['provider']}/{call['model']}" if works else None,
        "prompt_tokens": call["prompt_tokens"], "completion_tokens": call["completion_tokens"], "cost": call["cost"],
        "error_code": call["error_code"],
        "error_message": None if works else "The provider did not answer this question.",
    }  # fmt: skip


def _unanswered(job_id: Any, place: int, state: str) -> Row:
    return _asked(job_id, place) | {
        "state": state, "fence": 0, "text": None, "finish_reason": None, "model": None, "prompt_tokens": 0,
        "completion_tokens": 0, "cost": None, "error_code": None, "error_message": None,
    }  # fmt: skip


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
