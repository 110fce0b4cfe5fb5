"""Where a call to the outside may go: a URL grammar of our own, an address table of our own, and the resolver's leash.

The standard library decides neither question. ``ipaddress.is_global`` is True for 24 of the 57 special addresses that
must be refused, differs between Pythons, and a URL is read differently by each library that reads it (both measured:
``docs/adr/0006-outgoing-calls.md``). So a URL is taken apart once, here, and requests are built from the parts.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from encodings.idna import nameprep
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from stringprep import in_table_a1
from typing import Any
from urllib.parse import quote, urlencode

from flaskllm.errors import invalid

Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], Iterable[str | Address]]

# --- addresses ------------------------------------------------------------------------------------------------------

NOT_PUBLIC_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network; Linux connects 0.0.0.0 to itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' shared space: neither private nor global in Python
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's wire server, public by number
        "169.254.0.0/16",  # link-local: the metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; .192 is a metadata service
        "192.0.2.0/24",
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
PUBLIC_V6 = IPv6Network("2000::/3")
NOT_PUBLIC_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # Teredo, benchmarking, ORCHID: protocol assignments
        "2001:db8::/32",
        "2002::/16",  # 6to4 embeds any IPv4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",
    )
)
ISATAP = (0x00005EFE, 0x02005EFE)
"""The third quarter of an address whose last one is an IPv4 address (RFC 5214)."""

PRIVATE = tuple(
    IPv4Network(text) for text in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
) + tuple(IPv6Network(text) for text in ("::1/128", "fc00::/7"))
METADATA = frozenset(
    ip_address(text)
    for text in ("100.100.100.200", "fd00:ec2::254", "fd20:ce::254", "fd00:42::42", "fd00:c1::a9fe:a9fe")
)
"""Metadata services inside private ranges; the others are link-local and in no list of ours."""


def is_public(ip: str | Address) -> bool:
    """Whether an address is one of the public internet's; everything that is not known to be is refused (5.9).

    >>> is_public("93.184.216.34"), is_public("::ffff:93.184.216.34"), is_public("168.63.129.16")
    (True, False, False)
    """
    address = ip_address(ip)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in NOT_PUBLIC_V4)
    if address.scope_id is not None or address not in PUBLIC_V6:
        return False
    return (int(address) >> 32) & 0xFFFFFFFF not in ISATAP and not any(address in network for network in NOT_PUBLIC_V6)


def may_be_opened(ip: str | Address) -> bool:
    """Whether a private host that an operator names may stand at this address: link-local and metadata never (5.10)."""
    address = ip_address(ip)
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return False
    private = any(address in network for network in PRIVATE if network.version == address.version)
    return (private and address not in METADATA) or is_public(address)


def is_own(ip: Address) -> bool:
    """Whether this host itself would answer there: a public address of ours has private doors behind it.

    Connecting a datagram socket sends nothing; the kernel takes the address itself as the source where it is local,
    which also finds a load balancer's address that is routed to us and stands on no interface. Addresses on the
    loopback device do not count: the table refuses the usual ones, and the corpus puts its public stand-in there.
    """
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(ip), 9))
            source = ip_address(probe.getsockname()[0])
    except OSError:
        return False  # no way there, so no connection either
    return source == ip and ip not in _on_loopback_device()


def _on_loopback_device() -> set[Address]:
    """What stands on Linux's ``lo``; nothing elsewhere, which refuses more."""
    found: set[Address] = set()
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            found.update(_loopback_v4())
        with contextlib.suppress(OSError):
            rows = [line.split() for line in Path("/proc/net/if_inet6").read_text("ascii").splitlines()]
            found.update(IPv6Address(int(row[0], 16)) for row in rows if row[-1] == "lo")
    return found


def _loopback_v4() -> Iterable[IPv4Address]:
    """By SIOCGIFCONF, whose rows are 40 bytes: a name of 16, then a ``sockaddr_in`` with its address at 4."""
    import array
    import fcntl

    rows = array.array("B", bytes(40 * 256))
    where, size = rows.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        reply = fcntl.ioctl(probe.fileno(), 0x8912, struct.pack("iP", size, where))
    filled = rows.tobytes()[: struct.unpack("iP", reply)[0]]
    for start in range(0, len(filled), 40):
        if filled[start : start + 16].split(b"\0")[0].split(b":")[0] == b"lo":
            yield IPv4Address(filled[start + 20 : start + 24])


# --- names ----------------------------------------------------------------------------------------------------------

_LOOKUPS = threading.BoundedSemaphore(64)
"""A name server that never answers may hold so many threads and no more."""


