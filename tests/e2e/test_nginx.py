"""The shipped nginx before the shipped gunicorn, both real: what has to arrive arrives, what is forged does not."""

from __future__ import annotations

import http.client
import json
import os
import resource
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import provider_environment
from tests.doors.accounts_world import expanded
from tests.e2e.proxy import Proxy, binary, nginx, wait_for
from tests.e2e.servers import ROOT, Gateway, free_port, gunicorn, lacking
from tests.e2e.test_http_corpus import CASES, written
from tests.people import PASSWORD
from tests.upstream import RemoteUpstream, faults

pytestmark = pytest.mark.e2e

CORRELATION = "7b1f3c2e-5d4a-4f6b-8c9d-0e1f2a3b4c5d"
THREE = {"X-Correlation-Id": CORRELATION, "X-User-Id": "ana", "client_id": "budget-app"}
TWO = {name: value for name, value in THREE.items() if name != "client_id"}
PROVIDERS, CHAT = "/llm-gate/v1/providers", "/llm-gate/v1/chat"
HELLO = {"prompt": {"messages": [{"role": "user", "content": "hello"}]}}
ELSEWHERE = "203.0.113.7"
NGINX_OWN = {
    "HTTP-001", "HTTP-004", "HTTP-009", "HTTP-011", "HTTP-017", "HTTP-018", "HTTP-020", "HTTP-025", "HTTP-027",
    "HTTP-033",
}  # fmt: skip
"""What nginx itself, or gunicorn behind it, refuses with a page of its own."""
NGINX_SAYS = {"HTTP-011": 501}
"""Where nginx refuses in another word than gunicorn: it knows no such coding."""

Call = Callable[..., tuple[int, Any, dict[str, str]]]


