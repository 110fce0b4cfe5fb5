"""The documents of quotas: read strictly, written with what is spent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from marshmallow import Schema, fields, validate

from flaskllm.domain.pricing import to_dollars
from flaskllm.domain.principal import PERIODS
from flaskllm.domain.quota import QuotaFields
from flaskllm.wire import shapes
from flaskllm.wire.fields import Choice, Dollars, Number, Whole, iso, load

KINDS = ("hard", "soft")
MOST_LIMIT = 2**31 - 1


class QuotaBudgetSchema(Schema):
    """One budget: hard ones refuse, soft ones only tell. ``alert_at``: the fraction spent at which it is told."""

    amount = Dollars(required=True)
    period = Choice(*PERIODS, required=True)
    kind = Choice(*KINDS)
    alert_at = Number(least=0, most=1, allow_none=True)


class QuotaSchema(Schema):
    """A quota; what is left out is not bound."""

    requests_per_minute = Whole(least=1, most=MOST_LIMIT, allow_none=True)
    tokens_per_minute = Whole(least=1, most=MOST_LIMIT, allow_none=True)
    concurrency = Whole(least=1, most=MOST_LIMIT, allow_none=True)
    budgets = fields.List(
        fields.Nested(QuotaBudgetSchema),
        validate=validate.Length(max=len(PERIODS), error=f"must have at most {len(PERIODS)} entries"),
    )


QUOTA = QuotaSchema()
LIMIT_SHOWN = shapes.maybe({"type": "integer", "minimum": 1})
SUM = {"type": "number", "minimum": 0, "description": "US dollars"}
QUOTA_SHOWN = shapes.record(
    "Quota",
    subject={**shapes.STRING, "description": "`installation`, `user:{id}`, `tag:{tag}` or `model:{provider}/{name}`"},
    requests_per_minute=LIMIT_SHOWN,
    tokens_per_minute=LIMIT_SHOWN,
    concurrency=LIMIT_SHOWN,
    budgets=shapes.several(
        shapes.record(
            amount=SUM,
            period=shapes.one_of(*PERIODS),
            kind=shapes.one_of(*KINDS),
            alert_at={"type": ["number", "null"], "minimum": 0, "maximum": 1},
            period_key={**shapes.STRING, "description": "the period that the sums are of"},
            spent=SUM,
            reserved=SUM,
            alerted_at=shapes.maybe(shapes.MOMENT),
        )
    ),
    created_at=shapes.MOMENT,
    updated_at=shapes.MOMENT,
)


def read_quota(body: dict[str, Any]) -> QuotaFields:
    """Raises `InvalidRequest` naming each field at fault."""
    return cast("QuotaFields", load(QUOTA, body))


def write_quota(view: Any) -> dict[str, Any]:
    row = view.row
    return {
        "subject": row.subject,
        "requests_per_minute": row.requests_per_minute,
        "tokens_per_minute": row.tokens_per_minute,
        "concurrency": row.concurrency,
        "budgets": [_write_budget(one) for one in view.budgets],
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
    }


def _write_budget(view: Any) -> dict[str, Any]:
    return {
        "amount": to_dollars(view.budget.amount),
        "period": view.budget.period,
        "kind": "hard" if view.budget.hard else "soft",
        "alert_at": view.budget.alert_at,
        "period_key": view.period_key,
        "spent": to_dollars(view.spent),
        "reserved": to_dollars(view.reserved),
        "alerted_at": iso(view.alerted_at),
    }


def write_quotas(views: Iterable[Any]) -> list[dict[str, Any]]:
    return [write_quota(view) for view in views]
