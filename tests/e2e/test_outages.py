"""Providers that are down for longer, over several real processes: what callers get, how often they are asked, and when
they are back.

``OUTAGE_PROBE_SECONDS=10`` is the form of the installation; here a process tries what is down every second.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.servers import Gateway, gunicorn
from tests.upstream import RemoteUpstream, faults

pytestmark = [pytest.mark.e2e, pytest.mark.alone]
PROCESSES = 2
PROBE_S = float(os.environ.get("OUTAGE_PROBE_SECONDS", "1"))
WATCHED_S = max(3.0, 2.5 * PROBE_S)
PATIENCE_S = PROBE_S + 5.0
"""With the usual ten seconds between two tries: the fifteen in which callers have answers again."""
VENDORS = ("openai", "llama")
OVERLAY = """
models:
  first: {provider: openai, model_name: gpt-4o}
  second: {provider: llama}
routes:
  both: {targets: [openai/first, llama/second]}
"""


@pytest.fixture(scope="module")
def gateway(remote_simulator: RemoteUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("outages")
    overlay = folder / "models.yaml"
    overlay.write_text(OVERLAY)
    regions = {}
    for name in ("east", "west"):
        endpoint, key = remote_simulator.azure_region(name)
        regions |= {
            f"AZURE_OPENAI_{name.upper()}_US_ENDPOINT": endpoint,
            f"AZURE_OPENAI_{name.upper()}_US_API_KEY": key,
        }
    with gunicorn(
        folder,
        WEB_CONCURRENCY=str(PROCESSES),
        BREAKER_PROBE_SECONDS=str(PROBE_S),
        LLM_GATEWAY_CONFIG_PATH=str(overlay),
        OPENAI_API_KEY=remote_simulator.keys["openai"],
        OPENAI_BASE_URL=remote_simulator.openai_base,
        LLAMA_API_URL=remote_simulator.llama_base,
        **regions,
    ) as running:
        yield running


Ask = Callable[[], tuple[int, float]]


@pytest.fixture
def ask(gateway: Gateway) -> Ask:
    """One call to the route; its status and seconds. Each has a connection of its own: any process may get it."""
    token = gateway.token()

    def call() -> tuple[int, float]:
        began = time.monotonic()
        body = {"model": "both", "messages": [{"role": "user", "content": "hi"}]}
        status, _, _ = gateway.post("/v1/chat/completions", body, token)
        return status, time.monotonic() - began

    return call


def until(ask: Ask, status: int, *, in_a_row: int, seconds: float) -> list[int]:
    """Every status that came before so many in a row were this one: every process gives it then."""
    seen: list[int] = []
    ends = time.monotonic() + seconds
    while seen[-in_a_row:] != [status] * in_a_row:
        assert time.monotonic() < ends, Counter(seen)
        seen.append(ask()[0])
    return seen


def test_all_providers_down(ask: Ask, upstream: RemoteUpstream, capsys: pytest.CaptureFixture[str]) -> None:
    upstream.script(faults.status(500))
    before = until(ask, 503, in_a_row=20, seconds=30)
    assert set(before) <= {502, 503}

    asked_before = Counter(seen.vendor for seen in upstream.requests)
    began, told = time.monotonic(), list[tuple[int, float]]()
    while (watched := time.monotonic() - began) < WATCHED_S:
        told.append(ask())
    probes = Counter(seen.vendor for seen in upstream.requests) - asked_before
    refused = sorted(seconds for status, seconds in told if status == 503)
    assert {status for status, _ in told} <= {502, 503}  # a 502 is the call that tried, and failed
    assert refused[len(refused) // 2] < 0.05
    for vendor in VENDORS:
        assert 1 <= probes[vendor] <= PROCESSES * (watched / PROBE_S + 1)
    in_all, callers = len(upstream.requests), len(before) + len(told)
    assert in_all <= 1.1 * callers

    upstream.unscript()
    back = time.monotonic()
    until(ask, 200, in_a_row=20, seconds=PATIENCE_S + 10)
    took = time.monotonic() - back
    with capsys.disabled():
        figures = (
            f"median {refused[len(refused) // 2] * 1000:.1f} ms, p99 {refused[int(len(refused) * 0.99)] * 1000:.1f}"
        )
        print(f"\n503: {figures} ms of {len(refused)}; upstream {in_all} of {callers} calls; {dict(probes)} tries in "
              f"{watched:.1f} s; all answered again after {took:.1f} s")  # fmt: skip
    assert took < PATIENCE_S


@pytest.mark.parametrize("fault", ["status", "reset"])
def test_one_region_down_is_nobodys_error(gateway: Gateway, upstream: RemoteUpstream, fault: str) -> None:
    token = gateway.token()
    body = {"model": "azure_openai/gpt-4o", "messages": [{"role": "user", "content": "hi"}]}

    def statuses(times: int) -> set[int]:
        with ThreadPoolExecutor(8) as pool:
            return set(pool.map(lambda _: gateway.post("/v1/chat/completions", body, token)[0], range(times)))

    upstream.script(faults.status(503) if fault == "status" else faults.reset(), vendor="azure-east")
    assert statuses(80) == {200}
    asked = Counter(seen.vendor for seen in upstream.requests)
    assert asked["azure-west"] == 80
    assert asked["azure-east"] < 40  # it is soon left alone, in every process
    upstream.reset()
    ends = time.monotonic() + PATIENCE_S + 10
    while {seen.vendor for seen in upstream.requests} != {"azure-east", "azure-west"}:
        assert time.monotonic() < ends, "the region is asked again once it answers"
        assert statuses(8) == {200}


def test_the_log_tells_of_it_without_a_key(gateway: Gateway, upstream: RemoteUpstream) -> None:
    told = Path(gateway.output).read_text()
    assert "is left alone until it is mended" in told
    assert not any(key in told for key in upstream.keys.values())
