"""Every case of the corpus about calls to the outside, played where the outside is ours.

The gateway runs under gunicorn in a network namespace whose every address is local (``tests/e2e/walled``): what is
refused and what would have worked are both seen, and any packet to another place than the case may reach is a failure.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from werkzeug.wrappers import Response

from tests.corpus.harness import ASSERTIONS, OUTSIDE, Case, World, assertions_of, play, verify
from tests.e2e.servers import BIN, ROOT, Gateway, environment_for, lacking
from tests.e2e.walled.ground import BROKEN, OPEN, OTHER, OWN, PUBLIC, PUBLIC_V6, SIMULATOR_PORT
from tests.e2e.walled.outside import BEHAVIOURS, TOLD_BY_CANARIES
from tests.people import PASSWORD
from tests.receivers import SECRET
from tests.upstream.server import CANARY_KEYS

CORPUS = ROOT / "tests" / "corpus"
PLAIN = ("canary.untouched", "error.envelope", "body.no_secret")
DEADLINE = 3.0
HOST = re.compile(r"://\[?([0-9a-fA-F:.]+)")
SECRETS = {"X-API-Key": "a-secret-of-the-callers-own", "Authorization": "Basic dXNlcjpvZi10aGUtY2FsbGVycw=="}
OWN_ALLOWED = [
    {"id": "OWN-ALLOW-IPV4", "url": f"http://{PUBLIC}/ok"},
    {"id": "OWN-ALLOW-IPV6", "url": f"http://[{PUBLIC_V6}]:8080/ok"},
    {"id": "OWN-ALLOW-AAAA", "url": "http://v6.test/ok"},
    {"id": "OWN-ALLOW-TLS", "url": "https://public.test/ok"},
    {"id": "OWN-ALLOW-PORT", "url": "http://public.test:8000/ok?q=1#f"},
]
OWN_REDIRECTS = {
    "OWN-REDIRECT-PUBLIC": "302 to http://other.test/",
    "OWN-REDIRECT-MAPPED": "302 to http://[::ffff:127.0.0.1]/",
}


def _case(identity: str, body: dict[str, Any], status: list[int], *asserts: str, group: str = "ssrf.own") -> Case:
    return {
        "id": identity, "group": group, "method": "POST", "path": "/api/external/get", "as": "user_a",
        "input": {"json": body}, "expect": {"status": status, "assert": list(asserts)},
    }  # fmt: skip


def _cases() -> Iterator[Case]:
    """The corpus' cases; those of ``ssrf_urls.json`` are written short there."""
    full = json.loads((CORPUS / "ssrf.json").read_text(encoding="utf-8"))
    known = {case["id"] for case in full}
    for short in json.loads((CORPUS / "ssrf_urls.json").read_text(encoding="utf-8")):
        if short["id"] not in known:
            yield _case(short["id"], {"url": short["url"]}, short["status"], *PLAIN)
    yield from full
    for allowed in OWN_ALLOWED:
        yield _case(allowed["id"], {"url": allowed["url"]}, [200], "canary.hit:public", "canary.untouched")
    for identity, words in OWN_REDIRECTS.items():
        case = _case(identity, {}, [200, 403], "canary.untouched", "secrets.not_at:second_host")
        yield {**case, "input": {"upstream": words}}


CASES = list(_cases())


def aims() -> list[str]:
    """Every address that a case writes out: each stands in the namespace, with a canary on it."""
    found = {"10.0.0.5", "169.254.169.254", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "168.63.129.16", "100.100.100.200"}
    for case in CASES:
        for host in HOST.findall(str(case["input"].get("json", {}).get("url"))):
            with contextlib.suppress(ValueError):
                found.add(str(ip_address(host)))
    return sorted(ip for ip in found - OPEN - {OWN} if not ip_address(ip).is_unspecified)


# -- the gateway and its world -----------------------------------------------------------------------------------------


class UnixConnection(http.client.HTTPConnection):
    """To a server on a Unix socket, which is the same in every network namespace."""

    def __init__(self, path: Path) -> None:
        super().__init__("gateway", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


@dataclass
class WalledGateway(Gateway):
    """A gateway in its namespace; its first child is gunicorn."""

    def connection(self) -> http.client.HTTPConnection:
        return UnixConnection(self.folder / "gateway.sock")

    def worker(self) -> int:
        (master,) = self.children()
        (worker,) = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return int(worker)


@dataclass
class Inhabitant:
    """Somebody with an account: what the harness asks of a person."""

    access: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access}"}


