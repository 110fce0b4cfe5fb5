"""The way out: what is refused without a socket, what is sent, and how much patience an answer gets."""

from __future__ import annotations

import gzip
import ipaddress
import json
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flaskllm.errors import ExternalError, ExternalTimeout, ForbiddenTarget, InvalidRequest
from flaskllm.net import egress
from flaskllm.net.egress import Fetched, PublicSession, dial
from tests.certificates import Authority
from tests.places import OK, Answer, Place

CORPUS = json.loads((Path(__file__).parents[1] / "corpus" / "ssrf_urls.json").read_text("utf-8"))
PUBLIC_IP = "93.184.216.34"
NAMES = {
    "public.test": [PUBLIC_IP],
    "mixed.test": [PUBLIC_IP, "127.0.0.1"],
    "mapped.test": [f"::ffff:{PUBLIC_IP}"],
    "nat64.test": ["64:ff9b::a9fe:a9fe"],
    "metadata.google.internal": ["169.254.169.254"],
    "linklocal.test": ["fe80::1"],
    "zone.test": ["2a00:1450::1%lo"],
    "wire.test": ["168.63.129.16"],
}


@pytest.fixture(autouse=True)
def _nothing_is_asked_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The question whether an address is our own connects a datagram socket, and tests may not leave loopback."""
    monkeypatch.setattr(egress, "is_own", lambda _: False)


@pytest.fixture
def serve() -> Iterator[Callable[..., Place]]:
    places: list[Place] = []

    def start(*answers: Answer, context: ssl.SSLContext | None = None) -> Place:
        places.append(Place(*answers, context=context))
        return places[-1]

    yield start
    for place in places:
        place.close()


def session(*places: Place, **options: Any) -> PublicSession:
    """Knows ``a.test``, ``b.test`` … by the loopback's address, at the places' ports."""
    opened = [f"{name}.test:{place.port}" for place in places for name in ("a", "b", "secure")]
    return PublicSession(private_hosts=opened, resolve=lambda *_: ["127.0.0.1"], **options)


def fetch(place: Place, method: str = "GET", path: str = "/", **options: Any) -> Fetched:
    return session(place).request(method, f"http://a.test:{place.port}{path}", **{"timeout_s": 3.0, **options})


def fields(request: bytes) -> dict[str, str]:
    lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


# --- where to -------------------------------------------------------------------------------------------------------


class Counted:
    """Counts what would have been dialled."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, ip: Any, port: int, seconds: float) -> socket.socket:
        self.calls.append(f"{ip}:{port}")
        raise ConnectionRefusedError


def _spelled_out(url: Any) -> str:
    return (
        url.get("prefix", "") + url["$repeat"] * url["times"] + url.get("suffix", "") if isinstance(url, dict) else url
    )


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in CORPUS])
def test_no_socket_is_opened_for(case: dict[str, Any]) -> None:
    connect = Counted()
    walled = PublicSession(resolve=lambda host, _: NAMES.get(host.rstrip("."), ["127.0.0.1"]), connect=connect)
    with pytest.raises((InvalidRequest, ForbiddenTarget)) as caught:
        walled.request("GET", _spelled_out(case["url"]))
    assert caught.value.status in case["status"]
    assert caught.value.param == "url"
    assert connect.calls == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "rebound.test", "2130706433", "[::ffff:127.0.0.1]"])
