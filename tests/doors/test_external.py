"""``/api/external/*``: what goes out, what comes back, what is refused by name, and what the log says of it."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import pytest
from flask import Flask

from flaskllm.domain import api_token
from flaskllm.domain.external import ExternalCall
from flaskllm.domain.principal import Principal
from flaskllm.net.egress import PublicSession
from flaskllm.services.external_calls import ExternalCallService
from tests.actors import Caller, access_token
from tests.conftest import MakeApp
from tests.doors.accounts_world import Person
from tests.places import OK, Place, answer, as_json, place

SCOPES = ["external"]


@pytest.fixture
def target() -> Iterator[Place]:
    with place(as_json({"ok": True})) as open_place:
        yield open_place


@pytest.fixture
def outside(app: Flask) -> Caller:
    """A caller with the scope; ``127.0.0.1`` is a private host that the tests' gateway may reach."""
    return Caller.on(app, scopes=SCOPES)


def url(target: Place, path: str = "/endpoint") -> str:
    return f"http://127.0.0.1:{target.port}{path}"


def call(caller: Caller, method: str, target: Place, **body: Any) -> dict[str, Any]:
    told = caller.post(f"/api/external/{method}", {"url": url(target), **body}).json
    assert told["status"] == "success"
    return dict(told["data"])


def sent(target: Place) -> tuple[str, dict[str, str], bytes]:
    """The one request that came: its first line, its headers in lower case, its body."""
    (request,) = target.requests
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return first, {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}, body


def refused(caller: Caller, method: str, body: Any) -> str:
    """The field that a 400 names first."""
    error = caller.post(f"/api/external/{method}", body, status=400).json["error"]
    assert error["code"] == "invalid_request"
    return str(error["details"][0]["field"])


# -- what goes out -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "delete"])
def test_a_call_without_a_body_goes_out_as_it_was_said(outside: Caller, target: Place, method: str) -> None:
    told = call(outside, method, target, headers={"X-API-Key": "your-api-key"}, params={"param1": "value1"})
    assert set(told) == {"status_code", "headers", "body", "body_encoding", "elapsed_ms"}
    assert (told["status_code"], told["body"], told["body_encoding"]) == (200, {"ok": True}, "json")
    assert isinstance(told["elapsed_ms"], int)
    first, headers, body = sent(target)
    assert (first, body) == (f"{method.upper()} /endpoint?param1=value1 HTTP/1.1", b"")
    assert headers["x-api-key"] == "your-api-key"
    assert "authorization" not in headers
    assert "content-type" not in headers


@pytest.mark.parametrize("method", ["post", "put"])
def test_a_payload_goes_out_as_json(outside: Caller, target: Place, method: str) -> None:
    call(outside, method, target, payload={"key": "välue", "big": 2**70}, params={"a": [1, True, None], "b": ""})
    first, headers, body = sent(target)
    assert first == f"{method.upper()} /endpoint?a=1&a=true&b= HTTP/1.1"
    assert headers["content-type"] == "application/json"
    assert json.loads(body) == {"key": "välue", "big": 2**70}


@pytest.mark.parametrize("payload", [[], [1], "text", 0, False, {}])
def test_any_json_value_is_a_payload(outside: Caller, target: Place, payload: Any) -> None:
    call(outside, "post", target, payload=payload)
    assert json.loads(sent(target)[2]) == payload


def test_without_json_an_object_is_a_form(outside: Caller, target: Place) -> None:
    call(outside, "post", target, payload={"a": "ü&=", "b": [1, 2], "c": None}, use_json=False)
    _, headers, body = sent(target)
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(body.decode()) == {"a": ["ü&="], "b": ["1", "2"]}


def test_without_json_a_string_is_sent_as_it_is(outside: Caller, target: Place) -> None:
    call(outside, "put", target, payload="<a>ü</a>", use_json=False, headers={"content-type": "application/xml"})
    _, headers, body = sent(target)
    assert (headers["content-type"], body.decode()) == ("application/xml", "<a>ü</a>")


@pytest.mark.parametrize("more", [{}, {"payload": None}, {"headers": None, "params": None}])
def test_what_is_null_or_left_out_is_not_sent(outside: Caller, target: Place, more: dict[str, Any]) -> None:
    call(outside, "post", target, **more)
    _, headers, body = sent(target)
    assert (headers["content-length"], body) == ("0", b"")
    assert "content-type" not in headers


# -- what comes back ---------------------------------------------------------------------------------------------------

JSON_TYPES = ["application/json", "application/problem+json; charset=utf-8", "Application/JSON"]


