"""RQ's worker as we run it: the application is built before the fork and every connection opened after it.

What stands in Redis is anybody's who can write there, so it names no code: functions come from a list, arguments are
JSON, and callbacks, webhooks and commands are not looked at.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from rq import Worker
from rq.exceptions import InvalidJobOperation, StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer

from flaskllm.jobs import queue as doorbell

log = logging.getLogger(__name__)

WORKER_TTL_S, MAINTENANCE_S, MONITORING_S = 30, 10, 5
AGAIN_AFTER_S = 1.0
LONGEST_WAIT_S = 5.0
"""Between two tries at a Redis that is away; RQ's own goes up to a minute."""


def allowed() -> dict[str, Callable[..., None]]:
    """Every function that a job may name."""
    from flaskllm.jobs import batch

    return {doorbell.RUN: batch.run_batch, doorbell.SWEEP: batch.sweep}


class OurJob(Job):
    """A job that runs nothing but what is `allowed`, whatever its hash in Redis says."""

    @property
    def func(self) -> Callable[..., None]:
        found = None if self.instance else allowed().get(self.func_name or "")
        if found is None:
            raise InvalidJobOperation("This function is not on the list.")
        return found

    @property
    def success_callback(self) -> None:
        return None

    @property
    def failure_callback(self) -> None:
        return None

    @property
    def stopped_callback(self) -> None:
        return None

    def execute_success_callback(self, *_: Any, **__: Any) -> None:
        """None of ours has one."""

    def execute_failure_callback(self, *_: Any, **__: Any) -> None:
        """None of ours has one."""

    def execute_stopped_callback(self, *_: Any, **__: Any) -> None:
        """None of ours has one."""

    def send_webhooks(self, *_: Any, **__: Any) -> None:
        """None of ours has one."""


class BatchRqWorker(Worker):
    """Forks a work-horse for each turn. ``before``: run in the fresh fork, ``sweep``: rings for the housekeeping."""

    job_class = OurJob
    max_connection_wait_time = LONGEST_WAIT_S

    def __init__(self, connection: Any, *, before: Callable[[], None], sweep: Callable[[], None]) -> None:
        super().__init__(
            [doorbell.queue_at(connection)],
            connection=connection,
            serializer=JSONSerializer,
            job_class=OurJob,
            worker_ttl=WORKER_TTL_S,
            maintenance_interval=MAINTENANCE_S,
            job_monitoring_interval=MONITORING_S,
            log_job_description=False,
            work_horse_killed_handler=_told,
        )
        self._before, self._sweep = before, sweep
        self.is_asked_to_stop = False

    def run_maintenance_tasks(self) -> None:
        """RQ's registries are tidied; what matters is in SQL, and a work-horse looks after that."""
        super().run_maintenance_tasks()
        self._sweep()

    def subscribe(self) -> None:
        """No commands over Redis: they would let whoever writes there stop us."""

    def unsubscribe(self) -> None:
        """Nothing was subscribed to."""

    def request_stop(self, signum: int, frame: Any) -> None:
        """The work-horse is told too: it lets its items end and gives the others back."""
        self.is_asked_to_stop = True
        if self.horse_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.horse_pid, signal.SIGTERM)
        super().request_stop(signum, frame)

    def setup_work_horse_signals(self) -> None:
        from flaskllm.jobs.batch import stopped

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        self._before()


def _told(_job: Job, _pid: int, status: int, _usage: Any) -> None:
    log.warning("a work-horse died with status %s; what it held is asked again when its lease ends", status)


def work_forever(url: str, *, before: Callable[[], None]) -> None:
    """Until SIGTERM. A Redis that is away is waited for; of what makes no sense there RQ's worker ends, and begins
    anew."""
    bell = doorbell.RqDoorbell(url)
    with contextlib.suppress(StopRequested):  # what SIGTERM raises, wherever it comes
        while not _is_over(BatchRqWorker(doorbell.redis_at(url, None), before=before, sweep=bell.sweep)):
            time.sleep(AGAIN_AFTER_S)


def _is_over(worker: BatchRqWorker) -> bool:
    """Let it work. True where it was asked to stop, and did not end by itself."""
    import redis

    try:
        worker.work(with_scheduler=False, logging_level="WARNING")
    except redis.exceptions.RedisError as error:
        log.warning("the worker was interrupted: %s", type(error).__name__)
    return worker.is_asked_to_stop
