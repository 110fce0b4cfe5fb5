"""The one way out to places that a caller names: S1's external calls, callbacks, images that we fetch.

The check sits in the connection: a name is resolved once, every address it has must be allowed, and the socket must
have reached the very one that was checked; so neither redirects nor retries nor a changed name server go round it.
There is no pool, no proxy, no cookie and no netrc (each of them was measured to leak with requests), and one monotonic
deadline holds over all of a call: a read time-out starts anew with every packet, and a drip of 2 s lasted 11 s.
The reasons stand in ``docs/adr/0006-outgoing-calls.md``.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import urljoin

from flaskllm.errors import ExternalError, ExternalTimeout, ForbiddenTarget, InvalidRequest, invalid
from flaskllm.net.addresses import (
    MOST_NAMED,
    PORTS,
    Address,
    HostList,
    Resolver,
    Target,
    is_clean,
    is_own,
    is_public,
    look_up,
    may_be_opened,
    parse_url,
    system_resolver,
)
from flaskllm.net.answer import MOST_FIELDS, Answer, Line, seconds_left

CAP = 10 * 2**20
"""Bytes of a decoded body."""
RESOLVE_SECONDS = 5.0
CONNECT_SECONDS = 5.0
MOST_ADDRESSES = 4
"""How many of a name's addresses are tried; a host without IPv6 should still get through."""
MOST_SENT = 32768
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})

Connect = Callable[[Address, int, float], socket.socket]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole answer; ``url`` is the one that gave it, after redirects, ``headers`` know no case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    elapsed_ms: int


# --- what is sent ---------------------------------------------------------------------------------------------------

REFUSED_FIELDS = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "metadata",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-real-ip",
    }
)
REFUSED_PREFIXES = ("metadata-", "proxy-", "x-aws-ec2-metadata-", "x-forwarded-", "x-google-metadata-", "x-metadata-")
KEPT_ACROSS_HOSTS = frozenset({"accept", "content-type", "user-agent"})
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")


def checked_headers(headers: object) -> dict[str, str]:
    """A caller's headers, none of which frames a message, names a route or opens a metadata service.

    Raises `InvalidRequest`, which names the header.
    """
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise invalid("headers", "must be an object")
    seen: set[str] = set()
    for name, value in headers.items():
        _check_field(name, value, seen)
    if len(headers) > MOST_FIELDS or sum(len(name) + len(value) for name, value in headers.items()) > MOST_SENT:
        raise invalid("headers", f"must be at most {MOST_FIELDS}, and {MOST_SENT} bytes")
    return {name: value.strip() for name, value in headers.items() if name.lower() != "accept-encoding"}


def _check_field(name: object, value: object, seen: set[str]) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise invalid("headers", "must have names of letters, digits and hyphens")
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise invalid(f"headers.{name[:MOST_NAMED]}", "must be a string of Latin-1 without control characters")
    plain = name.lower().replace("_", "-")  # many servers read both as one
    if plain in REFUSED_FIELDS or plain.startswith(REFUSED_PREFIXES):
        raise invalid(f"headers.{name[:MOST_NAMED]}", "may not be set")
    if plain in seen:
        raise invalid(f"headers.{name[:MOST_NAMED]}", "stands there twice")
    seen.add(plain)


