"""schemathesis against a running gateway: whatever is sent, the answer is one that ``/openapi.json`` tells of.

``SCHEMATHESIS_CASES=20000`` asks for more than the 2,000 that a run is at least. Only `demo` answers here, and the
external door may call one host that does not exist, so nothing leaves the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import servers
from tests.people import PASSWORD

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CASES = int(os.environ.get("SCHEMATHESIS_CASES", "2000"))
USUAL_CASES = 6000
"""What the coverage of every value at its bounds comes to by itself."""
NAME = "operator"
SEED = 7

OFF = {
    # A body may have the form and still be refused: `to` before `from`, a moment that has passed, a name that is
    # taken, a parameter that the model asked for does not take. Every other check holds these answers too, and
    # `NEVER_WELL` holds that each operation accepts something.
    "positive_data_acceptance": False,
}
"""Checks that are off, each with its reason. All others are on."""
NEGATIVE = ["400", "401", "403", "404", "405", "406", "409", "413", "414", "415", "422", "428", "429", "5xx"]
"""How invalid data may be refused: the tool's own list, and 413 and 414, of which it does not think."""
NO_FAULT_OF_OURS = ["2xx", "3xx", "4xx", "502", "504"]
"""502 and 504 are what the document says of a provider that the run itself made up; 500 and 503 are none of these.
(Breakers are off, so that such a provider is told as it is, and is not a 503.)
"""
LEFT_OUT = {
    "/api/auth/logout": "ends the session that all calls are made with; tests/doors/test_auth.py has it",
}
_REVOKED = "a revoked token is still read, with the moment of its end; tests/doors/test_tokens.py has it"
STILL_THERE = {"/api/tokens/{token_id}": _REVOKED, "/tokens/{token_id}": _REVOKED}
"""What DELETE does not make a 404, each with its reason."""
NO_OUTSIDE = "the one host that may be called does not exist"
NEVER_WELL = {
    "POST /api/auth/refresh": "asks for the refresh token of a login; no call gives it one",
    "POST /tokens": "asks for an account's id in its body, where no id is carried over",
    "POST /v1/batches": "asks for a file's id in its body, where no id is carried over",
    "POST /api/external/get": NO_OUTSIDE,
    "POST /api/external/post": NO_OUTSIDE,
    "POST /api/external/put": NO_OUTSIDE,
    "POST /api/external/delete": NO_OUTSIDE,
}
"""Operations of which no request of the document's form is answered well, each with its reason."""


def test_no_answer_is_outside_the_document(tmp_path: Path) -> None:
    with servers.gunicorn(
        tmp_path,
        RATE_LIMIT_ENABLED="false",
        BREAKER_FAILURES="0",
        CHAT_PAGE="true",
        JWT_ACCESS_TOKEN_EXPIRES="86400",
        METRICS_TOKEN="7Xw2mQ9vLr4ZpB8sNd3HfJ6gYc1AeUqVoRiWtK5x",
        EXTERNAL_ALLOWED_HOSTS="refused.invalid",
        EXTERNAL_PRIVATE_HOSTS="",
    ) as gateway:
        gateway.administrator(NAME)
        opened = gateway.post("/api/auth/login", {"username": NAME, "password": PASSWORD})[1]["data"]
        report, words = run(tmp_path, gateway, opened["access_token"])
        assert gateway.get("/api/profile", opened["access_token"])[0] == 200, "the run shut itself out"
    assert report["failures"] == [], words
    assert report["errors"] == [], words
    assert report["operations"]["tested"] == report["operations"]["total"] - len(LEFT_OUT), words
    assert report["test_cases"]["generated"] >= CASES
    hold_that_the_form_is_enough(report["valid_rates"])


def hold_that_the_form_is_enough(rates: dict[str, Any]) -> None:
    """Each operation accepts something of its form; where an id is needed, which a call before must have given by
    chance, most do.
    """
    well = {name for name, phases in rates.items() if accepted(phases)}
    by_id = {name for name in rates if "{" in name}
    assert set(rates) - by_id - well - set(NEVER_WELL) == set()
    assert len(well & by_id) > len(by_id) / 2


def accepted(phases: dict[str, Any]) -> int:
    """How many requests of the document's form were answered well, in all phases together."""
    return sum(found["accepted"] for found in phases.values())


def run(folder: Path, gateway: servers.Gateway, token: str) -> tuple[dict[str, Any], str]:
    """One run of the command; its report, and its words. Bounded in cases, and by the clock."""
    operations = sum(map(len, gateway.get("/openapi.json")[1]["paths"].values()))
    each = 5 + max(0, CASES - USUAL_CASES) // operations
    (folder / "schemathesis.toml").write_text(settings(token, each))
    done = subprocess.run(
        [str(servers.BIN / "st"), "--config-file", "schemathesis.toml", "run", f"{gateway.url}/openapi.json"],
        cwd=folder, capture_output=True, text=True, timeout=600 + CASES, check=False,
    )  # fmt: skip
    words = done.stdout[-20_000:] + done.stderr[-2000:]
    assert (folder / "report.json").exists(), words
    return json.loads((folder / "report.json").read_text()), words


def settings(token: str, each: int) -> str:
    """The tool's settings. One worker: its compiler of patterns fails now and then where two threads use it."""
    left_out = "".join(f'[[operations]]\ninclude-path = "{path}"\nenabled = false\n' for path in LEFT_OUT)
    left_out += "".join(
        f'[[operations]]\ninclude-path = "{path}"\nchecks.use_after_free.enabled = false\n' for path in STILL_THERE
    )
    checks = "".join(f"{name}.enabled = {str(on).lower()}\n" for name, on in OFF.items())
    return f"""
seed = {SEED}
workers = 1
continue-on-failure = true
warnings = false
[reports.json]
path = "report.json"
[generation]
max-examples = {each}
[phases.stateful.generation]
max-examples = {each * 5}
[auth.openapi]
accessToken = {{ bearer = "{token}" }}
[checks]
not_a_server_error.expected-statuses = {json.dumps(NO_FAULT_OF_OURS)}
negative_data_rejection.expected-statuses = {json.dumps(NEGATIVE)}
{checks}
{left_out}
"""
