"""Many questions in one request, from Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from flaskllm.client.transport import Transport

LOOK_EVERY_S = 1.0
PAGE = "200"

Progress = Callable[[Mapping[str, Any]], object]
"""Is given the job's document: ``status``, ``progress``, ``cost``, ``eta``."""


class Batches:
    """``client.batches``: jobs as the gateway tells of them."""

    def __init__(self, http: Transport) -> None:
        self._http = http

    def submit(
        self,
        prompts: Sequence[str] | None = None,
        *,
        requests: Sequence[Mapping[str, Any]] | None = None,
        **job: Any,
    ) -> dict[str, Any]:
        """``job``: ``model``, ``metadata``, ``callback_url``, ``max_concurrency``. Gives ``job_id`` and ``total``."""
        given = {"prompts": prompts, "requests": requests, **job}
        body = {name: value for name, value in given.items() if value is not None}
        return self._http.call("POST", "/v1/batch/generate", body)[0]

    def estimate(self, prompts: Sequence[str] | None = None, **job: Any) -> dict[str, Any]:
        """What `submit` would cost and how long it would take; nothing is asked."""
        given = {"prompts": prompts, **job}
        body = {name: value for name, value in given.items() if value is not None}
        return self._http.call("POST", "/v1/batch/generate?dry_run=true", body)[0]

    def list(self) -> list[dict[str, Any]]:
        """The newest jobs."""
        return self._http.call("GET", "/v1/batch")[0]["data"]

    def get(self, job_id: str) -> dict[str, Any]:
        return self._http.call("GET", _at(job_id))[0]

    def cancel(self, job_id: str) -> dict[str, Any]:
        return self._http.call("POST", f"{_at(job_id)}/cancel")[0]

    def retry(self, job_id: str) -> dict[str, Any]:
        """Ask the failed items again."""
        return self._http.call("POST", f"{_at(job_id)}/retry")[0]

    def results(self, job_id: str) -> Iterator[dict[str, Any]]:
        """Those there are so far, in the order of the input, read a page at a time."""
        query = {"limit": PAGE}
        while True:
            page = self._http.call("GET", f"{_at(job_id)}/results", query=query)[0]
            yield from page["data"]
            if page["next"] is None:
                return
            query["after"] = page["next"]

    def wait(self, job_id: str, *, on_progress: Progress | None = None, timeout: float | None = None) -> dict[str, Any]:
        """Until the job is over. Raises `TimeoutError` after ``timeout`` seconds; the job goes on all the same."""
        ends = None if timeout is None else time.monotonic() + timeout
        told = None
        while True:
            job = self.get(job_id)
            if on_progress is not None and job != told:
                on_progress(job)
                told = job
            if job["finished_at"] is not None:
                return job
            if ends is not None and time.monotonic() >= ends:
                raise TimeoutError(f"the job {job_id} is {job['status']}")
            time.sleep(LOOK_EVERY_S)


def _at(job_id: str) -> str:
    return f"/v1/batch/{quote(job_id, safe='')}"