@pytest.mark.parametrize("kind", JSON_TYPES)
def test_json_comes_back_to_the_digit(outside: Caller, kind: str) -> None:
    said = b'{"big": 123456789012345678901234567890, "exact": 1.10, "text": "\\u00fc"}'
    with place(answer(said, kind)) as target:
        response = outside.post("/api/external/get", {"url": url(target)})
    assert response.json["data"]["body"] == {"big": 123456789012345678901234567890, "exact": 1.1, "text": "ü"}
    assert b'"exact": 1.10' in response.get_data()
    assert response.json["data"]["body_encoding"] == "json"


@pytest.mark.parametrize(
    "body, kind, encoding, shown",
    [
        ("plain ü", "text/plain", "text", "plain ü"),
        ("plain", None, "text", "plain"),
        ("<p>", "text/html; charset=utf-8", "text", "<p>"),
        ("ü".encode("latin-1"), 'text/plain; charset="ISO-8859-1"', "text", "ü"),
        ("ü".encode("utf-16"), "text/plain; charset=utf-16", "text", "ü"),
        (b"\xff\xfe\x00", "text/plain", "base64", "//4A"),
        (b"\xff", "text/plain; charset=rot13", "base64", "/w=="),
        (b"\xff", "text/plain; charset=nonsense", "base64", "/w=="),
        (b"GIF89a", "image/gif", "base64", "R0lGODlh"),
        ("<svg/>", "image/svg+xml", "text", "<svg/>"),
        ('{"a": 1, "a": 2}', "application/json", "text", '{"a": 1, "a": 2}'),
        ('{"a": NaN}', "application/json", "text", '{"a": NaN}'),
        ("not json", "application/json", "text", "not json"),
        (b'"\xed\xa0\x80"', "application/json", "base64", "Iu2ggCI="),
        ('"\\ud800"', "application/json", "text", '"\\ud800"'),
        ("[" * 70 + "]" * 70, "application/json", "text", "[" * 70 + "]" * 70),
        ("", "application/json", "text", ""),
        ("", "image/png", "text", ""),
    ],
)
def test_a_body_is_json_by_its_type_or_text_or_base64(
    outside: Caller, body: bytes | str, kind: str | None, encoding: str, shown: str
) -> None:
    with place(answer(body, kind)) as target:
        told = call(outside, "get", target)
    assert (told["body_encoding"], told["body"]) == (encoding, shown)


def test_json_of_a_million_values_is_handed_on_unread(outside: Caller) -> None:
    with place(answer("[" + "0," * 1_000_001 + "0]", "application/json")) as target:
        assert call(outside, "get", target)["body_encoding"] == "text"


def test_a_status_without_a_body_and_headers_that_come_twice(outside: Caller) -> None:
    said = b"HTTP/1.1 204 No Content\r\nSet-Cookie: a=1\r\nX-One: 1\r\nset-cookie: b=2\r\nConnection: close\r\n\r\n"
    with place(said) as target:
        told = call(outside, "delete", target)
    assert (told["status_code"], told["body"], told["body_encoding"]) == (204, "", "text")
    assert told["headers"] == {"Set-Cookie": "a=1, b=2", "X-One": "1"}


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "401 Unauthorized", "300 Multiple Choices"])
def test_whatever_the_target_says_is_an_answer(outside: Caller, status: str) -> None:
    with place(answer("no", status=status, more=("Location: http://10.0.0.1/", "WWW-Authenticate: Basic"))) as target:
        told = call(outside, "get", target)
    assert (told["status_code"], told["body"]) == (int(status[:3]), "no")


def test_a_redirect_is_followed_and_looked_at_again(outside: Caller) -> None:
    with place(answer("", status="302 Found", more=("Location: /there",)), answer("here")) as target:
        assert call(outside, "get", target)["body"] == "here"
    with place(answer("", status="302 Found", more=("Location: http://169.254.169.254/",))) as target:
        error = outside.post("/api/external/get", {"url": url(target)}, status=403).json["error"]
    assert error["code"] == "forbidden_target"
    assert "169.254" not in json.dumps(error)


# -- failures ----------------------------------------------------------------------------------------------------------


def hang_up(_: socket.socket) -> None:
    """No byte comes."""


def wait(sock: socket.socket) -> None:
    sock.recv(1)


@pytest.mark.parametrize("method, tries", [("get", 3), ("put", 3), ("delete", 3), ("post", 1)])
def test_only_what_may_be_repeated_is(outside: Caller, method: str, tries: int) -> None:
    with place(hang_up) as target:
        error = outside.post(f"/api/external/{method}", {"url": url(target)}, status=502).json["error"]
        assert target.connections == tries
    assert error["code"] == "external_error"
    assert str(target.port) not in json.dumps(error)


