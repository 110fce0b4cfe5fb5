"""The attack corpus, played: people, requests as a case writes them, and every assertion by its name, once.

``doors.json`` holds the cases about doors that are not `accounts.json`'s, `config.json`'s or `ssrf_urls.json`'s.
"""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlencode
from uuid import uuid4

import pytest
from flask import Flask
from sqlalchemy import inspect, text
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from flaskllm.blueprints._hooks import WELL_FORMED_ID
from flaskllm.extensions import db
from tests import canaries
from tests.actors import AN_ID, frames
from tests.doors.accounts_world import Person, expanded
from tests.doors.visitor import Visitor, live_parts, navigation
from tests.people import PASSWORD
from tests.upstream import Upstream, faults

Case = dict[str, Any]
CASES: tuple[Case, ...] = tuple(json.loads((Path(__file__).parent / "doors.json").read_text(encoding="utf-8")))

SAID_BY_B = "what only bobby knows"
NEVER_TOLD = (b"Traceback", b"sqlite3", b"sqlalchemy", b"SELECT ", b"site-packages", b"/instance/", PASSWORD.encode())
COUNTED = frozenset({"calls", "attempts", "budgets", "counters", "meta", "rollups", "rollup_state"})
"""Tables that say what was spent and tried: they may change where nothing else does."""
EMOJI = "Grüße 世界 🙂🏳️‍🌈 ok"
MODEL_SAYS: dict[str, tuple[faults.Behaviour, str]] = {
    "emoji split across two upstream chunks": (faults.text(EMOJI), EMOJI),
    "UTF-8 sequence split across TCP segments": (faults.text(EMOJI) + faults.packets(1), EMOJI),
    "CRLF inside a data line": (faults.text("one\r\ntwo") + faults.dressed(), "one\r\ntwo"),
    'model answers {"keywords": 5}': (faults.text('{"keywords": 5}'), ""),
    "model answers 1 MB of JSON": (faults.text(json.dumps(["x" * 1000] * 1000)), ""),
    "model answers nested 10,000 deep": (faults.text("[" * 10_000 + "]" * 10_000), ""),
}
"""The corpus' words for what a provider says, and the text that has to arrive."""


def _chat(**more: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": "hi"}], **more}


def _under(schema: dict[str, Any]) -> dict[str, Any]:
    return _chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})


GENERATED: dict[str, Callable[[Any], bytes]] = {
    "nested_object": lambda depth: b'{"a":' * depth + b"1" + b"}" * depth,
    "keys": lambda count: json.dumps({f"k{number}": 0 for number in range(count)} | _chat()).encode(),
    "messages": lambda count: json.dumps({"messages": [{"role": "user", "content": "x"}] * count}).encode(),
    "unicode_escapes": lambda count: b'{"model":"demo","messages":"' + b"\\u0061" * count + b'"}',
    "tools": lambda count: json.dumps(
        _chat(tools=[{"type": "function", "function": {"name": f"f{number}"}} for number in range(count)])
    ).encode(),
    "recursive_ref": lambda _: json.dumps(_under({"$ref": "#"})).encode(),
    "regex": lambda _: json.dumps(_under({"type": "string", "pattern": "(a+)+$"})).encode(),
}
GATE_HEADERS = {
    "X-Correlation-Id": "7b1f3c2e-5d4a-4f6b-8c9d-0e1f2a3b4c5d", "X-User-Id": "ana", "client_id": "c1",
}  # fmt: skip
BODIES = {"gzip bomb": lambda: gzip.compress(b"\0" * 50_000_000)}


STANDS_FOR = {"/admin (last administrator)": "/users/${ADMIN.id}"}
"""What the corpus writes in words, and the door that does it."""


def path_of(case: Case) -> str:
    path: str = STANDS_FOR.get(case["path"], case["path"])
    return path


def is_ours(app: Flask, case: Case) -> bool:
    """Whether the case's path and method are a door's by now; spellings of a path are tried whether or not."""
    if case["group"] == "authz.path":
        return True
    try:
        path = path_of(case).partition("?")[0].replace("{id}", AN_ID)
        app.url_map.bind("localhost").match(path, method=case["method"])
    except HTTPException:
        return False
    return True


