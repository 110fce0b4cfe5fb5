"""A streamed call from end to end against the simulator: who is told what, when, and that it is settled once."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flaskllm.domain.call import CallContext
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.principal import Budget, Principal
from flaskllm.errors import BudgetExceeded, DomainError, ProviderError, Unavailable
from flaskllm.extensions import db
from flaskllm.services.chat_orchestrator import Places
from flaskllm.services.chat_stream import ChatStream
from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream, faults

WORDS = " ".join(f"word{number}" for number in range(30))
SOMEBODY = Principal(user_id="u", username="u", role="user", scopes=frozenset({"chat"}))


def ask(app: Flask, *, fd: int | None = None, principal: Principal = SOMEBODY, seconds: float = 30) -> ChatStream:
    """Begin a stream, as a door does."""
    request = ChatRequest(model="gpt-4o", messages=[{"role": "user", "content": "hello"}], stream=True)
    call = CallContext(principal, "req-1", "test", deadline=time.monotonic() + seconds, client_fd=fd)
    return app.extensions["flaskllm"].chat.stream(request, call)


def rows(app: Flask, query: str) -> list[Any]:
    with app.app_context(), db.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def settled(app: Flask) -> list[Any]:
    """The attempts, once none is open any more."""
    until = time.monotonic() + 5
    while time.monotonic() < until and rows(app, "SELECT 1 FROM attempts WHERE state = 'reserved'"):
        time.sleep(0.02)
    return rows(app, "SELECT state, completion_tokens, estimated FROM attempts")


def told(stream: ChatStream) -> str:
    text_of_all = "".join(item.text for item in stream if item is not None and not isinstance(item, DomainError))
    stream.close()
    return text_of_all


@pytest.fixture
def one(make_app: MakeApp, upstream: Upstream) -> Callable[..., Flask]:
    """``one(NAME="value")``: a gateway with OpenAI alone on the simulator."""
    return lambda **more: make_app(**provider_environment(upstream, "openai"), **more)


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The caller's connection: our end and theirs."""
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_stream_that_is_never_begun_is_settled_by_its_close(one: Any, upstream: Upstream) -> None:
    app = one()
    ask(app).close()
    assert settled(app) == [("settled", 2, 0)]
    assert upstream.wait_idle()


def test_whoever_closes_twice_settles_once(one: Any) -> None:
    app = one()
    stream = ask(app)
    assert told(stream) == "echo: hello"
    stream.close()
    stream.close()
    assert rows(app, "SELECT count(*) FROM calls") == [(1,)]


def test_a_stream_without_its_budget_leaves_no_row(one: Any, upstream: Upstream) -> None:
    app = one()
    poor = Principal("u", "u", "user", frozenset({"chat"}), budgets=(Budget("user:u", 1, "day"),))
    with pytest.raises(BudgetExceeded):
        ask(app, principal=poor)
    assert rows(app, "SELECT 1 FROM calls") == rows(app, "SELECT 1 FROM attempts") == []
    assert upstream.requests == []


@pytest.mark.alone
def test_a_hang_up_in_silence_is_seen_at_once_and_the_bill_is_waited_for(
    one: Any, upstream: Upstream, line: Any
) -> None:
    app, (ours, theirs) = one(), line
    upstream.script(faults.gap(2, 2.0), vendor="openai")
    stream = ask(app, fd=ours.fileno())
    while not (seen := next(stream)) or not seen.has_content:
        """The frame before the gap may be a moment on its way."""
    theirs.close()
    began = time.monotonic()
    assert [next(stream), next(stream)] == [None, None]
    assert 0.15 < time.monotonic() - began < 1.6
    stream.close()
    assert settled(app) == [("settled", 2, 0)]
    assert rows(app, "SELECT status, error_code FROM calls") == [(499, "client_closed")]


def test_the_time_to_the_first_content_is_what_its_reader_waited(one: Any, upstream: Upstream) -> None:
    """Not what came before it, and not what comes after it; nobody reads an answer that has no content."""
    app = one()
    upstream.script(faults.gap(1, 0.3), vendor="openai")
    stream = ask(app)
    assert told(stream) == "echo: hello"
    ((first, latency),) = rows(app, "SELECT first_token_ms, latency_ms FROM calls")
    assert 0 <= first <= latency
    upstream.script(faults.frames([]), vendor="openai")
    with pytest.raises(ProviderError):
        ask(app)
    assert rows(app, "SELECT first_token_ms FROM calls ORDER BY id DESC")[0] == (None,)


def test_a_closed_descriptor_of_the_caller_breaks_nothing(one: Any, upstream: Upstream) -> None:
    upstream.script(faults.pace(30), vendor="openai")
    app = one()
    descriptor, other = os.pipe()
    os.close(other)
    stream = ask(app, fd=descriptor)
    os.close(descriptor)
    assert told(stream) == "echo: hello"
    stream = ask(app, fd=-1)
    assert told(stream) == "echo: hello"


def test_frames_that_are_nonsense_are_the_providers_fault_and_end_the_stream_in_order(
    one: Any, upstream: Upstream
) -> None:
    good = {"id": "x", "choices": [{"index": 0, "delta": {"content": "hi"}}]}
    for bad in (
        {"choices": [{"index": [], "delta": {"content": "x"}}]},
        {"choices": [{"index": 0, "delta": "text"}]},
        {"choices": [{"index": 0, "delta": {"content": 5}}]},
        {"choices": 7},
        {"choices": [{"index": 0, "delta": {"tool_calls": [3]}}]},
    ):
        app = one()
        upstream.script(faults.frames([good, bad, good]), vendor="openai", times=1)
        stream = ask(app)
        items = list(stream)
        assert [getattr(item, "status", None) for item in items][-1] == 502, bad
        assert rows(app, "SELECT status, error_code FROM calls") == [(502, "provider_error")], bad
        stream.close()


