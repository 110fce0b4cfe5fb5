"""nginx as a process, with the shipped ``deploy/nginx.conf``: only places that belong to a machine are put in."""

from __future__ import annotations

import contextlib
import getpass
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.certificates import Authority
from tests.e2e.servers import ROOT, free_port, lacking, wait_for_port

SHIPPED = ROOT / "deploy" / "nginx.conf"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
HOST = "gateway.example.org"


@dataclass
class Proxy:
    """A running nginx: its two ports, its folder with the logs."""

    port: int
    plain_port: int
    folder: Path

    @property
    def logs(self) -> str:
        """All that it wrote of requests and errors."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def connect(self, source: str = "127.0.0.1") -> ssl.SSLSocket:
        """A connection over TLS, from this address of the machine."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        sock = socket.create_connection(("127.0.0.1", self.port), 30, (source, 0))
        return context.wrap_socket(sock, server_hostname=HOST)

    def call(
        self, method: str, path: str, body: Any = None, *, source: str = "127.0.0.1", **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, decoded body (text where it is no JSON), headers in lower case."""
        connection = http.client.HTTPConnection(HOST)
        connection.sock = self.connect(source)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            raw, found = answer.read(), {name.lower(): value for name, value in answer.getheaders()}
            is_json = found.get("content-type", "").startswith("application/json")
            return answer.status, json.loads(raw) if is_json else raw.decode(), found
        finally:
            connection.close()


def wait_for(holds: Callable[[], bool], seconds: float = 5) -> None:
    """Servers write their logs after the answer."""
    ends = time.monotonic() + seconds
    while not holds() and time.monotonic() < ends:
        time.sleep(0.02)
    assert holds()


def binary() -> str:
    """Where nginx is; without one the test is skipped, but not in CI."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    return found or lacking("no nginx: install it (Debian: apt-get install nginx)")


@contextlib.contextmanager
def nginx(folder: Path, gateway_port: int) -> Iterator[Proxy]:
    """The shipped nginx before the gateway on this port."""
    proxy = Proxy(free_port(), free_port(), folder)
    Authority(folder).context(HOST)
    (folder / "nginx.conf").write_text(_placed(proxy, gateway_port))
    with (folder / "start.log").open("wb") as output:
        process = subprocess.Popen(
            [binary(), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"],
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_for_port(proxy.port)
        yield proxy
    finally:
        process.terminate()
        process.wait(10)


def _placed(proxy: Proxy, gateway_port: int) -> str:
    """The shipped text with this machine's user, folders and ports."""
    folder, text = proxy.folder, SHIPPED.read_text()
    temporary = "".join(f"    {name}_temp_path {folder}/{name};\n" for name in TEMPORARY)
    for shipped, here in (
        ("user www-data;", f"user {getpass.getuser()};"),
        ("pid /run/nginx.pid;", f"pid {folder}/nginx.pid;"),
        ("http {\n", f"http {{\n{temporary}"),
        ("/var/log/nginx/", f"{folder}/"),
        (f"/etc/letsencrypt/live/{HOST}/fullchain.pem", f"{folder}/{HOST}.pem"),
        (f"/etc/letsencrypt/live/{HOST}/privkey.pem", f"{folder}/{HOST}.pem"),
        ("listen 80;", f"listen 127.0.0.1:{proxy.plain_port};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{proxy.port} ssl;"),
        ("server 127.0.0.1:5000;", f"server 127.0.0.1:{gateway_port};"),
    ):
        assert shipped in text, f"{SHIPPED.name} says no longer: {shipped}"
        text = text.replace(shipped, here)
    return text
