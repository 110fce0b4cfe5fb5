"""The watch over secrets sees what it is there for."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from flaskllm.domain import api_token
from tests import canaries
from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.people import PASSWORD
from tests.upstream import Upstream, faults
from tests.upstream.server import CANARY_KEYS

TOKEN = api_token.make()
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"
MADE = "made-for-this-test"


SECRETS = {
    **CANARY_KEYS,
    "token": TOKEN,
    "jwt": JWT,
    "password": PASSWORD,
    "bearer": "Bearer abcdefghijkl",
    "more": MADE,
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("name", ["logs/app.log", "logs/error.log.1", "server.out", "instance/app.db-wal"])
def test_a_secret_in_a_file_is_found_and_not_repeated(tmp_path: Path, name: str, secret: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\x00before " + secret.encode() + b" after\xff")
    with pytest.raises(AssertionError, match=Path(name).name) as failure:
        canaries.check(tmp_path, more=[MADE])
    assert secret not in str(failure.value)


def test_the_secrets_that_a_gateway_keeps_are_watched_too(tmp_path: Path) -> None:
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance" / "secret_key").write_text("kept-by-the-gateway\n")
    (tmp_path / "server.out").write_text("kept-by-the-gateway")
    with pytest.raises(AssertionError, match="secret_key"):
        canaries.check(tmp_path)


def test_a_harmless_folder_passes(tmp_path: Path) -> None:
    (tmp_path / "server.out").write_text("Authorization: Bearer, as in the header WWW-Authenticate")
    canaries.check(tmp_path)


def test_the_files_that_are_watched_are_the_ones_that_are_written(make_app: MakeApp, tmp_path: Path) -> None:
    make_app()
    logging.getLogger("flaskllm").warning("something happened")
    names = {path.name for path in canaries.written_by(tmp_path / "app0")}
    assert {"app.log", "error.log", "app.db"} <= names


def test_a_debug_log_holds_no_secret_either(make_app: MakeApp, upstream: Upstream, tmp_path: Path) -> None:
    app = make_app(LOG_LEVEL="DEBUG", **provider_environment(upstream))
    caller, http = Caller.on(app), app.test_client()
    account = {"username": "ann", "email": "ann@example.com", "password": PASSWORD}
    assert http.post("/api/auth/register", json=account).status_code == 201
    assert http.post("/api/auth/login", json={"username": "ann", "password": PASSWORD}).status_code == 200
    http.post("/api/auth/login", json={"username": PASSWORD, "password": PASSWORD})
    http.post(f"/api/v1/webhook?api_token={caller.token}", json={"prompt": "hi"})
    http.get(f"/nowhere/{caller.token}?api_token={caller.token}", headers=caller.headers)
    upstream.script(faults.echo_key(401))
    for model in ("gpt-4o", "azure_openai/gpt-4o", "anthropic/claude-sonnet-5-5", "gemini/gemini-2.5-flash"):
        caller.chat(model=model, status=502)
        caller.chat(model=model, stream=True, status=502)
    canaries.check(tmp_path / "app0")
    assert (tmp_path / "app0" / "logs" / "app.log").read_text().count("llm_request") >= 8
