"""The socket side: reading one HTTP/1.1 request strictly, and sending a reply well or badly on purpose."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from .core import Frame

MAX_HEAD = 256 * 1024
MAX_BODY = 512 * 1024 * 1024
BLOCK = 64 * 1024
REASONS = {
    200: "OK",
    204: "No Content",
    302: "Found",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class PeerGone(Exception):
    """The other side closed or reset the connection."""


class BadFraming(Exception):
    """The request is not HTTP as we insist on it; the connection cannot be used further."""


@dataclass
class Request:
    """One request as it came. Header names are lower case in `headers`; `raw_headers` keeps order, case and doubles."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    raw_headers: list[tuple[str, str]]
    raw: bytes
    received: float = field(default_factory=time.time)

    def json(self) -> Any:
        """The body parsed, or None when it is no JSON."""
        try:
            return json.loads(self.raw)
        except ValueError:
            return None


@dataclass
class Reply:
    """What goes back, and how it travels. Times are seconds; `cut` counts bytes of a body or frames of a stream."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    frames: list[Frame] | None = None
    wire: bytes | None = None
    """Exactly these bytes instead of status line, headers and body."""
    head: bool = True
    """False: not even a status line goes out."""
    delay: float = 0
    first_delay: float = 0
    pace: float = 0
    gap: tuple[int, float] | None = None
    drip: float = 0
    drip_head: float = 0
    cut: int | None = None
    half: bool = False
    """After `cut` frames, half of the next one still goes out."""
    ending: str = "clean"
    """clean, eof, reset, hang, garbage (of the chunked framing), stale (closed after), stale_on_reuse."""
    newline: str = "\n"
    dressed: bool = False
    """Comments, retry fields, ids and multi-line data around the frames."""
    packet: int = 0
    """Bytes in one packet, whatever they cut through; 0: one frame, one packet."""
    failed: bool = False
    """Says that the service failed, whatever its status: what generated nothing costs nothing."""
    filler: tuple[str, int] | None = None
    """(mark, bytes): where the mark stands in the answer, so many bytes of x go out instead."""


@dataclass
class Delivery:
    """What of a reply left the machine, as far as a sender can know.

    `enter` is told once: just before the last bytes go out, so that whoever has read them finds the books written, or
    when it is clear that they never will.
    """

    enter: Callable[[Delivery], None]
    frames: int = 0
    body_bytes: int = 0
    complete: bool = False
    peer_gone: bool = False
    entered: bool = False

    def end(self, *, complete: bool) -> None:
        if not self.entered:
            self.entered, self.complete = True, complete
            self.enter(self)


class Connection:
    """One accepted socket with the few moves that the simulator needs."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._reader = sock.makefile("rb", buffering=BLOCK)

    def read_request(self) -> Request | None:
        """The next request, or None when the peer closed between two of them."""
        try:
            return self._read_request()
        except (ConnectionError, ssl.SSLError, TimeoutError, ValueError, OSError):
            return None

    def _read_request(self) -> Request | None:
        line = self._reader.readline(MAX_HEAD)
        if not line:
            return None
        parts = line.decode("latin-1").rstrip("\r\n").split(" ")
        if len(parts) != 3 or parts[2] != "HTTP/1.1":
            raise BadFraming(f"request line {line!r}")
        pairs = list(self._read_headers())
        headers = {name.lower(): value for name, value in pairs}
        if any(sum(name.lower() == single for name, _ in pairs) > 1 for single in ("content-length", "host")):
            raise BadFraming("Host or Content-Length twice")
        if headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        target = urlsplit(parts[1])
        return Request(
            parts[0],
            unquote(target.path),
            dict(parse_qsl(target.query, keep_blank_values=True)),
            headers,
            pairs,
            self._read_body(headers),
        )

    def _read_headers(self) -> Iterator[tuple[str, str]]:
        while (line := self._reader.readline(MAX_HEAD)) not in (b"\r\n", b""):
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon or not line.endswith(b"\r\n") or name != name.strip() or not name:
                raise BadFraming(f"header line {line!r}")
            yield name, value.strip()

    def _read_body(self, headers: dict[str, str]) -> bytes:
        chunked = "transfer-encoding" in headers
        if chunked and ("content-length" in headers or headers["transfer-encoding"].lower() != "chunked"):
            raise BadFraming("Transfer-Encoding beside Content-Length, or not chunked")
        if not chunked:
            size = headers.get("content-length", "0")
            if not size.isdigit() or int(size) > MAX_BODY:
                raise BadFraming(f"Content-Length {size!r}")
            body = self._reader.read(int(size))
            if len(body) < int(size):
                raise ConnectionError("the request broke off")
            return body
        body = b""
        while length := int(self._reader.readline(MAX_HEAD).split(b";")[0], 16):
            body += self._reader.read(length)
            self._reader.readline(MAX_HEAD)
        self._reader.readline(MAX_HEAD)
        return body

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except (OSError, ValueError) as error:
            raise PeerGone from error

    def pause(self, seconds: float) -> None:
        """Wait, but notice at once when the peer goes away."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            readable = self._readable(left)
            if readable and self._peek_is_end():
                raise PeerGone
            if readable:  # a pipelined request waits: nothing to learn from select any more
                time.sleep(min(left, 0.05))

    def _readable(self, seconds: float | None) -> bool:
        """Whether bytes or an end arrive in time. Not select(): that stops at file descriptor 1024."""
        poller = select.poll()
        try:
            poller.register(self.sock, select.POLLIN)
        except ValueError as error:
            raise PeerGone from error
        return bool(poller.poll(None if seconds is None else max(1, int(seconds * 1000))))

    def _peek_is_end(self) -> bool:
        if isinstance(self.sock, ssl.SSLSocket):  # TLS cannot peek; the next send will tell
            return False
        try:
            return self.sock.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def wait_for_end(self) -> None:
        """Hold the connection open and silent until the peer gives up."""
        while True:
            self.pause(3600)

    def wait_for_bytes(self) -> None:
        """Return when the peer sends something more, or closes."""
        self._readable(None)

    def reset(self) -> None:
        """Close with a RST instead of a FIN: SO_LINGER on, zero seconds."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        for closable in (self._reader, self.sock):
            with contextlib.suppress(OSError):
                closable.close()