@dataclass(frozen=True, slots=True)
class _Ask:
    """One request, as its parts."""

    method: str
    target: Target
    headers: Mapping[str, str]
    body: bytes | None

    def head(self) -> bytes:
        """Lines of ours first: a caller's header can neither replace nor repeat them."""
        fields = {"Host": self.target.authority, "Connection": "close", "Accept-Encoding": "identity"}
        if self.body is not None or self.method in {"POST", "PUT", "PATCH"}:
            fields["Content-Length"] = str(len(self.body or b""))
        given = {name.lower() for name in self.headers}
        defaults = {"Accept": "*/*", "User-Agent": "FlaskLLM"}
        fields |= {name: value for name, value in defaults.items() if name.lower() not in given}
        lines = [f"{self.method} {self.target.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in (*fields.items(), *self.headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def redirected(self, status: int, target: Target) -> _Ask:
        """The request at its new place. Raises `ExternalError` where it must not go there."""
        if (self.target.scheme, target.scheme) == ("https", "http"):
            raise ExternalError("The target redirects from https to http.")
        if not _same_place(self.target, target):
            if self.method not in {"GET", "HEAD"} or self.body is not None:
                raise ExternalError(f"The target redirects a {self.method} to another host.")
            headers = {name: value for name, value in self.headers.items() if name.lower() in KEPT_ACROSS_HOSTS}
            return replace(self, target=target, headers=headers)
        if (status == 303 and self.method != "HEAD") or (status in {301, 302} and self.method == "POST"):
            headers = {name: value for name, value in self.headers.items() if not name.lower().startswith("content-")}
            return _Ask("GET", target, headers, None)
        return replace(self, target=target)


def _same_place(old: Target, new: Target) -> bool:
    """The same host and port, or its step from plain HTTP up to TLS."""
    upgrade = (old.scheme, old.port, new.scheme, new.port) == ("http", 80, "https", 443)
    return old.host == new.host and (upgrade or (old.scheme, old.port) == (new.scheme, new.port))


# --- the session ----------------------------------------------------------------------------------------------------


def dial(ip: Address, port: int, seconds: float) -> socket.socket:
    """A connection to one address: no name is involved any more."""
    sock = socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        sock.connect((str(ip), port))
    except BaseException:
        sock.close()
        raise
    return sock


@cache
def system_trust() -> ssl.SSLContext:
    """The system's authorities: some 40 ms to read, so that is done once a process. Nobody may change it."""
    return ssl.create_default_context()


class PublicSession:
    """What may leave, and where to. Has no state that changes, so threads may share it.

    ``allowed_hosts``: where given, nothing else may be called (``EXTERNAL_ALLOWED_HOSTS``; ``*.example.org`` is a
    pattern). ``private_hosts``: single hosts that may stand at private addresses and are allowed besides
    (``EXTERNAL_PRIVATE_HOSTS``). Both are ``host`` or ``host:port``; `HostList` says which ports that opens.
    ``ca_file``: trusted besides the system's authorities. ``threads``: whether a started thread runs here.
    ``resolve``, ``connect``: for tests.
    """

    def __init__(
        self,
        allowed_hosts: Sequence[str] = (),
        private_hosts: Sequence[str] = (),
        resolve: Resolver | None = None,
        ca_file: str | None = None,
        *,
        threads: bool = True,
        connect: Connect = dial,
    ) -> None:
        self._allowed = HostList(allowed_hosts, private=False)
        self._private = HostList(private_hosts, private=True)
        self._resolve = resolve or system_resolver
        self._threads = threads
        self._connect = connect
        self._context = system_trust()
        if ca_file:
            self._context = ssl.create_default_context()
            self._context.load_verify_locations(ca_file)

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        timeout_s: float = 30.0,
        max_retries: int = 0,
        cap: int = CAP,
        follow: int = 5,
    ) -> Fetched:
        """Ask once, and follow up to ``follow`` redirects; with 0 a redirect is the answer.

        ``max_retries`` counts for idempotent methods, and only before any byte of an answer came. Raises
        `InvalidRequest` (names ``url``, ``headers.X`` or ``params.x``), `ForbiddenTarget`, `ExternalTimeout` or
        `ExternalError`. With a ``cap`` of 0 the body is not read at all.
        """
        if method not in METHODS:
            raise invalid("method", f"must be one of {', '.join(sorted(METHODS))}")
        began = time.monotonic()
        ask = _Ask(method, parse_url(url).with_params(params), checked_headers(headers), body)
        with _told():
            ask, answer, content = self._follow(ask, began + timeout_s, max_retries, cap, follow)
        elapsed = round((time.monotonic() - began) * 1000)
        return Fetched(answer.status, answer.shown_headers(), content, ask.target.url, elapsed)

    def check(self, url: str, field: str = "url") -> None:
        """Refuse what is plain from the text alone, without asking a name server: for URLs that are called later."""
        target = parse_url(url, field)
        private = self._admit(target, field)
        if target.literal is not None:
            _refuse_unless(_fits(target.literal, private), field)

    def _follow(self, ask: _Ask, deadline: float, retries: int, cap: int, follow: int) -> tuple[_Ask, Answer, bytes]:
        for _ in range(follow + 1):
            line, answer = self._ask(ask, deadline, retries)
            with contextlib.closing(line):
                place = answer.location() if follow else None
                if place is None:
                    return ask, answer, answer.body(cap) if cap else b""
            ask = ask.redirected(answer.status, _next_target(ask.target, place))
        raise ExternalError(f"The target redirects more than {follow} times.")

    def _ask(self, ask: _Ask, deadline: float, retries: int) -> tuple[Line, Answer]:
        """Up to the answer's headers. The name is resolved once, also for a second try."""
        addresses = self._addresses(ask.target, deadline)
        attempt = 0
        while True:
            line: Line | None = None
            try:
                line = self._open(ask.target, addresses, deadline)
                line.send(ask.head() + (ask.body or b""))
                return line, Answer(line, ask.method)
            except BaseException as error:
                if line is not None:
                    line.close()
                if attempt >= retries or not _may_repeat(ask, line, error):
                    raise
            time.sleep(min(random.uniform(0, 0.2 * 2**attempt), seconds_left(deadline)))  # noqa: S311 (no secret)
            attempt += 1

    def _admit(self, target: Target, field: str = "url") -> bool:
        """Whether the host is one that was opened by name. Raises `ForbiddenTarget` for what no address would save."""
        private = self._private.has(target)
        _refuse_unless(private or not self._allowed or self._allowed.has(target), field)
        _refuse_unless(private or target.port in PORTS or self._allowed.has_port(target), field)
        # A name of one label is a neighbour's: a hosts file's, or one that a search domain completes.
        _refuse_unless(private or target.literal is not None or "." in target.host, field)
        return private

    def _addresses(self, target: Target, deadline: float) -> list[Address]:
        """What may be dialled: all of the name's addresses, or nothing if one of them is refused."""
        private = self._admit(target)
        literal = target.literal
        found = [literal] if literal else self._look_up(target, private, deadline)
        for ip in found:
            _refuse_unless(_fits(ip, private))
        return found[:MOST_ADDRESSES]

    def _look_up(self, target: Target, private: bool, deadline: float) -> list[Address]:
        """Once. A public name is asked for as it stands, by its closing dot: no search domain may complete it."""
        name = target.host if private else f"{target.host}."
        seconds = min(RESOLVE_SECONDS, seconds_left(deadline))
        return look_up(self._resolve, name, target.port, seconds, threads=self._threads)

    def _open(self, target: Target, addresses: list[Address], deadline: float) -> Line:
        line = Line(self._reach(target, addresses, deadline), deadline)
        try:
            if target.scheme == "https":
                line.secure(self._context, target.host)
        except BaseException:
            line.close()
            raise
        return line

    def _reach(self, target: Target, addresses: list[Address], deadline: float) -> socket.socket:
        """The first address that answers; trying the next repeats nothing, for nothing was sent."""
        for ip in addresses[:-1]:
            with contextlib.suppress(OSError):
                return self._dialled(ip, target.port, deadline)
        return self._dialled(addresses[-1], target.port, deadline)

    def _dialled(self, ip: Address, port: int, deadline: float) -> socket.socket:
        """A socket that has reached the address that was checked, and no other."""
        sock = self._connect(ip, port, min(CONNECT_SECONDS, seconds_left(deadline)))
        try:
            peer = sock.getpeername()
            _refuse_unless((ip_address(peer[0]), peer[1]) == (ip, port))
        except BaseException:
            sock.close()
            raise
        return sock