def test_nothing_is_repeated_once_a_byte_came(outside: Caller) -> None:
    with place(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12") as target:
        outside.post("/api/external/get", {"url": url(target)}, status=502)
        assert target.connections == 1


def test_retries_are_a_setting(make_app: MakeApp) -> None:
    caller = Caller.on(make_app(EXTERNAL_API_MAX_RETRIES="0"), scopes=SCOPES)
    with place(hang_up) as target:
        caller.post("/api/external/get", {"url": url(target)}, status=502)
        assert target.connections == 1


def test_a_silent_target_is_a_504_at_the_deadline(make_app: MakeApp) -> None:
    caller = Caller.on(make_app(EXTERNAL_API_TIMEOUT="0.3"), scopes=SCOPES)
    with place(wait) as target:
        error = caller.post("/api/external/get", {"url": url(target)}, status=504).json["error"]
    assert error["code"] == "external_error"


def test_private_hosts_are_closed_unless_named(make_app: MakeApp, target: Place) -> None:
    caller = Caller.on(make_app(EXTERNAL_PRIVATE_HOSTS=""), scopes=SCOPES)
    error = caller.post("/api/external/get", {"url": url(target)}, status=403).json["error"]
    assert (error["code"], error["details"][0]["field"]) == ("forbidden_target", "url")
    assert target.connections == 0


def test_the_allow_list_narrows(make_app: MakeApp, target: Place) -> None:
    caller = Caller.on(make_app(EXTERNAL_ALLOWED_HOSTS="api.example.org"), scopes=SCOPES)
    assert call(caller, "get", target)["status_code"] == 200
    caller.post("/api/external/get", {"url": "http://93.184.216.34/"}, status=403)


# -- what is refused by name -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, body, field",
    [
        ("get", {}, "url"),
        *(
            ("get", {"url": bad}, "url")
            for bad in (None, 5, ["http://a.test/"], {"href": "x"}, "", "a.test", "ftp://a")
        ),
        *(("get", {"url": bad}, "url") for bad in ("http://a.test/\0", "http://a.test:99999/", "http://u:p@a.test/")),
        ("get", {"params": "a=b"}, "params"),
        ("get", {"params": {"a": {"b": 1}}}, "params.a"),
        ("get", {"params": {"a": "x" * 9000}}, "params"),
        ("delete", {"headers": "X: y"}, "headers"),
        ("delete", {"headers": {"X": 1}}, "headers.X"),
        ("delete", {"headers": {"X": None}}, "headers.X"),
        ("post", {"headers": {"X": "a\r\nY: b"}}, "headers.X"),
        ("post", {"headers": {"Host": "b.test"}}, "headers.Host"),
        ("post", {"headers": {"Content-Length": "0"}}, "headers.Content-Length"),
        ("post", {"headers": {"X-Forwarded-For": "::1"}}, "headers.X-Forwarded-For"),
        ("get", {"payload": {}}, "payload"),
        ("delete", {"use_json": True}, "use_json"),
        ("post", {"use_json": "no"}, "use_json"),
        ("post", {"use_json": None}, "use_json"),
        ("post", {"use_json": False, "payload": [1]}, "payload"),
        ("put", {"use_json": False, "payload": 5}, "payload"),
        ("put", {"use_json": False, "payload": {"a": {"b": 1}}}, "payload.a"),
        ("get", {"timeout": 1e9}, "timeout"),
        ("get", {"auth": ["u", "p"]}, "auth"),
    ],
)
def test_a_bad_field_is_named(outside: Caller, target: Place, method: str, body: dict[str, Any], field: str) -> None:
    assert refused(outside, method, {"url": url(target), **body} if body and "url" not in body else body) == field
    assert target.connections == 0


# -- our own credentials stay here -------------------------------------------------------------------------------------


def basic(secret: str) -> str:
    return "Basic " + base64.b64encode(f"user:{secret}".encode()).decode()


PLACES: list[tuple[str, Callable[[str, str], dict[str, Any]], str]] = [
    ("get", lambda at, secret: {"url": at, "headers": {"X-API-Token": secret}}, "headers.X-API-Token"),
    ("get", lambda at, secret: {"url": at, "headers": {"Authorization": f"Bearer {secret}"}}, "headers.Authorization"),
    ("get", lambda at, secret: {"url": at, "headers": {"Authorization": basic(secret)}}, "headers.Authorization"),
    ("get", lambda at, secret: {"url": at, "params": {"key": ["x", secret]}}, "params.key[1]"),
    ("get", lambda at, secret: {"url": at, "params": {secret: "x"}}, "params"),
    ("get", lambda at, secret: {"url": f"{at}?k={quote(secret[:5])}%{ord(secret[5]):02x}{secret[6:]}"}, "url"),
    ("post", lambda at, secret: {"url": at, "payload": {"a": [{"b": f"<{secret}>"}]}}, "payload.a[0].b"),
    ("post", lambda at, secret: {"url": at, "payload": f"k={secret}", "use_json": False}, "payload"),
]


