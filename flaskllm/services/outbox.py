"""What is told to somebody outside, by a signed POST that is sent until it is taken: the end of a job to its
``callback_url``, alerts of budgets to the operator.

Who makes an event writes it in the transaction that it tells of (`repositories.outbox`); here it is sent. One sender at
a time has it, under a lease, over all processes; where that one dies it is sent again: at least once, with the same id.
Senders are threads of their own, one for each lane: somebody's slow receiver keeps nobody waiting but their own events.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time

from flaskllm.errors import DomainError, invalid
from flaskllm.net.egress import PublicSession
from flaskllm.repositories import outbox as repository
from flaskllm.repositories.database import Database
from flaskllm.repositories.outbox import Message
from flaskllm.security import WebhookSigner
from flaskllm.services import crash

log = logging.getLogger(__name__)

SECONDS = 10.0
"""For one try."""
LEASE_S = 60.0
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 5_000, 3_600_000
MOST_TRIES = 24
"""With the pauses between them about fifteen hours; after that it is given up and told in the log."""
KEPT_MS = 30 * 86_400_000
MOST_SENDERS = 8
"""Of one process at once."""
TURN_S = 60.0
"""After that a sender makes room for another lane."""
GONE = 410
"""By which a receiver says that it wants no more of it."""


class Outbox:
    """``operators``: may call the operator's own address; ``callers``: whatever a caller may name. ``alert_url``: that
    address; None: what is for the operator stands in the log alone. ``signer``: None: no ``callback_url`` is taken.
    ``threads``: whether a started thread runs here. ``seconds``: for one try; ``lease_s``: how long it is the sender's.
    """

    def __init__(
        self,
        database: Database,
        *,
        operators: PublicSession,
        callers: PublicSession,
        signer: WebhookSigner | None,
        alert_url: str | None,
        threads: bool = True,
        seconds: float = SECONDS,
        lease_s: float = LEASE_S,
    ) -> None:
        self._db, self._operators, self._callers = database, operators, callers
        self._signer, self._alert_url, self._threads = signer, alert_url, threads
        self._seconds, self._lease_ms = seconds, int(lease_s * 1000)
        self._senders: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def check(self, url: str, field: str = "callback_url") -> None:
        """Refuse an address that is plainly none. Raises `InvalidRequest` or `ForbiddenTarget`, which name the field.

        What its name stands for is looked at when it is called.
        """
        if self._signer is None:
            raise invalid(field, "is not taken: this gateway signs no callbacks (WEBHOOK_SECRET)")
        self._callers.check(url, field)
        if "#" in url:
            raise invalid(field, "must have no fragment: it would not be sent")

    # -- sending ------------------------------------------------------------------------------------------------------

    def deliver(self) -> None:
        """See to it that what is due is sent, by threads of our own; where there are none, one event at a time."""
        lanes = self._lanes_due()
        if self._threads:
            for lane in lanes:
                self._begin(lane)
        elif lanes:
            self._send_next(lanes[0])

    def deliver_all(self, seconds: float) -> None:
        """Send what is due before the process ends, for so long at the most."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0 and not self._stopped.is_set() and self._lanes_due():
            self.deliver()
            self.wait(left)

    def wait(self, seconds: float) -> None:
        """Until nobody sends any more, for so long at the most."""
        ends = time.monotonic() + seconds
        with self._lock:
            senders = list(self._senders.values())
        for sender in senders:
            sender.join(max(0.0, ends - time.monotonic()))

    def _lanes_due(self) -> list[str]:
        """In an order of chance, so that nobody's many receivers that hang keep the others out for good."""
        with self._db.reading() as session:
            lanes = list(repository.lanes_due(session))
        random.shuffle(lanes)
        return lanes

    def stop(self) -> None:
        """No event is taken up any more."""
        self._stopped.set()

    def _begin(self, lane: str) -> None:
        with self._lock:
            self._senders = {name: sender for name, sender in self._senders.items() if sender.is_alive()}
            if lane in self._senders or len(self._senders) >= MOST_SENDERS or self._stopped.is_set():
                return
            sender = threading.Thread(target=self._send_all, args=(lane,), name="outbox", daemon=True)
            self._senders[lane] = sender
            sender.start()

    def _send_all(self, lane: str) -> None:
        """One after the other, until none is due or the turn is over."""
        ends = time.monotonic() + TURN_S
        try:
            while not self._stopped.is_set() and time.monotonic() < ends and self._send_next(lane):
                pass
        except Exception as error:  # noqa: BLE001  (the database, most likely: the lease ends, and it is sent again)
            log.warning("an event could not be sent: %s", type(error).__name__)

    def _send_next(self, lane: str) -> bool:
        """Whether there was one."""
        with self._db.transaction() as session:
            message = repository.take(session, lane, lease_ms=self._lease_ms)
        if message is None:
            return False
        if message.url is None and message.tries == 1:
            log.warning("budget_alert", extra={"fields": json.loads(message.body)["data"]})
        crash.point(crash.BEFORE_CALLBACK_SEND)
        outcome = self._outcome(message)
        crash.point(crash.AFTER_CALLBACK_SEND)
        self._end(message, outcome)
        return True

    def _end(self, message: Message, outcome: str | None) -> None:
        """``outcome``: None where it was taken, else why it was not."""
        again_in_ms = None
        if outcome not in (None, str(GONE)) and message.tries < MOST_TRIES:
            again_in_ms = int(pause_ms(message.tries) * random.uniform(0.9, 1.1))  # noqa: S311  (no secret)
        with self._db.transaction() as session:
            repository.end(session, message, taken=outcome is None, again_in_ms=again_in_ms)
        fields = {"event": "webhook", "webhook_id": message.id, "type": message.type, "tries": message.tries}
        if outcome is None:
            log.info("an event was taken", extra={"fields": fields})
        elif again_in_ms is not None:
            log.warning("an event was not taken", extra={"fields": {**fields, "reason": outcome}})
        else:
            log.error("an event was never taken and is given up", extra={"fields": {**fields, "reason": outcome}})

    def _outcome(self, message: Message) -> str | None:
        """Send it. None where it was taken, else an error's code or the answer's status; never the address."""
        session, url = (self._operators, self._alert_url) if message.url is None else (self._callers, message.url)
        if url is None:
            return None
        if self._signer is None:
            return "unsigned"
        body = message.body.encode()
        headers = {"Content-Type": "application/json", **self._signer.headers(message.id, body)}
        try:
            answer = session.request(
                "POST", url, headers=headers, body=body, timeout_s=self._seconds, max_retries=0, follow=0, cap=0
            )
        except DomainError as error:
            return error.code
        return None if 200 <= answer.status < 300 else str(answer.status)

    def sweep(self) -> None:
        """Forget what was taken or given up a month ago."""
        with self._db.transaction() as session:
            repository.sweep(session, kept_ms=KEPT_MS)


def pause_ms(tries: int) -> int:
    """Before the next try, growing to an hour.

    >>> [pause_ms(tries) // 1000 for tries in (1, 2, 3, 20)]
    [5, 10, 20, 3600]
    """
    return int(min(FIRST_PAUSE_MS * 2 ** min(tries - 1, 20), LONGEST_PAUSE_MS))
