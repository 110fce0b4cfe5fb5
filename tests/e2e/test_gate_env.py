"""Seed 2's own `.env`, values filled in: it starts the gateway where it says, and its calls run as it prints them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.servers import BIN, ROOT, Gateway, environment_for, free_port, lacking
from tests.upstream import RemoteUpstream, faults

pytestmark = pytest.mark.e2e
SEED = ROOT / "tests" / "seeds" / "examples" / "gate.env"
"""S2, "Configure Environment Variables", as it is printed there."""
PRINTED = json.loads((ROOT / "tests" / "seeds" / "s2.json").read_text(encoding="utf-8"))
STEPS = {step["title"]: step for step in PRINTED["steps"]}


@pytest.fixture(scope="module")
def installation(remote_simulator: RemoteUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A checkout of its own with the seed's `.env` beside its `wsgi.py`; nothing else says what to do."""
    root = tmp_path_factory.mktemp("gate") / "flaskllm"
    for name in ("flaskllm", "migrations"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("wsgi.py", "gunicorn.conf.py"):
        shutil.copy(ROOT / name, root)
    port = free_port()
    (root / ".env").write_text(filled_in(SEED.read_text(), remote_simulator, port))
    inherited = environment_for(root, port)
    gateway = Gateway(port, {name: inherited[name] for name in ("PATH", "HOME")}, root, root)
    gateway.prepare()
    gateway.start([str(BIN / "gunicorn"), "-c", "gunicorn.conf.py", "wsgi:app"])
    yield gateway
    gateway.stop()


def filled_in(text: str, upstream: RemoteUpstream, port: int) -> str:
    """The printed file with a port of ours and with the values that it asks for."""
    text = text.replace('HEIMDALL_SERVER_PORT="8080"', f'HEIMDALL_SERVER_PORT="{port}"')
    for region in ("west", "east"):
        endpoint, key = upstream.azure_region(region)
        text = text.replace(
            f"AZURE_OPENAI_{region.upper()}_US_API_KEY=", f"AZURE_OPENAI_{region.upper()}_US_API_KEY={key}"
        )
        text = text.replace(
            f"AZURE_OPENAI_{region.upper()}_US_ENDPOINT=", f"AZURE_OPENAI_{region.upper()}_US_ENDPOINT={endpoint}"
        )
    return text


def curl(gateway: Gateway, step: dict[str, Any], token: str) -> tuple[Any, dict[str, str]]:
    """The printed request through curl: its JSON, its headers in lower case."""
    if shutil.which("curl") is None:
        lacking("no curl")
    request = step["request"]
    sent = [f"{name}: {value}" for name, value in (request["headers"] | {"Authorization": f"Bearer {token}"}).items()]
    body = ["--data", json.dumps(request["body"])] if "body" in request else []
    headers = [part for line in sent for part in ("--header", line)]
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--fail-with-body", "--include", "--request", request["method"],
         f"http://localhost:{gateway.port}{request['path']}", *headers, *body],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    head, _, said = done.stdout.partition("\n\n")
    lines = [line.split(": ", 1) for line in head.splitlines() if ": " in line]
    return json.loads(said), {name.lower(): value for name, value in lines}


@pytest.mark.parametrize("title", STEPS)
def test_a_printed_call_runs_as_it_is_printed(installation: Gateway, upstream: RemoteUpstream, title: str) -> None:
    body, headers = curl(installation, STEPS[title], installation.token())
    assert body
    sent = STEPS[title]["request"]["headers"]
    assert {name: headers[name.lower()] for name in sent if name != "Content-Type"} == {
        name: value for name, value in sent.items() if name != "Content-Type"
    }


@pytest.mark.parametrize("down", ["west", "east"])
def test_with_one_region_down_the_other_answers(installation: Gateway, upstream: RemoteUpstream, down: str) -> None:
    upstream.script(faults.status(503), vendor=f"azure-{down}")
    token = installation.token()
    answers = [curl(installation, STEPS["Chat"], token) for _ in range(2)]
    assert [body["messages"][0]["content"] for body, _ in answers] == ["echo: Hello, how are you?"] * 2
    assert "2" in [headers["x-flaskllm-attempts"].partition(",")[0] for _, headers in answers]


def test_the_warning_about_certificates_is_given_at_the_start(installation: Gateway) -> None:
    assert "HTTPX_CLIENT_VERIFY" in Path(installation.output).read_text()
