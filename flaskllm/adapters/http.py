"""How bytes reach a provider and come back: kept connections, and deadlines that a drip cannot stretch.

The connections are urllib3's (names, TLS, framing); the pool is a few lines of ours, for two reasons. A call is
*begun* (connected and sent) apart from its answer's headers, so that a stream can be polled, and its caller told to
wait, while a provider thinks. And a read time-out starts anew with every packet, so an upstream that drips a byte a
second would never be timed out: here every ``recv`` gets what is left until the call's deadline (``docs/promises.md``,
"Upstream faults").
"""

from __future__ import annotations

import io
import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from http.client import HTTPException
from http.client import HTTPResponse as PlainResponse
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import make_headers, parse_url

from flaskllm.errors import ProviderError, ProviderFailure, ProviderTimeout, ProviderUnreachable

CONNECT_SECONDS = 5.0
BODY_CAP = 20 * 2**20
"""Bytes of an unstreamed answer (``docs/promises.md``)."""
MEDIA_CAP = 256 * 2**20
"""The same of images and vectors: ten pictures are 30 MB, two thousand vectors 100."""
PIECE = 65536
IDLE_SECONDS = 55.0
"""How long a connection is kept for the next call; most services close theirs after 60 s or more."""


class _DeadlineReader(io.RawIOBase):
    """A socket's bytes until a moment of ``time.monotonic()``, or only what is there already."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.deadline = 0.0
        self.only_what_is_there = False
        self.ended = False
        self._keeps_socket_open = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = 0.0 if self.only_what_is_there else self.deadline - time.monotonic()
        if left <= 0 and not self.only_what_is_there:
            raise TimeoutError("the deadline has passed")
        self.sock.settimeout(left)
        try:
            size = int(self.sock.recv_into(buffer))
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        self.ended = size == 0
        return size

    def close(self) -> None:
        self._keeps_socket_open.close()
        super().close()


class _DeadlineResponse(PlainResponse):
    """http.client's response, reading what a `_DeadlineReader` brings."""

    def __init__(self, sock: Any, *args: Any, buffer: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = buffer


class Response:
    """A provider's answer whose headers have come and whose body is still to be read."""

    def __init__(
        self, raw: Any, reader: _DeadlineReader, *, give_back: Callable[[], None], drop: Callable[[], None]
    ) -> None:
        self._raw = raw
        self._drop = drop
        self._reader = reader
        self._give_back: Callable[[], None] | None = give_back
        self._pieces: Iterator[bytes] | None = None
        self.status: int = raw.status
        self.headers: Mapping[str, str] = raw.headers

    @property
    def content_type(self) -> str:
        return (self.headers.get("content-type") or "").partition(";")[0].strip().lower()

    def read(self, cap: int = BODY_CAP) -> bytes:
        """The whole body, at most ``cap`` bytes; then the connection is free for the next call.

        Raises `ProviderError` on a cut, a broken framing or an excess, `ProviderTimeout` at the deadline.
        """
        try:
            with foreign_errors(sent=True):
                body = self._read_up_to(cap)
        except BaseException:
            self.close()
            raise
        self._release()
        return body

    def _release(self) -> None:
        """Once only: a connection that two callers were given would mix their answers."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()

    def _read_up_to(self, cap: int) -> bytes:
        pieces, size = [], 0
        while piece := self._raw.read(PIECE, decode_content=True):
            size += len(piece)
            if size > cap:
                raise ProviderError(f"The provider's answer is larger than {cap} bytes.", may_be_billed=True)
            pieces.append(piece)
        return b"".join(pieces)

    def set_deadline(self, deadline: float) -> None:
        self._reader.deadline = deadline

    def has_buffered(self) -> bool:
        """Whether reading would not wait: bytes, an end or a reset are there."""
        buffer = self._raw._fp.fp  # noqa: SLF001  (neither library says what is buffered)
        return buffer is None or _is_ready(buffer, self._reader)

    def next_piece(self) -> bytes | None:
        """The next bytes of a streamed body; None at its end.

        A chunk is taken with its line end, so that nothing is left in the buffer when nothing is due. Raises
        `ProviderError` or `ProviderTimeout`.
        """
        with foreign_errors(sent=True):
            if self._raw.chunked:
                if self._pieces is None:
                    self._pieces = self._raw.stream(PIECE, decode_content=False)
                return next(self._pieces, None)
            return self._raw.read1(PIECE, decode_content=False) or None

    def finish(self) -> None:
        """After the last frame: give the connection back if the body's end has come too, else close it."""
        if self._give_back is None:
            return
        self.set_deadline(time.monotonic() + 0.05)
        try:
            while self.next_piece() is not None:
                pass
        except ProviderFailure:
            self.close()
        else:
            self._release()

    def close(self) -> None:
        """Drop the connection: a half-read one never goes back to the pool; one that is back there is left alone."""
        if self._give_back is None:
            return
        self._give_back = None
        self._raw.close()
        self._drop()


def _is_ready(buffer: Any, reader: _DeadlineReader) -> bool:
    reader.only_what_is_there = True
    try:
        return bool(buffer.peek(1)) or reader.ended
    except (OSError, ValueError):
        return True
    finally:
        reader.only_what_is_there = False


class Exchange:
    """A request that has been sent; its answer may be polled for, and then taken.

    ``first_byte_by``: until when its first byte has to be there (monotonic seconds), however long the rest may take.
    """

    def __init__(self, connection: Any, give_back: Callable[[Any], None], first_byte_by: float | None = None) -> None:
        self._connection = connection
        self._first_byte_by = first_byte_by
        self._give_back = give_back
        self._sock = connection.sock
        self._reader = _DeadlineReader(self._sock)
        self._buffer = io.BufferedReader(self._reader, PIECE)

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def has_buffered(self) -> bool:
        """Whether something of the answer is there: over TLS a readable socket may hold a session ticket alone."""
        return _is_ready(self._buffer, self._reader)

    def response(self, deadline: float) -> Response:
        """The answer's status and headers, waited for until ``deadline`` (monotonic seconds).

        Raises `ProviderError` or `ProviderTimeout`.
        """
        reader = self._reader
        reader.deadline = deadline if self._first_byte_by is None else min(deadline, self._first_byte_by)
        self._connection.response_class = partial(_DeadlineResponse, buffer=self._buffer)
        try:
            with foreign_errors(sent=False):
                raw = self._connection.getresponse()
        except BaseException:
            self.close()
            raise
        reader.deadline = deadline
        keep = not raw._original_response.will_close  # noqa: SLF001  (urllib3 decides it in its own pool)
        drop = self._connection.close
        return Response(raw, reader, give_back=partial(self._give_back, self._connection) if keep else drop, drop=drop)

    def close(self) -> None:
        self._buffer.close()
        self._connection.close()


class foreign_errors:  # noqa: N801  (reads as a word where it is used)
    """Turns urllib3's, http.client's and the socket's exceptions into ours.

    ``sent``: an answer had begun. ``connecting``: the question has not gone out. The order matters: urllib3's
    `NewConnectionError` (refused, unknown name) is a subclass of `ConnectTimeoutError` in some versions.
    """

    def __init__(self, *, sent: bool, connecting: bool = False) -> None:
        self._sent = sent
        self._connecting = connecting

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, HTTPError | HTTPException | OSError | ValueError):
            raise self._translate(error) from None

    def _translate(self, error: BaseException) -> ProviderFailure:
        if isinstance(error, NewConnectionError):
            return ProviderUnreachable("The provider cannot be reached.")
        if isinstance(error, ConnectTimeoutError):
            return ProviderTimeout("The provider did not accept a connection in time.", may_be_billed=False)
        if self._connecting:
            return self._while_connecting(error)
        if isinstance(error, ReadTimeoutError | TimeoutError) or isinstance(error.__context__, TimeoutError):
            return ProviderTimeout("The provider did not answer in time.")
        if not self._sent:
            return ProviderError("The provider closed the connection without an answer.", may_be_billed=False)
        return ProviderError("The provider's answer broke off or was malformed.", may_be_billed=True)

    @staticmethod
    def _while_connecting(error: BaseException) -> ProviderFailure:
        if isinstance(error, TimeoutError):
            return ProviderTimeout("The provider's TLS handshake stalls.", may_be_billed=False)
        if isinstance(error, SSLError | ssl.SSLError):
            return ProviderUnreachable("The provider's certificate or TLS handshake is bad.")
        return ProviderUnreachable("The provider, or the proxy before it, refuses the connection.")


