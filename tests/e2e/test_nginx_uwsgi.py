"""The shipped nginx before uWSGI with the shipped ``deploy/uwsgi.ini``, both real."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.proxy import Proxy, binary, nginx, wait_for
from tests.e2e.servers import BIN, ROOT, Gateway, environment_for, free_port, lacking
from tests.people import PASSWORD

pytestmark = pytest.mark.e2e
SHIPPED = ROOT / "deploy" / "uwsgi.ini"
TWO = {"X-Correlation-Id": "7b1f3c2e-5d4a-4f6b-8c9d-0e1f2a3b4c5d", "X-User-Id": "ana"}
ELSEWHERE = "203.0.113.7"
PROVIDERS = "/llm-gate/v1/providers"


@dataclass
class World:
    gateway: Gateway
    proxy: Proxy
    token: str
    access: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    binary()
    server = shutil.which(str(BIN / "pyuwsgi")) or lacking("no uWSGI in the virtual environment: install pyuwsgi")
    folder, port = tmp_path_factory.mktemp("gateway"), free_port()
    gateway = Gateway(port, environment_for(folder, port, PROXY_HOPS="1"), folder)
    gateway.prepare()
    (folder / "uwsgi.ini").write_text(placed(folder, port))
    with ExitStack() as running:
        running.callback(gateway.stop)
        gateway.start([server, "--ini", str(folder / "uwsgi.ini")])
        proxy = running.enter_context(nginx(tmp_path_factory.mktemp("nginx"), port))
        gateway.administrator("root")
        _, body, _ = gateway.post("/api/auth/login", {"username": "root", "password": PASSWORD})
        yield World(gateway, proxy, gateway.token("--scope", "webhook"), body["data"]["access_token"])


def placed(folder: Path, port: int) -> str:
    """The shipped text with this test's port and virtual environment."""
    text = SHIPPED.read_text()
    for shipped, here in (
        ("127.0.0.1:5000", f"127.0.0.1:{port}"),
        ("virtualenv = .venv", f"virtualenv = {BIN.parent}"),
        ("threads = 64", "threads = 8"),
    ):
        assert shipped in text, f"{SHIPPED.name} says no longer: {shipped}"
        text = text.replace(shipped, here)
    return text


def bearer(world: World) -> dict[str, str]:
    return {"Authorization": f"Bearer {world.token}"}


@pytest.mark.parametrize("name", ["client_id", "X-Client-Id"])
def test_the_client_id_arrives(world: World, name: str) -> None:
    status, _, headers = world.proxy.call("GET", PROVIDERS, **bearer(world), **TWO, **{name: "budget-app"})
    assert (status, headers["x-client-id"]) == (200, "budget-app")


@pytest.mark.parametrize("name", ["X_API_Token", "api_key", "x_api_key"])
def test_a_credential_spelt_with_underscores_is_none(world: World, name: str) -> None:
    assert world.proxy.call("GET", "/v1/models", **{name: world.token})[0] == 401


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO", "Script-Name"])
def test_a_path_in_a_header_moves_no_route(world: World, name: str) -> None:
    assert world.proxy.call("GET", "/v1/models", **{name: "/health"})[0] == 401
    assert world.proxy.call("GET", "/x/health", **{name: "/x"})[0] == 404


@pytest.mark.parametrize("name", ["X_Forwarded_For", "X-Forwarded-For", "x_forwarded_for"])
def test_a_forged_address_opens_no_rule(world: World, name: str) -> None:
    sent = {"name": name, "allowed_ips": [ELSEWHERE]}
    status, body, _ = world.proxy.call("POST", "/api/tokens", sent, Authorization=f"Bearer {world.access}")
    assert status == 201, body
    theirs = {"Authorization": f"Bearer {body['data']['token']}"}
    assert world.proxy.call("GET", "/v1/models", **theirs, **{name: ELSEWHERE})[0] == 403
    assert ELSEWHERE not in world.proxy.logs


def test_a_token_in_the_query_is_in_no_log(world: World) -> None:
    assert world.proxy.call("GET", f"/api/v1/templates?api_token={world.token}")[0] == 200
    assert world.proxy.call("GET", f"/v1/nowhere?api_token={world.token}")[0] in (400, 401, 404)
    wait_for(lambda: '"GET /v1/nowhere HTTP/1.' in world.gateway.output.read_text())
    written_down = world.gateway.output.read_text() + world.proxy.logs
    assert world.token not in written_down
    assert "api_token" not in written_down