@dataclass
class World:
    """A production gateway on its database, an administrator, and nginx before it."""

    gateway: Gateway
    proxy: Proxy
    access: str

    def token(self, **document: Any) -> str:
        """An API token of the administrator's."""
        sent = {"name": "nginx", **document}
        status, body, _ = self.proxy.call("POST", "/api/tokens", sent, **bearer(self.access))
        assert status == 201, body
        return str(body["data"]["token"])

    def rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.gateway.folder / "instance" / "app.db")) as connection:
            return connection.execute(query).fetchall()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def production(folder: Path, upstream: RemoteUpstream, **more: str) -> dict[str, str]:
    """A production gateway's settings, with a log of gunicorn's own switched on, as somebody might."""
    said = subprocess.run([sys.executable, "run.py", "secrets"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {
        **dict(line.split("=", 1) for line in said.stdout.splitlines()),
        **provider_environment(upstream, "openai"),  # type: ignore[arg-type]
        "ENVIRONMENT": "production",
        "GUNICORN_CMD_ARGS": f"--access-logfile {folder}/gunicorn.log",
        "PROXY_HOPS": "1",
        **more,
    }


@pytest.fixture(scope="module")
def world(remote_simulator: RemoteUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    binary()
    folder = tmp_path_factory.mktemp("gateway")
    with ExitStack() as running:
        gateway = running.enter_context(gunicorn(folder, **production(folder, remote_simulator)))
        proxy = running.enter_context(nginx(tmp_path_factory.mktemp("nginx"), gateway.port))
        gateway.administrator("root")
        _, body, _ = gateway.post("/api/auth/login", {"username": "root", "password": PASSWORD})
        yield World(gateway, proxy, body["data"]["access_token"])


@pytest.fixture(params=["through nginx", "directly"])
def call(request: pytest.FixtureRequest, world: World) -> Call:
    """One request by either way in."""

    def directly(method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        return world.gateway.call(method, path, body, None, **headers)

    return world.proxy.call if request.param == "through nginx" else directly


# -- S2's header with an underscore in its name ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["client_id", "CLIENT_ID", "X-Client-Id", "x-client-id"])
def test_the_client_id_arrives(world: World, call: Call, name: str) -> None:
    status, body, headers = call("POST", CHAT, HELLO, **bearer(world.token()), **TWO, **{name: "budget-app"})
    assert (status, body["messages"][0]["content"]) == (200, "echo: hello")
    assert (headers["x-client-id"], headers["x-user-id"], headers["x-correlation-id"]) == (
        "budget-app", "ana", CORRELATION,
    )  # fmt: skip
    query = f"SELECT client_id, claimed_user, correlation_id FROM calls WHERE request_id = '{headers['x-request-id']}'"
    assert world.rows(query) == [("budget-app", "ana", CORRELATION)]


def test_without_it_the_gate_names_the_header(world: World, call: Call) -> None:
    status, body, _ = call("GET", PROVIDERS, **bearer(world.token()), **TWO)
    assert (status, [each["field"] for each in body["error"]["details"]]) == (400, ["client_id"])


def test_two_client_ids_that_differ_are_refused(world: World, call: Call) -> None:
    status, body, _ = call("GET", PROVIDERS, **bearer(world.token()), **THREE, **{"X-Client-Id": "another"})
    assert (status, [each["field"] for each in body["error"]["details"]]) == (400, ["client_id"])
    assert call("GET", PROVIDERS, **bearer(world.token()), **THREE, **{"X-Client-Id": "budget-app"})[0] == 200


def test_from_a_peer_that_is_not_trusted_only_the_other_spelling_arrives(
    tmp_path: Path, upstream: RemoteUpstream
) -> None:
    with gunicorn(tmp_path, **production(tmp_path, upstream, FORWARDED_ALLOW_IPS="192.0.2.1")) as gateway:
        token = gateway.token()
        status, body, _ = gateway.call("GET", PROVIDERS, None, token, **THREE)
        assert (status, [each["field"] for each in body["error"]["details"]]) == (400, ["client_id"])
        assert gateway.call("GET", PROVIDERS, None, token, **TWO, **{"X-Client-Id": "budget-app"})[0] == 200


# -- what is forged ----------------------------------------------------------------------------------------------------

FORGED = [
    {"X-Forwarded-For": ELSEWHERE},
    {"X_Forwarded_For": ELSEWHERE},
    {"x_forwarded_for": ELSEWHERE, "X-Forwarded-For": ELSEWHERE},
    {"X-Real-IP": ELSEWHERE},
    {"Forwarded": f"for={ELSEWHERE}"},
    {"REMOTE_ADDR": ELSEWHERE},
]


@pytest.mark.parametrize("forged", FORGED, ids=str)
def test_a_forged_address_opens_no_rule_and_closes_none(world: World, forged: dict[str, str]) -> None:
    theirs, ours = world.token(allowed_ips=[ELSEWHERE]), world.token(allowed_ips=["127.0.0.9"])
    assert world.proxy.call("GET", "/v1/models", source="127.0.0.9", **bearer(theirs), **forged)[0] == 403
    assert world.proxy.call("GET", "/v1/models", source="127.0.0.9", **bearer(ours), **forged)[0] == 200
    assert world.proxy.call("GET", "/v1/models", source="127.0.0.8", **bearer(ours), **forged)[0] == 403


@pytest.mark.parametrize("forged", FORGED, ids=str)
def test_the_recorded_address_is_the_one_that_nginx_saw(world: World, forged: dict[str, str]) -> None:
    document = {
        "name": f"t{time.monotonic_ns()}",
        "type": "custom",
        "user_text": "{{ text }}",
        "variables": [{"name": "text"}],
    }
    status, body, headers = world.proxy.call(
        "POST", "/api/v1/templates", document, source="127.0.0.9", **bearer(world.access), **forged
    )
    assert status == 201, body
    found = world.rows(f"SELECT address FROM audit WHERE request_id = '{headers['x-request-id']}'")
    assert found == [("127.0.0.9",)]
    assert ELSEWHERE not in world.proxy.logs


@pytest.mark.parametrize("name", ["X_API_Token", "X_API_TOKEN", "api_key", "x_api_key", "HTTP_X_API_TOKEN"])
def test_a_credential_spelt_with_underscores_is_none(world: World, call: Call, name: str) -> None:
    assert call("GET", "/v1/models", **{name: world.token()})[0] == 401
    good, other = world.token(), world.token()
    assert call("GET", "/v1/models", **bearer(good), **{name: other})[0] == 200


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "Script-Name", "X-Script-Name", "X-Forwarded-Prefix", "Script_Name"])
def test_a_script_name_moves_no_route(world: World, call: Call, name: str) -> None:
    assert call("GET", "/public/health/live", **{name: "/public"})[0] == 404
    assert call("GET", "/health/live", **{name: "/public"})[0] == 200
    assert call("GET", "/v1/models", **{name: "/v1"})[0] == 401


@pytest.mark.parametrize("name", ["PATH_INFO", "Path-Info", "X-Original-URL", "X-Rewrite-URL", "Path_Info"])
def test_a_path_in_a_header_moves_no_route(world: World, call: Call, name: str) -> None:
    assert call("GET", "/v1/models", **{name: "/health/live"})[0] == 401
    assert call("GET", "/health/live", **{name: "/v1/models"})[0] == 200


@pytest.mark.parametrize("name", ["Content_Length", "Transfer_Encoding", "X_Request_Id", "X_User_Id", "Authorization_"])
def test_a_spelling_with_underscores_never_stands_for_the_real_header(world: World, call: Call, name: str) -> None:
    value = "0" if name == "Content_Length" else "chunked" if name == "Transfer_Encoding" else "0123456789-forged"
    status, body, headers = call("POST", CHAT, HELLO, **bearer(world.token()), **THREE, **{name: value})
    assert (status, body["messages"][0]["content"]) == (200, "echo: hello")
    assert (headers["x-request-id"] != value, headers["x-user-id"]) == (True, "ana")


def test_https_is_known_by_what_nginx_says_and_not_by_the_caller(world: World) -> None:
    through = world.proxy.call("GET", "/health", **{"X-Forwarded-Proto": "http"})[2]
    assert through["strict-transport-security"].startswith("max-age=")
    assert "server" not in through or "1." not in through["server"]
    assert "strict-transport-security" not in world.gateway.get("/health")[2]


def test_plain_http_is_sent_on_to_https(world: World) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", world.proxy.plain_port, timeout=10)
    connection.request("POST", "/v1/chat/completions?api_token=abc", b"{}", {"Host": "gateway.example.org"})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Location", "")[:41]) == (308, "https://gateway.example.org/v1/chat/compl")
    connection.close()


# -- what is never written down ----------------------------------------------------------------------------------------


def test_a_token_in_the_query_is_in_no_log(world: World, call: Call) -> None:
    token = world.token(scopes=["webhook"])
    status, _, headers = call("GET", f"/api/v1/templates?api_token={token}", Referer=f"https://x/?api_token={token}")
    assert status == 200
    assert call("GET", f"/v1/models?api_token={token}")[0] in (400, 401)
    assert call("GET", f"/api/v1/nowhere?api_token={token}")[0] == 404
    wait_for(lambda: headers["x-request-id"] in app_log(world) and "/api/v1/nowhere" in gunicorn_log(world))
    written_down = world.proxy.logs + gunicorn_log(world) + app_log(world) + world.gateway.output.read_text()
    assert token not in written_down
    assert "api_token" not in written_down


def test_nor_where_the_gateway_is_away(tmp_path: Path) -> None:
    """nginx repeats the request line in its errors; there are none of those."""
    with nginx(tmp_path, free_port()) as proxy:
        assert proxy.call("GET", "/api/v1/templates?api_token=fl_secret")[0] == 502
        wait_for(lambda: "/api/v1/templates" in proxy.logs)
        assert " 502 " in proxy.logs
        assert "fl_secret" not in proxy.logs


def gunicorn_log(world: World) -> str:
    return (world.gateway.folder / "gunicorn.log").read_text()


def app_log(world: World) -> str:
    return (world.gateway.folder / "logs" / "app.log").read_text()


# -- sizes and streams -------------------------------------------------------------------------------------------------


def test_a_stream_passes_as_it_comes(world: World, upstream: RemoteUpstream) -> None:
    upstream.script(faults.text("one two three four five six") + faults.pace(200), vendor="openai")
    body = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "slowly"}]}
    connection = http.client.HTTPConnection("gateway.example.org")
    connection.sock = world.proxy.connect()
    headers = {"Content-Type": "application/json", **bearer(world.token())}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    came = [time.monotonic() for line in answer if line.startswith(b"data: ")]
    connection.close()
    assert answer.getheader("Content-Type") == "text/event-stream"
    assert len(came) >= 7
    assert came[-1] - came[0] > 0.8  # six pieces, 200 ms apart: held back they would come at once