class WalledWorld(World):
    """The harness' world, where the application is another process and the outside is watched."""

    deadline = DEADLINE
    provider_key = CANARY_KEYS["openai"]
    sent_secrets = tuple(SECRETS.values())

    def __init__(self, gateway: WalledGateway) -> None:
        self.gateway = gateway
        gateway.administrator("rooty")
        self.people = {
            "user_a": Inhabitant(self._account("alice")),
            "b": Inhabitant(self._account("bobby")),
            "admin": Inhabitant(self._login("rooty")),
        }
        token = self._told("/api/tokens", {"name": "t", "scopes": ["external"]}, self.people["user_a"].access, 201)
        self.names = {"${A.token}": token["data"]["token"], "${LOCAL_INTERFACE_IP}": OWN}
        self.report: dict[str, Any] = {}
        self._worker = gateway.worker()

    def _account(self, name: str) -> str:
        account = {"username": name, "password": PASSWORD, "email": f"{name}@example.com"}
        self._told("/api/auth/register", account, None, 201)
        return self._login(name)

    def _login(self, name: str) -> str:
        account = {"username": name, "password": PASSWORD}
        return str(self._told("/api/auth/login", account, None, 200)["data"]["access_token"])

    def store_key(self) -> None:
        """An administrator's own, at the place where it belongs."""
        self._told("/providers/openai/keys", {"key_value": self.provider_key}, self.people["admin"].access, 201)

    def audited(self) -> int:
        """How many rows the audit trail has."""
        return len(self.gateway.get("/audit?limit=200", self.people["admin"].access)[1]["data"])

    def _told(self, path: str, body: dict[str, Any], token: str | None, status: int) -> Any:
        found, answer, _ = self.gateway.post(path, body, token)
        assert found == status, answer
        return answer

    def control(self, do: str, **more: Any) -> Any:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(str(self.gateway.folder / "control.sock"))
            sock.sendall(json.dumps({"do": do, **more}).encode() + b"\n")
            with sock.makefile("rb") as file:
                return json.loads(file.readline())

    def script(self, words: str = "ok", *, turns: bool = True) -> None:
        self.control("script", words=words, turns=turns)

    def send(self, method: str, path: str, query: str, body: bytes | None, headers: dict[str, str]) -> Any:
        connection = self.gateway.connection()
        try:
            connection.request(method, path + (f"?{query}" if query else ""), body, headers)
            answer = connection.getresponse()
            response = Response(answer.read(), answer.status, answer.getheaders())
        finally:
            connection.close()
        self.report = self.control("report")
        return response

    def is_alive(self) -> bool:
        began = time.monotonic()
        return (
            self.gateway.get("/health/live")[0] == 200
            and time.monotonic() - began < 3
            and self.gateway.worker() == self._worker
        )

    def memory(self) -> int:
        """Bytes held, and from now on the peak is counted anew."""
        Path(f"/proc/{self._worker}/clear_refs").write_text("5")
        return self.peak()

    def peak(self) -> int:
        status = Path(f"/proc/{self._worker}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def rows(self) -> dict[str, list[str]]:
        return {}

    def reached(self) -> set[tuple[str, int]]:
        """Who was called and may not be."""
        called = {(ip, port) for ip, port in self.report["called"]}
        return {(ip, port) for ip, port in called if ip not in OPEN and (ip, port) != ("127.0.0.1", SIMULATOR_PORT)}

    def received(self) -> list[dict[str, Any]]:
        """The requests that came anywhere outside."""
        return list(self.report["requests"])


@functools.cache
def wall() -> list[str] | None:
    """How a namespace is made here; None where it cannot be."""
    if sys.platform != "linux" or not shutil.which("unshare") or not shutil.which("ip"):
        return None
    for command in (["unshare", "--net", "--mount"], ["unshare", "--map-root-user", "--net", "--mount"]):
        if (
            subprocess.run([*command, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode
            == 0
        ):
            return command
    return None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WalledWorld]:
    made = wall()
    if made is None:
        lacking("no network namespace can be made here (unshare --net): the cases about outgoing calls are not played")
    folder = tmp_path_factory.mktemp("walled")
    (folder / ".netrc").write_text("default login somebody password netrc-password-of-somebody\n")
    (folder / "aims.json").write_text(json.dumps(aims()))
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"), "http://10.0.0.5:8080")
    environment = environment_for(
        folder, 5000, **proxies, HOME=str(folder), NETRC=str(folder / ".netrc"), EXTERNAL_PRIVATE_HOSTS="",
        EXTERNAL_API_TIMEOUT=str(DEADLINE), WEB_CONCURRENCY="1", DEFAULT_USER_SCOPES="chat,batch,external",
        OPENAI_API_KEY=CANARY_KEYS["openai"], OPENAI_BASE_URL=f"http://127.0.0.1:{SIMULATOR_PORT}/openai/v1",
        PYTHONPATH=str(ROOT), WEBHOOK_SECRET=SECRET,
    )  # fmt: skip
    gateway = WalledGateway(5000, environment, folder)
    gateway.prepare()
    server = [
        str(BIN / "gunicorn"),
        "-c",
        str(ROOT / "gunicorn.conf.py"),
        "-b",
        f"unix:{folder}/gateway.sock",
        "wsgi:app",
    ]
    gateway.start([*made, sys.executable, "-m", "tests.e2e.walled", str(folder), "--", *server])
    try:
        yield WalledWorld(gateway)
    finally:
        gateway.stop()


# -- the cases ---------------------------------------------------------------------------------------------------------


def _written_out(case: Case) -> Case:
    """The case with the body that its words stand for."""
    said = dict(case["input"])
    if "upstream" in said:
        scheme = "https" if said["upstream"].startswith("TLS") else "http"
        said["json"] = {"url": f"{scheme}://public.test/ok", "headers": SECRETS}
    elif "dns" in said:
        said = {"json": {"url": f"http://{said['dns'].split()[0]}/ok"}}
    elif "json_fields" in said:
        fields = dict(said["json_fields"])
        image = {
            "type": "image_url",
            "image_url": {"url": fields.pop("image_url", "data:image/png;base64,iVBORw0KGgo=")},
        }
        said = {"json": {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, image]}], **fields}}
        if "callback_url" in fields:
            said = {"json": {"prompts": ["hi"], **fields}}
    if case["id"] == "SSRF-PROVIDER-003":  # it says what has happened before
        said = {"json": {"connection_params": said["json"]["connection_params"]}}
    return {**case, "input": said}


