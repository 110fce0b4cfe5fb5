"""Alerts of budgets: told once to the operator's webhook, signed, and tried again until it takes them.

Who spends or is refused writes the alert's row in the same transaction (`repositories.ledger`); here it is sent. Two
processes never send one at once, and one whose sender died is sent again: at least once, with the same id.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from flaskllm.domain.pricing import to_dollars
from flaskllm.domain.quota import BUDGET_PREFIX
from flaskllm.errors import DomainError
from flaskllm.net.egress import PublicSession
from flaskllm.repositories import quotas as repository
from flaskllm.repositories.database import Database
from flaskllm.repositories.quotas import AlertRow
from flaskllm.security import WebhookSigner

log = logging.getLogger(__name__)

SECONDS = 10.0
"""For one try."""
CLAIM_MS = 60_000
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 5_000, 3_600_000
MOST_TRIES = 24
"""With the pauses between them about fifteen hours; after that it is given up and told in the log."""
KEPT_MS = 400 * 86_400_000
AT_ONCE = 20


class AlertService:
    """``url``: where to; None: alerts are written to the log alone."""

    def __init__(
        self, database: Database, session: PublicSession, signer: WebhookSigner | None, *, url: str | None
    ) -> None:
        self._db, self._session, self._signer, self._url = database, session, signer, url

    def deliver(self) -> int:
        """Send what is due. Gives how many were taken."""
        with self._db.reading() as session:
            due = repository.due_alerts(session, _now_ms(), most=AT_ONCE)
        return sum(self._deliver(alert) for alert in due)

    def _deliver(self, alert: AlertRow) -> bool:
        at = _now_ms()
        with self._db.transaction() as session:
            if not repository.claim_alert(session, alert, until=at + CLAIM_MS):
                return False
        tries = alert.tries + 1
        if tries == 1:
            log.warning("budget_alert", extra={"fields": _facts(alert)})
        taken = self._url is None or self._is_taken(self._url, alert)
        next_at = None if taken or tries >= MOST_TRIES else _now_ms() + pause_ms(tries)
        if not taken and next_at is None:
            log.error("an alert was never taken and is given up", extra={"fields": _facts(alert)})
        with self._db.transaction() as session:
            repository.end_alert(session, alert, sent_at=_now_ms() if taken else None, next_at=next_at)
        return taken

    def _is_taken(self, url: str, alert: AlertRow) -> bool:
        body = json.dumps(document(alert)).encode()
        headers = {"Content-Type": "application/json"}
        if self._signer is not None:
            headers |= self._signer.headers(message_id(alert), body)
        try:
            answer = self._session.request("POST", url, headers=headers, body=body, timeout_s=SECONDS, max_retries=0)
        except DomainError as error:
            log.warning("an alert could not be sent: %s", error.code)
            return False
        return 200 <= answer.status < 300

    def sweep(self) -> None:
        """Forget alerts of more than a year ago."""
        with self._db.transaction() as session:
            repository.sweep_alerts(session, before=_now_ms() - KEPT_MS)


def document(alert: AlertRow) -> dict[str, Any]:
    """The body that is sent, in the form that Standard Webhooks asks for: ``type``, ``timestamp``, ``data``."""
    raised = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(alert.raised_at / 1000))
    return {"type": alert.event, "timestamp": raised, "data": _facts(alert)}


def message_id(alert: AlertRow) -> str:
    """The same on every try, so that a receiver can tell a repetition."""
    return f"{alert.event}:{alert.budget_id}:{alert.period}"


def _facts(alert: AlertRow) -> dict[str, Any]:
    return {
        "event": alert.event,
        "subject": alert.budget_id.removeprefix(BUDGET_PREFIX),
        "period": alert.period,
        "amount": to_dollars(alert.amount),
        "alert": to_dollars(alert.alert),
        "spent": to_dollars(alert.spent),
    }


def pause_ms(tries: int) -> int:
    """Before the next try, growing to an hour.

    >>> [pause_ms(tries) // 1000 for tries in (1, 2, 3, 20)]
    [5, 10, 20, 3600]
    """
    return int(min(FIRST_PAUSE_MS * 2 ** min(tries - 1, 20), LONGEST_PAUSE_MS))


def _now_ms() -> int:
    return int(time.time() * 1000)