class World:
    """Alice who attacks, Bobby who owns, an administrator; and a conversation and a token of each."""

    deadline = 30.0
    """Seconds that a call to the outside may take."""

    def __init__(self, app: Flask, upstream: Upstream) -> None:
        self.app, self.upstream = app, upstream
        self.people = {
            "user_a": Person(app, "alice"),
            "b": Person(app, "bobby"),
            "admin": Person(app, "root", admin=True),
        }
        self.people["admin_with_every_scope"] = self.people["admin"]
        self.names = {
            "${A.id}": self._conversation("user_a", "hello"),
            "${B.id}": self._conversation("b", SAID_BY_B),
            "${ADMIN.id}": self.people["admin"].user.id,
        }
        self.names["${A.id.upper()}"] = self.names["${A.id}"].upper()
        self.token_of_b = self.people["b"].token()[0]
        self.names["${B.used_key}"] = "the-key-of-bobby"
        upstream.reset()

    def _conversation(self, who: str, message: str) -> str:
        return str(self.people[who].call("POST", "/llm/chat", {"message": message}).json["data"]["conversation_id"])

    @cached_property
    def _job_of_b(self) -> str:
        b = self.people["b"]
        headers = {**b.headers, "Idempotency-Key": self.names["${B.used_key}"]}
        sent = b.http.post("/v1/batch/generate", json={"prompts": [SAID_BY_B]}, headers=headers)
        assert sent.status_code == 202, sent.json
        return str(sent.json["job_id"])

    def job_of_b(self) -> str:
        """The id of a batch of Bobby's, submitted where a case first asks for it."""
        return self._job_of_b

    def filled(self, value: Any) -> Any:
        """The case's value with its fixtures in it."""
        if isinstance(value, str):
            for name, held in self.names.items():
                value = value.replace(name, held)
            return value
        if isinstance(value, dict):
            return {name: self.filled(inner) for name, inner in value.items()}
        return [self.filled(inner) for inner in value] if isinstance(value, list) else value

    def script(self, words: str) -> None:
        """What the upstream says to this case."""
        self.upstream.script(MODEL_SAYS[words][0])

    def send(self, method: str, path: str, query: str, body: bytes | None, headers: dict[str, str]) -> TestResponse:
        """One request, written as a server writes it: no client may tidy up what the case spells.

        ``headers`` whose names begin with ``HTTP_`` are put into the environment as they are.
        """
        environ = {name: value for name, value in headers.items() if name.startswith("HTTP_")}
        return self.app.test_client().open(
            "/",
            method=method,
            data=body,
            headers={name: value for name, value in headers.items() if name not in environ},
            environ_overrides={
                "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
                "QUERY_STRING": query,
                **environ,
            },
        )

    def is_alive(self) -> bool:
        return self.app.test_client().get("/health/live").status_code == 200

    def memory(self) -> int:
        """Bytes held before a case is played."""
        return _resident()

    def peak(self) -> int:
        """Bytes held after it."""
        return _resident()

    def attempts(self) -> list[dict[str, Any]]:
        """The ledger, row by row."""
        with self.app.app_context(), db.engine.connect() as connection:
            return [dict(row) for row in connection.execute(text("SELECT * FROM attempts")).mappings()]

    def rows(self) -> dict[str, list[str]]:
        """All that the database holds, but for what is counted."""
        with self.app.app_context():
            tables = sorted(set(inspect(db.engine).get_table_names()) - COUNTED)
            with db.engine.connect() as connection:
                return {
                    table: sorted(map(repr, connection.execute(text(f'SELECT * FROM "{table}"')))) for table in tables
                }


@dataclass
class Played:
    """A case after it was played: what was sent, what came back, what it took."""

    world: World
    case: Case
    response: TestResponse
    seconds: float
    grown: int
    before: dict[str, list[str]] = field(repr=False)

    @property
    def body(self) -> bytes:
        return self.response.get_data()

    @property
    def sent(self) -> Any:
        return self.world.filled(expanded(self.case["input"].get("json", {})))


def play(world: World, case: Case) -> Played:
    """Send what the case says, as the person it says."""
    said = world.filled(expanded(case["input"]))
    if case["path"].startswith("/v1/batch") and case["group"] == "idor":
        world.job_of_b()
    before = world.rows()
    if "upstream" in said:
        world.script(said["upstream"])
    body, place = _body(case, said), _own_id(world, case, said)  # making a large one is no time of the gateway's
    memory, began = world.memory(), time.monotonic()
    response = _send(world, case, said, place, body)
    response.get_data()
    return Played(world, case, response, time.monotonic() - began, world.peak() - memory, before)


