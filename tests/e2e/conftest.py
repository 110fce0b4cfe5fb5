"""The simulator as a process of its own, so that a killed gateway takes nothing with it; and a browser a file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.browsers import chromium
from tests.e2e.servers import ROOT
from tests.upstream import RemoteUpstream


@pytest.fixture(scope="session")
def remote_simulator() -> Iterator[RemoteUpstream]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.upstream", "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    address = json.loads(process.stdout.readline())["url"]
    yield RemoteUpstream(address)
    process.kill()
    process.wait(5)
    process.stdout.close()


@pytest.fixture
def upstream(remote_simulator: RemoteUpstream) -> Iterator[RemoteUpstream]:
    remote_simulator.reset()
    yield remote_simulator
    remote_simulator.reset()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running