def _fits(ip: Address, private: bool) -> bool:
    return may_be_opened(ip) if private else is_public(ip) and not is_own(ip)


def _refuse_unless(allowed: bool, field: str = "url") -> None:
    """One sentence for all reasons, so that the answer tells nothing of what a name resolved to."""
    if not allowed:
        message = "is not open to calls from here"
        raise ForbiddenTarget(f"{field}: {message}", details=[{"field": field, "message": message}])


def _may_repeat(ask: _Ask, line: Line | None, error: BaseException) -> bool:
    """Nothing came, the method bears it, and it is the network that failed: a bad certificate stays bad."""
    broken = isinstance(error, OSError) and not isinstance(error, ssl.SSLCertVerificationError)
    return broken and ask.method in IDEMPOTENT and (line is None or not line.came)


def _next_target(base: Target, place: str) -> Target:
    """Where a Location points to. It is checked before it is joined, for ``urljoin`` drops tabs and line ends."""
    with contextlib.suppress(UnicodeError):
        place = place.encode("latin-1").decode("utf-8")
    try:
        if is_clean(place):
            return parse_url(urljoin(base.url, place))
    except (InvalidRequest, ValueError):
        pass
    raise ExternalError("The target redirects to a malformed address.") from None


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turns the network's exceptions into ours, with no word of theirs but the certificate's fault."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise ExternalError(f"The target's certificate is bad: {error.verify_message}.") from None
    except TimeoutError:
        raise ExternalTimeout("The target did not answer in time.") from None
    except (OSError, zlib.error):
        raise ExternalError("The target cannot be reached, or broke its answer off.") from None