def _before(world: WalledWorld, case: Case) -> None:
    """What a case says has happened already."""
    world.script()
    if case["id"] == "SSRF-DNS-008":
        _get(world, "http://flip.test/ok")
        world.script(turns=False)
    elif case["id"] == "SSRF-PROVIDER-003":
        world.store_key()
    elif "seq" in case["input"]:
        world.script("sets a cookie")
        _get(world, "http://public.test/ok", who="b")
        world.script()


def _get(world: WalledWorld, url: str, *, who: str = "user_a", **more: Any) -> Any:
    status, answer, _ = world.gateway.post("/api/external/get", {"url": url, **more}, world.people[who].access)
    world.report = world.control("report")
    assert status == 200, answer
    return answer["data"]


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in CASES])
def test_case(world: WalledWorld, case: Case) -> None:
    _before(world, case)
    world.audited_before = world.audited()
    verify(play(world, _written_out(case)), later=frozenset())


def test_every_case_is_played_and_every_assertion_known() -> None:
    assert len({case["id"] for case in CASES}) == len(CASES)
    assert {name for case in CASES for name, _ in assertions_of(case)} <= ASSERTIONS.keys() | OUTSIDE.keys()
    assert {case["input"]["upstream"] for case in CASES if "upstream" in case["input"]} <= BEHAVIOURS.keys()


# -- what the corpus leaves to us --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ip", ["10.0.0.5", "169.254.169.254", "127.0.0.1", "fd00:ec2::254", "8.8.8.8", "2001:db8::1"])
def test_a_canary_that_is_touched_is_noticed(world: WalledWorld, ip: str) -> None:
    """Also at addresses that no case names, and at ports where nobody listens."""
    world.script()
    assert TOLD_BY_CANARIES in world.control("call", ip=ip, port=80)["told"]
    world.control("call", ip=ip, port=4444)
    world.report = world.control("report")
    assert world.reached() == {(ip, 80), (ip, 4444)}


def test_a_name_that_turns_is_called_where_it_was_checked(world: WalledWorld) -> None:
    world.script()
    assert _get(world, "http://turn.test/ok")["body"] == "ok"
    assert [request["ip"] for request in world.received()] == [PUBLIC]
    assert world.report["asked"].count("turn.test/A") == 1
    assert world.reached() == set()


def test_tries_go_where_the_first_one_went(world: WalledWorld) -> None:
    """The name has turned to 127.0.0.1 by then; it is not asked for again."""
    world.script()
    refused(world, 502, "http://rebind.test/ok")
    assert world.report["called"] == [[BROKEN, 80]] * 3
    assert world.report["asked"].count("rebind.test/A") == 1


def test_no_search_domain_completes_a_name(world: WalledWorld) -> None:
    world.script()
    refused(world, 502, "http://lacking.test/ok")
    assert {name.partition("/")[0] for name in world.report["asked"]} == {"lacking.test"}


def test_a_silent_name_server_is_left_at_the_deadline(world: WalledWorld) -> None:
    world.script()
    began = time.monotonic()
    refused(world, 504, "http://slow.test/ok")
    assert time.monotonic() - began < DEADLINE + 2