def test_a_real_listener_is_left_alone(serve: Callable[..., Place], host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = serve(OK)
    monkeypatch.setattr(egress, "PORTS", {canary.port})
    with pytest.raises((InvalidRequest, ForbiddenTarget)):
        PublicSession(resolve=lambda *_: ["127.0.0.1"]).request("GET", f"http://{host}:{canary.port}/")
    assert canary.connections == 0


def test_a_public_address_is_dialled_as_it_was_checked() -> None:
    connect = Counted()
    with pytest.raises(ExternalError):
        PublicSession(resolve=lambda *_: [PUBLIC_IP], connect=connect).request("GET", "http://public.test/ok")
    assert connect.calls == [f"{PUBLIC_IP}:80"]


def test_a_name_is_resolved_once_even_for_retries() -> None:
    asked: list[tuple[str, int]] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return [PUBLIC_IP] if len(asked) == 1 else ["127.0.0.1"]

    connect = Counted()
    with pytest.raises(ExternalError):
        PublicSession(resolve=rebinding, connect=connect).request("GET", "http://rebind.test/", max_retries=2)
    assert asked == [("rebind.test.", 80)]
    assert connect.calls == [f"{PUBLIC_IP}:80"] * 3


def test_an_address_of_this_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = Counted()
    monkeypatch.setattr(egress, "is_own", lambda _: True)
    with pytest.raises(ForbiddenTarget):
        PublicSession(connect=connect).request("GET", f"http://{PUBLIC_IP}/")
    assert connect.calls == []


def test_a_connection_that_reached_another_address_is_dropped(serve: Callable[..., Place]) -> None:
    canary = serve(OK)
    diverted = PublicSession(connect=lambda _ip, _port, seconds: _dialled(canary.port, seconds))
    with pytest.raises(ForbiddenTarget):
        diverted.request("GET", f"http://{PUBLIC_IP}/")
    assert canary.requests in ([], [b""])


def _dialled(port: int, seconds: float) -> socket.socket:
    return dial(ipaddress.ip_address("127.0.0.1"), port, seconds)


def test_the_refusal_says_nothing_of_what_the_name_resolved_to() -> None:
    messages = set()
    for url in ("http://10.0.0.5/", "http://private.test/", "http://mixed.test/", "http://public.test:22/"):
        with pytest.raises(ForbiddenTarget) as caught:
            PublicSession(resolve=lambda host, _: NAMES.get(host.rstrip("."), ["10.0.0.5"])).request("GET", url)
        messages.add((caught.value.message, str(caught.value.details)))
    assert len(messages) == 1
    assert "10.0" not in str(messages)


@pytest.mark.parametrize("resolve", [lambda *_: [], lambda *_: ["nonsense"]])
def test_a_name_that_does_not_resolve_is_their_failure(resolve: Any) -> None:
    with pytest.raises(ExternalError):
        PublicSession(resolve=resolve).request("GET", "http://nxdomain.test/")


def test_a_slow_name_server_is_held_to_the_deadline() -> None:
    gate = threading.Event()
    began = time.monotonic()
    with pytest.raises(ExternalError, match="in time"):
        PublicSession(resolve=lambda *_: [str(gate.wait(5))]).request("GET", "http://slow.test/", timeout_s=0.2)
    gate.set()
    assert time.monotonic() - began < 3


def test_a_look_up_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "RESOLVE_SECONDS", 0.2)
    gate = threading.Event()
    began = time.monotonic()
    with pytest.raises(ExternalTimeout):
        PublicSession(resolve=lambda *_: [str(gate.wait(5))]).request("GET", "http://slow.test/", timeout_s=30)
    gate.set()
    assert time.monotonic() - began < 3


def test_only_what_an_operator_named_may_be_completed_by_a_search_domain() -> None:
    asked: list[str] = []

    def resolve(host: str, _: int) -> list[str]:
        asked.append(host)
        return ["10.0.0.7"] if host == "ollama" else [PUBLIC_IP]

    ours = PublicSession((), ("ollama",), resolve, connect=Counted())
    for url in ("http://ollama/", "http://public.test/"):
        with pytest.raises(ExternalError):
            ours.request("GET", url)
    assert asked == ["ollama", "public.test."]


def test_an_allow_list_narrows() -> None:
    connect = Counted()
    narrow = PublicSession(("*.ok.test", "api.test:9443"), ("10.0.0.7",), lambda *_: [PUBLIC_IP], connect=connect)
    for url in ("http://public.test/", f"http://{PUBLIC_IP}/", "http://api.test/", "https://ok.test/"):
        with pytest.raises(ForbiddenTarget):
            narrow.request("GET", url)
    for url in ("http://a.ok.test/", "https://api.test:9443/", "http://10.0.0.7/"):
        with pytest.raises(ExternalError):
            narrow.request("GET", url)
    assert connect.calls == [f"{PUBLIC_IP}:80", f"{PUBLIC_IP}:9443", "10.0.0.7:80"]