def _own_id(world: World, case: Case, said: dict[str, Any]) -> str:
    """What stands for ``{id}``; somebody else's object is one of the kind that the path names."""
    if said.get("id") != "${B.id_of_same_kind}":
        return str(said.get("id", ""))
    if case["path"].startswith("/v1/batch"):
        return world.job_of_b()
    return world.token_of_b if case["path"].startswith("/api/tokens") else world.names["${B.id}"]


def _send(world: World, case: Case, said: dict[str, Any], place: str, body: bytes | None) -> TestResponse:
    path, _, query = world.filled(path_of(case)).replace("{id}", place).partition("?")
    asked = said.get("query", query)
    who = world.people.get(case["as"])
    headers = dict(who.headers if who else {})
    if body is not None:
        headers["Content-Type"] = "application/json"
    headers |= {name: value for name, value in said.get("headers", {}).items() if name not in GATE_HEADERS}
    headers |= {f"HTTP_{_key(name)}": value for name, value in _in_environ(case, said).items()}
    return world.send(case["method"], path, urlencode(asked) if isinstance(asked, dict) else asked, body, headers)


def _in_environ(case: Case, said: dict[str, Any]) -> dict[str, str]:
    """Headers that a client would not let through, and on the gate its three, but for what the case has otherwise."""
    raw = dict(line.split(": ", 1) for line in said.get("raw_headers", ()))
    plain = GATE_HEADERS if case["path"].startswith("/llm-gate/") else {}
    own = {name: value for name, value in said.get("headers", {}).items() if name in GATE_HEADERS}
    found = {**plain, **own, **raw, **said.get("headers_environ", {})}
    return {name: value for name, value in found.items() if value is not None}


def _key(name: str) -> str:
    return name.upper().replace("-", "_")


def _body(case: Case, said: dict[str, Any]) -> bytes | None:
    if "body" in said:
        return BODIES[said["body"]]()
    if "gen" in said:
        ((name, argument),) = said["gen"].items()
        return GENERATED[name](argument)
    if "raw_hex" in said:
        return bytes.fromhex(said["raw_hex"])
    if "raw" in said:
        return said["raw"].encode("utf-8", "surrogatepass")
    if said.get("stream"):
        return json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
    if case["method"] == "PATCH" and "json" not in said:
        return b'{"title": "mine now"}'
    if case["path"] == "/llm-gate/v1/chat" and "json" not in said:
        return b'{"prompt": {"messages": [{"role": "user", "content": "hi"}]}}'
    return json.dumps(said["json"]).encode() if "json" in said else None


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


# -- assertions, by the corpus' names ----------------------------------------------------------------------------------


def error_envelope(played: Played, _: str) -> None:
    """The family's dialect, an id, never a page; some cases may also go well."""
    response, path = played.response, played.case["path"]
    if response.status_code < 400:
        return
    assert response.mimetype == "application/json"
    error = response.json["error"]
    if path.startswith("/v1/messages"):
        assert (set(response.json), set(error)) == ({"type", "error", "request_id"}, {"type", "message"})
        return
    assert response.headers["X-FlaskLLM-Error"] == error["code"]
    if path.startswith(("/v1/", "/openai/")):
        assert set(error) == {"message", "type", "param", "code"}
    else:
        assert response.json["status"] == "error"
        assert error["request_id"] == response.headers["X-Request-Id"]


def body_no_secret(played: Played, _: str) -> None:
    people = {person.access for person in played.world.people.values()}
    told = played.body + str(played.response.headers).encode()
    assert not [word for word in (*NEVER_TOLD, *map(str.encode, people)) if word in told]


def worker_alive(played: Played, _: str) -> None:
    assert played.world.is_alive()


def upstream_not_called(played: Played, _: str) -> None:
    assert not played.world.upstream.requests


def db_unchanged(played: Played, _: str) -> None:
    assert played.world.rows() == played.before


def details_names(played: Played, name: str) -> None:
    assert name in [detail["field"] for detail in played.response.json["error"]["details"]]


def time_lt(played: Played, bound: str) -> None:
    """In seconds; or against the deadline of the calls that the world's gateway makes, and so much more."""
    bound = bound.replace("REQUEST_TIMEOUT", "deadline")
    if bound.startswith("deadline"):
        more = float(bound.removeprefix("deadline").strip("+s") or 0)
        assert played.seconds < played.world.deadline + (more + 1) * SLOWNESS
    else:
        assert played.seconds < float(bound.rstrip("s")) * SLOWNESS


