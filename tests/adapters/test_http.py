"""How bytes travel: kept connections, deadlines that nothing stretches, and failures in our words."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flaskllm.adapters import http
from flaskllm.adapters.http import Exchange, Response, Transport
from flaskllm.errors import ProviderError, ProviderFailure, ProviderTimeout, ProviderUnreachable

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ONE_CHUNK, END = b"6\r\ndata: \r\n", b"0\r\n\r\n"

Serve = Callable[[socket.socket, int], None]


class Server:
    """Speaks by a function of (connection, its number); notes what each connection asked."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.asked: list[bytes] = []
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._one, args=(sock, self.connections), daemon=True).start()

    def _one(self, sock: socket.socket, number: int) -> None:
        with sock, contextlib.suppress(OSError):
            while request := _whole(sock):
                self.asked.append(request)
                self._serve(sock, number)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _whole(sock: socket.socket) -> bytes:
    """One request, head and body: they come in packets of their own."""
    found = b""
    while packet := sock.recv(65536):
        found += packet
        head, end, body = found.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if found.startswith(b"\x16"):  # TLS greets otherwise
            break
        if end and len(body) >= int(length[1] if length else 0):
            break
    return found


@pytest.fixture
def server() -> Iterator[Callable[[Serve], Server]]:
    made: list[Server] = []

    def make(serve: Serve) -> Server:
        made.append(Server(serve))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def transport() -> Iterator[Transport]:
    made = Transport()
    yield made
    made.close()


def begin(transport: Transport, url: str, seconds: float = 3.0) -> Exchange:
    return transport.begin("POST", url, headers={"X": "y"}, body=b"{}", deadline=time.monotonic() + seconds)


def send(transport: Transport, url: str, seconds: float = 3.0) -> Response:
    return begin(transport, url, seconds).response(time.monotonic() + seconds)


def says(answer: bytes) -> Serve:
    return lambda sock, _: sock.sendall(answer)


def test_a_connection_serves_the_next_call(server: Any, transport: Transport) -> None:
    there = server(says(OK))
    assert [send(transport, there.url).read() for _ in range(3)] == [b"{}"] * 3
    assert there.connections == 1


def test_a_connection_that_was_closed_while_idle_is_not_used(server: Any, transport: Transport) -> None:
    def serve(sock: socket.socket, number: int) -> None:
        sock.sendall(OK)
        sock.shutdown(socket.SHUT_RDWR)

    there = server(serve)
    for _ in range(3):
        assert send(transport, there.url).read() == b"{}"
        time.sleep(0.05)
    assert there.connections == 3