def test_a_private_host_is_opened_alone_and_never_at_a_metadata_address() -> None:
    connect = Counted()
    found = {"ollama": ["10.0.0.7"], "turned.test": ["169.254.169.254"]}
    opened = PublicSession((), ("ollama:11434", "turned.test"), lambda host, _: found[host], connect=connect)
    for url in ("http://ollama/", "http://10.0.0.7:11434/", "http://turned.test/"):
        with pytest.raises(ForbiddenTarget):
            opened.request("GET", url)
    with pytest.raises(ExternalError):
        opened.request("GET", "http://ollama:11434/")
    assert connect.calls == ["10.0.0.7:11434"]


def test_the_next_address_is_tried_where_one_does_not_answer(serve: Callable[..., Place]) -> None:
    place = serve(OK)
    both = PublicSession(private_hosts=[f"a.test:{place.port}"], resolve=lambda *_: ["127.0.0.9", "127.0.0.1"])
    assert both.request("POST", f"http://a.test:{place.port}/").body == b"ok"


def test_a_url_that_is_called_later_is_checked_without_a_name_server() -> None:
    def unasked(*_: object) -> list[str]:
        raise AssertionError("asked")

    later = PublicSession(resolve=unasked)
    later.check("https://public.test/hook")
    later.check(f"https://{PUBLIC_IP}/hook")
    with pytest.raises(ForbiddenTarget):
        later.check("http://169.254.169.254/")
    with pytest.raises(InvalidRequest) as caught:
        later.check("http:/x", "callback_url")
    assert caught.value.param == "callback_url"


# --- what is sent ---------------------------------------------------------------------------------------------------


