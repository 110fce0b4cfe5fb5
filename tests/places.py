"""Places out in the world, played on loopback: servers that answer what they are told and remember what came."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = bytes | Callable[[socket.socket], None]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """The standard library's server with this handler, on a port of its own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(5)


class Place:
    """A server on loopback that answers each connection with the next of its answers, the last one for ever."""

    def __init__(self, *answers: Answer, context: ssl.SSLContext | None = None) -> None:
        self._answers = list(answers)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        self.connections = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            answer = self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)
            try:
                self._serve(sock, answer)
            except OSError:
                sock.close()

    def _serve(self, sock: socket.socket, answer: Answer) -> None:
        with sock:
            sock.settimeout(5)
            with self._context.wrap_socket(sock, server_side=True) if self._context else sock as line:
                self.requests.append(_request(line))
                if callable(answer):
                    answer(line)
                else:
                    line.sendall(answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


def _request(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece or piece.startswith(b"\x16\x03"):  # a TLS hello at a place that speaks none
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    size = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < size and (piece := sock.recv(65536)):
        body += piece
    return head + b"\r\n\r\n" + body


def answer(
    body: bytes | str, kind: str | None = "text/plain", *, status: str = "200 OK", more: tuple[str, ...] = ()
) -> bytes:
    """A whole answer."""
    content = body.encode() if isinstance(body, str) else body
    fields = [f"Content-Type: {kind}"] if kind else []
    lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(content)}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + content


def as_json(value: object) -> bytes:
    return answer(json.dumps(value), "application/json")


@contextlib.contextmanager
def place(*answers: Answer, context: ssl.SSLContext | None = None) -> Iterator[Place]:
    """One that is open for as long as the block lasts."""
    found = Place(*answers, context=context)
    try:
        yield found
    finally:
        found.close()