@pytest.mark.parametrize("method, body, field", PLACES)
@pytest.mark.parametrize("kind", ["token", "jwt", "another token", "another jwt", "refresh token"])
def test_a_gateways_credential_goes_nowhere(
    make_app: MakeApp, target: Place, kind: str, method: str, body: Callable[[str, str], dict[str, Any]], field: str
) -> None:
    app = make_app(DEFAULT_USER_SCOPES="chat,external")
    person = Person(app)
    own = {"token": Caller.on(app, scopes=SCOPES).token, "jwt": person.access}.get(kind, person.access)
    secret = {"another token": api_token.make(), "refresh token": person.refresh}.get(kind, own)
    if kind == "another jwt":
        own = access_token(app, "bobby")
    caller = Caller(app.test_client(), own)
    said = caller.post(f"/api/external/{method}", body(url(target), secret), status=400)
    assert said.json["error"]["details"][0]["field"] == field
    assert secret not in said.get_data(as_text=True)
    assert target.connections == 0


def test_keys_of_others_are_the_callers_business(outside: Caller, target: Place) -> None:
    foreign = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJvdGhlcnMifQ.c2lnbmF0dXJlLXRoYXQtaXMtbm9uZQ"
    call(outside, "get", target, headers={"Authorization": f"Bearer {foreign}", "X-API-Key": "fl_" + "0" * 49})
    assert sent(target)[1]["authorization"] == f"Bearer {foreign}"


@pytest.mark.parametrize(
    "text", ["eyJhbGciOiJIUzI1NiJ9.AAAAAAAA.c2lnbmF0dXJl", "Basic AAAAAAAAA", "eyJhbGciOiJIUzI1NiJ9.WzFd"]
)
def test_what_only_looks_like_a_credential_goes_out(outside: Caller, target: Place, text: str) -> None:
    call(outside, "get", target, headers={"Authorization": text})
    assert sent(target)[1]["authorization"] == text


# -- who may, how often, and what is written down ----------------------------------------------------------------------


def test_the_scope_is_needed(app: Flask, target: Place) -> None:
    caller = Caller.on(app, scopes=["chat", "webhook"])
    assert caller.post("/api/external/get", {"url": url(target)}, status=403).json["error"]["code"] == "forbidden"
    assert target.connections == 0


def test_the_callers_limit_counts_external_calls(app: Flask, target: Place) -> None:
    caller = Caller.on(app, scopes=[*SCOPES, "chat"], requests_per_minute=2)
    first = caller.post("/api/external/get", {"url": url(target)})
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    caller.chat()
    refusal = caller.post("/api/external/get", {"url": url(target)}, status=429)
    assert refusal.json["error"]["code"] == "rate_limited"
    assert int(refusal.headers["Retry-After"]) > 0
    assert target.connections == 1


def test_the_log_has_one_line_with_the_host_and_nothing_else(app: Flask, outside: Caller, target: Place) -> None:
    secrets = {"path": "very-private-path", "query": "very-private-query", "body": "very-private-body"}
    asked = {"url": url(target, f"/{secrets['path']}?q={secrets['query']}"), "payload": secrets["body"]}
    request_id = outside.post("/api/external/post", asked).headers["X-Request-Id"]
    outside.post("/api/external/post", {**asked, "url": "http://10.1.2.3/very-private-path"}, status=403)
    log = (Path(app.instance_path).parent / "logs" / "app.log").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in log.splitlines()]
    (line,) = [found for found in lines if found.get("request_id") == request_id]
    assert (line["event"], line["route"]) == ("http_request", "/api/external/post")
    assert (line["target_host"], line["status"]) == ("127.0.0.1", 200)
    assert lines[-1]["target_host"] == "10.1.2.3"
    assert "very-private" not in log


def test_a_thread_is_kept_for_others(make_app: MakeApp) -> None:
    app = make_app(WEB_THREADS="2", EXTERNAL_API_TIMEOUT="5")
    caller = Caller.on(app, scopes=SCOPES)

    def meanwhile(sock: socket.socket) -> None:
        found.append(
            Caller(app.test_client(), caller.token).post("/api/external/get", {"url": "http://a.test/"}, status=503)
        )
        sock.sendall(OK)

    found: list[Any] = []
    with place(meanwhile) as target:
        assert call(caller, "get", target)["status_code"] == 200
    assert found[0].json["error"]["code"] == "unavailable"
    assert found[0].headers["Retry-After"] == "1"


def test_where_a_process_does_one_thing_at_a_time_nothing_is_kept(app: Flask, target: Place) -> None:
    """uWSGI without threads: there are no others to keep one for."""
    limits, session = app.extensions["flaskllm"].limits, PublicSession((), ("127.0.0.1",), threads=False)
    service = ExternalCallService(session, limits, seconds=5, max_retries=0, most_calls=None)
    answer, rates = service.send(ExternalCall("GET", url(target)), Principal("u", "alice"), own=())
    assert (answer.status_code, rates[0][0]) == (200, "requests")