def memory_lt(played: Played, bound: str) -> None:
    assert played.grown < int(bound.removesuffix("MB")) * 2**20


def only_own_objects(played: Played, _: str) -> None:
    assert SAID_BY_B.encode() not in played.body
    assert b"bobby" not in played.body


def same_as_missing(played: Played, _: str) -> None:
    said = played.world.filled(expanded(played.case["input"]))
    missing = _send(played.world, played.case, said, str(uuid4()), _body(played.case, said))
    assert missing.status_code == played.response.status_code
    assert _without_id(missing.get_data()) == _without_id(played.body)


def _without_id(body: bytes) -> bytes:
    return re.sub(rb'"request_id":"[^"]*"', b"", body)


def new_job(played: Played, _: str) -> None:
    """Not Bobby's, under whatever key he submitted his."""
    assert played.response.json["job_id"] != played.world.job_of_b()


def object_of_b_unseen(played: Played, _: str) -> None:
    assert played.world.job_of_b().encode() not in played.body
    assert SAID_BY_B.encode() not in played.body


def object_of_b_unchanged(played: Played, _: str) -> None:
    db_unchanged(played, "")
    told = played.world.people["b"].call("GET", f"/llm/conversations/{played.world.names['${B.id}']}")
    assert told.json["data"]["messages"][0]["content"] == SAID_BY_B


def principal_is(played: Played, who: str) -> None:
    assert played.response.json["data"]["username"] == {"a": "alice"}[who]


def role_is(played: Played, role: str) -> None:
    assert played.response.json["data"]["role"] == role


def links_not_from_header(played: Played, _: str) -> None:
    told = played.body.decode() + str(played.response.headers)
    assert not [value for value in played.case["input"]["headers"].values() if value in told and value.startswith("/")]


def not_200(played: Played, _: str) -> None:
    assert played.response.status_code != 200


def field_unchanged_if_200(played: Played, name: str) -> None:
    if played.response.status_code == 200:
        assert name.partition(":")[2] not in played.sent
    assert played.world.rows() == played.before


def history_equals_sent(played: Played, _: str) -> None:
    if played.response.status_code == 200:
        name = played.response.json["data"]["conversation_id"]
        told = played.world.people["user_a"].call("GET", f"/llm/get-conversation-history?conversation_id={name}")
        assert told.json["data"]["messages"][0]["content"] == played.sent["message"]


def one_line_each(played: Played, _: str) -> None:
    """Whatever was sent, each line of the log is one record."""
    lines = (Path(played.world.app.instance_path).parent / "logs" / "app.log").read_text(encoding="utf-8").split("\n")
    records = [json.loads(line) for line in lines if line]
    assert played.response.headers["X-Request-Id"] in [record.get("request_id") for record in records]


def sse_valid(played: Played, _: str) -> None:
    if played.response.mimetype == "text/event-stream":
        assert frames(played.body)[-1] == "[DONE]"


def text_is_the_models(played: Played, _: str) -> None:
    chunks = [frame for frame in frames(played.body) if frame != "[DONE]"]
    pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(pieces) == MODEL_SAYS[played.case["input"]["upstream"]][1]


def rendered_literally(played: Played, _: str) -> None:
    """The demo model says again what it was asked: the gadget is still what it was."""
    assert played.sent["variables"]["text"] in played.response.json["summary"]


def no_code_run(played: Played, _: str) -> None:
    """A template that was taken says what is written there: what looks like a variable is filled in, the rest stays."""
    if played.response.status_code != 201:
        return
    made = played.response.json
    variables = {one["name"]: f"the {one['name']}" for one in made["variables"]}
    asked = {"template": made["name"], "model": "demo", "variables": variables}
    said = played.world.people["user_a"].call("POST", "/api/v1/webhook", asked).json["summary"]
    expected = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: variables[found[1]], played.sent["user_text"])
    assert said == f"[demo] {expected}"


def valid_json(played: Played, _: str) -> None:
    assert isinstance(json.loads(played.body), dict)


def response_id_is_valid(played: Played, _: str) -> None:
    """The caller's id where it is well formed, else a new one."""
    given, found = played.case["input"]["headers_environ"]["X-Request-Id"], played.response.headers["X-Request-Id"]
    assert WELL_FORMED_ID.fullmatch(found)
    assert (found == given) is (WELL_FORMED_ID.fullmatch(given) is not None)


