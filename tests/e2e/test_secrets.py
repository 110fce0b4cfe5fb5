"""The corpus' group ``secrets``: canaries are planted, everything is used, and then everything written is searched.

A production gateway on PostgreSQL and Redis, with all the places that it could leak into: logs, both databases, error
bodies, ``/metrics``, the process table, what goes to other providers.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
import redis
from sqlalchemy import make_url

from tests import canaries
from tests.conftest import provider_environment
from tests.databases import MISSING, database_of_its_own
from tests.e2e.servers import ROOT, Gateway, gunicorn, lacking, redis_server
from tests.people import PASSWORD
from tests.upstream import RemoteUpstream, faults
from tests.upstream.server import CANARY_KEYS

pytestmark = pytest.mark.e2e
PROMPT = "PROMPT-CANARY-7f3e91"
OWN_KEY = "sk-own-provider-CANARY-55aa0be1c9d2"
METRICS_TOKEN = "metrics-CANARY-token-2b7c4f90d1e83a56"
NAME, EMAIL = "canaryuser", "canary.person@example.org"
HOSTILE = (
    b"", b"null", b"[1]", b'{"a": NaN}', b'{"model": 7}', b'{"messages": "x"}', b'{"prompt": {"a": 1}}', b"\xff\xfe",
    b'{"a":' * 500, b'{"messages":[{"role":"user","content":"' + PROMPT.encode() + b'"}],"temperature":"hot"}',
    b'{"provider_id":"x","api_key":{"key_value":"' + OWN_KEY.encode() + b'","more":1}}',
    b'{"username":"' + NAME.encode() + b'","password":"' + PASSWORD.encode() + b'","more":1}',
)  # fmt: skip
NEVER_IN_ERRORS = ("Traceback", "psycopg", "sqlalchemy", "SELECT ", "site-packages", "argon2", str(ROOT))


@dataclass
class Run:
    """What was used, and what it said."""

    gateway: Gateway
    folder: Path
    upstream: RemoteUpstream
    database: str
    redis: str
    tokens: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    monitored: list[str] = field(default_factory=list)

    @property
    def secrets(self) -> list[str]:
        return [OWN_KEY, PROMPT, METRICS_TOKEN, *self.tokens, *self.gateway.secrets]

    def found_in(self, text: str | bytes) -> list[str]:
        """Which secrets stand in it, as numbers: a failing test must not print them."""
        raw = text.encode() if isinstance(text, str) else text
        known = [*self.secrets, *CANARY_KEYS.values(), PASSWORD]
        return [f"secret {number}" for number, secret in enumerate(known) if secret.encode() in raw]


@pytest.fixture(scope="module")
def run(remote_simulator: RemoteUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("secrets")
    database = database_of_its_own()
    if database is None:
        lacking(MISSING)
    remote_simulator.reset()
    printed = subprocess.run(
        [sys.executable, "run.py", "secrets"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    environment = {
        **provider_environment(remote_simulator),  # type: ignore[arg-type]
        **dict(line.split("=", 1) for line in printed.stdout.splitlines()),
        "ENVIRONMENT": "production",
        "DATABASE_URL": database,
        "METRICS_TOKEN": METRICS_TOKEN,
        "ALLOW_PRIVATE_PROVIDERS": "true",
        "LOG_LEVEL": "DEBUG",
        "WEB_CONCURRENCY": "2",
    }
    with redis_server(folder) as url, gunicorn(folder, REDIS_URL=url, **environment) as gateway:
        made = Run(gateway, folder, remote_simulator, database, url)
        with monitor(made):
            everything_is_used(made)
        yield made


class monitor:  # noqa: N801  (reads as a word where it is used)
    """Every command that Redis is sent meanwhile."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.client = redis.Redis.from_url(run.redis, decode_responses=True)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.listen, daemon=True)

    def listen(self) -> None:
        with self.client.monitor() as told:
            self.over.set()
            for command in told.listen():
                if command["command"] == "ECHO monitor-ends":
                    return
                self.run.monitored.append(command["command"])

    def __enter__(self) -> None:
        self.thread.start()
        assert self.over.wait(5)

    def __exit__(self, *_: object) -> None:
        self.client.echo("monitor-ends")
        self.thread.join(5)
        self.client.close()


