"""A connection with a deadline, and the HTTP answer that comes on it, read strictly."""

from __future__ import annotations

import io
import re
import socket
import ssl
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from urllib3 import HTTPHeaderDict

from flaskllm.errors import ExternalError

PIECE = 65536
MOST_LINE = 16384
MOST_HEAD = 65536
MOST_FIELDS = 100
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n\0]*)?\r\n")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*)\r\n")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n\0]*)?\r\n")
_LENGTH = re.compile(r"[0-9]{1,18}")
_OF_THE_CONNECTION = ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")


def _malformed() -> NoReturn:
    raise ExternalError("The target's answer is cut off or malformed.")


class Line(io.RawIOBase):
    """A connection on which every wait gets what is left until the deadline."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self.came = False

    def _limit(self) -> None:
        self._sock.settimeout(seconds_left(self._deadline))

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        """TLS with the host's name in SNI and in the certificate."""
        self._sock = context.wrap_socket(self._sock, server_hostname=host, do_handshake_on_connect=False)
        self._limit()
        self._sock.do_handshake()

    def send(self, data: bytes) -> None:
        """Piece by piece: TLS's own ``sendall`` starts its time-out anew with each."""
        rest = memoryview(data)
        while rest:
            self._limit()
            rest = rest[self._sock.send(rest[:PIECE]) :]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._limit()
        size = self._sock.recv_into(buffer)
        self.came = self.came or size > 0
        return size

    def close(self) -> None:
        self._sock.close()
        super().close()


def seconds_left(deadline: float) -> float:
    """Until a moment of ``time.monotonic()``. Raises `TimeoutError` when it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left


class Answer:
    """A status and headers, read strictly, and a body that is still on the line.

    The standard library's reader takes a bare line feed for a line's end, joins folded lines and lets contradicting
    lengths pass: what two readers of one answer may see differently is refused here.
    """

    def __init__(self, line: Line, method: str) -> None:
        self._line = line
        self._file = io.BufferedReader(line, PIECE)
        self._left = MOST_HEAD
        self._method = method
        self.status, self.headers = self._read_head()

    def _read_line(self) -> bytes:
        text = self._file.readline(min(MOST_LINE, self._left))
        self._left -= len(text)
        if not text and not self._line.came:
            raise ConnectionError("closed before an answer")
        return text

    def _read_head(self) -> tuple[int, HTTPHeaderDict]:
        """Early hints are passed over; nothing is ever upgraded (101)."""
        while True:
            start = _STATUS.fullmatch(self._read_line()) or _malformed()
            status, headers = int(start[1]), self._read_fields()
            if status == 101:
                _malformed()
            if status >= 200:
                return status, headers

    def _read_fields(self) -> HTTPHeaderDict:
        headers = HTTPHeaderDict()
        for _ in range(MOST_FIELDS + 1):
            text = self._read_line()
            if text == b"\r\n":
                return headers
            field = _FIELD.fullmatch(text) or _malformed()
            headers.add(field[1].decode("ascii"), field[2].rstrip(b" \t").decode("latin-1"))
        _malformed()

    def location(self) -> str | None:
        """Where a redirect points to; None where this is an answer. Its body is never read."""
        places = self.headers.getlist("location") if self.status in REDIRECTS else []
        if len(places) > 1:
            raise ExternalError("The target redirects to two places.")
        return places[0] or None if places else None

    def body(self, cap: int) -> bytes:
        """Decoded, at most ``cap`` bytes. Raises `ExternalError`, `OSError` or `zlib.error`."""
        pieces, size = [], 0
        for piece in self._decoded(self._framed()):
            size += len(piece)
            if size > cap:
                raise ExternalError(f"The target's answer is larger than {cap} bytes.")
            pieces.append(piece)
        return b"".join(pieces)

    def shown_headers(self) -> HTTPHeaderDict:
        """What is said of the body as it is handed on: unframed and decoded."""
        shown = HTTPHeaderDict(self.headers)
        for name in (*_OF_THE_CONNECTION, "content-encoding", "content-length"):
            shown.discard(name)
        return shown

    def _framed(self) -> Iterator[bytes]:
        """The body's bytes by the one framing that the headers leave no doubt about."""
        codings, lengths = self.headers.getlist("transfer-encoding"), self.headers.getlist("content-length")
        if self._method == "HEAD" or self.status in {204, 304}:
            return iter(())
        if codings:
            return self._chunks() if [*map(str.lower, codings), *lengths] == ["chunked"] else _malformed()
        if lengths:
            return (
                self._counted(int(lengths[0])) if len(lengths) == 1 and _LENGTH.fullmatch(lengths[0]) else _malformed()
            )
        return iter(lambda: self._file.read1(PIECE), b"")

    def _counted(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self._file.read1(min(size, PIECE)) or _malformed()
            size -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        """Trailers are read no more: nothing after the last chunk is of use, and the connection ends with it."""
        while size := int((_CHUNK.fullmatch(self._file.readline(1024)) or _malformed())[1], 16):
            yield from self._counted(size)
            if self._file.read(2) != b"\r\n":
                _malformed()

    def _decoded(self, pieces: Iterable[bytes]) -> Iterable[bytes]:
        """We ask for no coding; one layer is unpacked all the same, because some answer so unasked."""
        coding = ", ".join(self.headers.getlist("content-encoding")).strip().lower()
        if coding in {"", "identity"}:
            return pieces
        if coding in {"gzip", "x-gzip", "deflate"}:
            return _unpacked(pieces, coding)
        raise ExternalError("The target's answer comes in a coding that was not asked for.")


def _unpacked(pieces: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """At most `PIECE` bytes at a time, so that a bomb is met with a count and not with memory."""
    unpacker = None
    for packed in pieces:
        piece = packed
        unpacker = unpacker or zlib.decompressobj(_window(coding, piece[0]))
        while True:
            plain = unpacker.decompress(piece, PIECE)
            yield plain
            piece = unpacker.unconsumed_tail
            if not piece and len(plain) < PIECE:
                break
        if unpacker.unused_data:
            _malformed()
    if unpacker is not None and not unpacker.eof:
        _malformed()


def _window(coding: str, first: int) -> int:
    """zlib's switch for a format. ``deflate`` is meant to be zlib's, whose first byte ends in 8; some send it bare."""
    if coding != "deflate":
        return 16 + zlib.MAX_WBITS
    return zlib.MAX_WBITS if first & 15 == 8 else -zlib.MAX_WBITS
