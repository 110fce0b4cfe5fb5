"""`flaskllm.client` over a real socket: texts, streams, tools, vectors, sessions, errors and patience."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import jwt
import pytest
from flask import Flask
from werkzeug.serving import make_server

import flaskllm.errors
from flaskllm import client as library
from flaskllm.client import AsyncGatewayClient, GatewayClient, errors
from tests.actors import Caller, access_token
from tests.conftest import MakeApp, provider_environment
from tests.places import serving
from tests.upstream import Upstream, faults

ROOT = Path(__file__).parent.parent.parent


@dataclass
class Live:
    app: Flask
    url: str
    token: str

    def client(self, **more: Any) -> GatewayClient:
        return GatewayClient(self.url, **{"token": self.token, **more})


@pytest.fixture
def live(make_app: MakeApp, upstream: Upstream) -> Iterator[Live]:
    yield from served(make_app(**provider_environment(upstream, "openai")))


def served(app: Flask) -> Iterator[Live]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Live(app, f"http://127.0.0.1:{server.server_port}", Caller.on(app).token)
    server.shutdown()
    thread.join(5)
    server.server_close()


def test_the_contracts_own_lines(live: Live) -> None:
    client = live.client()
    answer = client.generate("Hello, world!", model="demo")
    assert answer.text == "[demo] Hello, world!"
    assert (answer.provider, answer.cost, answer.finish_reason) == ("demo", 0.0, "stop")
    assert answer.usage["total_tokens"] == answer.usage["prompt_tokens"] + answer.usage["completion_tokens"] > 0
    assert answer.request_id
    assert "".join(client.stream("Tell me more", model="demo")) == "[demo] Tell me more"
    assert "gpt-4o" in [model["id"] for model in client.models()]
    assert client.usage()["requests"] == 2


def test_a_stream_knows_its_usage_and_cost_at_its_end(live: Live) -> None:
    with live.client().stream("one two three", model="gpt-4o-mini") as stream:
        pieces = list(stream)
    whole = live.client().generate("one two three", model="gpt-4o-mini")
    assert "".join(pieces) == whole.text
    assert stream.usage["completion_tokens"] == whole.usage["completion_tokens"]
    assert stream.cost == whole.cost > 0
    assert stream.finish_reason == "stop"


def test_tools_come_and_go(live: Live, upstream: Upstream) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    question = {"role": "user", "content": "call the tool"}
    asked = live.client().chat([question], model="demo", tools=[tool], tool_choice="required")
    message = asked.body["choices"][0]["message"]
    assert asked.finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "42"}
    assert live.client().chat([question, message, result], model="demo", tools=[tool]).text


def test_vectors_and_images(live: Live) -> None:
    client = live.client()
    one, two = client.embed(["a", "b"], model="demo")
    assert len(one) == len(two) > 0
    assert one != two
    assert client.draw("a cat", model="demo", size="64x64")[0]["b64_json"]


def test_leaving_a_stream_early_closes_it(live: Live, upstream: Upstream) -> None:
    with live.client().chat_stream([{"role": "user", "content": "a b c d e f"}], model="demo") as stream:
        next(iter(stream))
    deadline = time.monotonic() + 5
    while live.client().usage()["requests"] < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert live.client().usage()["requests"] == 1


def test_asynchronously_the_same(live: Live) -> None:
    async def all_at_once() -> None:
        async with AsyncGatewayClient(live.url, live.token) as client:
            answers = await asyncio.gather(*(client.generate(f"number {n}", model="demo") for n in range(8)))
            assert [answer.text for answer in answers] == [f"[demo] number {n}" for n in range(8)]
            stream = client.stream("a b c", model="demo")
            assert "".join([piece async for piece in stream]) == "[demo] a b c"
            assert stream.usage["total_tokens"] > 0
            with pytest.raises(library.NotFound):
                await client.generate("x", model="no-such-model")
            assert (await client.usage())["requests"] == 9

    asyncio.run(all_at_once())


def test_a_person_logs_in_and_stays_in(live: Live) -> None:
    access_token(live.app, "ada")
    client = GatewayClient.log_in(live.url, "ada", "Password123")
    session = client._http.session
    assert session is not None
    session.access = worn_out(live.app, session.access)
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda _: client.generate("hi", model="demo").text, range(8)))
    assert texts == ["[demo] hi"] * 8  # eight threads found it worn; one renewed it, or the family would be revoked
    assert client.generate("still", model="demo").text == "[demo] still"
    with pytest.raises(library.Unauthenticated):
        GatewayClient.log_in(live.url, "ada", "wrong")


def worn_out(app: Flask, token: str) -> str:
    """The same access token as it would be an hour after its end."""
    key = app.extensions["flaskllm_settings"].jwt_secret_keys[0].reveal()
    claims = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode({**claims, "exp": int(time.time()) - 3600}, key, headers=jwt.get_unverified_header(token))


# -- errors -----------------------------------------------------------------------------------------------------------


def test_every_code_of_the_gateway_has_its_class() -> None:
    kinds = list(flaskllm.errors.DomainError.__subclasses__())
    codes = set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        codes.add(kind.code)
    assert codes == set(errors.BY_CODE)
    assert all(kind.__name__ in library.__all__ for kind in errors.BY_CODE.values())


def test_errors_are_typed(live: Live, upstream: Upstream) -> None:
    client = live.client(retries=0)
    with pytest.raises(library.InvalidRequest) as bad:
        client.generate("x", temperature=9)
    assert bad.value.status == 400
    assert "temperature" in bad.value.message
    assert bad.value.request_id
    with pytest.raises(library.Unauthenticated):
        live.client(token="fl_wrong").generate("x")
    with pytest.raises(library.NotFound):
        client.generate("x", model="nowhere")
    with pytest.raises(library.Forbidden):
        client.providers.list()
    upstream.script(faults.status(500))
    with pytest.raises(library.ProviderError):
        client.generate("x", model="gpt-4o")


def test_an_error_within_a_stream_is_raised_as_its_class(live: Live, upstream: Upstream) -> None:
    upstream.script(faults.error_mid_stream(k=2))
    with pytest.raises(library.ProviderError) as failure:
        list(live.client().stream("one two three", model="gpt-4o"))
    assert failure.value.request_id


def test_nobody_there(live: Live) -> None:
    with pytest.raises(library.GatewayUnreachable) as failure:
        GatewayClient("http://user:pass-word@127.0.0.1:9", "fl_secret", timeout=2).generate("x")
    assert "pass-word" not in str(failure.value)
    assert "fl_secret" not in repr(vars(GatewayClient(live.url, "fl_secret")))


# -- patience ---------------------------------------------------------------------------------------------------------


@dataclass
class Scripted:
    """A server that answers as it is told and counts its calls: what a gateway may say of trying again."""

    answers: list[tuple[int, dict[str, str]]]
    calls: int = 0
    url: str = ""


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    told = Scripted([])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            told.calls += 1
            status, headers = told.answers.pop(0)
            body = (
                b'{"choices": [{"message": {"content": "well"}}]}' if status == 200 else b'{"error": {"message": "no"}}'
            )
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with serving(Handler) as port:
        told.url = f"http://127.0.0.1:{port}"
        yield told


SPENT = {"X-FlaskLLM-Error": "budget_exceeded", "Retry-After": "1", "x-should-retry": "false"}
LIMITED = {"X-FlaskLLM-Error": "rate_limited", "Retry-After": "1"}


def test_it_waits_as_long_as_the_gateway_says(scripted: Scripted) -> None:
    scripted.answers = [(429, LIMITED), (200, {})]
    began = time.monotonic()
    assert GatewayClient(scripted.url).generate("x").text == "well"
    assert 1 <= time.monotonic() - began < 3
    assert scripted.calls == 2


@pytest.mark.parametrize(
    "status, headers, kind",
    [
        (429, SPENT, library.BudgetExceeded),
        (429, {**LIMITED, "Retry-After": "3600"}, library.RateLimited),
        (502, {"X-FlaskLLM-Error": "provider_error"}, library.ProviderError),
        (500, {}, library.GatewayError),
    ],
)  # fmt: skip
def test_it_tries_again_only_where_that_may_help(
    scripted: Scripted, status: int, headers: dict[str, str], kind: type[Exception]
) -> None:
    scripted.answers = [(status, headers)] * 3
    with pytest.raises(kind):
        GatewayClient(scripted.url).generate("x")
    assert scripted.calls == 1


def test_it_gives_up(scripted: Scripted) -> None:
    scripted.answers = [(429, LIMITED)] * 3
    with pytest.raises(library.RateLimited) as error:
        GatewayClient(scripted.url, retries=1).generate("x")
    assert (scripted.calls, error.value.retry_after) == (2, 1.0)


# -- administrators ---------------------------------------------------------------------------------------------------


def test_an_administrator_manages_providers(live: Live) -> None:
    client = GatewayClient(live.url, access_token(live.app, "boss", admin=True))
    made = client.providers.create(
        {
            "provider_id": "mine",
            "display_name": "Mine",
            "provider_type": "openai_compatible",
            "connection_params": {"api_base": "http://127.0.0.1:9/v1"},
        }
    )
    assert made["provider_id"] == "mine"
    assert client.providers.update("mine", {"display_name": "Yours"})["display_name"] == "Yours"
    assert "mine" in [one["provider_id"] for one in client.providers.list()]
    client.providers.delete("mine")
    with pytest.raises(library.NotFound):
        client.providers.get("mine")


# -- without the server -----------------------------------------------------------------------------------------------

NO_SERVER = """
import sys

ALLOWED = {"urllib3", "flaskllm"}

class Nothing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in REFUSED:
            raise ImportError(f"{name} is not installed here")

REFUSED = set(%r)
sys.meta_path.insert(0, Nothing())
import flaskllm.client
from flaskllm.client import AsyncGatewayClient, GatewayClient, RateLimited
assert GatewayClient("http://localhost:5000", token="x").providers
try:
    flaskllm.client.LLMGatewayClient
except ImportError as error:
    print("needs the server:", error)
print(sorted(name for name in sys.modules if name.startswith("flaskllm")))
"""
SERVER_PACKAGES = [
    "flask", "werkzeug", "sqlalchemy", "flask_sqlalchemy", "orjson", "marshmallow", "yaml", "cryptography", "redis",
    "prometheus_client", "alembic", "argon2", "jwt", "genai_prices", "dotenv", "openai", "anthropic",
]  # fmt: skip


def test_it_needs_no_package_of_the_server() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_SERVER % SERVER_PACKAGES], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "needs the server:" in done.stdout
    assert "flaskllm.app" not in done.stdout