def header_is_not_split(played: Played, _: str) -> None:
    assert "Set-Cookie" not in played.response.headers


# -- assertions about the world outside, which a walled world watches --------------------------------------------------

HOP_HEADERS = frozenset({
    "te", "trailer", "transfer-encoding", "upgrade", "keep-alive", "proxy-authorization", "proxy-connection", "via",
    "expect", "forwarded", "x-forwarded-for", "metadata-flavor", "x-aws-ec2-metadata-token",
})  # fmt: skip


def canary_untouched(played: Any, _: str) -> None:
    """Nothing was sent to any address but the public ones that the case may reach."""
    assert played.world.reached() == set()


def canary_hit(played: Any, which: str) -> None:
    assert which == "public"
    assert played.world.received()


def dns_queries(played: Any, _: str) -> None:
    """One look-up: the name's IPv4 and its IPv6 addresses."""
    assert len(played.world.report["asked"]) <= 2


def secrets_not_at_second_host(played: Any, _: str) -> None:
    elsewhere = [
        request["raw"] for request in played.world.received() if "\r\nHost: public.test\r\n" not in request["raw"]
    ]
    assert not [raw for raw in elsewhere for secret in played.world.sent_secrets if secret in raw]


def one_request_each(played: Any, _: str) -> None:
    assert not [request for request in played.world.received() if request["behind"]]
    assert len(played.world.received()) <= 1


def framing_not_forwarded(played: Any, _: str) -> None:
    for request in played.world.received():
        names = [line.partition(":")[0].lower() for line in request["raw"].split("\r\n\r\n")[0].split("\r\n")[1:]]
        assert not HOP_HEADERS & set(names)
        assert len(set(names)) == len(names)


def own_credential_not_forwarded(played: Any, _: str) -> None:
    secrets = [person.access for person in played.world.people.values()] + [played.world.names["${A.token}"]]
    assert not [secret for secret in secrets for request in played.world.received() if secret in request["raw"]]


def no_ambient_credentials(played: Any, _: str) -> None:
    (request,) = played.world.received()
    names = {line.partition(":")[0].lower() for line in request["raw"].split("\r\n")[1:]}
    assert not names & {"authorization", "cookie", "proxy-authorization"}


def host_header(played: Any, _: str) -> None:
    """The name as it was given, in ASCII and lower case."""
    (request,) = played.world.received()
    host = played.sent["url"].split("/")[2].lower().encode("idna").decode()
    assert f"\r\nHost: {host}\r\n" in request["raw"]


def told_status(played: Any, status: str) -> None:
    assert played.response.json["data"]["status_code"] == int(status)


def provider_key_at_home(played: Any, _: str) -> None:
    key = played.world.provider_key
    assert not [request for request in played.world.received() if key in request["raw"]]
    assert set(played.world.report["provider_keys"]) <= {f"Bearer {key}"}


def audit_row(played: Any, _: str) -> None:
    """What was tried in vain is told too."""
    assert played.world.audited() > played.world.audited_before


OUTSIDE: dict[str, Callable[[Any, str], None]] = {
    "canary.untouched": canary_untouched,
    "canary.hit": canary_hit,
    "dns.queries<=2": dns_queries,
    "secrets.not_at": secrets_not_at_second_host,
    "upstream.frames_one_request": one_request_each,
    "framing_and_hop_headers.not_forwarded": framing_not_forwarded,
    "own_credential.not_forwarded": own_credential_not_forwarded,
    "upstream.saw_no_ambient_credentials": no_ambient_credentials,
    "upstream.host_header": host_header,
    "body.data.status_code": told_status,
    "provider_key.seen_only_by": provider_key_at_home,
    "audit.row": audit_row,
}


# -- assertions about providers that misbehave, and what that costs ----------------------------------------------------


def ledger_exact_or_flagged(played: Played, _: str) -> None:
    """What is not marked as an estimate is what the provider's own bill says; no usage that it told is left out."""
    rows = played.world.attempts()
    bill = played.world.upstream.bill
    billed = [(one.input + one.cached + one.cache_write, one.output + one.reasoning) for one in bill]
    for row in rows:
        if row["state"] == "settled" and not row["estimated"]:
            assert (row["prompt_tokens"], row["completion_tokens"]) in billed
    assert sum(row["state"] == "settled" for row in rows) >= sum(
        one.reported is not None and one.generated > 0 for one in bill
    )
    assert not [row for row in rows if row["cost"] is not None and not 0 <= row["cost"] <= row["reserved"] * 2]


