"""Usage: one row and one log line for each model call (S4's fields), and what they add up to."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flaskllm.domain.call import CallContext
from flaskllm.domain.catalogue import Candidate
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.pricing import to_dollars
from flaskllm.domain.usage import Usage
from flaskllm.repositories.database import Database
from flaskllm.repositories.ledger import new_row_id
from flaskllm.repositories.usage import UsageTotals, totals
from flaskllm.services.ledger import asked_name
from flaskllm.services.metrics import Metrics

log = logging.getLogger("flaskllm.llm_request")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: ``cost`` in 10⁻⁹ dollar, ``status`` as its caller saw it."""

    candidate: Candidate | None
    usage: Usage
    cost: int | None
    attempts: int
    status: int = 200
    error_code: str | None = None


class UsageService:
    """Describes a call for the ledger and the log, and reports what calls added up to."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics

    def row(self, request: ChatRequest, call: CallContext, outcome: Outcome) -> dict[str, Any]:
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
            "status": outcome.status,
            "error_code": outcome.error_code,
            "attempts": outcome.attempts,
            "streamed": request.stream,
            "estimated": outcome.usage.estimated,
            "correlation_id": call.claims.correlation_id,
            "claimed_user": call.claims.user_id,
            "client_id": call.claims.client_id,
            "metadata": json.dumps(dict(call.metadata)) if call.metadata else None,
        }

    def tell(self, row: dict[str, Any]) -> None:
        """The call's one log line (``event: llm_request``), and its counts."""
        self._metrics.call(row)
        fields = {name: value for name, value in row.items() if name not in NOT_LOGGED}
        fields["cost"] = to_dollars(row["cost"])
        fields["started_at"], fields["finished_at"] = iso(row["started_at"]), iso(row["finished_at"])
        fields["metadata"] = json.loads(row["metadata"]) if row["metadata"] else {}
        log.info("llm_request", extra={"fields": fields})

    def totals(self, user_id: str, *, since: datetime | None, until: datetime | None) -> UsageTotals:
        """What one user's calls added up to between two moments."""
        with self._database.reading() as session:
            return totals(session, user_id=user_id, since=since, until=until)


NOT_LOGGED = frozenset({"id"})


def iso(milliseconds: int) -> str:
    """Milliseconds since 1970 as ISO 8601 in UTC.

    >>> iso(0)
    '1970-01-01T00:00:00.000Z'
    """
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