def test_a_plain_get_carries_nothing_that_was_not_asked_for(
    serve: Callable[..., Place], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("default login me password netrc-secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    place, proxy = serve(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nok"), serve(OK)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    ours = session(place)
    for _ in range(2):
        ours.request("GET", f"http://a.test:{place.port}/p?q=1")
    assert place.requests[0] == place.requests[1]
    assert (
        place.requests[0]
        == (
            f"GET /p?q=1 HTTP/1.1\r\nHost: a.test:{place.port}\r\nConnection: close\r\nAccept-Encoding: identity\r\n"
            "Accept: */*\r\nUser-Agent: FlaskLLM\r\n\r\n"
        ).encode()
    )
    assert proxy.connections == 0


def test_headers_params_and_body_go_out(serve: Callable[..., Place]) -> None:
    place = serve(OK)
    headers = {"X-API-Key": " k ", "User-Agent": "me", "Accept-Encoding": "br", "X-Name": "J\xfcrgen"}
    fetch(place, "POST", "/p", headers=headers, body=b'{"a":1}', params={"b": [1, 2]})
    sent = fields(place.requests[0])
    assert place.requests[0].startswith(b"POST /p?b=1&b=2 HTTP/1.1\r\n")
    assert place.requests[0].endswith(b'\r\n\r\n{"a":1}')
    assert (sent["x-api-key"], sent["user-agent"], sent["accept-encoding"]) == ("k", "me", "identity")
    assert (sent["content-length"], sent["x-name"]) == ("7", "J\xfcrgen")


def test_a_body_is_framed_by_us_also_when_there_is_none(serve: Callable[..., Place]) -> None:
    place = serve(OK)
    fetch(place, "PUT")
    fetch(place, "DELETE")
    assert fields(place.requests[0])["content-length"] == "0"
    assert "content-length" not in fields(place.requests[1])


@pytest.mark.parametrize(
    "name, value",
    [
        *(
            (name, "x")
            for name in ("Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Upgrade")
        ),
        *((name, "x") for name in ("TE", "Trailer", "Expect", "HTTP2-Settings", "Via", "X-Real-IP", "Forwarded")),
        *((name, "x") for name in ("X-Forwarded-For", "X_Forwarded_For", "Proxy-Authorization", "Proxy-Connection")),
        *((name, "x") for name in ("Metadata-Flavor", "Metadata", "X-aws-ec2-metadata-token", "content_length")),
        *((name, "x") for name in ("X-Google-Metadata-Request", "X Y", "X:", "", "X\r\nY", "\u2603", "X\u00fc")),
        *(("X", value) for value in ("a\r\nY: b", "a\nb", "a\rb", "a\0b", "\u2603", "a\x7f", "a\x85b", 1, None, ["a"])),
    ],
)
def test_a_header_that_is_not_the_callers_to_set_is_refused_by_name(name: str, value: Any) -> None:
    connect = Counted()
    with pytest.raises(InvalidRequest) as caught:
        PublicSession(connect=connect).request("POST", f"http://{PUBLIC_IP}/", headers={name: value}, body=b"")
    assert caught.value.param in {"headers", f"headers.{name}"}
    assert connect.calls == []


@pytest.mark.parametrize(
    "headers", ["X: y", [], {5: "x"}, {"X-A": "1", "x-a": "2"}, {"X": "a" * 33000}, {f"X-{n}": "" for n in range(101)}]
)
def test_headers_are_one_object_of_bounded_size(headers: Any) -> None:
    with pytest.raises(InvalidRequest):
        PublicSession().request("GET", f"http://{PUBLIC_IP}/", headers=headers)


@pytest.mark.parametrize("method", ["get", "CONNECT", "TRACE", "GET / HTTP/1.1\r\nX: y", ""])
def test_a_method_is_one_of_a_few(method: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        PublicSession().request(method, f"http://{PUBLIC_IP}/")
    assert caught.value.param == "method"


# --- redirects ------------------------------------------------------------------------------------------------------


def moved(to: str, status: int = 302, more: str = "") -> bytes:
    return f"HTTP/1.1 {status} Moved\r\nLocation: {to}\r\n{more}Content-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize(
    "place_name", ["/next", "next", "?q", "//a.test:{port}/next", "http://a.test:{port}/next", "/ö"]
)
def test_a_redirect_is_followed(serve: Callable[..., Place], place_name: str) -> None:
    place = serve(b"", OK)
    place._answers[0] = moved(place_name.format(port=place.port))
    answer = fetch(place, path="/first")
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.url.startswith(f"http://a.test:{place.port}/")
    assert len(place.requests) == 2


@pytest.mark.parametrize(
    "to",
    [
        "http://127.0.0.1:{port}/",
        "//127.0.0.1/",
        "http://private.test/",
        "http://169.254.169.254/latest/meta-data/",
        "http://localhost/",
        "http://a.test:22/",
    ],
)
def test_a_redirect_to_a_refused_place_is_refused(serve: Callable[..., Place], to: str) -> None:
    canary = serve(OK)
    place = serve(moved(to.format(port=canary.port)))
    with pytest.raises(ForbiddenTarget):
        fetch(place)
    assert (len(place.requests), canary.connections) == (1, 0)


@pytest.mark.parametrize(
    "to",
    [
        "\\\\127.0.0.1\\",
        "http://a.test\\@127.0.0.1/",
        "http://a.test@127.0.0.1/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://127.1/",
        "/a\tb",
        "http://[::1/",
        "/" + "a" * 3000,
    ],
)
def test_a_malformed_redirect_is_their_failure(serve: Callable[..., Place], to: str) -> None:
    place = serve(moved(to))
    with pytest.raises(ExternalError):
        fetch(place)
    assert len(place.requests) == 1


def test_two_locations_are_no_redirect(serve: Callable[..., Place]) -> None:
    with pytest.raises(ExternalError, match="two places"):
        fetch(serve(moved("/a", more="Location: /b\r\n")))


@pytest.mark.parametrize("answer", [moved(""), moved("/x", 300), moved("/x", 304), moved("/x", 200), moved("/x", 407)])
def test_what_is_no_redirect_is_an_answer(serve: Callable[..., Place], answer: bytes) -> None:
    place = serve(answer)
    assert fetch(place).body == b""
    assert len(place.requests) == 1


def test_a_redirect_is_the_answer_where_none_is_to_be_followed(serve: Callable[..., Place]) -> None:
    assert fetch(serve(moved("/x")), follow=0).status == 302


def test_a_circle_ends_after_five(serve: Callable[..., Place]) -> None:
    place = serve(moved("/"))
    with pytest.raises(ExternalError, match="more than 5"):
        fetch(place)
    assert len(place.requests) == 6


def test_another_host_gets_neither_keys_nor_cookies(serve: Callable[..., Place]) -> None:
    there = serve(OK)
    place = serve(moved(f"http://b.test:{there.port}/x"))
    secrets = {"X-API-Key": "s", "Authorization": "Bearer s", "Cookie": "s", "api-key": "s"}
    kept = {"Accept": "image/*", "User-Agent": "me", "Content-Type": "text/plain"}
    session(place, there).request("GET", f"http://a.test:{place.port}/", headers=secrets | kept)
    assert set(secrets.values()) & set(fields(there.requests[0]).values()) == set()
    assert fields(there.requests[0]).items() >= {name.lower(): value for name, value in kept.items()}.items()
    assert fields(place.requests[0])["x-api-key"] == "s"


def test_the_same_host_at_another_port_is_another_host(serve: Callable[..., Place]) -> None:
    there = serve(OK)
    place = serve(moved(f"http://a.test:{there.port}/x"))
    session(place, there).request("GET", f"http://a.test:{place.port}/", headers={"X-API-Key": "s"})
    assert "x-api-key" not in fields(there.requests[0])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_body_is_never_taken_to_another_host(serve: Callable[..., Place], method: str, status: int) -> None:
    there = serve(OK)
    place = serve(moved(f"http://b.test:{there.port}/x", status))
    with pytest.raises(ExternalError, match="another host"):
        session(place, there).request(method, f"http://a.test:{place.port}/", body=b"secret")
    assert there.connections == 0


@pytest.mark.parametrize(
    "method, status, then",
    [
        ("POST", 301, "GET"),
        ("POST", 302, "GET"),
        ("POST", 303, "GET"),
        ("PUT", 302, "PUT"),
        ("DELETE", 303, "GET"),
        ("HEAD", 303, "HEAD"),
        ("POST", 307, "POST"),
        ("PUT", 308, "PUT"),
    ],
)
def test_the_method_after_a_redirect(serve: Callable[..., Place], method: str, status: int, then: str) -> None:
    place = serve(moved("/x", status), OK)
    fetch(place, method, body=b"b" if method in {"POST", "PUT"} else None, headers={"Content-Type": "text/plain"})
    assert place.requests[1].startswith(f"{then} /x ".encode())
    assert place.requests[1].endswith(b"\r\n\r\nb" if then in {"POST", "PUT"} else b"\r\n\r\n")


def test_the_body_of_a_redirect_is_never_read(serve: Callable[..., Place]) -> None:
    bomb = gzip.compress(bytes(50 * 2**20))
    head = f"HTTP/1.1 302 x\r\nLocation: /x\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    assert fetch(serve(head + bomb, OK)).body == b"ok"


def test_one_deadline_holds_over_all_redirects(serve: Callable[..., Place]) -> None:
    def slow(sock: socket.socket) -> None:
        time.sleep(0.15)
        sock.sendall(moved("/"))

    with pytest.raises(ExternalError, match="in time"):
        fetch(serve(slow), timeout_s=0.4)


# --- what comes back ------------------------------------------------------------------------------------------------


def test_an_answer_is_handed_on_unframed_with_all_its_headers(serve: Callable[..., Place]) -> None:
    place = serve(
        b"HTTP/1.1 418 Teapot\r\nContent-Type: text/plain\r\nX-A: 1\r\nx-a: 2\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: evil\r\n\r\n"
    )
    answer = fetch(place)
    assert (answer.status, answer.body) == (418, b"abcde")
    assert dict(answer.headers) == {"Content-Type": "text/plain", "X-A": "1, 2"}
    assert answer.headers["content-type"] == "text/plain"
    assert 0 <= answer.elapsed_ms < 3000


@pytest.mark.parametrize(
    "answer, body",
    [
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok and more", b"ok"),
        (b"HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n", b""),
        (b"HTTP/1.1 103 Early\r\nLink: <x>\r\n\r\nHTTP/1.1 100 Go\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 1\r\n\r\nx", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"plain", mtime=0), b"plain"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: X-GZIP\r\n\r\n" + gzip.compress(b"a" * 200000, mtime=0), b"a" * 200000),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\n\r\n" + zlib.compress(b"plain"), b"plain"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\n\r\n" + zlib.compress(b"plain")[2:-4], b"plain"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(gzip.compress(b"x", mtime=0), mtime=0),
         gzip.compress(b"x", mtime=0)),
    ],
)  # fmt: skip
def test_an_answer_is_read(serve: Callable[..., Place], answer: bytes, body: bytes) -> None:
    assert fetch(serve(answer)).body == body