def test_a_body_of_the_contracts_size_arrives_and_a_larger_one_does_not(world: World) -> None:
    most = 20 * 2**20
    assert sent_length(world, "/v1/chat/completions", most + 1) == 413
    text = "x" * (most - 1000)
    status, body, _ = world.proxy.call("POST", CHAT, {"prompt": {"messages": text}}, **bearer(world.token()), **THREE)
    assert (status, body["error"]["details"][0]["field"]) == (400, "prompt.messages")
    assert sent_length(world, "/v1/files", 200 * 2**20 + 1) == 413


def sent_length(world: World, path: str, length: int) -> int:
    """The status for a body of that length of which nothing is sent."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nContent-Type: application/json\r\n\r\n"
    with world.proxy.connect() as sock:
        sock.sendall(head.encode())
        return int(sock.recv(65_536).split(b" ", 2)[1])


# -- the corpus' raw requests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in CASES])
def test_case_through_nginx(world: World, case: dict[str, Any]) -> None:
    workers = world.gateway.children()
    answer = exchange(world.proxy, *written(expanded(case["input"]), world.gateway.environment["API_TOKEN"]))
    status = int(answer.split(b" ", 2)[1])
    assert status in [*case["expect"]["status"], NGINX_SAYS.get(case["id"])], answer[:500]
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"evil.example" not in answer
    assert b"<html" not in answer or case["id"] in NGINX_OWN
    assert world.proxy.call("GET", "/health/live")[0] == 200
    assert world.gateway.children() == workers


def exchange(proxy: Proxy, data: bytes, closes: bool = False) -> bytes:
    """All that comes back. TLS has no half-closed side that nginx would read on from, so that is done without."""
    found = b""
    with proxy.connect() as sock:
        try:
            sock.sendall(data)
            while piece := sock.recv(65_536):
                found += piece
        except OSError:  # refused before it was read to its end
            pass
    return found


# -- clients that are slow, or do nothing (HTTP-035 to HTTP-039) -------------------------------------------------------


@contextmanager
def connections(proxy: Proxy, count: int, first: bytes = b"", *, tls: bool = True) -> Iterator[list[socket.socket]]:
    """So many open connections, each with these bytes sent."""
    with ExitStack() as held:
        opened = []
        for _ in range(count):
            sock = proxy.connect() if tls else socket.create_connection(("127.0.0.1", proxy.port), 30)
            held.enter_context(sock)
            sock.sendall(first)
            opened.append(sock)
        yield opened


SLOW = b"POST /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\n"
IDLE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
HALF_A_HANDSHAKE = bytes.fromhex("1603010200010001fc0303")
CROWDS = {
    "HTTP-035, slow bodies": (200, SLOW, True),
    "HTTP-037, idle connections": (1000, IDLE, True),
    "HTTP-038, nothing sent": (1000, b"", False),
    "HTTP-039, half a handshake": (200, HALF_A_HANDSHAKE, False),
}


KEPT = 64 * (os.cpu_count() or 1) + 40
"""Connections to us that nginx keeps for the next request, 64 for each of its processes (`deploy/nginx.conf`), and what
ours opens by itself."""


@pytest.mark.parametrize("crowd", CROWDS)
def test_a_crowd_that_holds_connections_slows_nobody_else(world: World, crowd: str) -> None:
    count, first, tls = CROWDS[crowd]
    token, (worker,) = world.token(), world.gateway.children()
    before = descriptors(worker)
    enough = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if enough < 2 * count + 500:
        lacking(f"too few descriptors a process: raise `ulimit -Hn` above {2 * count + 500}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, enough))
    with connections(world.proxy, count, first, tls=tls) as opened:
        over = threading.Event()
        drip = threading.Thread(target=send_slowly, args=(opened if first == SLOW else [], over))
        drip.start()
        seconds = [probe(world, token) for _ in range(30)]
        held = settled(lambda: descriptors(worker) - before, below=KEPT)
        over.set()
        drip.join()
    assert sorted(seconds)[int(len(seconds) * 0.99) - 1] < 1
    assert held < KEPT


def settled(look: Callable[[], int], *, below: int, seconds: float = 10) -> int:
    """The number once it is below that, or what it is at last: nginx asks once for each, and lets go then."""
    until = time.monotonic() + seconds
    while (found := look()) >= below and time.monotonic() < until:
        time.sleep(0.1)
    return found


def probe(world: World, token: str) -> float:
    """How long one request of somebody else's takes; ten of them a second."""
    began = time.monotonic()
    assert world.proxy.call("GET", "/v1/models", **bearer(token))[0] == 200
    took = time.monotonic() - began
    time.sleep(max(0.0, 0.1 - took))
    return took


def send_slowly(opened: list[socket.socket], over: threading.Event) -> None:
    """A byte a second on each."""
    while opened and not over.wait(1):
        for sock in opened:
            sock.sendall(b"x")


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