def nothing_reserved(played: Played, _: str) -> None:
    """At once, and so within the seconds that the corpus gives."""
    assert not [row for row in played.world.attempts() if row["state"] == "reserved"]
    with played.world.app.app_context(), db.engine.connect() as connection:
        assert not connection.execute(text("SELECT sum(reserved) FROM budgets")).scalar()


def log_no_secret(played: Played, _: str) -> None:
    instance = Path(played.world.app.instance_path)
    assert canaries.leaks([instance.parent / "logs" / "app.log"], instance=instance) == []


def attempts_bounded(played: Played, _: str) -> None:
    asked = [seen.vendor for seen in played.world.upstream.requests]
    assert len(asked) <= 4
    assert all(asked.count(vendor) <= 2 for vendor in asked)


def sse_ends(played: Played, _: str) -> None:
    """Whole frames to the last; at most one error, and nothing of the answer behind it."""
    if played.response.mimetype != "text/event-stream":
        return
    assert played.body.endswith(b"\n\n")
    errors = [number for number, frame in enumerate(frames(played.body)) if frame != "[DONE]" and "error" in frame]
    assert errors in ([], [len(frames(played.body)) - 2])


def rendered_as_text(played: Played, _: str) -> None:
    """An administrator looks at every page of the navigation: nothing that was sent has become a part of one."""
    visitor = Visitor.admin(played.world.app, "looks")
    for address in navigation(visitor):
        found = visitor.get(address).text
        assert live_parts(found) == [], address
        assert not [text for text in _strings(played.sent) if "<" in text and text in found], address


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


UPSTREAM: dict[str, Callable[[Played, str], None]] = {
    "ledger.exact_or_flagged": ledger_exact_or_flagged,
    "ledger.reserved_zero_after": nothing_reserved,
    "log.no_secret": log_no_secret,
    "upstream.attempts_bounded": attempts_bounded,
    "sse.ends": sse_ends,
}


SLOWNESS = 3
"""How much slower than the corpus' machine a shared one may be."""
ASSERTIONS: dict[str, Callable[[Played, str], None]] = {
    "error.envelope": error_envelope,
    "error.envelope_if_error": error_envelope,
    "body.no_secret": body_no_secret,
    "worker.alive": worker_alive,
    "upstream.not_called": upstream_not_called,
    "db.unchanged": db_unchanged,
    "details.names": details_names,
    "time.lt": time_lt,
    "mem.rss_delta_lt": memory_lt,
    "only_own_objects": only_own_objects,
    "body.same_as": same_as_missing,
    "b.object.unchanged": object_of_b_unchanged,
    "b.object.unseen": object_of_b_unseen,
    "new_job": new_job,
    "principal": principal_is,
    "principal.role": role_is,
    "links.not_from_header": links_not_from_header,
    "not_200": not_200,
    "if_200": field_unchanged_if_200,
    "round_trip": history_equals_sent,
    "log.one_line": one_line_each,
    "sse.valid": sse_valid,
    "text.equals": text_is_the_models,
    "rendered_literally": rendered_literally,
    "no_code_run": no_code_run,
    "body.valid_json": valid_json,
    "response_id.valid": response_id_is_valid,
    "header.not_split": header_is_not_split,
    "admin_ui.rendered_as_text": rendered_as_text,
}


def verify(played: Played, *, later: frozenset[str] = frozenset()) -> None:
    """Status, code and every assertion; ``later`` names those that the test looks at itself."""
    expect, response = played.case["expect"], played.response
    assert response.status_code in expect["status"], played.body[:500]
    if "code" in expect:
        assert response.headers["X-FlaskLLM-Error"] == expect["code"]
    for name, argument in assertions_of(played.case):
        if name not in later:
            (ASSERTIONS | OUTSIDE | UPSTREAM)[name](played, argument)


def as_parameter(case: Case) -> Any:
    """For ``parametrize``: under its id; alone where it has a time of its own to keep."""
    timed = any(name == "time.lt" and argument[0].isdigit() for name, argument in assertions_of(case))
    return pytest.param(case, id=case["id"], marks=[pytest.mark.alone] if timed else [])


def assertions_of(case: Case) -> Iterator[tuple[str, str]]:
    for written in case["expect"]["assert"]:
        name, _, argument = written.partition(":")
        yield name, argument