def test_head_has_no_body(serve: Callable[..., Place]) -> None:
    assert fetch(serve(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"), "HEAD").body == b""


H = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"just a body",
        b"HTTP/1.1 99999 x\r\n\r\n",
        b"HTTP/1.1 099 x\r\n\r\n",
        b"HTTP/2 200 x\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n",
        H[:-2] + b"\nContent-Length: 2\n\nok",
        H + b"X: a\nY: b\r\nContent-Length: 2\r\n\r\nok",
        H + b"X: a\r\n folded\r\n\r\nok",
        H + b"X : a\r\n\r\nok",
        H + b"X: a\0\r\n\r\nok",
        H + b"no colon\r\n\r\nok",
        H + b"X: a",
        H + b"X: " + b"a" * 20000 + b"\r\n\r\n",
        H + b"X: a\r\n" * 150 + b"\r\n",
        H + (b"X: " + b"a" * 10000 + b"\r\n") * 10 + b"\r\n",
        b"HTTP/1.1 103 x\r\n\r\n" * 5000 + OK,
        H + b"Content-Length: 5\r\n\r\nok",
        H + b"Content-Length: -1\r\n\r\nok",
        H + b"Content-Length: +2\r\n\r\nok",
        H + b"Content-Length: 2, 2\r\n\r\nok",
        H + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
        H + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        H + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n",
        H + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nok\r\n",
        H + b"Transfer-Encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n",
        H + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok0\r\n\r\n",
        H + b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\nok",
        H + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        H + b"Content-Encoding: gzip\r\n\r\nplain",
        H + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"cut off", mtime=0)[:-3],
        H + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"x", mtime=0) + b"more",
        H + b"Content-Encoding: deflate\r\n\r\n\xff\xff\xff",
        H + b"Content-Encoding: br\r\n\r\nx",
        H + b"Content-Encoding: gzip, gzip, br, deflate\r\n\r\nx",
        H + b"Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n\r\nx",
    ],
)
def test_nonsense_is_their_failure(serve: Callable[..., Place], answer: bytes) -> None:
    with pytest.raises(ExternalError):
        fetch(serve(answer))