def system_resolver(host: str, port: int) -> list[str]:
    return [str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def look_up(resolve: Resolver, host: str, port: int, seconds: float, *, threads: bool = True) -> list[Address]:
    """A name's addresses, each once. Raises `OSError`; a `TimeoutError` where the answer does not come in time.

    ``getaddrinfo`` takes no time limit, so it runs in a thread that is left behind when it is late. Without
    ``threads`` (uWSGI as on PythonAnywhere, where a started thread never runs) the system's own limits hold.
    """
    if not threads:
        found = _resolved(resolve, host, port)
        if not found:
            raise OSError("the name cannot be resolved")
        return found
    return _look_up_aside(resolve, host, port, seconds)


def _resolved(resolve: Resolver, host: str, port: int) -> list[Address]:
    """Raises `OSError` for whatever keeps a name from having addresses."""
    try:
        return list(dict.fromkeys(ip_address(ip) for ip in resolve(host, port)))
    except ValueError as error:  # a UnicodeError, too, is a ValueError
        raise OSError("the name cannot be resolved") from error


def _look_up_aside(resolve: Resolver, host: str, port: int, seconds: float) -> list[Address]:
    """In a thread that is left behind when it is late."""
    slots = _LOOKUPS
    if not slots.acquire(timeout=max(seconds, 0)):
        raise TimeoutError("too many names are being looked up")
    found: list[Address] = []
    done = threading.Event()

    def work() -> None:
        try:
            found.extend(_resolved(resolve, host, port))
        except OSError:
            found.clear()
        finally:
            slots.release()
            done.set()

    try:
        threading.Thread(target=work, name="look-up", daemon=True).start()
    except RuntimeError:
        slots.release()
        raise OSError("no thread is to be had for a look-up") from None
    if not done.wait(max(seconds, 0)):
        raise TimeoutError("the name was not resolved in time")
    if not found:
        raise OSError("the name cannot be resolved")
    return found


# --- URLs -----------------------------------------------------------------------------------------------------------

MOST_URL = 2048
MOST_TARGET = 8192
"""Bytes of a path with its query, ``params`` added."""
MOST_NAMED = 80
"""Characters of a field's name that an error repeats."""
PORTS = frozenset({80, 443, 8000, 8080, 8443})
"""What may be called on a host that an operator has not named with another port (corpus, ``ssrf.url``)."""
_DEFAULT_PORT = {"http": 80, "https": 443}
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]{2,45}\]|[^/?#:@\[\]]+)(?::(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?:#.*)?",
    re.IGNORECASE | re.ASCII,
)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"}


