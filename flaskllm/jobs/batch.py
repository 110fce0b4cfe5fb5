"""What a work-horse does: a turn at the batches, or the housekeeping. Its arguments are hints; all else is in SQL."""

from __future__ import annotations

import logging
import os
import threading

from flaskllm.extensions import services
from flaskllm.services.batch_worker import Bounds

log = logging.getLogger(__name__)

TURN_S, TURN_ITEMS = 600.0, 500
"""One turn of a work-horse: then it rings again, so that no fork lives for hours."""
TOLD_S = 12.0
"""How long the housekeeping stays for receivers of events: one try. What it leaves is sent again."""
TIDY_S = 30.0
"""A chore that has begun has this long to end before the work-horse does."""
stopped = threading.Event()
"""The worker is asked to end: what is in flight ends, the rest is given back."""


def run_batch(job_id: object) -> None:
    """Work a turn, on whatever is next in fair order; the id only says who rang."""
    if not isinstance(job_id, str) or (job_id and not services.batches.exists(job_id)):
        log.warning("the doorbell rang for a job that is not there")
    services.outbox.stop()  # its process ends with the turn, and nobody's slow receiver may hold that up
    services.housekeeper.add(services.workers.chore(os.getppid()))
    services.housekeeper.wake()
    taken = services.batch_worker.work(Bounds(seconds=TURN_S, items=TURN_ITEMS), stopped)
    services.housekeeper.finish(TIDY_S)  # it may hold what would be waited for until its lease ends
    services.file_batches.deliver_all()
    if taken >= TURN_ITEMS and not stopped.is_set():
        services.batches.ring("")


def sweep() -> None:
    """The housekeeping, where no web process does it."""
    services.workers.beat(os.getppid())
    services.housekeeper.run_due()
    services.batches.ring_if_open()
    services.outbox.deliver_all(TOLD_S)
