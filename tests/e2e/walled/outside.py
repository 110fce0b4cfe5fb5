"""Public places that say what a case wants, and canaries on every other address, all on the same ports."""

from __future__ import annotations

import contextlib
import gzip
import io
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from functools import cache
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from tests.certificates import Authority
from tests.e2e.walled.ground import BROKEN, OTHER, PUBLIC, PUBLIC_V6
from tests.places import answer

PORTS = (1, 22, 80, 443, 8000, 8080, 8443, 6379, 27017)
TOLD_BY_CANARIES = "CANARY-what-only-the-inside-may-see"
Behaviour = Callable[[socket.socket, str], None]
OK = answer("ok")
HEAD = "HTTP/1.1 200 OK\r\n"


# -- what a public place says ------------------------------------------------------------------------------------------


def says(data: bytes | str) -> Behaviour:
    return lambda sock, _: sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)


def moved(*places: str, status: str = "302 Found", body: bytes = b"", more: tuple[str, ...] = ()) -> bytes:
    return answer(body, None, status=status, more=(*(f"Location: {place}" for place in places), *more))


@cache
def zeros() -> bytes:
    """300 MB in 290 kB."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:
        for _ in range(300):
            file.write(bytes(2**20))
    return packed.getvalue()


def bomb(sock: socket.socket, _: str) -> None:
    sock.sendall(answer(zeros(), more=("Content-Encoding: gzip",)))


def bomb_on_the_way(sock: socket.socket, path: str) -> None:
    """As the body of a redirect."""
    packed = moved("/there", body=zeros(), more=("Content-Encoding: gzip",))
    sock.sendall(packed if path == "/ok" else OK)


def nested(times: int) -> bytes:
    data = b"small"
    for _ in range(times):
        data = gzip.compress(data)
    return data


def chain(sock: socket.socket, path: str) -> None:
    """Eleven redirects, then an answer."""
    step = int(path.removeprefix("/hop/")) if path.startswith("/hop/") else 0
    sock.sendall(moved(f"/hop/{step + 1}") if step < 11 else OK)


def drip(sock: socket.socket, _: str) -> None:
    sock.sendall(f"{HEAD}Content-Length: 60\r\n\r\n".encode())
    for _second in range(60):
        sock.sendall(b"x")
        time.sleep(1)


def deaf(sock: socket.socket, _: str) -> None:
    time.sleep(30)


def long_headers(sock: socket.socket, _: str) -> None:
    sock.sendall(HEAD.encode())
    for number in range(10_000):
        sock.sendall(f"X-{number}: {'x' * 1000}\r\n".encode())


def reset(sock: socket.socket, _: str) -> None:
    sock.sendall(f"{HEAD}Content-Length: 1000\r\n\r\nhalf".encode())
    hang_up(sock, _)


def hang_up(sock: socket.socket, _: str) -> None:
    """With a reset in place of an end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