@dataclass(frozen=True, slots=True)
class Target:
    """A URL's parts as they go out: ``host`` in ASCII and lower case, ``path`` with its query, all quoted."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def literal(self) -> Address | None:
        """The address, where the host is one."""
        with contextlib.suppress(ValueError):
            return ip_address(self.host)
        return None

    @property
    def authority(self) -> str:
        """As the ``Host`` header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORT[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    def with_params(self, params: Mapping[str, Any] | None) -> Target:
        """The same with a query added. Raises `InvalidRequest`, which names the parameter."""
        if params is None:
            return self
        if not isinstance(params, Mapping):
            raise invalid("params", "must be an object")
        added = encoded_fields(params, "params")
        path = f"{self.path}{'&' if '?' in self.path else '?'}{added}" if added else self.path
        if len(path) > MOST_TARGET:
            raise invalid("params", f"must be at most {MOST_TARGET} bytes together with the path")
        return replace(self, path=path)


def parse_url(text: object, field: str = "url") -> Target:
    """A URL's parts, by a grammar stricter than any library's. Raises `InvalidRequest` naming the field.

    >>> parse_url("HTTP://Bücher.example:8080?q=ö#top").url
    'http://xn--bcher-kva.example:8080/?q=%C3%B6'
    """
    if not isinstance(text, str):
        raise invalid(field, "must be a string")
    try:
        return _parse(text)
    except ValueError as fault:
        raise invalid(field, str(fault)) from None


def _parse(text: str) -> Target:
    if len(text) > MOST_URL or len(text.encode("utf-8", "surrogatepass")) > MOST_URL:
        raise ValueError(f"must be at most {MOST_URL} bytes long")
    if not is_clean(text):
        raise ValueError("must hold no backslash, white space, control or invisible character")
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise ValueError("must carry no user name or password")
    parts = _URL.fullmatch(text)
    if parts is None:
        raise ValueError("must be http:// or https://, a host and a path")
    scheme = parts["scheme"].lower()
    port = int(parts["port"] or _DEFAULT_PORT[scheme])
    if port > 65535:
        raise ValueError("must have a port from 1 to 65535")
    return Target(scheme, _host(parts["host"]), port, _quoted(parts["path"] or "/") + _quoted(parts["query"] or ""))


def is_clean(text: str) -> bool:
    """Nothing that one reader skips and another does not: the standard library's drops tabs and line ends."""
    return "\\" not in text and not any(unicodedata.category(character) in _UNSEEN for character in text)


def _host(text: str) -> str:
    """In ASCII and lower case. An address has one spelling: of ``127.1``, ``0x7f.1`` and their like none is a name."""
    if text.startswith("["):
        with contextlib.suppress(ValueError):
            return str(IPv6Address(text[1:-1]))
        raise ValueError("must have a valid IPv6 address in its brackets")
    labels = [_label(label) for label in text.removesuffix(".").split(".")]
    host = ".".join(labels)
    if len(host) > 253:
        raise ValueError("must have a host of at most 253 characters")
    if _NUMBER.fullmatch(labels[-1]):
        with contextlib.suppress(ValueError):
            return str(IPv4Address(host))
        raise ValueError("must write an IPv4 address as four decimal numbers")
    return host


def _label(text: str) -> str:
    label = text.lower() if text.isascii() else _punycode(text)
    if not _LABEL.fullmatch(label) or (label.startswith("xn--") and not _decodes(label[4:])):
        raise ValueError("must have a valid host name")
    return label


def _punycode(label: str) -> str:
    """IDNA, for labels on which its two versions agree and that are written as they are meant.

    Nothing is mapped but capitals: full-width digits, ideographic full stops, soft hyphens and ß are where readers
    differ (measured: httpx maps what urllib3 refuses), so they are refused.
    """
    lowered = label.lower()
    plain = unicodedata.normalize("NFKC", label) == label and lowered[2:4] != "--" and _is_word(lowered)
    with contextlib.suppress(UnicodeError):
        if plain and nameprep(lowered) == lowered:
            return "xn--" + lowered.encode("punycode").decode("ascii")
    raise ValueError("must have a valid host name")


def _is_word(label: str) -> bool:
    """Letters, marks, digits and hyphens that the tables of IDNA's first version know already."""
    return all(sign == "-" or (unicodedata.category(sign)[0] in "LMN" and not in_table_a1(sign)) for sign in label)


def _decodes(text: str) -> bool:
    try:
        name = text.encode("ascii").decode("punycode")
        return not name.isascii() and _is_word(name) and name.encode("punycode").decode("ascii") == text
    except UnicodeError:
        return False


def _quoted(text: str) -> str:
    if _BARE_PERCENT.search(text):
        raise ValueError("must have two hexadecimal digits after each %")
    return quote(text, safe="/?:@!$&'()*+,;=[]~%")


def encoded_fields(given: Mapping[Any, Any], field: str) -> str:
    """A query's or a form's text: lists repeat the name, null is left out, and booleans are spelled as in JSON.

    Raises `InvalidRequest` naming ``field.name``.
    """
    return urlencode([pair for name, value in given.items() for pair in _pairs(name, value, field)])


def _pairs(name: object, value: object, field: str) -> list[tuple[str, str]]:
    if not isinstance(name, str):
        raise invalid(field, "must have names that are strings")
    values = value if isinstance(value, list | tuple) else [value]
    try:
        return [(_utf8(name), _utf8(_plain(one))) for one in values if one is not None]
    except ValueError as fault:
        raise invalid(f"{field}.{name[:MOST_NAMED]}" if is_clean(name) else field, str(fault)) from None


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError("must be text, a number, a boolean, or a list of these")


def _utf8(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode") from None
    return text


class HostList:
    """Hosts that an operator named: ``host``, ``host:port`` and, unless it is ``private``, ``*.example.org``.

    A port that is named is open for that host. Without one a private host is open at all of them, for what stands
    there seldom has a usual one; a public host at the usual `PORTS`.
    """

    def __init__(self, entries: Sequence[str], *, private: bool) -> None:
        self._private = private
        self._entries = {_entry(entry) for entry in entries}
        if private and any(host.startswith("*") for host, _ in self._entries):
            raise ValueError("a private host is opened by its whole name, not by a pattern")

    def __bool__(self) -> bool:
        return bool(self._entries)

    def has(self, target: Target) -> bool:
        return self.has_port(target) or ((self._private or target.port in PORTS) and self._has(target.host, None))

    def has_port(self, target: Target) -> bool:
        """Whether the host is named together with its port."""
        return self._has(target.host, target.port)

    def _has(self, host: str, port: int | None) -> bool:
        labels = host.split(".")
        names = [host, *(f"*.{'.'.join(labels[start:])}" for start in range(1, len(labels)))]
        return any((name, port) in self._entries for name in names)


def _entry(text: str) -> tuple[str, int | None]:
    """
    >>> _entry("[::1]:8080"), _entry("*.example.org")
    (('::1', 8080), ('*.example.org', None))
    """
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    pattern = "*." if text.startswith("*.") else ""
    parts = _URL.fullmatch(f"http://{text.removeprefix('*.')}")
    if parts is None or parts["path"] or parts["query"]:
        raise ValueError(f"{text!r} is no host and no host:port")
    return pattern + _host(parts["host"]), int(parts["port"]) if parts["port"] else None
