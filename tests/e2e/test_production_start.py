"""A production start: weak secrets stop it by name, and S3's own `.env` with the printed secrets goes through."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import canaries
from tests.e2e.servers import BIN, ROOT, Gateway, environment_for, free_port
from tests.upstream import RemoteUpstream

pytestmark = pytest.mark.e2e
SEED = ROOT / "tests" / "seeds" / "examples" / "production.env"
"""S3, "Configure Environment Variables", as it is printed there."""
SHIPPED = [str(BIN / "gunicorn"), "-c", "gunicorn.conf.py", "wsgi:app"]
BARE = [str(BIN / "gunicorn"), "--no-control-socket", "wsgi:application"]
SHORT = "x7Qd-4mZr"
SAMPLE = "please-change-me-before-you-go-to-production"
NEEDED = ("SECRET_KEY", "JWT_SECRET_KEY", "LLM_GATEWAY_ENCRYPTION_KEY")


@pytest.fixture(scope="module")
def secrets() -> dict[str, str]:
    """What `python run.py secrets` prints."""
    said = subprocess.run([sys.executable, "run.py", "secrets"], cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in said.stdout.splitlines())


def refused(folder: Path, command: list[str], environment: dict[str, str]) -> str:
    """What a start says on standard error that does not come up."""
    port = free_port()
    done = subprocess.run(
        [*command, "-b", f"127.0.0.1:{port}"], cwd=ROOT, env=environment_for(folder, port, **environment),
        capture_output=True, text=True, timeout=40, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("name", [*NEEDED, "API_TOKEN"])
@pytest.mark.parametrize("value", [SHORT, SAMPLE, "your_secure_random_token", "a" * 40])
def test_a_weak_secret_stops_the_start_by_name(tmp_path, secrets, name, value):
    said = refused(tmp_path, SHIPPED, {**secrets, "ENVIRONMENT": "production", name: value})
    assert name in said
    assert not any(told in said for told in [value, *secrets.values()])
    assert not any(other in said.replace(name, "") for other in secrets)


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_secret_stops_the_start_by_name(tmp_path, secrets, name):
    said = refused(tmp_path, SHIPPED, {**secrets, "ENVIRONMENT": "production", name: ""})
    assert name in said
    assert "python run.py secrets" in said
    assert not any(told in said for told in secrets.values())


def test_debug_stops_the_start_by_name(tmp_path, secrets):
    assert "DEBUG" in refused(tmp_path, SHIPPED, {**secrets, "ENVIRONMENT": "production", "DEBUG": "true"})


def test_a_gunicorn_without_our_configuration_stops_as_well(tmp_path):
    said = refused(tmp_path, BARE, {"ENVIRONMENT": "production", "API_TOKEN": SHORT, "DEBUG": "true"})
    assert all(name in said for name in (*NEEDED, "API_TOKEN", "DEBUG"))
    assert SHORT not in said


# -- S3's production guide ---------------------------------------------------------------------------------------------


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Gateway]:
    """A checkout of its own, so that a `.env` can lie beside its `wsgi.py`."""
    root = tmp_path / "flaskllm"
    for name in ("flaskllm", "migrations"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("wsgi.py", "gunicorn.conf.py", "run.py"):
        shutil.copy(ROOT / name, root)
    (root / ".env").write_text(SEED.read_text())
    port = free_port()
    environment = {name: environment_for(root, port)[name] for name in ("PATH", "HOME", "PORT")}
    gateway = Gateway(port, environment, root, root)
    yield gateway
    gateway.stop()


def with_printed_secrets(text: str, secrets: dict[str, str]) -> str:
    lines = [line for line in text.splitlines() if not line.startswith("API_TOKEN=")]
    return "\n".join([*lines, *(f"{name}={value}" for name, value in secrets.items()), ""])


def test_the_seeds_env_as_printed_names_what_it_lacks(installation):
    with pytest.raises(AssertionError, match="did not start"):
        installation.start(SHIPPED)
    said = installation.output.read_text()
    assert all(f"{name}: " in said for name in (*NEEDED, "API_TOKEN"))
    assert "python run.py secrets" in said
    assert "your_secure_random_token" not in said


@pytest.mark.parametrize("command", [SHIPPED, BARE], ids=["shipped", "bare"])
def test_the_seeds_env_with_the_printed_secrets_starts(installation, upstream: RemoteUpstream, command, secrets):
    dotenv = installation.root / ".env"
    address = f"OPENAI_BASE_URL={upstream.openai_base}\n"
    dotenv.write_text(with_printed_secrets(dotenv.read_text(), secrets) + address)
    upstream.accept_key("openai", "your_openai_api_key")
    installation.start([*command, "-b", f"127.0.0.1:{installation.port}"])
    status, body, _ = installation.get("/api/v1/health")
    assert (status, body["status"], body["environment"]) == (200, "ok", "production")
    status, body, headers = installation.call(
        "POST", "/api/v1/webhook", {"prompt": "hello there"}, None, **{"X-API-Token": secrets["API_TOKEN"]}
    )
    assert (status, body["summary"], headers["x-flaskllm-provider"]) == (200, "echo: hello there", "openai")
    assert installation.get("/api/v1/templates", secrets["API_TOKEN"])[0] == 200
    installation.stop()
    canaries.check(installation.folder, more=[*secrets.values(), "your_openai_api_key"])