def test_a_redirect_to_another_host_takes_no_secret_along(world: WalledWorld) -> None:
    world.script("302 to http://other.test/")
    assert _get(world, "http://public.test/ok", headers={**SECRETS, "Accept": "text/x-kept"})["body"] == "ok"
    first, second = world.received()
    assert (first["ip"], second["ip"]) == (PUBLIC, OTHER)
    assert "text/x-kept" in second["raw"]
    assert not [secret for secret in SECRETS.values() if secret in second["raw"]]


def test_a_body_is_not_taken_to_another_host(world: WalledWorld) -> None:
    world.script("307 to http://other.test/")
    refused(world, 502, "http://public.test/ok", method="post", payload={"secret": "of the caller"})
    assert [request["ip"] for request in world.received()] == [PUBLIC]


def test_callbacks_go_to_public_places_alone(world: WalledWorld) -> None:
    """Each is looked at again when it is sent: the name that turns is called where it was public, and there no more."""
    world.script()
    tell_of_the_end(world, "http://public.test/told")
    told = wait_for_tries(world, "public", 1)
    (request,) = world.received()
    assert (request["ip"], told["sent_at"] is None) == (PUBLIC, False)
    assert request["raw"].startswith("POST /told HTTP/1.1\r\n")
    assert "webhook-signature: v1," in request["raw"]
    for name in ("rebind", "mixed"):
        tell_of_the_end(world, f"http://{name}.test/")
    wait_for_tries(world, "rebind", 1)
    wait_for_tries(world, "mixed", 1)
    change_outbox(world, "next_at = 1 WHERE next_at IS NOT NULL")
    for name in ("rebind", "mixed"):
        assert wait_for_tries(world, name, 2)["sent_at"] is None
    change_outbox(world, "next_at = NULL")
    assert {tuple(place) for place in world.report["called"]} == {(PUBLIC, 80), (BROKEN, 80)}
    assert world.report["asked"].count("rebind.test/A") == 2
    assert world.reached() == set()


def tell_of_the_end(world: WalledWorld, url: str) -> None:
    """Of a job that is cancelled at once."""
    who = world.people["user_a"].access
    status, job, _ = world.gateway.post("/v1/batch/generate", {"prompts": ["hi"], "callback_url": url}, who)
    assert status == 202, job
    assert world.gateway.post(f"/v1/batch/{job['job_id']}/cancel", None, who)[0] == 200


def wait_for_tries(world: WalledWorld, name: str, tries: int) -> dict[str, Any]:
    """The event for that place once so many tries are over, and what happened outside until then."""
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        with contextlib.closing(sqlite3.connect(world.gateway.folder / "instance" / "app.db")) as connection:
            connection.row_factory = sqlite3.Row
            row = connection.execute(f"SELECT * FROM outbox WHERE url LIKE 'http://{name}.%'").fetchone()
        if row["tries"] == tries and (row["sent_at"] or row["next_at"] < (time.time() + 50) * 1000):
            world.report = world.control("report")
            return dict(row)
        time.sleep(0.05)
    raise AssertionError(f"{name} was not tried {tries} times")


def change_outbox(world: WalledWorld, change: str) -> None:
    with contextlib.closing(sqlite3.connect(world.gateway.folder / "instance" / "app.db", timeout=10)) as connection:
        connection.execute(f"UPDATE outbox SET {change}")
        connection.commit()


def printed_by_seed_1() -> list[Any]:
    seed = json.loads((ROOT / "tests" / "seeds" / "s1.json").read_text(encoding="utf-8"))
    return [pytest.param(step, id=step["title"]) for step in seed["steps"] if "arrives" in step]


@pytest.mark.parametrize("step", printed_by_seed_1())
def test_the_seeds_examples_go_out_unchanged(world: WalledWorld, step: dict[str, Any]) -> None:
    """To the very address that the seed prints, over TLS."""
    world.script()
    asked = step["request"]
    status, answer, _ = world.gateway.post(asked["path"], asked["body"], world.people["user_a"].access)
    world.report = world.control("report")
    assert (status, answer["status"], answer["data"]["status_code"]) == (200, "success", 200)
    (request,) = world.received()
    head, _, body = request["raw"].partition("\r\n\r\n")
    assert (request["ip"], request["port"]) == (PUBLIC, 443)
    assert {step["arrives"]["line"], "Host: external-api.com", *step["arrives"]["headers"]} <= set(head.split("\r\n"))
    assert body == step["arrives"]["body"]


def refused(world: WalledWorld, status: int, url: str, *, method: str = "get", **more: Any) -> None:
    who = world.people["user_a"].access
    found, answer, _ = world.gateway.post(f"/api/external/{method}", {"url": url, **more}, who)
    world.report = world.control("report")
    assert (found, answer["error"]["code"]) == (status, "external_error")
    assert world.reached() == set()
