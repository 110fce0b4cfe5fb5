"""Who is told of something: receivers of signed events on loopback, and the check that the standard asks of them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = bytes(range(40))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
HANG, DROP, MOVED = "hang", "drop", "moved"
"""What a receiver may do instead of answering: nothing, until it is closed; break off; point to another place."""
SECONDS = 20.0


@dataclass(frozen=True)
class Received:
    """One POST as it came. ``headers``: names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        """Its body, once its signature is found good: by the words of the specification, with nothing of ours."""
        sent_at = self.headers["webhook-timestamp"]
        assert abs(time.time() - int(sent_at)) < 300
        signed = b".".join([self.id.encode(), sent_at.encode(), self.body])
        wanted = "v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        assert wanted in self.headers["webhook-signature"].split(" ")
        assert self.headers["content-type"] == "application/json"
        found: dict[str, Any] = json.loads(self.body)
        assert found.keys() == {"type", "timestamp", "data"}
        return found


class Receiver(ThreadingHTTPServer):
    """Keeps what comes, and answers with the next of ``answers`` (a status, `HANG`, `DROP`, `MOVED`), else 204."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Taker)
        self.got: list[Received] = []
        self.answers: list[int | str] = []
        self.closed = threading.Event()
        self.came = threading.Condition()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/told"

    @property
    def url(self) -> str:
        """The same with a secret of its own in the query."""
        return f"{self.address}?token=of-the-receiver"

    def wait_for(self, count: int, seconds: float = SECONDS) -> list[Received]:
        """All that came, once there is so much of it."""
        with self.came:
            assert self.came.wait_for(lambda: len(self.got) >= count, seconds), f"only {len(self.got)} came"
            return list(self.got)

    def close(self) -> None:
        self.closed.set()
        self.shutdown()
        self.server_close()


class _Taker(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.came:
            self.server.got.append(Received(self.path, headers, body))
            answer = self.server.answers.pop(0) if self.server.answers else 204
            self.server.came.notify_all()
        if answer == HANG:
            self.server.closed.wait(SECONDS)
        if answer in (HANG, DROP):
            self.close_connection = True
            return
        self.send_response(302 if answer == MOVED else int(answer))
        if answer == MOVED:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: Any) -> None:
        """Nothing on the console."""


@contextlib.contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """One that is open for as long as the block lasts."""
    found = Receiver(port)
    try:
        yield found
    finally:
        found.close()