class _ByDeadline:
    """Connects until a moment: all addresses of a name and the handshake together (urllib3's time-out is for each)."""

    connect_by = 0.0
    admits: Callable[[str], bool] | None = None
    """Which addresses may be dialled; None: all of them. Asked here, since a name may mean another one by then."""
    host: str
    port: int

    def _new_conn(self) -> socket.socket:
        try:
            found = socket.getaddrinfo(self.host.strip("[]"), self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise NameResolutionError(self.host, self, error) from error  # type: ignore[arg-type]
        if self.admits is not None and not all(self.admits(str(row[4][0])) for row in found):
            raise ProviderUnreachable("The provider's address is private or reserved, which is not allowed here.")
        sock = self._first_that_accepts(found)
        sock.settimeout(max(0.001, self.connect_by - time.monotonic()))
        return sock

    def _first_that_accepts(self, found: Sequence[Any]) -> socket.socket:
        """Each address gets its share of what is left, so that a dead one leaves time for the next."""
        last: OSError = OSError("no address")
        for place, (family, kind, protocol, _, address) in enumerate(found):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(max(0.001, (self.connect_by - time.monotonic()) / (len(found) - place)))
                sock.connect(address)
            except OSError as error:
                sock.close()
                last = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        if isinstance(last, TimeoutError):
            raise ConnectTimeoutError(self, "timed out") from last
        raise NewConnectionError(self, str(last)) from last  # type: ignore[arg-type]


class _Plain(_ByDeadline, HTTPConnection):
    known: Mapping[str, str] = MappingProxyType({})
    """What a proxy in between wants to see."""


class _Secure(_ByDeadline, HTTPSConnection):
    """What its proxy wants to see goes with the request for a tunnel alone."""


@cache
def system_trust() -> ssl.SSLContext:
    """The system's authorities: some 40 ms to read, so that is done once a process. Nobody may change it."""
    return ssl.create_default_context()


def _other_trust(verify: bool, ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Transport:
    """The kept connections of one provider; shared by threads.

    ``verify``: check certificates (``HTTPX_CLIENT_VERIFY``). ``size``: connections kept for the next call.
    ``proxy_for``: the address of the proxy for a scheme and host, or None. ``admits``: which addresses may be dialled
    (a proxy dials for itself); None: all. ``connect_s``: until a connection stands, handshake and all
    (`CONNECT_SECONDS` where nothing is said).
    ``first_byte_s``: from the question to the answer's first byte; None: as long as the call may take.
    """

    def __init__(
        self,
        *,
        verify: bool = True,
        size: int = 256,
        ca_file: str | None = None,
        proxy_for: Callable[[str, str], str | None] | None = None,
        admits: Callable[[str], bool] | None = None,
        connect_s: float | None = None,
        first_byte_s: float | None = None,
    ) -> None:
        self._admits = admits
        self._connect_s = connect_s or CONNECT_SECONDS
        self._first_byte_s = first_byte_s
        self._context = system_trust() if verify and ca_file is None else _other_trust(verify, ca_file)
        self._size = size
        self._proxy_for = proxy_for
        self._idle: dict[tuple[str, str, int], deque[tuple[Any, float]]] = {}
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def begin(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, deadline: float
    ) -> Exchange:
        """Connect and send one request, until ``deadline`` (monotonic seconds).

        Redirects are not followed and nothing is tried twice. Raises a `ProviderFailure`.
        """
        left = deadline - time.monotonic()
        if left <= 0:
            raise ProviderTimeout("There was no time left to ask the provider.", may_be_billed=False)
        parts = urlsplit(url)
        place = (parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        connection = self._take(place)
        if connection.proxy is not None and parts.scheme == "http":
            target, headers = f"{parts.scheme}://{parts.netloc}{target}", {**headers, **connection.known}
        try:
            self._connect(connection, deadline)
            with foreign_errors(sent=False):
                connection.timeout = max(0.001, deadline - time.monotonic())
                connection.request(
                    method, target, body=body, headers=headers, preload_content=False, decode_content=False
                )
        except BaseException:
            connection.close()
            raise
        first_byte_by = None if self._first_byte_s is None else time.monotonic() + self._first_byte_s
        return Exchange(connection, partial(self._keep, place), first_byte_by)

    def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, deadline: float
    ) -> Response:
        """`begin`, then wait for the answer's headers."""
        return self.begin(method, url, headers=headers, body=body, deadline=deadline).response(deadline)

    def _connect(self, connection: Any, deadline: float) -> None:
        if connection.sock is None:
            connection.connect_by = min(time.monotonic() + self._connect_s, deadline)
            with foreign_errors(sent=False, connecting=True):
                connection.connect()

    def _take(self, place: tuple[str, str, int]) -> Any:
        """A kept connection that is still open, or a new one that is not yet connected."""
        while True:
            with self._lock:
                if self._owner != os.getpid():  # over a fork they are the parent's
                    self._owner, self._idle = os.getpid(), {}
                idle = self._idle.get(place)
                connection, since = idle.pop() if idle else (None, 0.0)
            if connection is None:
                return self._new(place)
            if connection.is_connected and time.monotonic() - since < IDLE_SECONDS:
                return connection
            connection.close()

    def _new(self, place: tuple[str, str, int]) -> Any:
        scheme, host, port = place
        proxy = self._proxy_for(scheme, host) if self._proxy_for else None
        if not proxy:
            secure = scheme == "https"
            direct = _Secure(host, port, ssl_context=self._context) if secure else _Plain(host, port)
            direct.admits = self._admits
            return direct
        at = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        where, known = (at.hostname or "", at.port or 3128), _proxy_headers(at.username, at.password)
        if scheme != "https":
            plain = _Plain(*where, proxy=parse_url(proxy))
            plain.known = known
            return plain
        tunnel = _Secure(*where, ssl_context=self._context)
        tunnel.set_tunnel(host, port, headers=known)
        return tunnel

    def _keep(self, place: tuple[str, str, int], connection: Any) -> None:
        now, old = time.monotonic(), []
        with self._lock:
            idle = self._idle.setdefault(place, deque())
            while idle and now - idle[0][1] >= IDLE_SECONDS:
                old.append(idle.popleft()[0])
            if len(idle) < self._size and connection.sock is not None:
                idle.append((connection, now))
            else:
                old.append(connection)
        for each in old:
            each.close()

    def close(self) -> None:
        """Drop every kept connection, and keep none that comes back later."""
        with self._lock:
            self._size = 0
            kept = [connection for idle in self._idle.values() for connection, _ in idle]
            self._idle.clear()
        for connection in kept:
            connection.close()


def _proxy_headers(user: str | None, password: str | None) -> dict[str, str]:
    if not user:
        return {}
    return dict(make_headers(proxy_basic_auth=f"{unquote(user)}:{unquote(password or '')}"))