LOCATION_HEADERS = (
    "Link: <http://127.0.0.1/>; rel=canonical",
    "Content-Location: http://127.0.0.1/",
)
BEHAVIOURS: dict[str, Behaviour] = {
    "302 to http://private.test/": says(moved("http://private.test/")),
    "302 to //127.0.0.1/": says(moved("//127.0.0.1/")),
    "302 to \\\\127.0.0.1\\": says(moved("\\\\127.0.0.1\\")),
    "302 to http://public.test\\@127.0.0.1/": says(moved("http://public.test\\@127.0.0.1/")),
    "302 to file:///etc/passwd": says(moved("file:///etc/passwd")),
    "302 to gopher://127.0.0.1/": says(moved("gopher://127.0.0.1/")),
    "302 to itself": says(moved("http://public.test/ok")),
    "302 chain of 11": chain,
    "302 with two Location headers": says(moved("http://public.test/there", "http://127.0.0.1/")),
    "302 with empty Location": says(moved("")),
    "302 with CRLF in Location": says(moved("http://public.test/\rX: y")),
    "300 Multiple Choices with Location": says(moved("http://127.0.0.1/", status="300 Multiple Choices")),
    "Refresh: 0;url=http://127.0.0.1/": says(answer("ok", more=("Refresh: 0;url=http://127.0.0.1/",))),
    "Link and Content-Location to 127.0.0.1": says(answer("ok", more=LOCATION_HEADERS)),
    "302 with a 290 kB gzip body that unpacks to 300 MB": bomb_on_the_way,
    "101 Switching Protocols": says("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    "103 Early Hints then 200": says(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK),
    "407 Proxy-Authenticate": says(
        answer("who", status="407 Proxy Authentication Required", more=("Proxy-Authenticate: Basic realm=x",))
    ),
    "gzip 290 kB -> 300 MB": bomb,
    "gzip inside gzip x10": says(answer(nested(10), more=("Content-Encoding: gzip",))),
    "Content-Encoding: gzip, gzip, br, deflate x50": says(
        answer(nested(2), more=(f"Content-Encoding: {', '.join(['gzip, gzip, br, deflate'] * 50)}",))
    ),
    "Content-Encoding: gzip with plain body": says(answer("plain", more=("Content-Encoding: gzip",))),
    "Content-Length smaller than the body": says(f"{HEAD}Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nok more"),
    "1 byte per second": drip,
    "headers 10 MB": long_headers,
    "accepts, never reads": deaf,
    "RST in the middle of the body": reset,
    "HTTP/0.9 body only": says("<html>old</html>"),
    "status line 'HTTP/1.1 99999 x'": says("HTTP/1.1 99999 x\r\nContent-Length: 0\r\n\r\n"),
    "lone surrogates by CESU-8": says(answer(b'"\xed\xa0\x80 and \xed\xb0\x80"', "application/json")),
    "header with bare LF": says(f"{HEAD}X: a\nY: b\r\nContent-Length: 2\r\n\r\nok"),
    "trailer fields": says(f"{HEAD}Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nok\r\n0\r\nX-T: y\r\n\r\n"),
    "TLS: self-signed": says(OK),
    "TLS: expired": says(OK),
    "TLS: wrong name": says(OK),
    "TLS: handshake stalls": says(OK),
    "302 to http://other.test/": says(moved("http://other.test/there")),
    "302 to http://[::ffff:127.0.0.1]/": says(moved("http://[::ffff:127.0.0.1]/")),
    "307 to http://other.test/": says(moved("http://other.test/there", status="307 Temporary Redirect")),
    "sets a cookie": says(answer("ok", more=("Set-Cookie: session=of-somebody; Path=/",))),
    "ok": says(OK),
}
"""By the corpus' words; the last ones are our own."""


# -- who serves --------------------------------------------------------------------------------------------------------


class Outside:
    """Listens on every address at `PORTS`; public ones play the behaviour, all others are canaries."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._words = "ok"
        self._requests: list[dict[str, Any]] = []
        ours, foreign = Authority(_made(folder / "ours")), Authority(_made(folder / "foreign"))
        self.ca_file = ours.file
        self._good = ours.context("public.test")
        self._good.sni_callback = _by_name({"external-api.com": ours.context("external-api.com")})
        self._bad = {
            "TLS: self-signed": foreign.context("public.test"),
            "TLS: expired": ours.context("public.test", days=-1),
            "TLS: wrong name": ours.context("other.test"),
        }
        zeros()  # it takes seconds, and a call has few
        for port in PORTS:
            listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256)
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def script(self, words: str) -> None:
        with self._lock:
            self._words = words
            self._requests.clear()

    def requests(self) -> list[dict[str, Any]]:
        """``ip``, ``port``, the request's bytes as Latin-1, and what came behind it."""
        with self._lock:
            return list(self._requests)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        ip, port = _plain(sock.getsockname()[0]), sock.getsockname()[1]
        with contextlib.suppress(OSError, ValueError), sock:
            sock.settimeout(60)
            if ip == BROKEN:
                hang_up(sock, "")
                return
            with self._lock:
                words = self._words if ip in (PUBLIC, PUBLIC_V6) else "ok"
            if words == "accepts, never reads" or (port == 443 and words == "TLS: handshake stalls"):
                deaf(sock, "")
                return
            line = self._bad.get(words, self._good).wrap_socket(sock, server_side=True) if port == 443 else sock
            with line:
                path = self._read(line, ip, port)
                if ip in (PUBLIC, PUBLIC_V6):
                    BEHAVIOURS[words](line, path)
                else:
                    line.sendall(OK if ip == OTHER else answer(TOLD_BY_CANARIES))
                with contextlib.suppress(OSError):
                    line.shutdown(socket.SHUT_WR)
                    line.settimeout(1)
                    line.recv(1)

    def _read(self, line: socket.socket, ip: str, port: int) -> str:
        """The request as it came; its path."""
        data = b""
        while b"\r\n\r\n" not in data and (piece := line.recv(65536)):
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        size = next(
            (int(field[15:]) for field in head.split(b"\r\n") if field.lower().startswith(b"content-length:")), 0
        )
        while len(body) < size and (piece := line.recv(65536)):
            body += piece
        with self._lock:
            self._requests.append({
                "ip": ip,
                "port": port,
                "raw": (head + b"\r\n\r\n" + body[:size]).decode("latin-1"),
                "behind": body[size:].decode("latin-1"),
            })  # fmt: skip
        return head.split(b" ", 2)[1].decode("latin-1")


def _by_name(others: dict[str, ssl.SSLContext]) -> Callable[[ssl.SSLObject, str, ssl.SSLContext], None]:
    """For names that have a certificate of their own."""

    def choose(line: ssl.SSLObject, name: str, usual: ssl.SSLContext) -> None:
        line.context = others.get(name, usual)

    return choose


def _plain(ip: str) -> str:
    """An IPv4 address as such, also where it came to a socket of both kinds."""
    found = ip_address(ip)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return str(mapped or found)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
