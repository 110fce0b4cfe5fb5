"""Counts for Prometheus: requests, model calls, tokens, money. No label names a user, a token or a prompt.

Several processes are exact together where ``PROMETHEUS_MULTIPROC_DIR`` names the folder that they share, as under the
shipped gunicorn; elsewhere a process tells of itself alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from flaskllm.domain.pricing import to_dollars
from flaskllm.errors import Unavailable

CONTENT_TYPE = CONTENT_TYPE_LATEST
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CALL_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)
NOBODY = "none"
"""The provider and model of a call that was refused before anybody was chosen."""


class Metrics:
    """Counts of one application, and the text that Prometheus reads."""

    def __init__(self, *, version: str) -> None:
        disable_created_metrics()  # twice the lines for a time that nobody asks for
        own = self._own = CollectorRegistry()
        self._requests = Counter(
            "flaskllm_http_requests", "Requests answered.", ["method", "route", "status"], registry=own
        )
        self._request_seconds = Histogram(
            "flaskllm_http_request_duration_seconds",
            "Time until an answer's headers.",
            ["route"],
            buckets=REQUEST_SECONDS,
            registry=own,
        )
        model = ["provider", "model"]
        self._calls = Counter("flaskllm_model_calls", "Calls to models.", ["door", *model, "status"], registry=own)
        self._call_seconds = Histogram(
            "flaskllm_model_call_duration_seconds",
            "Time from the request to the end of the answer.",
            model,
            buckets=CALL_SECONDS,
            registry=own,
        )
        self._tokens = Counter("flaskllm_tokens", "Tokens as settled.", [*model, "direction"], registry=own)
        self._cost = Counter("flaskllm_cost_dollars", "Cost as settled, in US dollars.", model, registry=own)
        self._attempts = Counter(
            "flaskllm_upstream_attempts", "Calls sent to providers, failed ones too.", registry=own
        )
        self._hits = Counter("flaskllm_cache_hits", "Calls answered from the cache.", model, registry=own)
        self._saved = Counter(
            "flaskllm_cache_saved_dollars",
            "What those answers had cost when they were asked for, in US dollars.",
            model,
            registry=own,
        )
        about = Gauge(
            "flaskllm_build", "Which version runs.", ["version"], registry=own, multiprocess_mode="livemostrecent"
        )
        about.labels(version).set(1)
        self._shared = CollectorRegistry()

    def watch_breakers(self, state: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """``state``: how many breakers are open, by provider and endpoint; it is the same in every process."""
        self._shared.register(_Breakers(state))

    def request(self, *, method: str, route: str | None, status: int, seconds: float) -> None:
        """One answered request; ``route`` is the rule that it matched, None where it matched none."""
        known = route or "unknown"
        self._requests.labels(method if route else "other", known, str(status)).inc()
        self._request_seconds.labels(known).observe(seconds)

    def call(self, row: Mapping[str, Any]) -> None:
        """One call to a model, as its usage row tells it (`UsageService.row`)."""
        provider, model = row["provider"] or NOBODY, row["backend_model"] or NOBODY
        self._calls.labels(row["door"], provider, model, str(row["status"])).inc()
        if not row["attempts"]:
            return
        self._attempts.inc(row["attempts"])
        self._call_seconds.labels(provider, model).observe(row["latency_ms"] / 1000)
        self._tokens.labels(provider, model, "prompt").inc(row["prompt_tokens"])
        self._tokens.labels(provider, model, "completion").inc(row["completion_tokens"])
        self._cost.labels(provider, model).inc(to_dollars(row["cost"]) or 0)

    def hit(self, row: Mapping[str, Any]) -> None:
        """Besides `call`, of one that was answered from the cache."""
        of = row["provider"], row["backend_model"]
        self._hits.labels(*of).inc()
        self._saved.labels(*of).inc(to_dollars(row["saved"]) or 0)

    def text(self) -> bytes:
        """All counts in Prometheus' text form, of every process where they share a folder."""
        if not values.ValueClass._multiprocess:  # noqa: SLF001  (how the library itself asks)
            return generate_latest(self._own) + generate_latest(self._shared)
        every = CollectorRegistry()
        MultiProcessCollector(every)
        return generate_latest(every) + generate_latest(self._shared)


class _Breakers(Collector):
    """Looked up when it is asked for, past the folder that processes share."""

    def __init__(self, state: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        """Without this the registry would look, and the database may not be there yet."""
        return [self._gauge()]

    def collect(self) -> Iterable[Metric]:
        gauge = self._gauge()
        with suppress(Unavailable):  # no database since the start: the counts are told all the same
            for at, count in self._state().items():
                gauge.add_metric(at, count)
        return [gauge]

    def _gauge(self) -> GaugeMetricFamily:
        return GaugeMetricFamily("flaskllm_breaker_open", "Breakers that are open.", labels=["provider", "endpoint"])