def everything_is_used(run: Run) -> None:
    gateway, upstream = run.gateway, run.upstream
    gateway.flask("users", "create", NAME, EMAIL, "--admin", "--password-stdin", stdin=PASSWORD)
    token = gateway.token("--scope", "chat", "--scope", "webhook", "--scope", "embeddings", "--scope", "images")
    _, session, _ = gateway.post("/api/auth/login", {"username": NAME, "password": PASSWORD})
    admin = session["data"]["access_token"]
    run.tokens += [token, admin, session["data"]["refresh_token"]]

    own = {
        "provider_id": "own", "display_name": "Own", "provider_type": "openai_compatible",
        "connection_params": {"api_base": upstream.llama_base},
        "models": [{"model_id": "own-model", "model_type": "chat"}],
        "api_key": {"key_value": OWN_KEY},
    }  # fmt: skip
    assert gateway.post("/providers", own, admin)[0] == 201
    said = [{"role": "user", "content": PROMPT}]
    for model in (
        "openai/gpt-4o",
        "azure_openai/gpt-4o",
        "claude-haiku-4-5",
        "gemini/gemini-2.5-flash",
        "own/own-model",
    ):
        for more in ({}, {"stream": True}):
            gateway.post("/v1/chat/completions", {"model": model, "messages": said, **more}, token)
    gateway.post("/v1/messages", {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": said}, token)
    gateway.post("/v1/embeddings", {"model": "openai/text-embedding-3-small", "input": PROMPT}, token)
    gateway.post("/api/v1/webhook", {"type": "summary", "prompt": PROMPT}, token)
    gateway.call("POST", f"/api/v1/webhook?{urlencode({'api_token': token})}", {"prompt": PROMPT}, None)
    gateway.call("GET", f"/api/v1/nowhere?{urlencode({'api_token': token})}", None, None)

    upstream.script(faults.echo_key())  # a provider that repeats our key to us
    run.errors += [
        json.dumps(gateway.post("/v1/chat/completions", {"model": "openai/gpt-4o", "messages": said}, token)[1])
    ]
    upstream.script(faults.status(500))
    run.errors += [json.dumps(gateway.post("/v1/chat/completions", {"model": "grok-4", "messages": said}, token)[1])]
    upstream.unscript()
    fuzz(run, token, admin)
    gateway.post("/api/auth/login", {"username": NAME, "password": PASSWORD + "x"})
    gateway.post("/api/auth/login", {"username": EMAIL, "password": "x" * 300})


def fuzz(run: Run, token: str, admin: str) -> None:
    """Every door gets every hostile body; the answers are kept."""
    paths = (
        "/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings", "/v1/images/generations",
        "/llm/chat", "/api/v1/webhook", "/api/v1/templates", "/api/auth/login", "/api/auth/register", "/api/tokens",
        "/providers", "/users", "/tokens", "/api/external/get", "/llm-gate/v1/chat",
    )  # fmt: skip
    for path in paths:
        for body in HOSTILE:
            for credential in (token, admin):
                run.errors.append(raw_post(run.gateway, path, body, credential))


def raw_post(gateway: Gateway, path: str, body: bytes, token: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        raw = answer.read().decode()
        assert answer.status < 500, (path, body, raw)
        return raw
    finally:
        connection.close()


def test_secrets_002_no_log_holds_one_nor_a_query(run: Run) -> None:
    """Also at ``LOG_LEVEL=DEBUG``, and no prompt either."""
    assert canaries.leaks(canaries.written_by(run.folder), more=run.secrets) == []
    logs = b"".join(path.read_bytes() for path in canaries.written_by(run.folder) if path.is_file())
    assert b"api_token=" not in logs
    assert b"llm_request" in logs


def test_secrets_003_the_database_holds_ciphertext_and_hashes(run: Run) -> None:
    url = make_url(run.database).set(drivername="postgresql").render_as_string(hide_password=False)
    dump = run.folder / "postgresql.dump"
    with psycopg.connect(url) as connection, dump.open("wb") as file:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            with connection.cursor().copy(f'COPY "{table}" TO STDOUT') as copy:
                file.writelines(bytes(piece) for piece in copy)
    assert b"own-model" in dump.read_bytes()
    assert run.found_in(dump.read_bytes()) == []
    assert canaries.leaks([dump]) == []


def test_secrets_004_redis_holds_none(run: Run) -> None:
    client = redis.Redis.from_url(run.redis)
    client.save()
    rdb = (run.folder / "dump.rdb").read_bytes()
    assert run.monitored, "nothing was sent to Redis"
    assert run.found_in(rdb) == []
    assert run.found_in("\n".join(run.monitored)) == []
    client.close()


def test_secrets_005_no_error_body_holds_one(run: Run) -> None:
    assert len(run.errors) > 300
    everything = "\n".join(run.errors)
    assert run.found_in(everything) == []
    assert [word for word in NEVER_IN_ERRORS if word in everything] == []


def test_secrets_006_the_metrics_name_nobody(run: Run) -> None:
    status, text, _ = run.gateway.get("/metrics", METRICS_TOKEN)
    assert status == 200
    assert "flaskllm_model_calls_total{" in text
    assert run.found_in(text) == []
    assert [word for word in (NAME, EMAIL) if word in text] == []


def test_secrets_010_a_fault_of_ours_is_told_without_its_values(tmp_path: Path) -> None:
    """A view of this test's own raises with a key in a local variable and in the exception's text."""
    program = (
        "from flaskllm.app import create_app\nfrom flaskllm.config import Settings\n"
        "app = create_app(Settings.load())\n"
        "@app.get('/fault')\ndef fault():\n"
        f"    key = '{OWN_KEY}'\n    prompt = '{PROMPT}'\n    raise RuntimeError('failed with ' + key + ' ' + prompt)\n"
        "answer = app.test_client().get('/fault')\nprint(answer.status_code, answer.text)\n"
    )
    environment = {
        "ENVIRONMENT": "testing",
        "INSTANCE_PATH": str(tmp_path / "instance"),
        "LOG_DIR": str(tmp_path / "logs"),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    logged = "".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert done.stdout.startswith("500 ")
    assert "RuntimeError" in logged  # where it happened is told
    assert not any(secret in done.stdout + done.stderr + logged for secret in (OWN_KEY, PROMPT))


def test_secrets_011_no_command_line_holds_one(run: Run) -> None:
    assert run.gateway.process is not None
    for pid in [run.gateway.process.pid, *run.gateway.children()]:
        assert run.found_in(Path(f"/proc/{pid}/cmdline").read_bytes()) == []
        assert run.found_in(Path(f"/proc/{pid}/comm").read_bytes()) == []


def test_secrets_013_no_provider_is_told_of_another(run: Run) -> None:
    """Nor of our callers: of who they are, what they carry, and what our own metadata is."""
    seen = run.upstream.requests
    assert {one.vendor.partition("-")[0] for one in seen} >= {"openai", "azure", "anthropic", "gemini", "llama"}
    for one in seen:
        text = json.dumps([one.headers, one.body])
        others = {key for vendor, key in CANARY_KEYS.items() if not vendor.startswith(one.vendor.partition("-")[0])}
        assert not any(key in text for key in others), one.vendor
        assert not any(token in text for token in (*run.tokens, METRICS_TOKEN, PASSWORD)), one.vendor
        assert not any(word in text for word in (NAME, EMAIL)), one.vendor
        sent = {name.lower() for name in one.headers}
        assert not sent & {"x-request-id", "x-correlation-id", "x-user-id", "client_id", "x-client-id", "cookie"}
        assert not any(name.startswith(("x-flaskllm", "x-forwarded")) for name in sent)
        if one.vendor != "llama":
            assert OWN_KEY not in text


def test_secrets_015_a_crash_leaves_no_memory_behind(run: Run) -> None:
    for pid in run.gateway.children():
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        [core] = [line for line in limits if line.startswith("Max core file size")]
        assert core.split()[4:6] == ["0", "0"]


def test_after_all_that_it_still_answers(run: Run) -> None:
    ends = time.monotonic() + 10
    found: dict[str, Any] = {}
    while time.monotonic() < ends:
        status, found, _ = run.gateway.get("/health/ready")
        if status == 200:
            break
        time.sleep(0.2)
    assert found["status"] in ("ok", "degraded")