def head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}", *(f"{name}: {headers[name]}" for name in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def deliver(conn: Connection, reply: Reply, enter: Callable[[Delivery], None] = lambda done: None) -> None:
    """Send the reply as it wants to travel; a hanging one returns when the peer has given up."""
    done = Delivery(enter)
    try:
        conn.pause(reply.delay)
        if reply.wire is not None:
            conn.send(reply.wire)
        elif reply.head:
            if reply.frames is None:
                _send_body(conn, reply, done)
            else:
                _send_stream(conn, reply, done)
        if reply.ending == "hang":
            conn.wait_for_end()
    except PeerGone:
        done.peer_gone = True
    done.end(complete=False)


def reusable(conn: Connection, reply: Reply) -> bool:
    """End the connection the way the reply asks for; True when it may carry another request."""
    if reply.ending == "stale_on_reuse":
        conn.wait_for_bytes()
    if reply.ending in ("reset", "stale_on_reuse"):
        conn.reset()
    return reply.ending == "clean" and reply.headers.get("connection") != "close"


def _send_head(conn: Connection, reply: Reply, defaults: dict[str, str]) -> None:
    data = head(reply.status, {**defaults, **reply.headers})
    if not reply.drip_head:
        conn.send(data)
        return
    for position in range(len(data)):
        conn.send(data[position : position + 1])
        conn.pause(reply.drip_head)


def _send_body(conn: Connection, reply: Reply, done: Delivery) -> None:
    before, size, after = _filled(reply.body, reply.filler)
    total = len(before) + size + len(after)
    if not total:
        done.end(complete=True)
    _send_head(conn, reply, {"content-type": "application/json", "content-length": str(total)})
    conn.pause(reply.first_delay)
    if reply.cut is not None:
        before, size, after = before[: reply.cut], 0, b""
    for block in _blocks(before, size, after, step=1 if reply.drip else BLOCK):
        done.body_bytes += len(block)
        if done.body_bytes == total:
            done.end(complete=True)
        conn.send(block)
        conn.pause(reply.drip)


def _blocks(before: bytes, size: int, after: bytes, *, step: int) -> Iterator[bytes]:
    for start in range(0, len(before), step):
        yield before[start : start + step]
    for start in range(0, size, BLOCK):
        yield b"x" * min(BLOCK, size - start)
    for start in range(0, len(after), step):
        yield after[start : start + step]


def _filled(data: bytes, filler: tuple[str, int] | None) -> tuple[bytes, int, bytes]:
    mark, size = filler or ("", 0)
    before, found, after = data.partition(mark.encode()) if mark else (data, b"", b"")
    return before, size if found else 0, after


def _send_stream(conn: Connection, reply: Reply, done: Delivery) -> None:
    _send_head(
        conn,
        reply,
        {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "transfer-encoding": "chunked",
        },
    )
    conn.pause(reply.first_delay)
    frames = reply.frames or []
    end = len(frames) if reply.cut is None else min(reply.cut, len(frames))
    for index, frame in enumerate(frames[:end]):
        if index:
            conn.pause(reply.pace)
        if reply.gap and index == reply.gap[0]:
            conn.pause(reply.gap[1])
        done.frames = index + 1
        if done.frames == len(frames):
            done.end(complete=True)
        _send_packets(conn, reply, render(frame, reply, index))
    if reply.half and end < len(frames):
        rest = render(frames[end], reply, end)
        _send_chunk(conn, rest[: max(1, len(rest) // 2)])
    if reply.ending == "garbage":
        conn.send(b"zz-not-a-chunk-size\r\n\x00\xff\r\n")
    elif reply.ending in ("clean", "stale", "stale_on_reuse"):
        conn.send(b"0\r\n\r\n")


def _send_packets(conn: Connection, reply: Reply, data: bytes) -> None:
    before, size, after = _filled(data, reply.filler)
    if size:
        conn.send(f"{len(before) + size + len(after):x}\r\n".encode())
        for block in _blocks(before, size, after, step=BLOCK):
            conn.send(block)
        conn.send(b"\r\n")
        return
    step = 1 if reply.drip else reply.packet or len(data) or 1
    for start in range(0, len(data), step):
        _send_chunk(conn, data[start : start + step])
        conn.pause(reply.drip or (0.001 if reply.packet else 0))


def _send_chunk(conn: Connection, data: bytes) -> None:
    if data:
        conn.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def render(frame: Frame, reply: Reply, index: int) -> bytes:
    """A frame as bytes; dressed frames carry all that the SSE standard allows and a naive reader trips over."""
    data = frame.data if isinstance(frame.data, str) else json.dumps(frame.data, ensure_ascii=False)
    lines = []
    if reply.dressed:
        lines += [f": comment {index}", f"id: {index}", "retry: 1500"]
    if frame.event or reply.dressed:
        lines.append(f"event: {frame.event or 'message'}")
    if reply.dressed and data.startswith("{"):  # a line break may stand wherever JSON allows white space
        lines += ["data: {", f"data:{data[1:]}"]
    else:
        lines += [f"data: {line}" for line in data.split("\n")]
    return (reply.newline.join(lines) + reply.newline * 2).encode("utf-8", "surrogateescape")
