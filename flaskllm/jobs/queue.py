"""The doorbell: that there is work is told through Redis, what the work is stands in SQL.

Nothing but ids is put into Redis, as JSON, and a job that is lost there costs time only: a sweeper rings again.
"""

from __future__ import annotations

from typing import Any

QUEUE = "flaskllm-batches"
RUN, SWEEP = "flaskllm.jobs.batch.run_batch", "flaskllm.jobs.batch.sweep"
MOST_RINGS = 8
"""In the queue at once: so many more workers may join."""
TURN_TIMEOUT_S = 900
"""RQ kills a turn after that; ours are over long before (`jobs.batch`)."""
REDIS_SECONDS = 0.25


class RqDoorbell:
    """Wakes RQ workers. Raises what redis-py raises."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._made: Any = None

    def ring(self, job_id: str) -> None:
        """There is something to do; where enough rings wait to be heard, nothing is added."""
        queue = self._queue()
        for _ in range(MOST_RINGS - queue.count):
            queue.enqueue(RUN, job_id, job_timeout=TURN_TIMEOUT_S, result_ttl=0, failure_ttl=60)

    def sweep(self) -> None:
        """Have the housekeeping done by whoever hears it first, unless somebody will soon."""
        queue = self._queue()
        if not queue.count:
            queue.enqueue(SWEEP, job_timeout=TURN_TIMEOUT_S, result_ttl=0, failure_ttl=60)

    def _queue(self) -> Any:
        if self._made is None:
            self._made = queue_at(redis_at(self._url, REDIS_SECONDS))
        return self._made


def queue_at(connection: Any) -> Any:
    """The queue as both sides have it: JSON in, and only the functions that are ours out."""
    from rq import Queue
    from rq.serializers import JSONSerializer

    from flaskllm.jobs.worker import OurJob

    return Queue(QUEUE, connection=connection, serializer=JSONSerializer, job_class=OurJob)


def redis_at(url: str, seconds: float | None) -> Any:
    """``seconds``: how long a command may take; None: as long as RQ waits for work."""
    import redis

    return redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=REDIS_SECONDS)
