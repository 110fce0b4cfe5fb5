"""Usage: one row and one log line for each model call (S4's fields), and what they add up to."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session

from flaskllm.domain.body import Transcript
from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.embedding import EmbedRequest
from flaskllm.domain.image import ImageRequest
from flaskllm.domain.period import iso
from flaskllm.domain.pricing import to_dollars
from flaskllm.domain.usage import PARTS, Usage
from flaskllm.errors import invalid
from flaskllm.repositories.database import Database
from flaskllm.repositories.ledger import new_row_id
from flaskllm.repositories.rollups import rolled_series
from flaskllm.repositories.usage import Span, UsageTotals, series, tags_of, token_names, user_names
from flaskllm.services.bodies import Sealer
from flaskllm.services.ledger import asked_name, tags_text
from flaskllm.services.metrics import Metrics

log = logging.getLogger("flaskllm.llm_request")

AnyRequest = ChatRequest | EmbedRequest | ImageRequest
"""Whatever a model may be asked for."""

GROUPS = ("day", "user", "token", "model", "provider", "tag")
MOST_GROUPS = 10_000
EPOCH = date(1970, 1, 1)
UTC_ZONE = ZoneInfo("UTC")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: ``cost`` in 10⁻⁹ dollar, ``status`` as its caller saw it.

    ``saved``: what the answer had cost when it was asked for first, where it came from the cache. ``first_token_ms``:
    from the call's start to the first content handed on, of a stream.
    """

    candidate: Candidate | None
    usage: Usage
    cost: int | None
    attempts: int
    status: int = 200
    error_code: str | None = None
    saved: int | None = None
    first_token_ms: int | None = None


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Sums of a span, and the same for each group: its fields (a user's id and name, a day, …) and its sums.

    ``zone``: the name of the time zone whose days these are.
    """

    span: Span
    zone: str
    by: tuple[str, ...]
    totals: UsageTotals
    series: list[tuple[dict[str, str | None], UsageTotals]]


class UsageService:
    """Describes a call for the ledger and the log, and reports what calls added up to."""

    def __init__(
        self, database: Database, metrics: Metrics, *, zone: ZoneInfo = UTC_ZONE, sealer: Sealer | None = None
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._sealer = sealer
        self.zone = zone

    @property
    def keeps_bodies(self) -> bool:
        """Whether what is said is stored (``STORE_PROMPTS``)."""
        return self._sealer is not None

    def with_body(self, row: dict[str, Any], request: AnyRequest, answer: Transcript | None) -> dict[str, Any]:
        """The row of a call that is written, and with it what was said, where that is stored."""
        if self._sealer is not None:
            named = {name: row[name] for name in ("user_id", "request_id")}
            row["sealed"] = self._sealer.seal(request, answer, **named)
        return row

    def row(self, request: AnyRequest, call: CallContext, outcome: Outcome) -> dict[str, Any]:
        """The values of `repositories.ledger.INSERT_CALL`."""
        latency_ms = int((time.monotonic() - call.started) * 1000)
        finished_at = int(time.time() * 1000)
        candidate, principal = outcome.candidate, call.principal
        return {
            "id": new_row_id(),
            "request_id": call.request_id,
            "user_id": principal.user_id,
            "token_id": principal.token_id,
            "door": call.door,
            "model": asked_name(request),
            "backend_model": candidate.model.backend_model if candidate else None,
            "provider": candidate.provider.id if candidate else None,
            "started_at": finished_at - latency_ms,
            "finished_at": finished_at,
            "latency_ms": latency_ms,
            "prompt_tokens": outcome.usage.prompt_tokens,
            "completion_tokens": outcome.usage.completion_tokens,
            "cost": outcome.cost,
            "saved": outcome.saved,
            "status": outcome.status,
            "error_code": outcome.error_code,
            "attempts": outcome.attempts,
            "streamed": request.stream,
            "estimated": outcome.usage.estimated,
            "correlation_id": call.claims.correlation_id,
            "claimed_user": call.claims.user_id,
            "client_id": call.claims.client_id,
            "metadata": json.dumps(dict(call.metadata)) if call.metadata else None,
            "tags": tags_text(principal.tags),
            **{name: getattr(outcome.usage, name) or None for name in PARTS},
            "first_token_ms": outcome.first_token_ms,
        }

    def tell(self, row: dict[str, Any], *, from_cache: bool = False) -> None:
        """The call's one log line (``event: llm_request``), and its counts."""
        self._metrics.call(row)
        if from_cache:
            self._metrics.hit(row)
        fields = {name: value for name, value in row.items() if name not in NOT_LOGGED}
        fields["cost"], fields["saved"] = to_dollars(row["cost"]), to_dollars(row["saved"])
        fields["started_at"], fields["finished_at"] = iso(row["started_at"]), iso(row["finished_at"])
        fields["metadata"] = json.loads(row["metadata"]) if row["metadata"] else {}
        log.info("llm_request", extra={"fields": fields})

    def report(
        self, user_id: str | None, since: datetime | None, until: datetime | None, *, by: Sequence[str], **only: str
    ) -> UsageReport:
        """What one user's calls (None: everybody's) added up to between two moments, in all and by some of `GROUPS`.

        ``only``: those of this ``token_id``, ``model``, ``provider`` or ``tag``, as `Span` has them. Tags are those
        that a token had at the call; a call counts under each of them. Raises `InvalidRequest` where that is more than
        anybody reads.
        """
        span = Span(user_id, since, until, **only)
        with self._database.snapshot() as session:
            found = self._series(session, span, by)
            if len(found) > MOST_GROUPS:
                raise invalid("group_by", f"makes more than {MOST_GROUPS} groups of this; narrow from and to")
            names = _Names(session, by, [keys for keys, _ in found])
            by_call = self._series(session, span, ()) if "tag" in by else found
        whole = sum((held for _, held in by_call), UsageTotals())
        return UsageReport(span, self.zone.key, tuple(by), whole, _folded(found, by, names))

    def _series(self, session: Session, span: Span, by: Sequence[str]) -> list[tuple[tuple[Any, ...], UsageTotals]]:
        """Of the roll-ups where they tell it, else of the ledger: the sums are the same."""
        most = MOST_GROUPS + 1
        found = rolled_series(session, span, by, most=most, zone=self.zone)
        return series(session, span, by, most=most, zone=self.zone) if found is None else found


class _Names:
    """Names of the users and tokens of a report."""

    def __init__(self, session: Session, columns: Sequence[str], found: Sequence[tuple[Any, ...]]) -> None:
        ids = {name: {keys[place] for keys in found} - {None} for place, name in enumerate(columns)}
        self._users = user_names(session, sorted(ids.get("user", ())))
        self._tokens = token_names(session, sorted(ids.get("token", ())))

    def fields(self, name: str, key: Any) -> list[dict[str, str | None]]:
        """One group's key as the fields of a report: several only for tags, of which a call has several."""
        if name == "day":
            return [{"day": (EPOCH + timedelta(days=int(key))).isoformat()}]
        if name == "user":
            return [{"user_id": key, "username": self._users.get(key)}]
        if name == "token":
            return [{"token_id": key, "token_name": self._tokens.get(key)}]
        if name == "tag":
            return [{"tag": tag} for tag in tags_of(key)] or [{"tag": None}]
        return [{name: key}]


def _folded(
    found: Sequence[tuple[tuple[Any, ...], UsageTotals]], by: Sequence[str], names: _Names
) -> list[tuple[dict[str, str | None], UsageTotals]]:
    """Groups under their names, what is equal by now added up, in the order of their keys."""
    sums: dict[tuple[tuple[str, str | None], ...], UsageTotals] = {}
    for keys, held in found:
        for parts in itertools.product(*(names.fields(name, key) for name, key in zip(by, keys, strict=True))):
            group = tuple(pair for part in parts for pair in part.items())
            sums[group] = sums.get(group, UsageTotals()) + held
    ordered = sorted(sums.items(), key=lambda item: [(value is None, value or "") for _, value in item[0]])
    return [(dict(group), held) for group, held in ordered]


NOT_LOGGED = frozenset({"id", "tags", "sealed", *PARTS})