def test_connection_close_is_obeyed(server: Any, transport: Transport) -> None:
    there = server(says(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")))
    for _ in range(2):
        assert send(transport, there.url).read() == b"{}"
    assert there.connections == 2


def test_a_half_read_connection_is_never_used_again(server: Any, transport: Transport) -> None:
    there = server(says(OK.replace(b": 2", b": 200")))
    response = send(transport, there.url)
    response.close()
    response.close()
    send(transport, there.url).close()
    assert there.connections == 2


def test_what_has_aged_is_closed_when_another_comes_back(
    server: Any, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = server(says(OK))
    first, second = begin(transport, there.url), begin(transport, there.url)
    first.response(time.monotonic() + 1).read()
    monkeypatch.setattr(http, "IDLE_SECONDS", 0.0)
    second.response(time.monotonic() + 1).read()
    assert [len(kept) for kept in transport._idle.values()] == [1]


def test_after_its_last_frame_a_stream_leaves_its_connection_if_the_end_follows(
    server: Any, transport: Transport
) -> None:
    there = server(says(STREAM + ONE_CHUNK + END))
    for _ in range(2):
        response = send(transport, there.url)
        assert response.next_piece() == b"data: "
        response.finish()
        response.finish()
    assert there.connections == 1


@pytest.mark.alone
def test_after_its_last_frame_the_end_is_not_waited_for_long(server: Any, transport: Transport) -> None:
    there = server(says(STREAM + ONE_CHUNK))
    response = send(transport, there.url)
    assert response.next_piece() == b"data: "
    began = time.monotonic()
    response.finish()
    assert time.monotonic() - began < 0.2
    send(transport, there.url).close()
    assert there.connections == 2


def drips(head: bytes, *, times: int = 100) -> Serve:
    def serve(sock: socket.socket, _: int) -> None:
        sock.sendall(head)
        for _ in range(times):
            time.sleep(0.1)
            sock.sendall(b" ")

    return serve


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: ", OK.replace(b": 2", b": 200")], ids=["head", "body"])
def test_a_drip_does_not_stretch_the_deadline(server: Any, transport: Transport, head: bytes) -> None:
    there = server(drips(head))
    began = time.monotonic()
    with pytest.raises(ProviderTimeout) as caught:
        send(transport, there.url, 0.5).read()
    assert 0.4 < time.monotonic() - began < 2
    assert caught.value.may_be_billed


def test_half_a_chunk_is_waited_for_until_the_deadline_alone(server: Any, transport: Transport) -> None:
    there = server(says(STREAM + b"6\r\nda"))
    response = send(transport, there.url)
    assert response.has_buffered()
    response.set_deadline(time.monotonic() + 0.2)
    with pytest.raises(ProviderTimeout):
        response.next_piece()
    response.close()


@pytest.mark.alone
def test_whether_something_is_there_is_known_without_waiting(server: Any, transport: Transport) -> None:
    def serve(sock: socket.socket, _: int) -> None:
        time.sleep(0.2)
        sock.sendall(STREAM)
        time.sleep(0.2)
        sock.sendall(ONE_CHUNK)

    exchange = begin(transport, server(serve).url)
    assert not exchange.has_buffered()
    response = exchange.response(time.monotonic() + 2)
    assert not response.has_buffered()
    time.sleep(0.3)
    assert response.has_buffered()
    assert response.next_piece() == b"data: "
    assert not response.has_buffered()
    response.close()
    assert response.has_buffered()


def test_an_end_and_a_reset_are_something_to_read(server: Any, transport: Transport) -> None:
    def reset(sock: socket.socket, _: int) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        sock.close()

    def end(sock: socket.socket, _: int) -> None:
        sock.shutdown(socket.SHUT_RDWR)

    for way in (reset, end):
        exchange = begin(transport, server(way).url)
        time.sleep(0.1)
        assert exchange.has_buffered()
        with pytest.raises(ProviderError) as caught:
            exchange.response(time.monotonic() + 1)
        assert not caught.value.may_be_billed


def test_a_body_beyond_its_bound_is_dropped(server: Any, transport: Transport) -> None:
    there = server(says(OK.replace(b": 2", b": 200000") + b"x" * 200_000))
    with pytest.raises(ProviderError, match="larger"):
        send(transport, there.url).read(cap=100_000)
    assert not transport._idle


def failure(act: Callable[[], Any]) -> tuple[ProviderFailure, float]:
    began = time.monotonic()
    with pytest.raises(ProviderFailure) as caught:
        act()
    return caught.value, time.monotonic() - began


def test_refused_and_unknown_say_that_nothing_was_sent(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    told, seconds = failure(lambda: begin(transport, f"http://127.0.0.1:{port}"))
    assert isinstance(told, ProviderUnreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert isinstance(failure(lambda: begin(transport, "http://nowhere.test"))[0], ProviderUnreachable)
    assert seconds < 1


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port whose backlog is full: nobody answers a connection."""
    with contextlib.ExitStack() as stack:
        hole = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
        yield hole.getsockname()[1]


def test_a_name_with_many_dead_addresses_has_one_deadline(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    with black_hole() as port:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))] * 5
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        told, seconds = failure(lambda: begin(transport, "http://many.test", 0.6))
    assert isinstance(told, ProviderTimeout)
    assert not told.may_be_billed
    assert 0.5 < seconds < 0.9


def test_behind_a_dead_address_the_next_one_is_reached(
    server: Any, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = server(says(OK))
    with black_hole() as port:
        ports = (port, there.port)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", one)) for one in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert send(transport, "http://two.test", 1.0).read() == b"{}"


def test_a_handshake_that_stalls_shares_the_connections_deadline(server: Any, transport: Transport) -> None:
    there = server(lambda *_: time.sleep(3))
    told, seconds = failure(lambda: begin(transport, there.url.replace("http:", "https:"), 0.5))
    assert isinstance(told, ProviderTimeout)
    assert not told.may_be_billed
    assert seconds < 0.8


def test_what_is_no_tls_is_unreachable(server: Any, transport: Transport) -> None:
    told, _ = failure(lambda: begin(transport, server(says(OK)).url.replace("http:", "https:")))
    assert isinstance(told, ProviderUnreachable)


def test_a_tls_fault_in_the_middle_of_an_answer_may_be_billed() -> None:
    import ssl

    with pytest.raises(ProviderError) as caught, http.foreign_errors(sent=True):
        raise ssl.SSLEOFError("EOF occurred in violation of protocol")
    assert caught.value.may_be_billed


def test_without_tls_a_proxy_is_told_the_whole_address(server: Any) -> None:
    proxy = server(says(OK))
    transport = Transport(proxy_for=lambda *_: f"http://user:p%40ss@127.0.0.1:{proxy.port}")
    assert send(transport, "http://provider.test:8080/v1/chat?x=1").read() == b"{}"
    assert proxy.asked[0].startswith(b"POST http://provider.test:8080/v1/chat?x=1 HTTP/1.1\r\n")
    assert b"\r\nHost: provider.test:8080\r\n" in proxy.asked[0]
    assert b"\r\nproxy-authorization: Basic dXNlcjpwQHNz\r\n" in proxy.asked[0]
    transport.close()


def test_with_tls_a_proxy_is_asked_for_a_tunnel(server: Any) -> None:
    proxy = server(says(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"))
    transport = Transport(proxy_for=lambda *_: f"user:secret@127.0.0.1:{proxy.port}")
    told, _ = failure(lambda: begin(transport, "https://provider.test/v1"))
    assert isinstance(told, ProviderUnreachable)
    assert proxy.asked[0].startswith(b"CONNECT provider.test:443 HTTP/1.")
    assert b"proxy-authorization: Basic" in proxy.asked[0]
    transport.close()


def test_a_closed_transport_keeps_nothing_that_comes_back(server: Any, transport: Transport) -> None:
    response = send(transport, server(says(OK)).url)
    transport.close()
    response.read()
    assert not any(transport._idle.values())