def test_a_fault_of_our_own_in_the_middle_is_one_error_and_no_hang_up(
    one: Any, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.script(faults.pace(50), vendor="openai")
    app = one()
    stream = ask(app)
    monkeypatch.setattr(ChatStream, "_poll", lambda *_, **__: 1 / 0)
    *_, error = list(stream)
    assert getattr(error, "code", "") == "internal_error"
    assert rows(app, "SELECT status, error_code FROM calls") == [(500, "internal_error")]
    stream.close()
    assert upstream.wait_idle()


def test_at_the_cut_a_stream_that_never_pauses_ends_too(one: Any, upstream: Upstream) -> None:
    upstream.script(faults.text(WORDS * 200), vendor="openai")
    app = one()
    stream = ask(app)
    while not getattr(next(stream), "text", ""):
        pass
    app.extensions["flaskllm"].shutdown.cut_streams()
    *_, error = list(stream)
    assert isinstance(error, Unavailable)
    stream.close()
    ((state, tokens, estimated),) = settled(app)
    assert (state, estimated) == ("settled", 1)
    assert tokens > 0


def test_a_burst_is_joined_in_pieces_and_not_held_to_its_end(one: Any, upstream: Upstream) -> None:
    upstream.script(faults.text(WORDS * 300), vendor="openai")
    stream = ask(one())
    longest, joined = 0, 0
    for _ in stream:
        joined = 1 + sum(1 for _ in iter(stream.at_hand, None))
        longest = max(longest, joined)
    stream.close()
    assert 1 < longest < 300


def test_what_is_at_hand_goes_out_before_the_settlement_is_waited_for(one: Any, upstream: Upstream) -> None:
    app = one()
    stream = ask(app)
    next(stream)
    until = time.monotonic() + 5
    while not stream._at_end and time.monotonic() < until:
        stream.at_hand()
    assert rows(app, "SELECT state FROM attempts") == [("reserved",)]
    assert list(stream) == []
    assert settled(app) == [("settled", 2, 0)]
    stream.close()


@pytest.mark.alone
def test_frames_without_content_do_not_keep_the_caller_without_a_sign(
    make_app: MakeApp, upstream: Upstream, tmp_path: Any
) -> None:
    """Somebody else could still be asked, so they are held back; the caller still hears comment lines."""
    overlay = tmp_path / "models.yaml"
    overlay.write_text(
        "models:\n  first: {provider: openai, model_name: gpt-4o, aliases: [both]}\n"
        "  second: {provider: llama, model_name: second, aliases: [both]}\n"
    )
    environment = provider_environment(upstream, "openai", "llama")
    app = make_app(
        LLM_GATEWAY_CONFIG_PATH=str(overlay), STREAM_PING_AFTER="0.1", STREAM_PING_EVERY="0.2", **environment
    )
    app.test_cli_runner().invoke(args=["seed"])
    empty = {"id": "x", "choices": [{"index": 0, "delta": {"content": ""}}]}
    upstream.script(faults.frames([empty] * 40 + ["[DONE]"]) + faults.pace(50), vendor="openai")
    request = ChatRequest(model="both", messages=[{"role": "user", "content": "hello"}], stream=True)
    call = CallContext(SOMEBODY, "req-1", "test", deadline=time.monotonic() + 30)
    stream = app.extensions["flaskllm"].chat.stream(request, call)
    began = time.monotonic()
    assert next(stream) is None
    assert time.monotonic() - began < 1
    stream.close()


def test_each_failed_first_frame_gives_its_slot_back(one: Any, upstream: Upstream) -> None:
    app = one()
    chat = app.extensions["flaskllm"].chat
    chat._slots = Places(1, "full")
    upstream.script(faults.status(500), vendor="openai", times=4)
    for _ in range(2):
        with pytest.raises(ProviderError):
            ask(app)
    stream = ask(app)
    with pytest.raises(Unavailable):
        ask(app)
    stream.close()
    asked_again(app).close()


def asked_again(app: Flask) -> ChatStream:
    """A stream, once the place of the one before it is free: a moment after its settlement."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            return ask(app)
        except Unavailable:
            time.sleep(0.02)
    return ask(app)


def test_where_no_thread_can_be_started_a_hang_up_is_settled_by_estimate(
    one: Any, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.script(faults.text(WORDS) + faults.pace(100), vendor="openai")
    app = one()
    stream = ask(app)
    next(stream)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    stream.close()
    assert rows(app, "SELECT state, estimated FROM attempts") == [("settled", 1)]


@pytest.mark.alone
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_provider_that_sends_no_headers_is_bridged_by_comment_lines(
    make_app: MakeApp, upstream: Upstream, tls: bool
) -> None:
    """Over TLS 1.3 the session tickets come first: the socket is readable, and there is nothing to read."""
    with Upstream(tls=True) as secure:
        there = secure if tls else upstream
        there.script(faults.delay(3), vendor="openai")
        app = make_app(
            STREAM_PING_AFTER="0.3", STREAM_PING_EVERY="0.2", HTTPX_CLIENT_VERIFY="false",
            **provider_environment(there, "openai"),
        )  # fmt: skip
        began = time.monotonic()
        stream = ask(app)
        assert time.monotonic() - began < 2.5
        items = list(stream)
        stream.close()
        assert items.count(None) >= 3
        assert "".join(item.text for item in items if item is not None) == "echo: hello"