def test_a_reset_in_the_body_is_their_failure(serve: Callable[..., Place]) -> None:
    def reset(sock: socket.socket) -> None:
        sock.sendall(H + b"Content-Length: 100\r\n\r\nhalf")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with pytest.raises(ExternalError, match="broke"):
        fetch(serve(reset))


@pytest.mark.parametrize("head", [b"Content-Length: 1000000\r\n", b"", b"Transfer-Encoding: chunked\r\n"])
def test_a_body_is_capped(serve: Callable[..., Place], head: bytes) -> None:
    body = b"f4240\r\n" + b"a" * 1000000 + b"\r\n0\r\n\r\n" if b"chunked" in head else b"a" * 1000000
    answer = H + head + b"\r\n" + body
    assert len(fetch(serve(answer), cap=1000000).body) == 1000000
    with pytest.raises(ExternalError, match="larger than 999999 bytes"):
        fetch(serve(answer), cap=999999)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_costs_no_memory(serve: Callable[..., Place], coding: str) -> None:
    import tracemalloc

    packed = gzip.compress(bytes(100 * 2**20), 9) if coding == "gzip" else zlib.compress(bytes(100 * 2**20), 9)
    place = serve(H + f"Content-Encoding: {coding}\r\n\r\n".encode() + packed)
    tracemalloc.start()
    try:
        with pytest.raises(ExternalError, match="larger"):
            fetch(place, timeout_s=20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 * 2**20


def _drip(first: bytes) -> Callable[[socket.socket], None]:
    def drip(sock: socket.socket) -> None:
        sock.sendall(first)
        for _ in range(60):
            time.sleep(0.05)
            sock.sendall(b"a")

    return drip


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX: ",
        H + b"Content-Length: 1000\r\n\r\n",
        H + b"\r\n",
        H + b"Transfer-Encoding: chunked\r\n\r\n",
        H + b"Transfer-Encoding: chunked\r\n\r\nff\r\n",
    ],
)
def test_a_drip_does_not_stretch_the_deadline(serve: Callable[..., Place], first: bytes) -> None:
    began = time.monotonic()
    with pytest.raises(ExternalError, match="in time"):
        fetch(serve(_drip(first)), timeout_s=0.3)
    assert time.monotonic() - began < 2


