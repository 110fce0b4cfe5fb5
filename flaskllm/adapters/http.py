"""How bytes reach a provider and come back: one urllib3 pool a provider, deadlines that a drip cannot stretch.

urllib3's read time-out starts anew with every packet, so an upstream that drips one byte a second is never timed out.
Here every ``recv`` gets what is left until the call's deadline (``docs/promises.md``, "Upstream faults").
"""

from __future__ import annotations

import io
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.client import HTTPResponse as PlainResponse
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from flaskllm.errors import ProviderError, ProviderFailure, ProviderTimeout, ProviderUnreachable

CONNECT_SECONDS = 5.0
BODY_CAP = 20 * 2**20
"""Bytes of an unstreamed answer (``docs/promises.md``)."""
PIECE = 65536

_calling = threading.local()


class _DeadlineReader(io.RawIOBase):
    """A socket's bytes until a moment of ``time.monotonic()``, or only what is there already."""

    def __init__(self, sock: Any, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline
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
    """http.client's response, reading through a `_DeadlineReader`."""

    def __init__(self, sock: Any, *args: Any, keep: Callable[[_DeadlineReader], None], **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        reader = _DeadlineReader(sock, _calling.deadline)
        self.fp = io.BufferedReader(reader, PIECE)
        keep(reader)


class _DeadlineConnection:
    """What both connection classes have in common."""

    reader: _DeadlineReader

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.response_class = partial(_DeadlineResponse, keep=self._keep)

    def _keep(self, reader: _DeadlineReader) -> None:
        self.reader = reader

    def getresponse(self) -> Any:
        response = super().getresponse()  # type: ignore[misc]
        response.deadline_reader = self.reader
        return response


class _HttpConnection(_DeadlineConnection, HTTPConnection):
    pass


class _HttpsConnection(_DeadlineConnection, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection  # type: ignore[assignment]


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection  # type: ignore[assignment]


class Response:
    """A provider's answer whose headers have come and whose body is still to be read."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._reader: _DeadlineReader = raw.deadline_reader
        self._buffer: io.BufferedReader | None = raw._fp.fp
        self.status: int = raw.status
        self.headers: Mapping[str, str] = raw.headers
        self._pieces: Iterator[bytes] | None = None

    @property
    def content_type(self) -> str:
        return (self.headers.get("content-type") or "").partition(";")[0].strip().lower()

    def read(self, cap: int = BODY_CAP) -> bytes:
        """The whole body, at most ``cap`` bytes; then the connection is free for the next call.

        Raises `ProviderError` on a cut, a broken framing or an excess, `ProviderTimeout` at the deadline.
        """
        try:
            with _foreign_errors(sent=True):
                body = self._read_up_to(cap)
        except BaseException:
            self.close()
            raise
        self._raw.release_conn()
        return body

    def _read_up_to(self, cap: int) -> bytes:
        pieces, size = [], 0
        while piece := self._raw.read(PIECE, decode_content=True):
            size += len(piece)
            if size > cap:
                raise ProviderError(f"The provider's answer is larger than {cap} bytes.", may_be_billed=True)
            pieces.append(piece)
        return b"".join(pieces)

    def fileno(self) -> int:
        return int(self._reader.sock.fileno())

    def set_deadline(self, deadline: float) -> None:
        self._reader.deadline = deadline

    def has_buffered(self) -> bool:
        """Whether bytes can be read without waiting; also sees an end or a reset that has come."""
        if self._buffer is None or self._buffer.closed:
            return True
        self._reader.only_what_is_there = True
        try:
            return bool(self._buffer.peek(1)) or self._reader.ended
        except OSError:
            return True
        finally:
            self._reader.only_what_is_there = False

    def next_piece(self) -> bytes | None:
        """The next bytes of a streamed body; None at its end.

        Raises `ProviderError` or `ProviderTimeout`.
        """
        with _foreign_errors(sent=True):
            if self._raw.chunked:
                if self._pieces is None:
                    self._pieces = self._raw.stream(PIECE, decode_content=False)
                return next(self._pieces, None)
            return self._raw.read1(PIECE, decode_content=False) or None

    def finish(self) -> None:
        """After the last frame: give the connection back if the body's end has come too, else close it."""
        self.set_deadline(time.monotonic() + 0.05)
        try:
            while self.next_piece() is not None:
                pass
        except ProviderFailure:
            self.close()
        else:
            self._raw.release_conn()

    def close(self) -> None:
        """Drop the connection: a half-read one never goes back to the pool."""
        self._raw.close()


class _foreign_errors:  # noqa: N801  (reads as a word where it is used)
    """Turns urllib3's and the socket's exceptions into ours.

    The order matters: urllib3's `NewConnectionError` (refused, unknown name) is a subclass of `ConnectTimeoutError`.
    """

    def __init__(self, *, sent: bool) -> None:
        self._sent = sent

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, HTTPError | OSError | ValueError):
            raise self._translate(error) from None

    def _translate(self, error: BaseException) -> ProviderFailure:
        if isinstance(error, NewConnectionError):
            return ProviderUnreachable("The provider cannot be reached.")
        if isinstance(error, ConnectTimeoutError):
            return ProviderTimeout("The provider did not accept a connection in time.", may_be_billed=False)
        if isinstance(error, ReadTimeoutError | TimeoutError) or isinstance(error.__context__, TimeoutError):
            return ProviderTimeout("The provider did not answer in time.")
        if isinstance(error, SSLError | ssl.SSLError):
            return ProviderUnreachable("The provider's certificate or TLS handshake is bad.")
        if isinstance(error, ProtocolError | HTTPError | OSError) and not self._sent:
            return ProviderError("The provider closed the connection without an answer.", may_be_billed=False)
        return ProviderError("The provider's answer broke off or was malformed.", may_be_billed=True)


class Transport:
    """The pools of one provider; shared by threads.

    ``verify``: check certificates (``HTTPX_CLIENT_VERIFY``). ``size``: connections kept for the next call.
    """

    def __init__(self, *, verify: bool = True, size: int = 256, ca_file: str | None = None) -> None:
        context = ssl.create_default_context(cafile=ca_file)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self._pools = urllib3.PoolManager(num_pools=16, maxsize=size, block=False, retries=False, ssl_context=context)
        self._pools.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def send(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, deadline: float) -> Response:
        """Send one request and wait for the answer's headers, until ``deadline`` (monotonic seconds).

        Redirects are not followed and nothing is tried twice. Raises a `ProviderFailure`.
        """
        left = deadline - time.monotonic()
        if left <= 0:
            raise ProviderTimeout("There was no time left to ask the provider.", may_be_billed=False)
        _calling.deadline = deadline
        with _foreign_errors(sent=False):
            raw = self._pools.urlopen(
                method,
                url,
                headers=headers,
                body=body,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                assert_same_host=False,
                timeout=urllib3.Timeout(connect=min(CONNECT_SECONDS, left), read=left),
            )
        return Response(raw)