def test_a_target_that_never_reads_meets_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        ours = PublicSession(private_hosts=[f"127.0.0.1:{port}"])
        began = time.monotonic()
        with pytest.raises(ExternalError, match="in time"):
            ours.request("POST", f"http://127.0.0.1:{port}/", body=bytes(30 * 2**20), timeout_s=0.3)
        assert time.monotonic() - began < 2


def test_no_time_is_no_call() -> None:
    connect = Counted()
    with pytest.raises(ExternalError, match="in time"):
        PublicSession(connect=connect).request("GET", f"http://{PUBLIC_IP}/", timeout_s=0)
    assert connect.calls == []


# --- second tries ---------------------------------------------------------------------------------------------------


def _hang_up(_: socket.socket) -> None:
    return None


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_an_idempotent_call_is_tried_again_before_any_byte_came(serve: Callable[..., Place], method: str) -> None:
    place = serve(_hang_up, _hang_up, OK)
    assert fetch(place, method, max_retries=2).status == 200
    assert place.connections == 3


@pytest.mark.parametrize("method", ["POST", "PATCH", "OPTIONS"])
def test_another_call_is_not_repeated(serve: Callable[..., Place], method: str) -> None:
    place = serve(_hang_up, OK)
    with pytest.raises(ExternalError):
        fetch(place, method, max_retries=2)
    assert place.connections == 1


@pytest.mark.parametrize("answer", [b"H", b"HTTP/1.1 500 x\r\nContent-Length: 9\r\n\r\n", b"nonsense\r\n"])
def test_nothing_is_repeated_once_a_byte_came(serve: Callable[..., Place], answer: bytes) -> None:
    place = serve(answer, OK)
    with pytest.raises(ExternalError):
        fetch(place, max_retries=2)
    assert place.connections == 1


def test_a_peer_that_is_gone_before_it_is_looked_at_is_their_failure(serve: Callable[..., Place]) -> None:
    unconnected: list[socket.socket] = []

    def connect(*_: object) -> socket.socket:
        unconnected.append(socket.socket())
        return unconnected[-1]

    with pytest.raises(ExternalError):
        PublicSession(connect=connect).request("GET", f"http://{PUBLIC_IP}/", max_retries=1)
    assert [sock.fileno() for sock in unconnected] == [-1, -1]


def test_retries_end(serve: Callable[..., Place]) -> None:
    place = serve(_hang_up)
    with pytest.raises(ExternalError):
        fetch(place, max_retries=1)
    assert place.connections == 2


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def fetch_tls(place: Place, authority: Authority | None, **options: Any) -> Fetched:
    ours = session(place, ca_file=authority.file if authority else None)
    return ours.request("GET", f"https://secure.test:{place.port}/", **{"timeout_s": 3.0, **options})


def test_tls_names_the_host_in_sni_and_certificate(serve: Callable[..., Place], authority: Authority) -> None:
    named: list[str | None] = []
    context = authority.context()
    context.sni_callback = lambda _sock, name, _context: named.append(name)
    place = serve(OK, context=context)
    assert fetch_tls(place, authority).body == b"ok"
    assert named == ["secure.test"]
    assert fields(place.requests[0])["host"] == f"secure.test:{place.port}"


def test_a_certificate_of_nobody_known_is_named(serve: Callable[..., Place], authority: Authority) -> None:
    place = serve(OK, context=authority.context())
    with pytest.raises(ExternalError, match="certificate is bad: unable to get local issuer certificate"):
        fetch_tls(place, None, max_retries=2)
    assert place.connections == 1


def test_a_certificate_for_another_name_is_refused(serve: Callable[..., Place], authority: Authority) -> None:
    place = serve(OK, context=authority.context("other.test"))
    with pytest.raises(ExternalError, match=r"not valid for 'secure\.test'"):
        fetch_tls(place, authority)


def test_an_expired_certificate_is_refused(serve: Callable[..., Place], authority: Authority) -> None:
    place = serve(OK, context=authority.context(days=-1))
    with pytest.raises(ExternalError, match="expired"):
        fetch_tls(place, authority)


def test_a_handshake_that_stalls_meets_the_deadline(serve: Callable[..., Place], authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        ours = PublicSession(private_hosts=[f"127.0.0.1:{port}"])
        with pytest.raises(ExternalError, match="in time"):
            ours.request("GET", f"https://127.0.0.1:{port}/", timeout_s=0.3)


def test_a_drip_under_tls_does_not_stretch_the_deadline(serve: Callable[..., Place], authority: Authority) -> None:
    place = serve(_drip(H + b"Content-Length: 1000\r\n\r\n"), context=authority.context())
    began = time.monotonic()
    with pytest.raises(ExternalError, match="in time"):
        fetch_tls(place, authority, timeout_s=0.4)
    assert time.monotonic() - began < 2


def test_plain_http_where_tls_was_meant_is_their_failure(serve: Callable[..., Place], authority: Authority) -> None:
    with pytest.raises(ExternalError, match="cannot be reached"):
        fetch_tls(serve(OK), authority)


def test_a_large_body_goes_out_under_tls(serve: Callable[..., Place], authority: Authority) -> None:
    place = serve(OK, context=authority.context())
    ours = session(place, ca_file=authority.file)
    ours.request("PUT", f"https://secure.test:{place.port}/", body=bytes(300000))
    assert place.requests[0].endswith(bytes(300000))


def test_tls_is_never_left_for_plain_http(serve: Callable[..., Place], authority: Authority) -> None:
    there = serve(OK)
    place = serve(moved(f"http://secure.test:{there.port}/"), context=authority.context())
    ours = session(place, there, ca_file=authority.file)
    with pytest.raises(ExternalError, match="https to http"):
        ours.request("GET", f"https://secure.test:{place.port}/")
    assert there.connections == 0


@pytest.mark.parametrize(
    "old, new, same",
    [
        ("http://a.test/", "https://a.test/", True),
        ("http://a.test:8080/", "https://a.test:8443/", False),
        ("http://a.test/", "http://a.test:8080/", False),
        ("https://a.test/", "https://b.test/", False),
    ],
)
def test_a_step_up_to_tls_stays_at_the_same_place(old: str, new: str, same: bool) -> None:
    assert egress._same_place(egress.parse_url(old), egress.parse_url(new)) is same


def test_an_answer_is_a_value(serve: Callable[..., Place]) -> None:
    answer = fetch(serve(OK))
    assert isinstance(answer.headers, Mapping)
    with pytest.raises(AttributeError):
        answer.status = 500  # type: ignore[misc]
